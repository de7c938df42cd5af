"""The model's file that a check writes: what is in it, and that it loads as the model it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from spark_modeld.checkpoint import read
from spark_modeld.config.load import ConfigDirectory
from spark_modeld.config.proposal import PORTS, propose, render
from spark_modeld.core.check import blocks, check
from spark_modeld.core.footprint import Checkpoint, Format, Quantization, estimate, flags_of
from spark_modeld.core.model import MODEL_ID, EngineKind, Launch, Model
from support.checkpoints import CASES
from support.tiny_models import tiny_model

pytestmark = pytest.mark.unit

TOTAL = 127600748 * 1024
IDLE = 118566368 * 1024


def loaded(tmp_path: Path, model: Model, found: Checkpoint) -> Model:
    """The model that the daemon reads from the proposed file."""
    file = tmp_path / "etc" / "models.d" / f"{model.id}.toml"
    file.parent.mkdir(parents=True)
    file.write_text(render(model, found), encoding="utf-8")
    return ConfigDirectory(tmp_path / "etc").load().models[model.id]


@pytest.mark.parametrize("name", CASES)
def test_what_is_proposed_loads_and_passes_its_own_check(tmp_path: Path, name: str) -> None:
    found = read(CASES[name].put(tmp_path / name))
    model = propose(found, total=TOTAL)
    assert loaded(tmp_path, model, found) == model
    assert (model.id, model.served_model_name) == (name.lower(), name.lower())
    flags = flags_of(model)
    plan = estimate(model.engine, found, flags, total=TOTAL, available=IDLE, context=model.context)
    findings = check(model, found, flags, plan, None)
    fits = (found.weight_bytes or 0) < 0.8 * IDLE
    assert blocks(findings) is not fits, findings
    assert not fits or plan.total < IDLE


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/srv/models/Qwen3-32B", "qwen3-32b"),
        ("/hub/models--Qwen--Qwen3-32B/snapshots/9216db5781bf21249d130ec9da846c4624c16137", "qwen3-32b"),
        ("/srv/My Model (v2)", "my-model-v2"),
        ("/srv/gpt-oss-120b-mxfp4-00001-of-00003.gguf", "gpt-oss-120b-mxfp4"),
        ("/srv/" + "x" * 200, "x" * 60),
        ("/srv/模型", "model"),
        ("/", "model"),
        ("/srv/default", "default-2"),
        ("/srv/taken", "taken-2"),
    ],
)
def test_ids(path: str, expected: str) -> None:
    model = propose(Checkpoint(path=path), total=TOTAL, taken_names={"taken"})
    assert model.id == expected
    assert MODEL_ID.fullmatch(model.id)


def test_ports() -> None:
    ports = [propose(Checkpoint(path="/m"), total=TOTAL, taken_ports=taken).url for taken in ([], [30001, 30003])]
    assert ports == ["http://127.0.0.1:30001", "http://127.0.0.1:30002"]
    assert not {30100, 30101} & set(PORTS)


def test_the_engine_follows_the_checkpoint(tmp_path: Path) -> None:
    plain = Checkpoint(path="/m", format=Format.SAFETENSORS)
    compressed = replace(plain, quantization=Quantization(method="compressed-tensors", format="nvfp4-pack-quantized"))
    found = [propose(each, total=TOTAL) for each in (plain, compressed, read(tiny_model("tiny-alpha")))]
    assert [model.engine for model in found] == [EngineKind.SGLANG, EngineKind.VLLM, EngineKind.LLAMA_SERVER]
    assert "# vLLM, because compressed-tensors" in render(found[1], compressed)
    assert loaded(tmp_path, found[1], compressed) == found[1]


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "tab\there", "del\x7f", "ünïcode"])
def test_odd_names_survive(tmp_path: Path, name: str) -> None:
    found = Checkpoint(path=f"/srv/{name}", format=Format.GGUF, custom_code="x\ny")
    model = propose(found, total=TOTAL)
    assert loaded(tmp_path, model, found) == model
    assert isinstance(model.run, Launch)
    assert f"/srv/{name}" in model.run.command
