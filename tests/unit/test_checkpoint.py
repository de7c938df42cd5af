"""Reading checkpoints as they lie on disks: whole, half fetched, or made to hurt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from spark_modeld.checkpoint import read
from spark_modeld.checkpoint.gguf import header
from spark_modeld.core.footprint import CacheKind, Checkpoint, Format, Layers, PartName, estimate, parse_flags
from spark_modeld.core.model import EngineKind
from support.checkpoints import DEEPSEEK_V3, GPT_OSS_120B, QWEN3_32B, shard, write
from support.tiny_models import tiny_model

pytestmark = pytest.mark.unit


def codes(checkpoint: Checkpoint) -> list[str]:
    return [finding.code for finding in checkpoint.findings]


def with_config(folder: Path, config: object) -> Checkpoint:
    write(folder, {}, 4096, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return read(folder)


def test_missing_files_of_the_index(tmp_path: Path) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 4)
    (folder / "model-00003-of-00004.safetensors").unlink()
    found = read(folder)
    assert codes(found) == ["unfinished-download"]
    assert "model-00003-of-00004.safetensors of 4 files" in found.findings[0].message
    assert found.weight_bytes == 300_000


def test_missing_files_that_only_their_numbering_promises(tmp_path: Path) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 4)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00004-of-00004.safetensors").unlink()
    assert codes(read(folder)) == ["unfinished-download"]


@pytest.mark.parametrize("size", [0, 7, 50_000])
def test_a_shard_cut_short(tmp_path: Path, size: int) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 4)
    os.truncate(folder / "model-00002-of-00004.safetensors", size)
    assert codes(read(folder)) == ["unfinished-download"]


def test_a_pointer_that_was_never_fetched(tmp_path: Path) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 1)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model-00001-of-00001.safetensors").write_text(pointer)
    assert codes(read(folder)) == ["unfinished-download"]


@pytest.mark.parametrize("suffix", ["incomplete", "part"])
def test_half_fetched_files(tmp_path: Path, suffix: str) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 1)
    (folder / "model.safetensors.index.json").unlink()
    half = folder / f"other.safetensors.{suffix}"
    half.touch()
    assert codes(read(folder)) == ["unfinished-download"]
    (folder / "other.safetensors").write_bytes((folder / "model-00001-of-00001.safetensors").read_bytes())
    assert codes(read(folder)) == ["download-under-way"]
    half.unlink()
    assert codes(read(folder)) == []
    hub = folder / ".cache" / "huggingface" / "download"
    hub.mkdir(parents=True)
    (hub / "f3a1.9bc2.incomplete").touch()
    assert codes(read(folder)) == ["download-under-way"]


def test_only_half_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_32B))
    (tmp_path / "tokenizer.json").touch()
    (tmp_path / "model.safetensors.part").touch()
    assert codes(read(tmp_path)) == ["no-weights", "unfinished-download"]


def test_copies_in_other_formats_do_not_count(tmp_path: Path) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 4)
    (folder / "original").mkdir()
    shard(folder / "original" / "model.safetensors", 900_000)
    shard(folder / "consolidated.safetensors", 900_000)
    assert read(folder).weight_bytes == 400_000
    (folder / "model.safetensors.index.json").unlink()
    assert read(folder).weight_bytes == 400_000


def test_a_single_file(tmp_path: Path) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 1)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00001-of-00001.safetensors").rename(folder / "model.safetensors")
    found = read(folder)
    assert (found.weight_bytes, found.dtypes, found.findings) == (400_000, ("BF16",), ())
    assert found.weight_source == "size of model.safetensors"


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_32B))
    assert codes(read(tmp_path)) == ["no-weights"]


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_path_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert codes(read(tmp_path / name)) == ["path-unreadable"]
    assert codes(read("\0")) == ["path-unreadable"]


def test_an_index_that_points_elsewhere(tmp_path: Path) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 1)
    index = {"weight_map": {"a": "../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert codes(read(folder)) == ["index-unreadable"]


def test_links_pipes_and_devices(tmp_path: Path) -> None:
    folder = write(tmp_path, QWEN3_32B, 400_000, 2)
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        (folder / name).unlink()
    (folder / "config.json").symlink_to("config.json")
    os.mkfifo(folder / "model-00001-of-00002.safetensors")
    found = read(folder)
    assert codes(found) == ["unfinished-download", "config-unreadable"]
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "no regular file" in read(folder).findings[-1].message
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    assert "no regular file" in read(folder).findings[-1].message


def test_the_cache_of_links_that_hugging_face_makes(tmp_path: Path) -> None:
    write(tmp_path / "blobs", QWEN3_32B, 400_000, 2)
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    found = read(tmp_path / "snapshot")
    assert (found.weight_bytes, found.findings) == (400_000, ())


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
                "config_groups": {"group_0": {"targets": ["Linear"]}},
            },
            ("compressed-tensors", "nvfp4-pack-quantized", "fp8"),
        ),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized", "kv_cache_scheme": None}, None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("modelopt", "NVFP4", None)),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, ("awq", "4 bits", None)),
        ({"quant_method": "gptq", "bits": 8}, ("gptq", "8 bits", None)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("bitsandbytes", None, None)),
        ({"quant_method": 7}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_quantization(tmp_path: Path, section: object, expected: tuple[str | None, ...] | None) -> None:
    found = with_config(tmp_path, QWEN3_32B | {"quantization_config": section}).quantization
    if expected is None:
        expected = ("compressed-tensors", "pack-quantized", None)
    assert (() if found is None else (found.method, found.format, found.kv_cache)) == expected


def test_quantization_of_a_nested_language_model(tmp_path: Path) -> None:
    inner = QWEN3_32B | {"quantization_config": {"quant_method": "fp8"}}
    found = with_config(tmp_path, {"architectures": ["VisionModel"], "llm_config": inner})
    assert found.quantization is not None
    assert found.quantization.source == "config.json llm_config.quantization_config.quant_method"
    assert found.architecture is not None
    assert found.architecture.name == "VisionModel"
    assert found.architecture.source == "config.json llm_config"


def test_custom_code_and_tokenizer(tmp_path: Path) -> None:
    found = with_config(tmp_path, DEEPSEEK_V3)
    assert found.custom_code == "configuration_deepseek.DeepseekV3Config"
    assert found.tokenizer
    (tmp_path / "tokenizer.json").unlink()
    assert not read(tmp_path).tokenizer


def test_infinity_is_no_json_but_is_written(tmp_path: Path) -> None:
    write(tmp_path, {}, 4096, 1)
    text = json.dumps(QWEN3_32B | {"time_step_limit": [0.0, float("inf")], "x": float("nan")})
    assert "Infinity" in text
    (tmp_path / "config.json").write_text(text)
    assert read(tmp_path).architecture is not None


def test_the_real_llama_servers_cache(tmp_path: Path) -> None:
    """llama-server says of this model: 2048 cells, 2 layers, K 1.00 MiB, V 1.00 MiB, with -np 1 and with -np 4."""
    found = read(tiny_model("tiny-alpha"))
    assert (found.format, found.tokenizer, found.findings) == (Format.GGUF, True, ())
    assert found.quantization is not None
    assert found.quantization.format == "F16"
    for slots in ("1", "4"):
        flags = parse_flags(EngineKind.LLAMA_SERVER, ["-c", "2048", "-np", slots])
        part = estimate(EngineKind.LLAMA_SERVER, found, flags, total=1 << 40).part(PartName.KV_CACHE)
        assert part is not None
        assert part.bytes == 2 << 20


def put_gguf(path: Path, *, tokens: int = 1000) -> Path:
    """gpt-oss-120b's header as the gguf package writes it, and one tensor."""
    writer = gguf.GGUFWriter(str(path), "gpt-oss")
    writer.add_block_count(36)
    writer.add_context_length(131072)
    writer.add_embedding_length(2880)
    writer.add_head_count(64)
    writer.add_head_count_kv(8)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_sliding_window(128)
    writer.add_chat_template("x" * 20_000)
    writer.add_token_list([f"word {i}" for i in range(tokens)])
    writer.add_token_scores([0.0] * tokens)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for name in ("a", "b"):
        writer.add_tensor_info(name, [1024], np.dtype(np.float32), 4096)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + 3 * 4096)
    return path


def test_gguf(tmp_path: Path) -> None:
    found = read(put_gguf(tmp_path / "m.gguf"))
    assert found.findings == ()
    assert found.architecture is not None
    assert found.architecture.layers == (
        Layers(kind=CacheKind.FULL, count=18, key=512, value=512, heads=8),
        Layers(kind=CacheKind.SLIDING, count=18, key=512, value=512, heads=8, window=128),
    )
    assert found.architecture.context == 131072
    assert read(tmp_path) == found
    put_gguf(tmp_path / "other.gguf")
    assert codes(read(tmp_path)) == ["several-models"]


@pytest.mark.parametrize(
    ("keep", "code"), [(3, "gguf-unreadable"), (200, "gguf-unreadable"), (-10000, "unfinished-download")]
)
def test_gguf_cut_short(tmp_path: Path, keep: int, code: str) -> None:
    path = put_gguf(tmp_path / "m.gguf")
    os.truncate(path, keep if keep > 0 else path.stat().st_size + keep)
    assert code in codes(read(path))


def test_split_gguf(tmp_path: Path) -> None:
    put_gguf(tmp_path / "m-00001-of-00002.gguf")
    assert codes(read(tmp_path)) == ["unfinished-download"]
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"x" * 100)
    found = read(tmp_path / "m-00001-of-00002.gguf")
    assert found.findings == ()
    assert found.weight_bytes == (tmp_path / "m-00001-of-00002.gguf").stat().st_size + 100


def test_gguf_with_sliding_layers_listed(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "novel")
    writer.add_block_count(4)
    writer.add_head_count(8)
    writer.add_head_count_kv([2, 2, 2, 0])
    writer.add_key_length(64)
    writer.add_value_length(32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    found = read(tmp_path / "m.gguf").architecture
    assert found is not None
    assert [(group.kind, group.count, group.key, group.value) for group in found.layers] == [
        (CacheKind.FULL, 3, 128, 64),
        (CacheKind.STATE, 1, 0, 0),
    ]


def test_reading_needs_neither_numpy_nor_the_gguf_package() -> None:
    code = "import sys, spark_modeld.checkpoint; assert not {'numpy', 'gguf'} & set(sys.modules)"
    path = str(Path(__file__).resolve().parents[2] / "daemon")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path}, timeout=60)


def test_gpt_oss_carries_over(tmp_path: Path) -> None:
    found = with_config(tmp_path, GPT_OSS_120B | {"layer_types": None})
    assert found.architecture is not None
    assert {group.kind: group.count for group in found.architecture.layers} == {
        CacheKind.FULL: 18,
        CacheKind.SLIDING: 18,
    }
    assert found.architecture.notes == ("one layer in 2 full, as gpt_oss has it",)


def as_the_package_says(path: Path) -> dict[str, object]:
    """The values of a header that are neither texts of any length nor lists, as the gguf package reads them."""
    found: dict[str, object] = {}
    for name, field in gguf.GGUFReader(path).fields.items():
        if not name.startswith("GGUF."):
            found[name] = field.contents()
    return found


def put_every_type(path: Path) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    for kind, value in (("uint8", 255), ("int8", -3), ("uint16", 65535), ("int16", -300), ("uint32", 1 << 31)):
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    for kind, value in (("int32", -(1 << 30)), ("uint64", 1 << 63), ("int64", -(1 << 62)), ("bool", True)):
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_float32("x.float32", 1.5)
    writer.add_float64("x.float64", 2.25)
    writer.add_string("x.string", "größe")
    writer.add_array("x.numbers", [1, 2, 3])
    writer.add_array("x.flags", [True, False])
    writer.add_array("x.words", ["a", "b"])
    writer.add_custom_alignment(64)
    writer.add_tensor("t", np.zeros((3, 5), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_reader_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    files = [
        put_every_type(tmp_path / "every.gguf"),
        put_gguf(tmp_path / "m.gguf"),
        tiny_model("tiny-alpha"),
        tiny_model("tiny-loop", loop=True),
    ]
    for path in files:
        ours, theirs = header(path), as_the_package_says(path)
        assert ours.values.keys() | ours.skipped == theirs.keys()
        for name, value in ours.values.items():
            assert value == theirs[name] or (value == "" and len(str(theirs[name])) > 256), name
        reader = gguf.GGUFReader(path)
        assert ours.tensors == len(reader.tensors)
        assert ours.reaches == max(int(tensor.data_offset) for tensor in reader.tensors)
    assert header(files[0]).values["x.uint64"] == 1 << 63
    assert header(files[0]).skipped == {"x.words"}
