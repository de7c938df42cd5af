from __future__ import annotations

import pytest

from spark_modeld.backends import engine_of
from spark_modeld.backends.engine import CHAT, COMPLETION
from spark_modeld.backends.pace import FIRST_SECONDS, LONGEST_SECONDS, pause
from spark_modeld.backends.probe import Answer, base_url
from spark_modeld.core.model import EngineKind

pytestmark = pytest.mark.unit

TABLE = {
    EngineKind.SGLANG: "/health",
    EngineKind.VLLM: "/health",
    EngineKind.OLLAMA: "/api/version",
    EngineKind.LLAMA_SERVER: "/health",
    EngineKind.TRTLLM: "/health",
    EngineKind.NIM: "/v1/health/ready",
    EngineKind.OPENAI: "/health",
}


@pytest.mark.parametrize("kind", EngineKind)
def test_every_kind_has_its_engine(kind: EngineKind) -> None:
    engine = engine_of(kind)
    assert engine.kind is kind
    assert engine.health_path == TABLE[kind]
    assert engine.generations
    for request in engine.generations:
        assert request.body("a name")["model"] == "a name"
        assert not request.done({})
        assert not request.done(None)


def test_only_the_unknown_engine_may_lack_health_and_names() -> None:
    lenient = {kind for kind in EngineKind if engine_of(kind).health_optional or engine_of(kind).names_optional}
    assert lenient == {EngineKind.OPENAI}


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({"data": [{"id": "a"}, {"id": "b", "aliases": ["c", 4]}]}, {"a", "b", "c"}),
        ({"data": []}, set()),
        ({"data": [{"id": 7}, "x", None]}, set()),
        ({"data": {}}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_openai_names(document: object, names: set[str] | None) -> None:
    found = engine_of(EngineKind.VLLM).names(document)
    assert found == (None if names is None else frozenset(names))


def test_ollama_names_may_leave_out_the_latest_tag() -> None:
    names = engine_of(EngineKind.OLLAMA).names
    entries = [{"name": "a:latest", "model": "a:latest"}, {"name": "b:7b"}]
    assert names({"models": entries}) == frozenset({"a:latest", "a", "b:7b"})
    assert names({"models": []}) == frozenset()
    assert names({"data": []}) is None


def test_a_warm_up_asks_for_one_token_without_a_stream() -> None:
    for request in (CHAT, COMPLETION):
        body = request.body("m")
        assert body["max_tokens"] == 1
        assert body["stream"] is False
        assert request.done({"choices": [{"index": 0}]})
        assert not request.done({"choices": []})


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://h/engine/v1/", "http://h/engine"),
    ],
)
def test_base_url(url: str, base: str) -> None:
    assert base_url(url) == base


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_is_no_document(body: bytes) -> None:
    assert Answer(200, body).document() is None


@pytest.mark.parametrize(("load_seconds", "late_at_most"), [(0.0, 0.002), (0.5, 0.0025), (1.5, 0.0075), (660.0, 1.0)])
def test_an_engine_is_seen_soon_after_it_is_ready(load_seconds: float, late_at_most: float) -> None:
    look = 0.0
    while look < load_seconds:
        look += pause(look)
    assert look - load_seconds <= late_at_most * 1.01


def test_pauses_only_grow_within_their_bounds() -> None:
    pauses = [pause(elapsed / 10) for elapsed in range(3000)]
    assert pauses == sorted(pauses)
    assert pauses[0] == FIRST_SECONDS
    assert pauses[-1] == LONGEST_SECONDS
