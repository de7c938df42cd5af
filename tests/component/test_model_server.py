"""What Ollama says that it holds, and is told to keep, against a server that behaves like it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from spark_modeld.backends.ladder import Ladder
from spark_modeld.backends.model_server import OllamaServer
from spark_modeld.backends.vitals import EngineVitals
from spark_modeld.core.model import EngineKind, Model, OwnUnit
from spark_modeld.core.pulse import Proof, Proven, Reach
from spark_modeld.core.reading import Loaded
from spark_modeld.ports import LadderPassed
from support.engines import free_port, running, wait_listening

pytestmark = pytest.mark.component

SCRIPT = Path(__file__).parents[1] / "support" / "ollama_server.py"


def no_key(path: str) -> str:
    raise AssertionError(f"{path} was read")


SERVER = OllamaServer(no_key)


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    port = free_port()
    command = [sys.executable, "-I", "-S", str(SCRIPT), f"--port={port}", "--load-seconds=0.05", "--model=a:1b=100"]
    with running([*command, "--model=b=50"], port) as engine:
        wait_listening(port)
        yield tenant("a:1b", engine.url)


def tenant(name: str, url: str) -> Model:
    return Model(id="a", engine=EngineKind.OLLAMA, url=url, run=OwnUnit("o.service"), served_model_name=name)


async def entry(model: Model, name: str) -> Loaded:
    found = await SERVER.loaded(model)
    assert found is not None
    return next(e for e in found if e.name == name)


async def test_the_ladder_loads_without_an_end_and_the_server_lets_go_when_told(model: Model) -> None:
    assert await SERVER.loaded(model) == ()
    assert await Ladder(no_key).climb(model, lambda _: None) == LadderPassed()
    assert await entry(model, "a:1b") == Loaded(unit="o.service", name="a:1b", bytes=100 << 20, gpu_bytes=100 << 20)
    await SERVER.unload(model)
    while await SERVER.loaded(model):
        pass


async def test_who_looks_whether_a_model_is_well_never_has_it_loaded(model: Model) -> None:
    vitals = EngineVitals(no_key)
    assert (await vitals.look(model, 5, others=True)).reach is Reach.UNWELL
    assert await vitals.ask(model, 5) == Proven(Proof.FAILED, "that it is not loaded")
    assert await SERVER.loaded(model) == ()
    await SERVER.pin(model)
    assert (await vitals.look(model, 5, others=True)).reach is Reach.WELL
    assert (await vitals.ask(model, 5)).proof is Proof.GIVEN
    assert (await entry(model, "a:1b")).ends_in is None, "being asked for a token leaves it as it was"


async def test_an_end_is_seen_and_taken_back(model: Model) -> None:
    other = tenant("b", model.url)
    assert await Ladder(no_key).climb(other, lambda _: None) == LadderPassed()
    request = {"model": "b", "prompt": "Hi", "keep_alive": "5m"}
    async with ClientSession() as client, client.post(f"{model.url}/api/generate", json=request) as answer:
        assert answer.status == 200
    ends_in = (await entry(other, "b:latest")).ends_in
    assert ends_in == pytest.approx(300, abs=5)
    await SERVER.pin(other)
    assert (await entry(other, "b:latest")).ends_in is None


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"models": []}, []),
        ({"models": [{"name": "x", "size": 7, "expires_at": "0001-01-01T00:00:00Z"}]}, [("x", 7, True)]),
        (
            {"models": [{"model": "x", "size": 7, "expires_at": "2318-11-02T10:00:00.123456789-07:00"}]},
            [("x", 7, False)],
        ),
        ({"models": [{"model": "x", "size": -7, "expires_at": "soon"}, {"size": 3}, 4]}, [("x", 0, False)]),
        ({"models": None}, None),
        ([], None),
    ],
)
async def test_what_is_no_list_is_no_answer(document: object, expected: list[tuple[str, int, bool]] | None) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(document)

    app = web.Application()
    app.add_routes([web.get("/api/ps", answer)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", free_port())
        await site.start()
        found = await SERVER.loaded(tenant("x", site.name))
    finally:
        await runner.cleanup()
    assert (None if found is None else [(e.name, e.bytes, e.ends_in is not None) for e in found]) == expected


async def test_a_server_that_does_not_listen_says_nothing() -> None:
    model = tenant("x", f"http://127.0.0.1:{free_port()}")
    assert await SERVER.loaded(model) is None
    await SERVER.unload(model)
