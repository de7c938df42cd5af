"""Whatever lies in a checkpoint's folder, reading it ends in findings: never a crash, over 64 MiB, or over a second.

Memory and time are measured in a process of its own, where every allocation counts; the shapes that hurt most are
written by hand, the rest is made up.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spark_modeld.checkpoint import read
from spark_modeld.checkpoint.config import _KEYS
from spark_modeld.core.footprint import CacheNeed, Checkpoint, estimate, parse_flags
from spark_modeld.core.model import EngineKind, Launch, Model
from spark_modeld.inspection.script import script_of
from support.checkpoints import CASES, QWEN3_32B, write

pytestmark = pytest.mark.property

FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DAEMON = Path(__file__).resolve().parents[2] / "daemon"
SITE = str(Path(msgspec.__file__).resolve().parents[1])
MIB = 1 << 20
MOST_MEMORY = 64 * MIB
MOST_SECONDS = 1.0

# VmHWM, not ru_maxrss: that one a child inherits from the process that started it.
CHILD = """
import json, sys, time
from spark_modeld.checkpoint import read

def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

read(sys.argv[2])
before, start = peak(), time.process_time()
found = read(sys.argv[1])
print(json.dumps([time.process_time() - start, peak() - before, [f.code for f in found.findings]]))
"""


def measure(path: Path) -> list[str]:
    """Reads in a process of its own, holds the bounds, and returns the findings' codes."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", CHILD, str(path), str(DAEMON)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(DAEMON), SITE))},
    )
    seconds, peak, codes = json.loads(done.stdout)
    assert peak < MOST_MEMORY, f"{peak / MIB:.1f} MiB"
    assert seconds < MOST_SECONDS, f"{seconds:.2f} s"
    return list(codes)


def small_folder(path: Path) -> Path:
    return write(path, QWEN3_32B, 65536, 1)


BOMBS: dict[str, tuple[str, bytes]] = {
    "deep lists": ("config.json", b"[" * (7 * MIB)),
    "deep objects": ("config.json", b'{"text_config":' * (MIB // 4)),
    "deep inside": ("config.json", b'{"layer_types":' + b"[" * MIB),
    "nested far": ("config.json", b'{"text_config":' * 200 + b"{}" + b"}" * 200),
    "many lists": ("config.json", b'{"layer_types":[' + b"[]," * (2 * MIB) + b"[]]}"),
    "many members": ("config.json", b"{" + b'"a":0,' * MIB + b'"b":0}'),
    "many infinities": ("config.json", b'{"x":[' + b"NaN," * (2 * MIB - 8) + b"0]}"),
    "not closed": ("config.json", b'{"a":"' + b"x" * (7 * MIB)),
    "escapes": ("config.json", b'{"' + b'\\"' * (3 * MIB) + b'":1}'),
    "no text": ("config.json", b"\xff\xfe" * MIB),
    "too large": ("config.json", b" " * (9 * MIB)),
    "many small values": (
        "config.json",
        b"{" + b",".join(f'"{key}":['.encode() + b"[]," * 5400 + b"0]" for key in _KEYS) + b"}",
    ),
    "quantization": ("config.json", b'{"quantization_config":{"quant_method":' + b"[" * MIB + b"}}"),
    "hf_quant_config": ("hf_quant_config.json", b'{"quantization":' * (MIB // 4)),
    "index: many names": (
        "model.safetensors.index.json",
        b'{"weight_map":{' + b",".join(b'"":"%06x"' % i for i in range(1_500_000)) + b"}}",
    ),
    "index: many tensors": ("model.safetensors.index.json", b'{"weight_map":{' + b'"":"a",' * (3 * MIB) + b'"":"a"}}'),
    "index: one long name": ("model.safetensors.index.json", b'{"weight_map":{"a":"' + b"x" * (20 * MIB) + b'"}}'),
    "index: escapes": ("model.safetensors.index.json", b'{"weight_map":{"' + b'\\"' * (10 * MIB) + b'":1}}'),
    "index: no pairs": ("model.safetensors.index.json", b'{"weight_map":[' + b'"",' * (7 * MIB) + b'""]}'),
    "index: blanks": ("model.safetensors.index.json", b'{"weight_map":{"a"' + b" " * (20 * MIB) + b":1}}"),
    "index: deep": ("model.safetensors.index.json", b'{"weight_map":' + b'{"a":' * (3 * MIB)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_documents_that_want_to_hurt(tmp_path: Path, name: str) -> None:
    file, content = BOMBS[name]
    (small_folder(tmp_path) / file).write_bytes(content)
    codes = measure(tmp_path)
    if name != "nested far":
        assert codes


SHARDS: dict[str, bytes] = {
    "longer than the file": struct.pack("<Q", 1 << 63),
    "no length": b"\1",
    "offsets": struct.pack("<Q", 40 * MIB) + b'{"data_offsets":[0,999999999999999999]},' * MIB,
    "dtypes": struct.pack("<Q", 8 * MIB) + b'"dtype":"%s",' % b"A" * (MIB // 2),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards_that_lie(tmp_path: Path, name: str) -> None:
    folder = small_folder(tmp_path)
    (folder / "model-00001-of-00001.safetensors").write_bytes(SHARDS[name])
    codes = measure(folder)
    assert name == "dtypes" or "unfinished-download" in codes


def gguf(keys: int, body: bytes, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def array(kind: int, count: int) -> bytes:
    return text(b"a") + struct.pack("<IIQ", 9, kind, count)


HEADERS: dict[str, bytes] = {
    "empty": b"",
    "magic only": b"GGUF",
    "other version": b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
    "many keys": gguf(1 << 60, b""),
    "many tensors": gguf(0, b"", tensors=1 << 60),
    "long key": gguf(1, struct.pack("<Q", 1 << 62)),
    "long text": gguf(1, text(b"a") + struct.pack("<IQ", 8, 1 << 62)),
    "long list": gguf(1, array(4, 1 << 62)),
    "list of lists": gguf(1, array(9, 1 << 20)),
    "unknown type": gguf(1, text(b"a") + struct.pack("<I", 99)),
    "many words": gguf(1, array(8, 1_190_000) + bytes(8 * 1_190_000)),
    "too many words": gguf(1, array(8, 1 << 40) + bytes(40 * MIB)),
    "words of a megabyte": gguf(1, array(8, 1000) + (struct.pack("<Q", MIB + 1) + bytes(MIB + 1)) * 60),
    "short lists": gguf(
        8000, b"".join(text(b"k%d" % i) + struct.pack("<IIQ", 9, 0, 4096) + bytes(4096) for i in range(8000))
    ),
    "texts": gguf(8000, b"".join(text(b"%0256d" % i) + struct.pack("<I", 8) + text(b"x" * 256) for i in range(8000))),
    "tensors": gguf(0, (text(b"t") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 100_000, tensors=100_000),
    "wide tensor": gguf(0, text(b"t") + struct.pack("<I", 1 << 31), tensors=1),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(HEADERS[name])
    assert measure(path)


def test_a_header_of_holes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(1, array(8, 1_190_000)))
    os.truncate(path, 1 << 40)
    measure(path)


@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json", "model.safetensors.index.json"])
def test_a_document_of_holes(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, QWEN3_32B, 65536, 1, {"hf_quant_config.json": {}})
    os.truncate(folder / name, 1 << 28)
    codes = measure(folder)
    assert [code for code in codes if code.endswith("unreadable")]


def test_a_folder_of_many_files(tmp_path: Path) -> None:
    for i in range(2000):
        (tmp_path / f"model-{i:05}-of-02000.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_32B))
    assert "unfinished-download" in measure(tmp_path)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.integers(1, 300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.dictionaries(st.sampled_from([*_KEYS, "text_config", "quantization_config"]), VALUES, max_size=6)
FLAGS = st.lists(
    st.sampled_from(
        ["-c", "-np", "--tp", "--max-model-len", "--gpu-memory-utilization", "--kv-cache-dtype", "--shm-size"]
    )
    | st.sampled_from(["0", "1", "9e99", "-1", "1T", "0.5", "q4_0", "fp8", "auto", "=", "--"])
    | st.text(max_size=5),
    max_size=8,
)


def holds(found: Checkpoint) -> None:
    """What every checkpoint is, and what follows from it."""
    for finding in found.findings:
        assert finding.code
        assert finding.message
        assert finding.hint
    assert found.weight_bytes is None or found.weight_bytes >= 0


@FEW
@given(
    case=st.sampled_from(sorted(CASES)),
    changes=CHANGES,
    nested=CHANGES,
    words=FLAGS,
    engine=st.sampled_from(EngineKind),
)
def test_any_configuration(
    case: str, changes: dict[str, Any], nested: dict[str, Any], words: list[str], engine: EngineKind
) -> None:
    config = CASES[case].config | changes
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = config["text_config"] | nested
    with tempfile.TemporaryDirectory() as folder:
        found = read(write(Path(folder), config, 65536, 2))
    holds(found)
    plan = estimate(engine, found, parse_flags(engine, words, words), total=1 << 37, available=1 << 36)
    assert plan.total >= sum(part.bytes for part in plan.parts if part.bytes > 0)
    assert plan.cache is None or (isinstance(plan.cache, CacheNeed) and 0 <= plan.cache.bytes < 1 << 53)


@FEW
@given(data=st.data())
def test_any_damage(data: st.DataObject) -> None:
    """A true folder with some bytes of one of its files changed, cut or doubled."""
    with tempfile.TemporaryDirectory() as name:
        folder = write(
            Path(name), QWEN3_32B, 65536, 2, {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}}
        )
        path = data.draw(st.sampled_from(sorted(folder.iterdir())))
        path.write_bytes(damaged(data, path.read_bytes()))
        holds(read(folder))


@FEW
@given(data=st.data())
def test_any_damage_to_a_header(data: st.DataObject) -> None:
    words = text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text(b"a") * 3
    number = text(b"llama.block_count") + struct.pack("<II", 4, 2)
    whole = gguf(3, text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama") + number + words)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(damaged(data, whole))
        holds(read(path))


LINES = st.lists(
    st.sampled_from(
        ["vllm serve /m", "sglang", " --tp ", "'", '"', "\\", "\n", "\\\n", "$X", "`", "#", " = ", ";", "9" * 400]
    )
    | st.text(max_size=6),
    max_size=20,
)


@FEW
@given(lines=LINES, engine=st.sampled_from(EngineKind))
def test_any_script(lines: list[str], engine: EngineKind) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".sh", errors="replace") as file:
        file.write("".join(lines))
        file.flush()
        entry = Model(id="m", engine=engine, url="http://127.0.0.1:1", run=Launch((file.name,)), served_model_name="m")
        found = script_of(entry)
    assert found is not None
    assert found.flags is None or (not found.flags.known and found.flags.bad == ())


def damaged(data: st.DataObject, content: bytes) -> bytes:
    at = data.draw(st.integers(0, len(content)))
    until = data.draw(st.integers(at, min(len(content), at + 16)))
    return content[:at] + data.draw(st.binary(max_size=16)) + content[until:]
