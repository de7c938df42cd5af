"""Whatever is in the files, loading them ends in a catalog or in findings that can be shown."""

from __future__ import annotations

import json
import tempfile
import tomllib
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from spark_modeld.config import schema
from spark_modeld.config.fields import MODEL, SETTINGS
from spark_modeld.config.kinds import Table
from spark_modeld.config.load import ConfigDirectory
from spark_modeld.config.token_file import parse
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, SparkError

pytestmark = pytest.mark.property

SETTINGS_VALIDATOR = Draft202012Validator(schema.settings_schema())
MODEL_VALIDATOR = Draft202012Validator(schema.model_schema())
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# What a hand might plausibly write, so that some of what is generated is right.
PLAUSIBLE = st.sampled_from(
    ["30s", "15min", "never", "0s", "8GiB", "10%", "auto", "none", "token", "info", "sglang", "vllm", "side", "slot"]
) | st.sampled_from(["m", "/srv/x", "a.service", "http://127.0.0.1:9000", "http://[::1]:30100/", "[::1]:80", "\x7f"])
RIGHT = {"engine": "vllm", "url": "http://127.0.0.1:9", "command": ["a"], "image": "a", "name": "ab"}
SCALARS = st.one_of(
    PLAUSIBLE,
    st.text(max_size=20),
    st.integers(),
    st.integers(0, 40000),
    st.floats(),
    st.booleans(),
    st.just(datetime(2026, 1, 2, tzinfo=UTC)),
    st.just(date(2026, 1, 2)),
    st.just(time(1, 2)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def documents(table: Table) -> st.SearchStrategy[dict[str, Any]]:
    """Documents of this table's keys and others, with values that are right, wrong and absurd."""
    known: dict[str, st.SearchStrategy[Any]] = {}
    for field in table.fields:
        right = RIGHT.get(field.key, field.default)
        known[field.key] = VALUES if right is None else st.just(right) | st.just(right) | VALUES
    known |= {inner.key: documents(inner) | VALUES for inner in table.tables}
    return st.tuples(
        st.fixed_dictionaries({}, optional=known), st.dictionaries(st.text(max_size=8), VALUES, max_size=1)
    ).map(lambda parts: {**parts[1], **parts[0]})


def keys_and_values(table: Table) -> st.SearchStrategy[tuple[str, str, Any]]:
    """The table's name, one of its keys, and a value for it that may be right."""
    return st.tuples(st.just(table.key), st.sampled_from([field.key for field in table.fields]), PLAUSIBLE | VALUES)


def load(settings_bytes: bytes, model_bytes: bytes) -> Catalog | None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "models.d").mkdir()
        (directory / "spark-modeld.toml").write_bytes(settings_bytes)
        (directory / "models.d" / "m.toml").write_bytes(model_bytes)
        try:
            return ConfigDirectory(directory).load()
        except SparkError as error:
            problem = error.problem
            assert problem.code is Code.INVALID_CONFIG
            assert problem.extra["findings"]
            assert json.dumps(problem.as_dict(), ensure_ascii=False).encode()
            assert "\n" not in problem.detail
            return None


@FEW
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes(one: bytes, other: bytes) -> None:
    load(one, other)


@FEW
@given(st.data())
def test_a_right_file_with_any_byte_changed(data: st.DataObject) -> None:
    right = b'engine = "sglang"\nurl = "http://127.0.0.1:30001"\naliases = ["q"]\n[launch]\ncommand = ["a"]\n'
    place = data.draw(st.integers(0, len(right) - 1))
    load(b"", right[:place] + data.draw(st.binary(max_size=3)) + right[place + 1 :])


@FEW
@given(documents(SETTINGS), documents(MODEL))
def test_any_toml(one: dict[str, Any], other: dict[str, Any]) -> None:
    load(*(tomli_w.dumps(document).encode("utf-8", "replace") for document in (one, other)))


@FEW
@given(st.sampled_from(SETTINGS.tables).flatmap(keys_and_values))
def test_a_setting_that_is_taken_is_right_by_the_schema(drawn: tuple[str, str, Any]) -> None:
    table, key, value = drawn
    text = tomli_w.dumps({table: {key: value}}).encode("utf-8", "replace")
    taken = load(text, b'engine = "sglang"\nurl = "http://127.0.0.1:9"\nunit = "a.service"\n') is not None
    event(f"taken: {taken}")
    assert SETTINGS_VALIDATOR.is_valid(tomllib.loads(text.decode())) or not taken


@FEW
@given(keys_and_values(MODEL))
def test_a_models_key_that_is_taken_is_right_by_the_schema(drawn: tuple[str, str, Any]) -> None:
    _, key, value = drawn
    document = {"engine": "sglang", "url": "http://127.0.0.1:9", "unit": "a.service", key: value}
    text = tomli_w.dumps(document).encode("utf-8", "replace")
    taken = load(b"", text) is not None
    event(f"taken: {taken}")
    assert MODEL_VALIDATOR.is_valid(tomllib.loads(text.decode())) or not taken


@FEW
@given(
    st.binary(max_size=200)
    | VALUES.map(lambda value: tomli_w.dumps({"tokens": {"a": value}}).encode("utf-8", "replace"))
)
def test_any_tokens_file_opens_nothing(data: bytes) -> None:
    assert parse("tokens.toml", data)[0] == {}
