"""Which path, which model, which token, and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from spark_modeld.core.errors import Code, refuse
from spark_modeld.core.unit import Phase
from support.relaying import (
    AUTH,
    EVENTS,
    Call,
    Client,
    Relaying,
    Reply,
    chunk,
    model,
    plain,
    relaying,
    request,
    until,
)

pytestmark = pytest.mark.component


@pytest.fixture
async def it() -> AsyncIterator[Relaying]:
    async with relaying() as running:
        yield running


@pytest.fixture
async def open_to_all() -> AsyncIterator[Relaying]:
    async with relaying(auth="none") as running:
        yield running


def wrong_tokens(it: Relaying) -> float:
    return next(each.read()[()] for each in it.metrics.gauges if each.name.endswith("wrong_tokens"))


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}\r\n"


def error_of(reply: Reply) -> dict[str, Any]:
    body = json.loads(reply.body)
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "code", "param"}
    return dict(body["error"])


def body(name: object, **more: object) -> bytes:
    return json.dumps({"model": name, **more}).encode()


# Paths.

PATHS = [
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "rerank",
    "score",
    "tokenize",
    "audio/speech",
    "images/generations",
]


@pytest.mark.parametrize("path", [*(f"/v1/{path}" for path in PATHS), *(f"/{path}" for path in PATHS)])
async def test_inference_paths_go_to_the_model(it: Relaying, path: str) -> None:
    assert (await it.post(body("qwen"), path=f"{path}?a=b")).status == 200
    known = "/tokenize" if path.endswith("tokenize") else f"/v1/{path.removeprefix('/v1').lstrip('/')}"
    assert it.engine.asked[0].line == f"POST {known}?a=b HTTP/1.1"
    assert json.loads(it.engine.asked[0].body)["model"] == "served/qwen"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/./completions",
        "/..",
        "/v1/..;/x",
        "/v1//completions",
        "//v1/completions",
        "/v1/%2e%2e/admin",
        "/v1%2Fcompletions",
        "/v1/\\admin",
        "/v1/%5cadmin",
        "/v1/%00",
        "http://localhost/v1/models",
        "*",
        "/v1/models#x",
    ],
)
async def test_a_path_that_could_mean_two_things_is_refused(it: Relaying, path: str) -> None:
    for extra in (AUTH, bearer("smd_admin"), ""):
        reply = await it.get(path, extra=extra)
        assert (reply.status, error_of(reply)["code"]) == (400, "invalid_path")
    assert it.engine.asked == []


@pytest.mark.parametrize(
    "path", ["/metrics", "/v1/load_lora_adapter", "/v1/chat", "/v1/%63ompletions", "/V1/models", "/"]
)
async def test_any_other_path_needs_its_own_scope(it: Relaying, path: str) -> None:
    reply = await it.get(path)
    assert (reply.status, error_of(reply)["type"]) == (403, "permission_error")
    assert (await it.get(path, extra="")).status == 401
    assert (await it.get(path, extra=bearer("smd_admin"))).status == 200
    assert [asked.line for asked in it.engine.asked] == [f"GET {path} HTTP/1.1"]
    assert it.leases.granted == 0, "looking is not using"


async def test_an_administrators_body_stays_as_it_is(it: Relaying) -> None:
    sent = b'{"model" : "qwen"}'
    assert (await it.post(sent, path="/v1/load_lora_adapter", extra=bearer("smd_admin"))).status == 200
    assert it.engine.asked[0].body == sent
    assert it.leases.granted == 1


async def test_an_administrators_path_starts_nothing(it: Relaying) -> None:
    it.leases.serving.clear()
    it.leases.publish()
    for sent in (it.get("/metrics", extra=bearer("smd_admin")), it.post(b"{}", path="/x", extra=bearer("smd_admin"))):
        reply = await sent
        assert (reply.status, error_of(reply)["code"]) == (503, "no_model")
    assert it.leases.waiting == []


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/completions"), ("POST", "/v1/models"), ("DELETE", "/health")]
)
async def test_other_methods_are_refused(it: Relaying, method: str, path: str) -> None:
    reply = await it.get(path, method=method)
    assert reply.status == 405
    assert reply.headers["allow"] in {"POST", "GET, HEAD"}


# Lists.


async def test_the_list_has_the_serving_model_first(it: Relaying) -> None:
    for path in ("/v1/models", "/models"):
        listed = json.loads((await it.get(path)).body)
        assert listed["object"] == "list"
        assert [(each["id"], each["object"]) for each in listed["data"]] == [
            ("qwen", "model"),
            ("gemma", "model"),
            ("other", "model"),
        ]
    it.leases.slot_model, it.leases.serving = "other", {"other"}
    it.leases.publish()
    assert json.loads((await it.get("/v1/models")).body)["data"][0]["id"] == "other"
    assert it.leases.granted == 0
    assert it.leases.waiting == []


async def test_a_token_sees_its_own_models_only(it: Relaying) -> None:
    listed = json.loads((await it.get("/v1/models", extra=bearer("smd_gemma"))).body)
    assert [each["id"] for each in listed["data"]] == ["gemma"]
    assert (await it.get("/v1/models/gemma", extra=bearer("smd_gemma"))).status == 200
    assert error_of(await it.get("/v1/models/qwen", extra=bearer("smd_gemma")))["code"] == "model_not_found"


@pytest.mark.parametrize("name", ["qwen", "q", "served/qwen"])
async def test_one_model_is_found_by_any_name(it: Relaying, name: str) -> None:
    assert json.loads((await it.get(f"/v1/models/{name}")).body)["id"] == "qwen"


async def test_health_needs_no_token_and_starts_nothing(it: Relaying) -> None:
    assert ((await it.get("/health", extra="")).status, (await it.get("/health", extra="", method="HEAD")).body) == (
        200,
        b"",
    )
    it.leases.publish(bus="lost")
    assert (await it.get("/health", extra="")).status == 503
    assert (it.tokens.asked, it.leases.granted) == (0, 0)


# Models.


@pytest.mark.parametrize("name", ["qwen", "q", "served/qwen", "local", "default", None, ""])
async def test_a_model_is_meant_by_any_of_its_names(it: Relaying, name: str | None) -> None:
    assert (await it.post(body(name))).status == 200
    assert json.loads(it.engine.asked[0].body)["model"] == "served/qwen"


async def test_no_body_means_the_occupant(it: Relaying) -> None:
    assert (await it.post(b"")).status == 200
    assert it.engine.asked[0].body == b""


async def test_a_model_nobody_has_is_not_found(it: Relaying) -> None:
    reply = await it.post(body("qwen3"))
    assert (reply.status, error_of(reply)) == (
        404,
        {
            "message": "The model 'qwen3' does not exist.",
            "type": "invalid_request_error",
            "code": "model_not_found",
            "param": "model",
        },
    )


async def test_a_form_names_its_model(it: Relaying) -> None:
    form = (
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\x00\xff\r\n'
        b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nq\r\n--XX--\r\n'
    )
    reply = await it.post(form, path="/v1/audio/transcriptions", content_type="multipart/form-data; boundary=XX")
    assert reply.status == 200
    assert it.engine.asked[0].body == form.replace(b"\r\nq\r\n", b"\r\nserved/qwen\r\n")


@pytest.mark.parametrize("sent", [b"nonsense", b"[1]", b'{"model":7}'])
async def test_a_body_without_sense_is_refused_and_the_connection_goes_on(it: Relaying, sent: bytes) -> None:
    client = await it.open()
    await client.send(request(sent) + request(body("qwen")))
    assert [(await client.reply()).status for _ in range(2)] == [400, 200]


async def test_an_encoded_body_cannot_be_read(it: Relaying) -> None:
    assert (await it.post(b"\x1f\x8b", extra=f"{AUTH}Content-Encoding: gzip\r\n")).status == 415


async def test_a_port_of_its_own_means_its_model(it: Relaying) -> None:
    it.leases.serving.add("gemma")
    for name in ("qwen", "nonsense", None):
        assert (await it.post(body(name), own_port=True)).status == 200
    assert {json.loads(asked.body)["model"] for asked in it.engine.asked} == {"served/gemma"}
    listed = json.loads((await it.get("/v1/models", own_port=True)).body)
    assert [each["id"] for each in listed["data"]] == ["gemma"]


async def test_a_port_that_no_model_has_is_told_so(it: Relaying) -> None:
    it.leases.configure({"qwen": model("qwen", it.engine.port)})
    reply = await it.post(body("qwen"), own_port=True)
    assert (reply.status, error_of(reply)["code"]) == (404, "model_not_found")


async def test_the_engine_gets_its_own_key(it: Relaying, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("engines-own\n")
    it.leases.configure({"qwen": model("qwen", it.engine.port, api_key_file=str(key))})
    assert (await it.post(body("qwen"))).status == 200
    key.write_text("another")
    assert (await it.post(body("qwen"))).status == 200
    key.unlink()
    reply = await it.post(body("qwen"))
    assert [asked.get("authorization") for asked in it.engine.asked] == ["Bearer engines-own", "Bearer another"]
    assert (reply.status, str(tmp_path) in error_of(reply)["message"]) == (502, False)


# Tokens.


@pytest.mark.parametrize(
    "extra", ["", "Authorization: Basic abc\r\n", "Authorization: Bearer\r\n", bearer("smd_wrong")]
)
async def test_nobody_comes_in_without_a_token(it: Relaying, extra: str) -> None:
    for reply in (await it.get("/v1/models", extra=extra), await it.post(body("qwen"), extra=extra)):
        assert (reply.status, reply.headers["www-authenticate"], error_of(reply)["type"]) == (
            401,
            "Bearer",
            "authentication_error",
        )
    assert it.engine.asked == []


async def test_some_clients_send_their_key_otherwise(it: Relaying) -> None:
    assert (await it.post(body("qwen"), path="/v1/messages", extra="X-Api-Key: smd_any_secret\r\n")).status == 200
    assert it.engine.asked[0].get("x-api-key") is None


async def test_a_token_opens_what_it_is_for(it: Relaying) -> None:
    assert error_of(await it.post(body("qwen"), extra=bearer("smd_control")))["code"] == "not_authorized"
    reply = await it.post(body("qwen"), extra=bearer("smd_gemma"))
    assert (reply.status, error_of(reply)["param"]) == (403, "model")
    assert (await it.post(body(None), extra=bearer("smd_gemma"))).status == 403
    it.leases.serving.add("gemma")
    assert (await it.post(body("gemma"), extra=bearer("smd_gemma"))).status == 200
    assert len(it.engine.asked) == 1


async def test_who_guesses_gets_slow_answers_and_nobody_else_does(it: Relaying) -> None:
    clients = [await it.open() for _ in range(15)]
    for client in clients:
        await client.send(request(body("qwen"), extra=bearer("smd_wrong")))
    await until(lambda: wrong_tokens(it) == 15)
    replies = [asyncio.create_task(client.reply()) for client in clients]
    assert (await it.post(body("qwen"))).status == 200
    assert not all(reply.done() for reply in replies)
    assert [(await reply).status for reply in replies] == [401] * 15


async def test_who_guesses_too_fast_gets_no_answer_at_all(it: Relaying) -> None:
    clients = [await it.open() for _ in range(70)]
    for client in clients:
        await client.send(request(body("qwen"), extra=bearer("smd_wrong")))
    await until(lambda: wrong_tokens(it) == 70)
    assert await clients[-1].ended() == b""
    assert (await it.post(body("qwen"))).status == 200


async def test_a_gateway_without_tokens_is_a_line_in_the_log_once() -> None:
    with capture_logs() as lines:
        async with relaying(auth="none") as it:
            for _ in range(3):
                it.leases.publish()
    assert [line["log_level"] for line in lines if "asks for no token" in line["event"]] == ["warning"]


async def test_without_tokens_only_this_machine_is_served(open_to_all: Relaying) -> None:
    it = open_to_all
    for extra in ("", "Authorization: Bearer anything\r\n", "Origin: http://localhost:3000\r\n"):
        assert (await it.post(body("qwen"), extra=extra)).status == 200
    for extra in (
        "X-Forwarded-For: 127.0.0.1\r\n",
        "Forwarded: for=1.2.3.4\r\n",
        "Via: 1.1 x\r\n",
        "Tailscale-User-Login: me\r\n",
        "Tailscale-Funnel-Request: ?1\r\n",
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
    ):
        reply = await it.post(body("qwen"), extra=extra)
        assert (reply.status, error_of(reply)["code"]) == (403, "not_authorized")
    client = await it.open()
    await client.send(request(body("qwen"), extra="").replace(b"Host: localhost", b"Host: evil.example"))
    assert (await client.reply()).status == 403
    assert (await it.get("/metrics", extra="")).status == 403


# Waiting for a model.


async def wait_for_demand(it: Relaying) -> None:
    await asyncio.wait_for(it.leases.asked.wait(), 20)


async def test_a_token_for_some_models_starts_no_other_by_naming_none(it: Relaying) -> None:
    it.leases.serving.clear()
    reply = await it.post(body(None), extra=bearer("smd_gemma"))
    assert (reply.status, error_of(reply)["param"]) == (403, "model")
    assert it.leases.waiting == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_token_for_some_models_administers_no_other(it: Relaying, method: str) -> None:
    client = await it.open()
    await client.send(request(b"", path="/metrics", method=method, extra=bearer("smd_gemma_admin")))
    assert (await client.reply()).status == 403
    assert (it.engine.asked, it.leases.held) == ([], [])


async def test_a_token_for_some_models_gets_no_other_that_came_meanwhile(it: Relaying) -> None:
    it.leases.serving.clear()
    it.leases.slot_model = "gemma"
    client = await it.open()
    await client.send(request(body(None), extra=bearer("smd_gemma")))
    await wait_for_demand(it)
    it.leases.slot_model = "qwen"
    it.leases.arrive()
    reply = await client.reply()
    assert (reply.status, error_of(reply)["param"]) == (403, "model")
    assert it.leases.held == []
    assert it.engine.asked == []


async def test_who_waits_gets_the_answer_as_if_nothing_had_happened(it: Relaying) -> None:
    client = await it.open()
    await client.send(request(body("gemma")))
    await wait_for_demand(it)
    assert it.leases.waiting[0][:3] == ("gemma", "token any", True)
    it.leases.arrive()
    reply = await client.reply()
    assert (reply.status, reply.body) == (200, b'{"ok":true}')


async def streaming(it: Relaying, path: str = "/v1/chat/completions") -> Client:
    """A client that waits for its stream, and has been told so."""
    client = await it.open()
    await client.send(request(body("gemma", stream=True), path=path))
    status, headers = await client.head()
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    for _ in range(2):
        assert (await client.chunk()).startswith(b":")
    return client


async def stream_of(client: Client) -> bytes:
    got = b""
    while piece := await client.chunk():
        got += b"" if piece.startswith(b":") else piece
    return got


async def test_a_stream_is_told_that_it_waits(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(EVENTS + chunk(b"data: 1\n\n") + b"0\r\n\r\n")

    it.engine.behave = behave
    client = await streaming(it)
    it.leases.arrive()
    assert await stream_of(client) == b"data: 1\n\n"
    await client.send(request(body("qwen")))
    await client.head()


async def test_a_stream_that_waited_in_vain_ends_with_the_reason(it: Relaying) -> None:
    for path, prefix in (("/v1/chat/completions", "data: "), ("/v1/messages", "event: error\ndata: ")):
        client = await streaming(it, path)
        it.leases.fail(refuse(Code.MEMORY_REFUSED, "The model gemma needs 70 GiB. Nothing can be done. pid 1"))
        event = (await stream_of(client)).decode()
        assert event.startswith(prefix)
        error = json.loads(event.removeprefix(prefix))["error"]
        assert (error["message"], error["code"]) == ("The model gemma needs 70 GiB.", "memory_refused")


async def test_an_engines_error_becomes_an_event_where_the_stream_has_begun(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(plain(b'{"error":\n{"message":"too long"}}', status="400 Bad Request"))

    it.engine.behave = behave
    client = await streaming(it)
    it.leases.arrive()
    assert await stream_of(client) == b'data: {"error": {"message":"too long"}}\n\n'


async def test_who_fails_at_once_is_told_by_the_status(it: Relaying) -> None:
    for stream in (True, False):
        reply = await it.post(body("gemma", stream=stream), extra=bearer("smd_still"))
        assert (reply.status, reply.headers["retry-after"]) == (503, "30")
        assert error_of(reply)["message"] == "The model qwen holds the slot (qwen is there since 2001-09-09T01:46:40Z)."


@pytest.mark.parametrize("stream", [True, False])
async def test_who_hangs_up_leaves_the_queue(it: Relaying, stream: bool) -> None:
    client = await streaming(it) if stream else await it.open()
    if not stream:
        await client.send(request(body("gemma")))
        await wait_for_demand(it)
    await client.close()
    await until(lambda: it.leases.hung_up == 1)
    assert it.records[0].outcome == "client gone"


async def test_a_lease_that_comes_as_the_client_goes_is_given_back(it: Relaying) -> None:
    client = await it.open()
    await client.send(request(body("gemma")))
    await wait_for_demand(it)
    client.writer.transport.abort()
    it.leases.arrive()
    await until(lambda: bool(it.records))
    await until(lambda: it.leases.held == [])


# The end.


async def test_closing_lets_streams_end_and_tells_who_waits(it: Relaying) -> None:
    go = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.send(EVENTS + chunk(b"data: 1\n\n"))
        await go.wait()
        await call.send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    it.engine.behave = behave
    running, waiting, idle, again, fresh = [await it.open() for _ in range(5)]
    for each in (idle, again):
        await each.send(request(b"", path="/health", method="GET", extra=""))
        assert (await each.reply()).status == 200
    await running.send(request(body("qwen", stream=True)))
    await running.head()
    await waiting.send(request(body("gemma")))
    await wait_for_demand(it)
    closing = asyncio.create_task(it.gateway.close(5))
    # Who has just come, and who has just been answered, may be asking at this moment.
    await fresh.send(request(b"", path="/health", method="GET", extra=""))
    await again.send(request(b"", path="/health", method="GET", extra=""))
    for each in (fresh, again):
        assert (await each.reply()).status == 200
    for each in (fresh, again, idle):
        assert await each.ended() == b""
    go.set()
    assert await stream_of(running) == b"data: 1\n\ndata: 2\n\n"
    assert await running.ended() == b""
    it.leases.fail(refuse(Code.SHUTTING_DOWN, "It ends."))
    reply = await waiting.reply()
    assert (reply.status, error_of(reply)["code"], reply.headers["connection"]) == (503, "shutting_down", "close")
    await closing


async def test_a_stream_that_does_not_end_in_time_ends_with_an_error(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(EVENTS + chunk(b"data: 1\n\n"))
        await call.reader.read()

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(body("qwen", stream=True)))
    await client.head()
    closing = asyncio.create_task(it.gateway.close(0.1))
    events = (await stream_of(client)).decode().split("\n\n")
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "shutting_down"
    await closing


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_is_stopped_has_no_clients_left(it: Relaying, stream: bool) -> None:
    async def behave(call: Call) -> None:
        if stream:
            await call.send(EVENTS + chunk(b"data: 1\n\n"))
        assert await call.reader.read() == b""

    it.engine.behave = behave
    client, other = await it.open(), await it.open()
    await client.send(request(body("qwen", stream=stream)))
    if stream:
        await client.head()
    await until(lambda: bool(it.engine.asked))
    await other.send(request(body("gemma")))
    await wait_for_demand(it)

    def follow(phase: Phase) -> None:
        snapshot = it.leases.snapshot
        state = replace(snapshot.models["qwen"], phase=phase)
        it.gateway.follow(replace(snapshot, models={**snapshot.models, "qwen": state}))

    follow(Phase.DRAINING)
    follow(Phase.DRAINING)
    assert [lease.model.id for lease in it.leases.held] == ["qwen"]
    follow(Phase.STOPPING)
    if stream:
        events = (await stream_of(client)).decode().split("\n\n")
        assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "busy"
    else:
        reply = await client.reply()
        assert (reply.status, reply.headers["retry-after"], error_of(reply)["code"]) == (503, "1", "busy")
    assert it.leases.held == []

    async def answer(call: Call) -> None:
        await call.send(plain(b"{}"))

    it.engine.behave = answer
    it.leases.arrive()
    assert (await other.reply()).status == 200


async def test_requests_are_counted(it: Relaying) -> None:
    await it.post(body("qwen"))
    await it.post(body("nobody"))
    values = {counter.name: counter.values for counter in it.metrics.counters}
    assert values["spark_modeld_gateway_requests_total"] == {("qwen", "200"): 1.0, ("", "404"): 1.0}
    assert it.metrics.histograms[0].counts[("qwen",)].count(1) == 1


async def test_tokens_are_read_from_what_passes_by(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        usage = b'data: {"usage":null}\n\ndata: {"usage":{"prompt_tokens":7,"completion_tokens":42}}\n\n'
        await call.send(EVENTS + b"".join(chunk(usage[at : at + 30]) for at in range(0, len(usage), 30)) + b"0\r\n\r\n")

    it.engine.behave = behave
    await it.post(body("qwen", stream=True))
    await until(lambda: bool(it.records))
    assert (it.records[0].prompt_tokens, it.records[0].completion_tokens) == (7, 42)
