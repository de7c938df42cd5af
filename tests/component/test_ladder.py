from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from spark_modeld.backends.ladder import Ladder
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.model import EngineKind, Launch, Model
from spark_modeld.ports import LadderPassed, LadderRefused
from support.engines import bad_engine, free_port, llama_arguments, running, wait_listening
from support.tiny_models import tiny_model

pytestmark = pytest.mark.component

DEADLINE = 20.0


def a_model(url: str, engine: EngineKind = EngineKind.VLLM, **changes: Any) -> Model:
    return Model(id="bad", engine=engine, url=url, run=Launch(("true",)), **({"served_model_name": "bad"} | changes))


class Told:
    """The rungs told, which a test can wait for."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, words: str) -> None:
        self.words.append(words)
        self._news.set()

    async def wait_for(self, start: str) -> None:
        async with asyncio.timeout(DEADLINE):
            while not any(words.startswith(start) for words in self.words):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def climbing(model: Model) -> AsyncIterator[tuple[Told, asyncio.Task[LadderPassed | LadderRefused]]]:
    """A climb that goes on while the block does what it does, and is cancelled then."""
    told = Told()
    task = asyncio.create_task(climb(model, told))
    try:
        yield told, task
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def no_key(path: str) -> str:
    raise AssertionError(f"{path} was read")


async def climb(model: Model, told: Told | None = None, **options: Any) -> LadderPassed | LadderRefused:
    ladder = Ladder(options.pop("read_key", no_key), **options)
    async with asyncio.timeout(DEADLINE):
        return await ladder.climb(model, told or Told())


async def refused(model: Model, **options: Any) -> Problem:
    outcome = await climb(model, **options)
    assert isinstance(outcome, LadderRefused)
    assert outcome.problem.code is Code.MODEL_FAILED
    assert outcome.problem.extra["unit"] == model.unit
    return outcome.problem


def open_sockets() -> set[str]:
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return {os.readlink(link) for link in links if os.path.exists(link) or os.path.islink(link)}


@asynccontextmanager
async def scripted(*routes: web.RouteDef) -> AsyncIterator[str]:
    """A server in this process, for what no engine of ours does."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", free_port())
        await site.start()
        yield site.name
    finally:
        await runner.cleanup()


def answers(status: int, document: object = None) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(document, status=status)

    return handler


@pytest.mark.parametrize("style", ["--vllm-style", "--503-while-loading", "--health-early"])
async def test_passes_once_loaded_however_loading_looks(style: str) -> None:
    told = Told()
    with bad_engine("--load-seconds=0.3", style) as engine:
        assert await climb(a_model(engine.url), told) == LadderPassed()
        assert engine.process.poll() is None
    rungs = [words.partition(":")[0] for words in told.words]
    assert list(dict.fromkeys(rungs)) == ["connection", "health", "model name", "first answer"]


@pytest.mark.parametrize("switch", ["--never-ready", "--generation-fails", "--generation-hangs"])
async def test_waits_for_what_may_still_come_until_it_is_cancelled(switch: str) -> None:
    with bad_engine(switch) as engine:
        async with climbing(a_model(engine.url)) as (told, task):
            await told.wait_for("connection" if switch == "--never-ready" else "first answer")
            done, _ = await asyncio.wait({task}, timeout=0.2)
            assert not done


async def test_an_engine_that_dies_while_loading_is_waited_for_and_its_death_left_to_systemd() -> None:
    with bad_engine("--503-while-loading", "--die-after-seconds=0.1", "--exit-code=3") as engine:
        async with climbing(a_model(engine.url)) as (_, task):
            assert await asyncio.to_thread(engine.process.wait, DEADLINE) == 3
            done, _ = await asyncio.wait({task}, timeout=0.1)
            assert not done


async def test_another_server_on_the_port_is_named() -> None:
    with bad_engine("--wrong-name") as engine:
        problem = await refused(a_model(engine.url))
    assert problem.extra["result"] == "wrong-model"
    assert "somebody-else" in problem.detail
    assert "models.d/bad.toml" in problem.detail


async def test_an_engine_that_answers_errors_for_minutes_is_refused_but_not_one_that_hangs() -> None:
    passing, told = FakeTime(), Told()
    with bad_engine("--generation-fails") as engine:
        wait_listening(engine.port)
        problem = await refused(a_model(engine.url), told=told, monotonic=passing.monotonic, sleep=passing.sleep)
    assert problem.extra["result"] == "generation-fails"
    assert "answered every request for one token with HTTP 500 for 12" in problem.detail
    assert "first answer: HTTP 500" in told.words
    assert passing.sleeps < 300


async def test_a_server_that_cannot_load_the_model_is_refused_with_its_own_words() -> None:
    error = {"error": "model requires more system memory (70.0 GiB) than is available (7.1 GiB)"}
    loads: list[web.Request] = []

    async def load(request: web.Request) -> web.Response:
        loads.append(request)
        return web.json_response(error, status=500)

    routes = (
        web.get("/api/version", answers(200)),
        web.get("/api/ps", answers(200, {"models": []})),
        web.post("/api/generate", load),
    )
    async with scripted(*routes) as url:
        problem = await refused(a_model(url, EngineKind.OLLAMA))
    assert problem.extra["result"] == "load-failed"
    assert error["error"] in problem.detail
    assert len(loads) == 2, "once may be a runner that was just ending"


async def test_a_list_that_is_still_filling_up_is_not_the_wrong_model() -> None:
    lists = iter([["other"], ["other", "bad"]])

    async def names(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in next(lists)]})

    async with scripted(web.get("/health", answers(200)), web.get("/v1/models", names)) as url:
        assert await climb(a_model(url, warm_up=False)) == LadderPassed()


async def test_an_empty_list_is_waited_for_but_accepted_of_an_unknown_engine() -> None:
    with bad_engine("--without-names") as engine:
        assert await climb(a_model(engine.url, EngineKind.OPENAI)) == LadderPassed()
        async with climbing(a_model(engine.url, EngineKind.VLLM)) as (told, _):
            await told.wait_for("model name: no model is listed")


async def test_an_unknown_engine_needs_no_health_path() -> None:
    with bad_engine("--without-health") as engine:
        assert await climb(a_model(engine.url, EngineKind.OPENAI)) == LadderPassed()


@pytest.mark.parametrize("switch", ["--without-chat", "--without-generation"])
async def test_a_warm_up_on_a_path_the_engine_lacks_does_not_fail_the_start(switch: str) -> None:
    with bad_engine(switch) as engine:
        assert await climb(a_model(engine.url)) == LadderPassed()


async def test_a_model_without_a_chat_template_has_to_complete() -> None:
    statuses, asked = iter([500, 200]), list[str]()

    async def complete(request: web.Request) -> web.Response:
        asked.append((await request.json())["prompt"])
        return web.json_response({"choices": [{}]}, status=next(statuses))

    async with scripted(
        web.get("/health", answers(200)),
        web.get("/v1/models", answers(200, {"data": [{"id": "bad"}]})),
        web.post("/v1/chat/completions", answers(400, {"error": {"message": "no chat template"}})),
        web.post("/v1/completions", complete),
    ) as url:
        assert await climb(a_model(url)) == LadderPassed()
    assert asked == ["Hi", "Hi"]


@pytest.mark.parametrize("silent", [False, True])
async def test_errors_with_a_pause_between_them_are_no_failure(silent: bool) -> None:
    """It is failing when it has said nothing else for two minutes; 503 is loading, and without an answer it may be."""
    passing = FakeTime()

    async def generate(request: web.Request) -> web.Response:
        pausing = 100 < passing.now < 110
        if pausing and silent:
            assert request.transport is not None
            request.transport.close()
        status = 503 if pausing else 500 if passing.now < 200 else 200
        return web.json_response({"choices": [{}]}, status=status)

    async with scripted(
        web.get("/health", answers(200)),
        web.get("/v1/models", answers(200, {"data": [{"id": "bad"}]})),
        web.post("/v1/chat/completions", generate),
    ) as url:
        assert await climb(a_model(url), monotonic=passing.monotonic, sleep=passing.sleep) == LadderPassed()
    assert passing.now >= 200


async def test_an_engine_that_does_not_know_the_model_is_refused_at_the_first_answer() -> None:
    denial = answers(404, {"error": {"message": "The model `bad` does not exist.", "param": "model"}})
    async with scripted(
        web.get("/health", answers(200)),
        web.get("/v1/models", answers(200, {"data": []})),
        web.post("/v1/chat/completions", denial),
    ) as url:
        problem = await refused(a_model(url, EngineKind.OPENAI))
    assert "has no model bad" in problem.detail


async def test_without_warm_up_nothing_is_generated() -> None:
    with bad_engine("--generation-fails") as engine:
        assert await climb(a_model(engine.url, warm_up=False)) == LadderPassed()


async def test_a_key_that_is_needed_is_asked_for_at_once() -> None:
    with bad_engine("--require-key=sesame") as engine:
        problem = await refused(a_model(engine.url))
    assert problem.extra["result"] == "key-refused"
    assert "api_key_file" in problem.detail


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("guarded", ["/health", "/v1/models", "/v1/chat/completions"])
async def test_whatever_asks_for_a_key_is_alive_and_wants_one(guarded: str, status: int) -> None:
    documents: dict[str, object] = {"/health": {}, "/v1/models": {"data": [{"id": "bad"}]}}
    said = {path: answers(200, document) for path, document in documents.items()} | {guarded: answers(status)}
    async with scripted(*(web.route("*", path, handler) for path, handler in said.items())) as url:
        problem = await refused(a_model(url))
    assert problem.extra["result"] == "key-refused"
    assert "is up and wants an API key: set api_key_file in models.d/bad.toml" in problem.detail


async def test_the_key_from_the_file_is_used_and_never_told() -> None:
    told = Told()
    with bad_engine("--require-key=sesame") as engine:
        model = a_model(engine.url, api_key_file="/keys/bad")
        assert await climb(model, told, read_key=lambda path: {"/keys/bad": "sesame\n"}[path]) == LadderPassed()
        problem = await refused(model, read_key=lambda path: "opensesame")
    assert "does not accept the API key in /keys/bad" in problem.detail
    assert problem.detail.endswith("the one given with --api-key.")
    assert "sesame" not in problem.detail + " ".join(told.words)


@pytest.mark.parametrize("content", [None, "", "two words", "two\nlines", "schlüssel"])
async def test_an_unusable_key_file_matters_only_to_an_engine_that_wants_a_key(content: str | None) -> None:
    def read_key(path: str) -> str:
        if content is None:
            raise PermissionError(13, "Permission denied")
        return content

    with bad_engine("--require-key=sesame") as locked, bad_engine() as unlocked:
        assert await climb(a_model(unlocked.url, api_key_file="/k"), read_key=read_key) == LadderPassed()
        problem = await refused(a_model(locked.url, api_key_file="/k"), read_key=read_key)
    assert "/k is of no use" in problem.detail


async def test_a_hanging_health_is_dropped_at_once_and_leaves_nothing_open() -> None:
    asked, dropped = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            asked.set()
            await reader.read()
            dropped.set()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    before = open_sockets(), asyncio.all_tasks()
    async with server, asyncio.timeout(DEADLINE):
        async with climbing(a_model(f"http://{host}:{port}", EngineKind.SGLANG)) as (_, task):
            await asked.wait()
            assert open_sockets() != before[0]
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=DEADLINE)
            assert done
        await dropped.wait()
        while (open_sockets(), asyncio.all_tasks()) != before:  # noqa: ASYNC110 - the server's end closes a little later
            await asyncio.sleep(0)


async def test_what_hangs_up_or_speaks_no_http_is_waited_for() -> None:
    replies = [b"", b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            writer.write(replies.pop(0) if len(replies) > 1 else replies[0])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, climbing(a_model(f"http://{host}:{port}")) as (told, _):
        await told.wait_for("model name")
    assert told.words[:4] == ["connection", "health", "health: it hung up", "health: no HTTP"]


async def test_an_answer_without_end_is_cut_off() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        except ConnectionError:
            return response

    routes = web.get("/health", answers(200)), web.get("/v1/models", endless)
    async with scripted(*routes) as url, climbing(a_model(url)) as (told, _):
        await told.wait_for("model name: no model list at /v1/models")


class FakeTime:
    """Passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps = 0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1
        await asyncio.sleep(0)


@pytest.mark.parametrize(("minutes", "most"), [(1, 1250), (10, 1900), (60, 4900)])
async def test_looks_stay_few_as_minutes_pass(minutes: int, most: int) -> None:
    time_passing = FakeTime()

    async def sleep(seconds: float) -> None:
        await time_passing.sleep(seconds)
        if time_passing.now >= minutes * 60:
            raise TimeoutError

    ladder = Ladder(no_key, monotonic=time_passing.monotonic, sleep=sleep)
    with pytest.raises(TimeoutError):
        await ladder.climb(a_model(f"http://127.0.0.1:{free_port()}"), lambda _: None)
    assert minutes * 60 <= time_passing.sleeps <= most


async def test_a_name_in_the_url_is_resolved() -> None:
    with bad_engine() as engine:
        assert await climb(a_model(f"http://localhost:{engine.port}/v1/")) == LadderPassed()


async def test_ollama_is_asked_to_load_and_ready_when_it_lists_the_model() -> None:
    loaded: list[str] = []
    bodies: list[dict[str, Any]] = []

    async def running_models(_: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": name, "model": name} for name in loaded]})

    async def generate(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        if bodies[-1]["model"] != "bad":
            return web.json_response({"error": "model 'nope' not found"}, status=404)
        loaded.append("bad:latest")
        return web.json_response({"model": "bad", "response": "", "done": True})

    routes = (
        web.get("/api/version", answers(200)),
        web.get("/api/ps", running_models),
        web.post("/api/generate", generate),
    )
    async with scripted(*routes) as url:
        assert await climb(a_model(url, EngineKind.OLLAMA)) == LadderPassed()
        assert [body.get("keep_alive") for body in bodies] == [-1, None]
        assert "prompt" not in bodies[0]
        problem = await refused(a_model(url, EngineKind.OLLAMA, served_model_name="nope"))
    assert "has no model nope" in problem.detail


async def test_the_real_llama_server() -> None:
    port = free_port()
    model = a_model(f"http://127.0.0.1:{port}", EngineKind.LLAMA_SERVER, served_model_name="tiny-alpha")
    told = Told()
    with running(llama_arguments(gguf=tiny_model("tiny-alpha"), name="tiny-alpha", port=port), port):
        assert await climb(model, told) == LadderPassed()
        # It would answer any name; the list tells.
        problem = await refused(a_model(model.url, EngineKind.LLAMA_SERVER, served_model_name="tiny-beta"))
    assert "serves tiny-alpha, not tiny-beta" in problem.detail
    assert told.words == ["connection", "health", "model name", "first answer"]
