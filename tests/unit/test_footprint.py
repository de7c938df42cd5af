"""What published checkpoints will need, to the byte, and where each number is from."""

from __future__ import annotations

import pytest

from spark_modeld.checkpoint import read
from spark_modeld.core.footprint import (
    CacheKind,
    Checkpoint,
    Estimate,
    Flags,
    PartName,
    architecture,
    estimate,
    parse_flags,
)
from spark_modeld.core.model import Basis, EngineKind
from support.checkpoints import CASES, QWEN3_NEXT_80B

pytestmark = pytest.mark.unit

GIB = 1 << 30
TOTAL = 127600748 * 1024
IDLE = 118566368 * 1024
ENGINE = EngineKind

# name: bytes per token in the layers that keep all, bytes for 32768 tokens, layers by kind; 2 bytes an element.
GOLDEN = {
    "Qwen3-32B": (262_144, 262_144 * 32768, {"full attention": 64}),
    # The checkpoint asks for an fp8 cache: half.
    "Qwen3-32B-NVFP4": (131_072, 131_072 * 32768, {"full attention": 64}),
    "Llama-4-Scout-17B-16E": (49_152, 49_152 * 32768 + 36 * 4096 * 8192, {"full attention": 12, "sliding window": 36}),
    "DeepSeek-R1-Distill-Llama-8B": (131_072, 131_072 * 32768, {"full attention": 32}),
    "Llama-3.3-70B": (327_680, 327_680 * 32768, {"full attention": 80}),
    "gpt-oss-120b": (36_864, 36_864 * 32768 + 36_864 * 128, {"full attention": 18, "sliding window": 18}),
    "DeepSeek-V3": (70_272, 70_272 * 32768, {"latent attention": 61}),
    "Gemma-3-27B": (81_920, 81_920 * 32768 + 52 * 8192 * 1024, {"full attention": 10, "sliding window": 52}),
    "Qwen3-Next-80B-A3B": (24_576, 24_576 * 32768 + 36 * 2_146_304, {"full attention": 12, "recurrent state": 36}),
}
QUANTIZED = {
    "Qwen3-32B-NVFP4": ("modelopt", "NVFP4", "hf_quant_config.json quantization.quant_algo"),
    "gpt-oss-120b": ("mxfp4", None, "config.json quantization_config.quant_method"),
    "DeepSeek-V3": ("fp8", "e4m3", "config.json quantization_config.quant_method"),
}
CONTEXTS = {"Gemma-3-27B": 131072, "Llama-4-Scout-17B-16E": 10485760, "Qwen3-32B": 40960, "gpt-oss-120b": 131072}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: read(case.put(root / name)) for name, case in CASES.items()}


def plan(checkpoint: Checkpoint | None, engine: EngineKind, *words: str, context: int | None = None) -> Estimate:
    return estimate(engine, checkpoint, parse_flags(engine, words), total=TOTAL, available=IDLE, context=context)


def size(found: Estimate, name: PartName) -> int:
    part = found.part(name)
    assert part is not None
    return part.bytes


@pytest.mark.parametrize("name", GOLDEN)
def test_published_checkpoints(published: dict[str, Checkpoint], name: str) -> None:
    checkpoint = published[name]
    assert checkpoint.findings == ()
    assert checkpoint.weight_bytes == CASES[name].weights
    per_token, cache, layers = GOLDEN[name]
    found = plan(checkpoint, ENGINE.OPENAI, context=32768)
    assert found.cache is not None
    assert (found.cache.per_token, found.cache.bytes) == (per_token, cache)
    assert checkpoint.architecture is not None
    assert {str(group.kind): group.count for group in checkpoint.architecture.layers} == layers
    assert found.total == CASES[name].weights + cache + size(found, PartName.OVERHEAD)
    assert found.footprint.basis is Basis.ESTIMATED


@pytest.mark.parametrize("name", GOLDEN)
def test_quantization_is_named_with_its_source(published: dict[str, Checkpoint], name: str) -> None:
    found = published[name].quantization
    assert (None if found is None else (found.method, found.format, found.source)) == QUANTIZED.get(name)


@pytest.mark.parametrize(("name", "context"), CONTEXTS.items())
def test_context_of_the_checkpoint(published: dict[str, Checkpoint], name: str, context: int) -> None:
    assert plan(published[name], ENGINE.OPENAI).context == context


def test_every_part_says_where_it_is_from(published: dict[str, Checkpoint]) -> None:
    found = plan(published["gpt-oss-120b"], ENGINE.VLLM, "--gpu-memory-utilization", "0.7")
    sources = {part.name: part.source for part in found.parts}
    assert sources[PartName.WEIGHTS] == "sizes of the 15 files named in model.safetensors.index.json"
    assert sources[PartName.KV_CACHE] == "--gpu-memory-utilization 0.7 of 121.7 GiB in all, less the weights"
    assert "allowance for vllm" in sources[PartName.OVERHEAD]
    nested = plan(published["Gemma-3-27B"], ENGINE.OPENAI).cache
    assert nested is not None
    assert nested.source.startswith("config.json text_config: 10 x full attention, 52 x sliding window of 1024; 131072")


def test_vllm_takes_its_share_of_the_total(published: dict[str, Checkpoint]) -> None:
    found = plan(published["Qwen3-32B-NVFP4"], ENGINE.VLLM, "--gpu-memory-utilization=0.5")
    assert found.fraction == int(0.5 * TOTAL)
    assert found.total == int(0.5 * TOTAL) + size(found, PartName.OVERHEAD)
    assert plan(published["Qwen3-32B-NVFP4"], ENGINE.VLLM).fraction == int(0.9 * TOTAL)


def test_sglang_takes_its_share_of_what_is_available(published: dict[str, Checkpoint]) -> None:
    found = plan(published["Qwen3-32B-NVFP4"], ENGINE.SGLANG, "--mem-fraction-static", "0.4")
    assert found.fraction == int(0.4 * IDLE)
    assert found.total == int(0.4 * IDLE) + size(found, PartName.OVERHEAD)
    assert plan(published["Qwen3-32B-NVFP4"], ENGINE.SGLANG).fraction == int(0.89 * IDLE)


def test_sglang_token_cap(published: dict[str, Checkpoint]) -> None:
    words = ("--mem-fraction-static", "0.8", "--max-total-tokens", "65536")
    assert size(plan(published["Qwen3-32B"], ENGINE.SGLANG, *words), PartName.KV_CACHE) == 262_144 * 65536


def test_vllm_cache_in_bytes_overrules_the_share(published: dict[str, Checkpoint]) -> None:
    words = ("--gpu-memory-utilization", "0.9", "--kv-cache-memory-bytes", "8G")
    found = plan(published["DeepSeek-R1-Distill-Llama-8B"], ENGINE.VLLM, *words)
    assert size(found, PartName.KV_CACHE) == 8 << 30
    assert found.total == 16_060_522_496 + (8 << 30) + size(found, PartName.OVERHEAD)


def test_a_share_is_known_without_a_checkpoint() -> None:
    found = plan(None, ENGINE.VLLM, "--gpu-memory-utilization", "0.3")
    assert found.complete
    assert size(found, PartName.KV_CACHE) == int(0.3 * TOTAL)


def test_nothing_known_is_unknown() -> None:
    found = plan(None, ENGINE.LLAMA_SERVER)
    assert not found.complete
    assert found.footprint.basis is Basis.UNKNOWN


def test_a_share_smaller_than_the_weights_counts_the_weights(published: dict[str, Checkpoint]) -> None:
    found = plan(published["gpt-oss-120b"], ENGINE.VLLM, "--gpu-memory-utilization", "0.1")
    assert size(found, PartName.KV_CACHE) == 0
    assert found.total >= 65_248_815_744
    assert any("less than the weights" in note for note in found.notes)


@pytest.mark.parametrize(
    ("words", "tokens_full", "tokens_window"),
    [
        (("-c", "8192", "-np", "1"), 8192, 128 + 512),
        (("-c", "8192", "-np", "4"), 8192, 4 * (128 + 512)),
        (("--ctx-size", "8192", "-np", "64"), 8192, 8192),
        (("-c", "8192", "-np", "1", "--swa-full"), 8192, 8192),
        (("-c", "0", "-np", "1"), 131072, 128 + 512),
    ],
)
def test_llama_server_divides_its_context(
    published: dict[str, Checkpoint], words: tuple[str, ...], tokens_full: int, tokens_window: int
) -> None:
    found = plan(published["gpt-oss-120b"], ENGINE.LLAMA_SERVER, *words)
    assert size(found, PartName.KV_CACHE) == 36_864 * (tokens_full + tokens_window)


@pytest.mark.parametrize(
    ("engine", "words", "per_token"),
    [
        (ENGINE.SGLANG, ("--kv-cache-dtype", "fp8_e5m2"), 131_072),
        (ENGINE.SGLANG, ("--kv-cache-dtype", "auto"), 262_144),
        (ENGINE.VLLM, ("--kv_cache_dtype=fp8",), 131_072),
        (ENGINE.LLAMA_SERVER, ("-ctk", "q8_0", "-ctv", "q4_0"), 131_072 * (34 + 18) // 64),
        (ENGINE.LLAMA_SERVER, ("-ctk", "q8_0"), 131_072 * (34 + 64) // 64),
        (ENGINE.VLLM, ("--kv-cache-dtype", "no-such-type"), 262_144),
    ],
)
def test_cache_dtypes(
    published: dict[str, Checkpoint], engine: EngineKind, words: tuple[str, ...], per_token: int
) -> None:
    found = plan(published["Qwen3-32B"], engine, *words).cache
    assert found is not None
    assert found.per_token == per_token


def test_tensor_parallel_splits_weights_and_heads(published: dict[str, Checkpoint]) -> None:
    half = plan(published["Llama-3.3-70B"], ENGINE.VLLM, "--tensor-parallel-size", "2")
    assert size(half, PartName.WEIGHTS) == 141_107_412_992 // 2
    assert half.cache is not None
    assert half.cache.per_token == 327_680 // 2
    # Latent attention has no heads to split: every rank keeps all of it.
    latent = plan(published["DeepSeek-V3"], ENGINE.SGLANG, "--tp", "8").cache
    assert latent is not None
    assert latent.per_token == 70_272


def test_more_ranks_than_heads(published: dict[str, Checkpoint]) -> None:
    cache = plan(published["Llama-3.3-70B"], ENGINE.VLLM, "-tp", "16").cache
    assert cache is not None
    assert cache.per_token == 327_680 // 8


def test_shared_memory_is_part_of_it() -> None:
    options = ("--gpus", "all", "--shm-size", "32g")
    flags = parse_flags(ENGINE.SGLANG, ("x", "--mem-fraction-static", "0.5"), options)
    found = estimate(ENGINE.SGLANG, None, flags, total=TOTAL, available=IDLE)
    assert size(found, PartName.SHARED_MEMORY) == 32 << 30
    shared = parse_flags(ENGINE.SGLANG, ("x",), (*options, "--ipc=host"))
    assert shared.shm_bytes is None


def test_flags() -> None:
    words = ["vllm", "serve", "/m", "--max-model-len", "32k", "--max-model-len=8K", "--served-model-name", "a", "b"]
    flags = parse_flags(ENGINE.VLLM, [*words, "--trust-remote-code", "-q", "fp8", "--max_num_seqs", "7"])
    assert (flags.context, flags.served_names, flags.model_path) == (8192, ("a", "b"), "/m")
    assert (flags.trust_remote_code, flags.quantization, flags.sequences) == (True, "fp8", 7)
    assert flags.said["context"] == "--max-model-len 8K"


def test_flags_inside_a_shell() -> None:
    flags = parse_flags(
        ENGINE.SGLANG, ["bash", "-lc", "exec python3 -m sglang.launch_server --tp 2 --context-length 4096"]
    )
    assert (flags.tensor_parallel, flags.context) == (2, 4096)
    assert parse_flags(ENGINE.SGLANG, ["bash", "-c", "echo 'unclosed"]) == Flags()


@pytest.mark.parametrize("value", ["nan", "-1", "0", "2", "x", "", "inf"])
def test_a_fraction_that_is_none(value: str) -> None:
    flags = parse_flags(ENGINE.VLLM, ["--gpu-memory-utilization", value])
    assert flags.fraction is None
    assert len(flags.bad) == 1


def test_layers_by_other_keys() -> None:
    nemotron = {
        "model_type": "nemotron_h",
        "num_hidden_layers": 8,
        "hybrid_override_pattern": "MEM*-MME",
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hidden_size": 2688,
        "mamba_num_heads": 64,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
    }
    found = architecture(nemotron, source="x")
    assert found is not None
    assert {group.kind: group.count for group in found.layers} == {CacheKind.FULL: 1, CacheKind.STATE: 4}
    state = next(group for group in found.layers if group.kind is CacheKind.STATE)
    assert state.state_bytes == 4096 * 128 * 4 + 3 * (4096 + 2 * 8 * 128) * 2
    qwen = architecture(QWEN3_NEXT_80B | {"layer_types": ["novel"] * 48}, source="x")
    assert qwen is not None
    assert qwen.layers[0].kind is CacheKind.FULL
    assert "novel" in qwen.notes[0]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_hidden_layers": 10**9, "num_attention_heads": 1, "hidden_size": 1},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": True, "num_attention_heads": 1, "hidden_size": 1},
        {"num_hidden_layers": 4, "num_attention_heads": 0, "hidden_size": 64},
    ],
)
def test_implausible_configurations_are_no_architecture(config: dict[str, object]) -> None:
    assert architecture(config, source="x") is None


@pytest.mark.parametrize("engine", EngineKind)
def test_every_engine_is_estimated_also_one_that_nobody_has_measured(engine: EngineKind) -> None:
    assert size(plan(None, engine), PartName.OVERHEAD) > 0
