"""Every finding, from what it takes to be found to what it takes not to be."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from spark_modeld.core.check import Finding, Level, Room, blocks, check
from spark_modeld.core.finding import error
from spark_modeld.core.footprint import (
    Architecture,
    CacheKind,
    Checkpoint,
    Format,
    Layers,
    Quantization,
    estimate,
    flags_of,
)
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Basis, EngineKind, Footprint, Launch, Model
from spark_modeld.core.reading import MemorySource, Reading
from spark_modeld.core.settings import MemorySettings

pytestmark = pytest.mark.unit

GIB = 1 << 30
PLAIN = Checkpoint(
    path="/m",
    format=Format.SAFETENSORS,
    architecture=Architecture(
        name="Qwen3ForCausalLM",
        layers=(Layers(kind=CacheKind.FULL, count=64, key=1024, value=1024, heads=8),),
        context=40960,
        dtype="bfloat16",
        source="config.json",
    ),
    weight_bytes=20 * GIB,
    weight_source="sizes",
    weight_files=5,
    tokenizer=True,
)
READING = Reading(
    total=122 * GIB, available=113 * GIB, free=90 * GIB, source=MemorySource.UNIFIED, taken_at=Instant(0.0, 0.0)
)


def model(engine: EngineKind, *words: str, name: str = "qwen") -> Model:
    run = Launch(("serve", *words, "--served-model-name", name))
    return Model(id="qwen", engine=engine, url="http://127.0.0.1:1", run=run, served_model_name="qwen", path="/m")


def found(
    entry: Model, checkpoint: Checkpoint | None = PLAIN, *, room: Room | None = None, estimated: bool = False
) -> tuple[Finding, ...]:
    flags = flags_of(entry)
    plan = estimate(entry.engine, checkpoint, flags, total=READING.total, available=READING.available)
    return check(entry, checkpoint, flags, plan if estimated else None, room)


def codes(findings: tuple[Finding, ...]) -> list[tuple[str, Level]]:
    assert all(finding.hint and finding.message for finding in findings)
    return [(finding.code, finding.level) for finding in findings]


def quantized(method: str, form: str | None = None) -> Checkpoint:
    return replace(PLAIN, quantization=Quantization(method=method, format=form, source="config.json"))


def test_nothing_to_say() -> None:
    assert found(model(EngineKind.VLLM, "--gpu-memory-utilization", "0.5"), estimated=True) == ()


def test_compressed_tensors_is_an_error_on_sglang_only() -> None:
    checkpoint = quantized("compressed-tensors", "nvfp4-pack-quantized")
    findings = found(model(EngineKind.SGLANG), checkpoint)
    assert codes(findings) == [("compressed-tensors", Level.ERROR)]
    assert blocks(findings)
    assert found(model(EngineKind.VLLM), checkpoint) == ()


@pytest.mark.parametrize(
    ("flag", "method", "form", "agree"),
    [
        ("modelopt_fp4", "compressed-tensors", "nvfp4-pack-quantized", False),
        ("modelopt_fp4", "modelopt", "NVFP4", True),
        ("modelopt_fp4", "modelopt", "NVFP4_AWQ", True),
        ("modelopt_fp4", "modelopt", "FP8", False),
        ("modelopt_fp8", "modelopt", "FP8", True),
        ("modelopt", "modelopt", "NVFP4", True),
        ("fp8", "modelopt", "FP8", True),
        ("fp8", "modelopt", "NVFP4", False),
        ("awq_marlin", "awq", "4 bits", True),
        ("gptq", "awq", "4 bits", False),
        ("mxfp4", "mxfp4", None, True),
        ("fp8", None, None, True),
        ("bitsandbytes", None, None, True),
        ("modelopt_fp4", None, None, False),
        ("something-new", "awq", None, True),
    ],
)
def test_flag_and_checkpoint(flag: str, method: str | None, form: str | None, agree: bool) -> None:
    checkpoint = PLAIN if method is None else quantized(method, form)
    findings = found(model(EngineKind.VLLM, "--quantization", flag), checkpoint)
    assert codes(findings) == ([] if agree else [("quantization-mismatch", Level.ERROR)])


def test_served_name() -> None:
    assert codes(found(model(EngineKind.VLLM, name="other"))) == [("served-name-mismatch", Level.ERROR)]
    unnamed = replace(model(EngineKind.VLLM), run=Launch(("vllm", "serve", "/m")))
    findings = found(unnamed)
    assert codes(findings) == [("served-name-mismatch", Level.ERROR)]
    assert "/m" in findings[0].message
    assert found(replace(unnamed, served_model_name="/m")) == ()
    llama = replace(
        unnamed, engine=EngineKind.LLAMA_SERVER, run=Launch(("llama-server", "-m", "/m", "--alias", "a,qwen"))
    )
    assert found(llama) == ()


def test_custom_code() -> None:
    checkpoint = replace(PLAIN, custom_code="modeling_x.X")
    assert codes(found(model(EngineKind.SGLANG), checkpoint)) == [("custom-code", Level.WARNING)]
    assert found(model(EngineKind.SGLANG, "--trust-remote-code"), checkpoint) == ()


def test_tokenizer() -> None:
    checkpoint = replace(PLAIN, tokenizer=False)
    assert codes(found(model(EngineKind.SGLANG), checkpoint)) == [("no-tokenizer", Level.ERROR)]
    assert found(model(EngineKind.SGLANG, "--tokenizer-path", "/t"), checkpoint) == ()


def test_the_readers_findings_come_along_errors_first() -> None:
    checkpoint = replace(PLAIN, custom_code="x", findings=(error("unfinished-download", "m", "h"),))
    expected = [
        ("unfinished-download", Level.ERROR),
        ("served-name-mismatch", Level.ERROR),
        ("custom-code", Level.WARNING),
    ]
    assert codes(found(model(EngineKind.VLLM, name="other"), checkpoint)) == expected


def test_no_path() -> None:
    entry = replace(model(EngineKind.VLLM), path=None)
    assert codes(found(entry, None)) == [("no-path", Level.INFO)]


def test_a_flag_that_cannot_be_read() -> None:
    assert codes(found(model(EngineKind.VLLM, "--max-model-len", "lots"))) == [("flag-invalid", Level.WARNING)]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        ("0.1", [("fraction-too-small", Level.ERROR)]),
        ("0.2", [("context-too-long", Level.WARNING)]),
        ("0.5", []),
    ],
)
def test_shares(fraction: str, expected: list[tuple[str, Level]]) -> None:
    entry = model(EngineKind.VLLM, "--gpu-memory-utilization", fraction)
    assert codes(found(entry, estimated=True)) == expected


@pytest.mark.parametrize(
    ("need", "available", "returned", "expected"),
    [
        (105, 113, 0, []),
        (106, 113, 0, [("memory-now", Level.WARNING)]),
        (114, 113, 0, [("memory-now", Level.WARNING)]),
        (115, 113, 0, [("memory-never", Level.ERROR)]),
        (60, 50, 60, [("memory-beside", Level.INFO)]),
        (60, 50, 10, [("memory-now", Level.WARNING)]),
        (40, 50, 60, []),
    ],
)
def test_memory(need: int, available: int, returned: int, expected: list[tuple[str, Level]]) -> None:
    room = Room(
        reading=replace(READING, available=available * GIB),
        settings=MemorySettings(),
        need=Footprint(need * GIB, Basis.DECLARED),
        returned=returned * GIB,
    )
    assert codes(found(model(EngineKind.VLLM), room=room)) == expected


def test_unknown_need() -> None:
    room = Room(reading=READING, settings=MemorySettings(), need=Footprint(0, Basis.UNKNOWN))
    assert codes(found(model(EngineKind.VLLM), room=room)) == [("footprint-unknown", Level.WARNING)]
