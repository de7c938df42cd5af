"""The shipped files: schemas current, settings complete, examples right."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from spark_modeld.config import schema
from spark_modeld.config.fields import MODEL, SETTINGS
from spark_modeld.config.load import ConfigDirectory
from spark_modeld.config.reader import keys_of
from spark_modeld.core.model import Container, Docker, EngineKind, Launch, OwnUnit
from spark_modeld.core.settings import Settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
ETC = ROOT / "etc"
EXAMPLES = sorted((ETC / "models.d.examples").glob("*.toml"))


def errors(document: dict[str, Any], of: dict[str, Any]) -> list[str]:
    Draft202012Validator.check_schema(of)
    return [error.message for error in Draft202012Validator(of).iter_errors(document)]


def test_shipped_schemas_are_current(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "spark_modeld.config.schema", str(tmp_path)],
        check=True,
        env={"PYTHONPATH": str(ROOT / "daemon")},
    )
    for name in (schema.SETTINGS_SCHEMA, schema.MODEL_SCHEMA):
        again = "python -m spark_modeld.config.schema etc"
        assert (tmp_path / name).read_text() == (ETC / name).read_text(), f"out of date: run `{again}`"


def test_the_examples_are_right_together(tmp_path: Path) -> None:
    shutil.copytree(ETC / "models.d.examples", tmp_path / "models.d")
    shutil.copy(ETC / "spark-modeld.toml", tmp_path)
    catalog = ConfigDirectory(tmp_path).load()
    assert set(catalog.models) == {path.stem for path in EXAMPLES}
    assert {type(model.run) for model in catalog.models.values()} == {OwnUnit, Launch, Docker, Container}


def test_the_examples_are_the_setups_people_have(tmp_path: Path) -> None:
    """Served names and ports that clients know already."""
    shutil.copytree(ETC / "models.d.examples", tmp_path / "models.d")
    models = ConfigDirectory(tmp_path).load().models.values()
    known = {(model.engine, int(model.url.rpartition(":")[2]), model.served_model_name) for model in models}
    assert known >= {
        (EngineKind.SGLANG, 30001, "qwen3-32b-nvfp4"),
        (EngineKind.SGLANG, 30000, "llama4-scout-17b-nvfp4"),
        (EngineKind.SGLANG, 30001, "deepseek-r1-8b-abliterated-bf16"),
    }
    ports = {(engine, port) for engine, port, _ in known}
    assert ports >= {(EngineKind.VLLM, 8000), (EngineKind.OLLAMA, 11434), (EngineKind.LLAMA_SERVER, 8080)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_to_change(path: Path) -> None:
    comment = " ".join(line for line in path.read_text().splitlines() if line.startswith("# "))
    assert len(comment) > 150
    assert "Change: " in comment


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_names_in_its_command_what_it_serves(path: Path) -> None:
    """Name and port stand in two places each; they must be the same."""
    document = tomllib.loads(path.read_text())
    command = document.get("launch", document.get("docker", {})).get("command")
    if command is None:
        return
    flags = dict(pairwise(command))
    served = flags.get("--served-model-name", flags.get("--alias"))
    assert served == document.get("served_model_name", path.stem)
    assert document["url"].endswith(f":{flags['--port']}")
    assert document["path"] in command


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_matches_the_schema(path: Path) -> None:
    assert errors(tomllib.loads(path.read_text()), schema.model_schema()) == []


def test_the_shipped_settings_name_every_key_with_its_default(tmp_path: Path) -> None:
    shipped = (ETC / "spark-modeld.toml").read_text()
    assert errors(tomllib.loads(shipped), schema.settings_schema()) == []
    uncommented = re.sub(r"(?m)^#(?! )", "", shipped)
    document = tomllib.loads(uncommented)
    assert [f"{table}.{key}" for table in document for key in document[table]] == [
        key for key in keys_of(SETTINGS) if "." in key
    ]
    assert errors(document, schema.settings_schema()) == []
    (tmp_path / "spark-modeld.toml").write_text(uncommented)
    assert ConfigDirectory(tmp_path).load().settings == Settings()


def test_every_key_has_a_line_about_it() -> None:
    for document in (schema.settings_schema(), schema.model_schema()):
        stack = list(document["properties"].items())
        while stack:
            key, entry = stack.pop()
            assert re.fullmatch(r"[A-Z][^\n]{10,}", entry["description"]), key
            if entry.get("type") == "object" and "properties" in entry:
                stack += entry["properties"].items()
    assert len(keys_of(MODEL)) > 20


@pytest.mark.parametrize(
    "document",
    [
        {"engine": "sglang", "url": "http://a:1"},
        {"engine": "sglang", "url": "http://a:1", "unit": "a.service", "docker": {"image": "a"}},
        {"engine": "sglang", "url": "http://a:1", "unit": "spark-model@a.service"},
        {"engine": "sglang", "url": "http://a:1/v1", "unit": "a.service"},
        {"engine": "sglang", "url": "http://a:1", "unit": "a.service", "aliases": ["local"]},
        {"engine": "sglang", "url": "http://a:1", "unit": "a.service", "user": "root"},
        {"engine": "sglang", "url": "http://a:1", "unit": "a.service", "memory": "8 GiB"},
        {"engine": "sglang", "url": "http://a:1", "unit": "a.service", "contxt": 1},
        {"engine": "sglang", "url": "http://a:1", "launch": {"command": []}},
        {"engine": "sglang", "url": "http://a:1", "launch": {"command": ["a"], "environment": {"A-B": ""}}},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(document: dict[str, Any]) -> None:
    assert errors(json.loads(json.dumps(document)), schema.model_schema())
