"""The model's file for a container or a unit that exists: what it is read as, and that it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spark_modeld.config.adoption import Found, adopt, render_adopted, words_of
from spark_modeld.config.load import ConfigDirectory
from spark_modeld.core.model import Container, EngineKind, Model, OwnUnit

pytestmark = pytest.mark.unit

SGLANG = (
    "python3 -m sglang.launch_server --model-path /models/qwen3-32b --served-model-name qwen3 --port 30001 "
    "--context-length 32768 --host 0.0.0.0"
)
SCRIPT = ("/bin/sh", "-c", "exec vllm serve Qwen/Qwen3-32B --port=8001 --max-model-len 16k")


def container(words: str | tuple[str, ...] = SGLANG, **more: Any) -> Found:
    split = tuple(words.split()) if isinstance(words, str) else words
    return Found(**{"run": Container("sglang-Scout_17b"), "words": split, **more})


def unit(words: str, **more: Any) -> Found:
    return Found(**{"run": OwnUnit("vllm-qwen.service"), "words": tuple(words.split()), **more})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # with the machine's network, as most run on a Spark
        (container(), ("sglang", "http://127.0.0.1:30001", "qwen3", None, 32768)),
        # with a network of its own, and the checkpoint bound in
        (
            container(ports={30001: 31001}, mounts={"/models": "/srv/big/models/", "/": "/nowhere"}),
            ("sglang", "http://127.0.0.1:31001", "qwen3", "/srv/big/models/qwen3-32b", 32768),
        ),
        (container(SCRIPT), ("vllm", "http://127.0.0.1:8001", "Qwen/Qwen3-32B", None, 16000)),
        (container("--model Qwen/Q --api-key s3cret", image="vllm/vllm-openai:v1"),
         ("vllm", "http://127.0.0.1:8000", "Qwen/Q", None, None)),
        (container((), image="nvcr.io/nim/meta/llama-3.1-8b:1", ports={8000: 9000}),
         ("nim", "http://127.0.0.1:9000", "sglang-scout_17b", None, None)),
        (container("serve", image="ollama/ollama", ports={11434: 11434}),
         ("ollama", "http://127.0.0.1:11434", "sglang-scout_17b", None, None)),
        (container("trtllm-serve /m --port 99999999", image="x"),
         ("trtllm", "http://127.0.0.1:8355", "/m", None, None)),
        (container("/serve", image="mine", ports={5000: 5001}),
         ("sglang", "http://127.0.0.1:5001", "sglang-scout_17b", None, None)),
        (unit("/usr/bin/llama-server -m /srv/m.gguf --alias m -c 4096 --port 8080"),
         ("llama-server", "http://127.0.0.1:8080", "m", "/srv/m.gguf", 4096)),
        (unit("/srv/start.sh"), ("vllm", "http://127.0.0.1:8000", "vllm-qwen", None, None)),
    ],
)  # fmt: skip
def test_a_command_says_what_it_serves_and_where(found: Found, expected: tuple[object, ...]) -> None:
    model = adopt(found)
    assert (str(model.engine), model.url, model.served_model_name, model.path, model.context) == expected
    assert model.run == found.run


@pytest.mark.parametrize("found", [
    container(), container(SCRIPT, restart="always", image='a"b\\c\n'), container(()),
    unit("/srv/start.sh", restart="on-failure"), unit("/usr/bin/llama-server -m /srv/m.gguf -c 4096"),
])  # fmt: skip
def test_what_is_written_loads_as_the_same_model(tmp_path: Path, found: Found) -> None:
    model = adopt(found)
    text = render_adopted(model, found)
    assert load(tmp_path, model.id, text) == model
    assert ("Restart=on-failure" in text, "update --restart=no" in text) == (
        found.restart == "on-failure", found.restart == "always",
    )  # fmt: skip


def load(tmp_path: Path, model_id: str, text: str) -> Model:
    file = tmp_path / "etc" / "models.d" / f"{model_id}.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    return ConfigDirectory(tmp_path / "etc").load().models[model_id]


def test_ids() -> None:
    assert adopt(container()).id == "sglang-scout_17b"
    assert adopt(container(), taken_names={"sglang-scout_17b"}).id == "sglang-scout_17b-2"
    assert adopt(unit("x")).id == "vllm-qwen"
    assert adopt(unit("x"), name="chosen", taken_names={"other"}).id == "chosen"


def test_no_secret_of_the_command_is_written() -> None:
    found = container("vllm serve Q --api-key s3cret")
    text = render_adopted(adopt(found), found)
    assert "s3cret" not in text
    assert "api_key_file" in text


def test_ollama_is_told_by_its_own_names() -> None:
    found = unit("/usr/local/bin/ollama serve")
    model = adopt(found)
    assert model.engine is EngineKind.OLLAMA
    assert "ollama list" in render_adopted(model, found)


def test_the_words_of_a_unit() -> None:
    shown = (
        "{ path=/usr/bin/python3 ; argv[]=/usr/bin/python3 -m sglang.launch_server --port 1 ; ignore_errors=no ; "
        "start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }"
    )
    assert words_of(shown) == ("/usr/bin/python3", "-m", "sglang.launch_server", "--port", "1")
    assert words_of("") == ()
