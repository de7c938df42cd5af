"""The clients people have, against the real gateway: SDK, curl, and what Open WebUI and Cursor send."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from support.front import GATEWAY, QUESTION, add_token, ask, await_nothing_held, scripted_model
from support.network import network_of
from support.scene import SETTINGS, Scene
from support.spark import SparkHost, llama_model
from support.tiny_models import sentence_of, tiny_model
from support.witness import Guard, engines, until

pytestmark = pytest.mark.host

ALPHA, BETA, WORDS, SCRIPTED, LOCKED, BROKEN, HUGE = range(8301, 8308)
ENGINES = (ALPHA, BETA, WORDS, SCRIPTED, LOCKED)
KEY = "the-engines-own-key"
OURS = SETTINGS.replace("[slot]\n", '[slot]\nmin_residency = "50ms"\nmax_start_attempts = 1\n')
CHAT: Any = {"messages": QUESTION, "max_tokens": 20, "temperature": 0}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def booted(installed_host: SparkHost) -> Iterator[Scene]:
    host = installed_host
    host.settings(OURS)
    host.tiny("alpha", port=ALPHA, extra='aliases = ["a"]')
    host.tiny("beta", port=BETA)
    words = llama_model("words", port=WORDS, gguf=f"/srv/models/{tiny_model('words').name}", memory="8MiB", role="side")
    host.model("words", words.replace('"--no-webui"', '"--no-webui", "--embeddings", "--pooling", "mean"'))
    host.model("scripted", scripted_model("scripted", port=SCRIPTED))
    host.write("/etc/spark-modeld/engine.key", f"{KEY}\n", mode=0o640)
    host.run("chgrp", "spark-modeld-secrets", "/etc/spark-modeld/engine.key")
    locked = scripted_model("locked", "--require-key", KEY, port=LOCKED)
    host.model("locked", 'api_key_file = "/etc/spark-modeld/engine.key"\n' + locked)
    host.model("broken", scripted_model("broken", "--die-after-seconds", "0.01", port=BROKEN))
    host.model("huge", scripted_model("huge", port=HUGE).replace('"64MiB"', '"4TiB"'))
    host.enable()
    with network_of(host):
        scene = Scene(host)
        yield scene
        await_nothing_held(scene, *ENGINES)


@pytest.fixture(scope="module")
def token(booted: Scene) -> str:
    return add_token(booted.host, "all")


@pytest.fixture
def scene(booted: Scene) -> Iterator[Scene]:
    booted.reset()
    with Guard(booted.host, frozenset({"alpha", "beta", "scripted", "locked"})):
        yield booted
    await_nothing_held(booted)


@pytest.fixture
def client(token: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{GATEWAY}/v1", api_key=token, max_retries=0) as made:
        yield made


def said(answer: Any) -> str:
    return str(answer.choices[0].message.content).strip()


def streamed(pieces: Any) -> str:
    return "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices).strip()


def curl(scene: Scene, *arguments: str, token: str = "") -> tuple[int, str]:
    """One call: the last status, and the body."""
    auth = ("-H", f"Authorization: Bearer {token}") if token else ()
    told = scene.host.run("curl", "-sS", "-w", "\n%{http_code}", *auth, *arguments).stdout
    body, _, code = told.rpartition("\n")
    return int(code), body


# The SDK.


def test_the_sdk_lists_asks_and_streams(scene: Scene, client: OpenAI) -> None:
    scene.switch("alpha")
    listed = [each.id for each in client.models.list()]
    assert (listed[0], set(listed)) == (
        "alpha",
        {"alpha", "beta", "words", "scripted", "locked", "broken", "huge"},
    )
    assert client.models.retrieve("a").id == "alpha"
    assert said(client.chat.completions.create(model="a", **CHAT)) == sentence_of("alpha")
    with client.chat.completions.create(
        model="alpha", stream=True, stream_options={"include_usage": True}, **CHAT
    ) as stream:
        pieces = list(stream)
    assert streamed(pieces) == sentence_of("alpha")
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens > 0
    assert client.completions.create(model="local", prompt="Who", max_tokens=3).choices[0].text
    # The whole raw answer is the engine's, its headers included.
    raw = client.chat.completions.with_raw_response.create(model="alpha", **CHAT)
    assert raw.headers["content-type"].startswith("application/json")


def test_the_sdk_waits_for_a_switch_and_does_not_notice_the_comments(scene: Scene, client: OpenAI) -> None:
    scene.switch("alpha")
    assert streamed(client.chat.completions.create(model="beta", stream=True, **CHAT)) == sentence_of("beta")
    assert said(client.chat.completions.create(model="alpha", **CHAT)) == sentence_of("alpha")
    assert set(engines(scene.host)) == {"alpha"}


async def test_the_asynchronous_sdk_asks_many_at_once(scene: Scene, token: str) -> None:
    await asyncio.to_thread(scene.switch, "alpha")
    async with AsyncOpenAI(base_url=f"{GATEWAY}/v1", api_key=token, max_retries=0) as client:

        async def one() -> str:
            return said(await client.chat.completions.create(model="alpha", **CHAT))

        async def stream() -> str:
            pieces = await client.chat.completions.create(model="alpha", stream=True, **CHAT)
            return streamed([piece async for piece in pieces])

        answers = await asyncio.gather(*(each() for each in (one, stream) * 4))
    assert answers == [sentence_of("alpha")] * 8


def test_the_sdk_calls_tools(scene: Scene, client: OpenAI) -> None:
    asked: Any = {"model": "scripted", "tools": [WEATHER], "extra_body": {"script": {"tool": True}}, **CHAT}
    call = client.chat.completions.create(**asked).choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Ulm"})
    pieces = list(client.chat.completions.create(stream=True, **asked))
    calls = [c for p in pieces for c in p.choices[0].delta.tool_calls or []]
    assert calls[0].function.name == "weather"
    assert json.loads("".join(c.function.arguments for c in calls)) == {"city": "Ulm"}
    assert pieces[-1].choices[0].finish_reason == "tool_calls"
    # The tool's answer goes back with the call, and all of it reaches the engine as it was sent.
    turn = [{"role": "assistant", "tool_calls": [call.model_dump()]}]
    result = [{"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    talk: Any = [*QUESTION, *turn, *result]
    answer = client.chat.completions.create(
        model="scripted", messages=talk, tools=[WEATHER], tool_choice="auto", extra_body={"script": {}}
    )
    seen = json.loads(said(answer))["body"]
    assert seen == {"model": "scripted", "messages": talk, "tools": [WEATHER], "tool_choice": "auto"}


def test_the_sdk_gets_embeddings_of_a_side_model(scene: Scene, client: OpenAI) -> None:
    scene.switch("alpha")
    answer = client.embeddings.create(model="words", input=["one", "two"])
    assert [len(each.embedding) for each in answer.data] == [256, 256]
    assert set(engines(scene.host)) == {"alpha", "words"}
    scene.host.api("POST", "/api/models/words/stop")


@pytest.mark.parametrize(
    ("model", "script", "kind", "status", "code"),
    [
        ("nobody", None, openai.NotFoundError, 404, "model_not_found"),
        ("broken", None, openai.InternalServerError, 502, "model_failed"),
        ("huge", None, openai.InternalServerError, 507, "memory_refused"),
        # What the engine says stays what it said.
        ("scripted", {"status": 400}, openai.BadRequestError, 400, "scripted"),
        ("scripted", {"status": 429}, openai.RateLimitError, 429, "scripted"),
        ("scripted", {"status": 500}, openai.InternalServerError, 500, "scripted"),
        ("scripted", {"cut": 0}, openai.APIError, None, "model_failed"),
    ],
    ids=["no such model", "broken", "too large", "400", "429", "500", "hangs up"],
)
def test_errors_are_the_sdks_own(
    scene: Scene, client: OpenAI, model: str, script: Any, kind: type[openai.APIError], status: int | None, code: str
) -> None:
    if script is None:
        scene.switch("alpha")
    extra: Any = {"extra_body": {"script": script}} if script else {}
    with pytest.raises(kind) as raised:
        list(client.chat.completions.create(model=model, stream=status is None, **extra, **CHAT))
    assert raised.value.code == code
    assert getattr(raised.value, "status_code", None) == status
    body = str(raised.value.body)
    assert "pid" not in body
    assert "out of luck" not in body, "log lines are the operators'"
    if script is None:
        until("alpha serves, again or still", lambda: scene.slot() == ("alpha", "serving"))


def test_an_error_after_the_wait_began_is_the_sdks_own_too(scene: Scene, client: OpenAI) -> None:
    """The headers are out by then, so the stream itself says what went wrong."""
    scene.host.model("broken", scripted_model("broken", "--die-after-seconds", "0.6", port=BROKEN))
    scene.reload()
    with pytest.raises(openai.APIError) as raised:
        list(client.chat.completions.create(model="broken", stream=True, **CHAT))
    assert raised.value.code == "model_failed"
    assert "broken" in raised.value.message


def test_refusals_of_a_token_are_the_sdks_own(scene: Scene, token: str) -> None:
    scene.switch("alpha")
    only = add_token(scene.host, "only-alpha", "--model", "alpha")
    still = add_token(scene.host, "still", "--no-switch")
    watcher = add_token(scene.host, "watcher", "--scope", "observe")

    def fails(key: str, model: str) -> tuple[type[Exception], int, str, str | None]:
        with OpenAI(base_url=f"{GATEWAY}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(openai.APIStatusError) as raised:
                client.chat.completions.create(model=model, **CHAT)
            error = raised.value
            return type(error), error.status_code, str(error.code), error.response.headers.get("retry-after")

    assert fails("smd_none_none", "alpha") == (openai.AuthenticationError, 401, "invalid_api_key", None)
    assert fails(only, "beta") == (openai.PermissionDeniedError, 403, "not_authorized", None)
    assert fails(watcher, "alpha") == (openai.PermissionDeniedError, 403, "not_authorized", None)
    *busy, retry_after = fails(still, "beta")
    assert busy == [openai.InternalServerError, 503, "busy"]
    assert int(retry_after or 0) > 0
    with OpenAI(base_url=f"{GATEWAY}/v1", api_key=only, max_retries=0) as client:
        assert [each.id for each in client.models.list()] == ["alpha"]
        assert said(client.chat.completions.create(model="alpha", **CHAT)) == sentence_of("alpha")
    assert scene.slot() == ("alpha", "serving")


# curl.


def test_curl_sends_a_large_body_once_it_is_told_to_go_on(scene: Scene, token: str) -> None:
    filling = "x" * (3 << 20)
    body = json.dumps({"model": "scripted", "script": {}, "messages": [{"role": "user", "content": filling}]})
    scene.host.write("/root/large.json", body)
    shown = scene.host.run(
        *("curl", "-sSv", "-H", f"Authorization: Bearer {token}", "-H", "Expect: 100-continue"),
        *("-d", "@/root/large.json", f"{GATEWAY}/v1/chat/completions"),
    )
    assert "HTTP/1.1 100 Continue" in shown.stderr
    seen = json.loads(json.loads(shown.stdout)["choices"][0]["message"]["content"])
    assert seen["body"]["messages"][0]["content"] == filling
    assert "expect" not in seen["headers"]
    # Who is refused is told before the body is sent.
    shown = scene.host.run(
        *("curl", "-sSv", "-H", "Authorization: Bearer smd_no_no", "-H", "Expect: 100-continue"),
        *("-d", "@/root/large.json", f"{GATEWAY}/v1/chat/completions"),
    )
    assert "100 Continue" not in shown.stderr
    assert "HTTP/1.1 401" in shown.stderr


@pytest.mark.parametrize("way", [["--http1.0"], ["-H", "Transfer-Encoding: chunked"], ["-N"]])
def test_curl_speaks_other_kinds_of_http(scene: Scene, token: str, way: list[str]) -> None:
    scene.switch("alpha")
    url = f"{GATEWAY}/v1/chat/completions"
    body = json.dumps({"model": "alpha", **CHAT})
    code, answer = curl(scene, *way, "-d", body, url, token=token)
    assert (code, json.loads(answer)["choices"][0]["message"]["content"].strip()) == (200, sentence_of("alpha"))
    code, answer = curl(scene, *way, "-d", json.dumps({"model": "alpha", "stream": True, **CHAT}), url, token=token)
    assert (code, answer.strip().endswith("data: [DONE]")) == (200, True)


def test_curl_looks_at_heads_and_keeps_its_connection(scene: Scene, token: str) -> None:
    auth = f"Authorization: Bearer {token}"
    shown = scene.host.run("curl", "-sSI", "-H", auth, f"{GATEWAY}/v1/models", f"{GATEWAY}/health").stdout
    assert shown.count("HTTP/1.1 200 OK") == 2
    lengths = [line for line in shown.lower().splitlines() if line.startswith("content-length: ")]
    assert len(lengths) == 2
    assert int(lengths[0].split()[1]) > 100
    both = scene.host.run("curl", "-sSv", "-H", auth, f"{GATEWAY}/v1/models", f"{GATEWAY}/models")
    assert both.stderr.count("Connected to") == 1
    assert "Re-using existing connection" in both.stderr
    assert scene.slot() == (None, "empty")


# Open WebUI and Cursor, as they were seen to ask.

OPEN_WEBUI = (
    *("-H", "Content-Type: application/json", "-H", "Accept: */*", "-H", "Accept-Encoding: gzip, deflate"),
    *("-H", "User-Agent: Python/3.11 aiohttp/3.12.15", "-H", "X-OpenWebUI-User-Name: Ada%20L"),
    *("-H", "X-OpenWebUI-User-Id: 0b3c", "-H", "X-OpenWebUI-User-Email: ada@example.org"),
    *("-H", "X-OpenWebUI-User-Role: admin", "-H", "X-OpenWebUI-Chat-Id: 77f1"),
)


def background(model: str, task: str) -> str:
    """What Open WebUI asks by itself after a first answer."""
    content = f"### Task:\nGenerate {task} for the chat history.\n### Chat History:\nUSER: Who are you?"
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": model, "messages": messages, "stream": False, "max_completion_tokens": 1000})


def test_open_webui_lists_and_streams_and_its_background_requests_never_switch(scene: Scene) -> None:
    scene.switch("alpha")
    alpha = scene.pid("alpha")
    before = scene.host.api("GET", "/api/switches")[1]["switches"][0]["id"]
    webui = add_token(scene.host, "webui", "--no-switch")
    for base in (f"{GATEWAY}/v1", GATEWAY):
        code, answer = curl(scene, *OPEN_WEBUI, f"{base}/models", token=webui)
        listed = json.loads(answer)
        assert (code, listed["object"], listed["data"][0]["id"]) == (200, "list", "alpha")
        chat = {"model": "alpha", "stream": True, "stream_options": {"include_usage": True}, "messages": QUESTION}
        code, answer = curl(scene, *OPEN_WEBUI, "-d", json.dumps(chat), f"{base}/chat/completions", token=webui)
        assert code == 200
        assert '"usage"' in answer
        assert answer.strip().endswith("data: [DONE]")
        for task in ("a title", "1-3 broad tags"):
            url = f"{base}/chat/completions"
            assert curl(scene, *OPEN_WEBUI, "-d", background("alpha", task), url, token=webui)[0] == 200
            code, answer = curl(scene, *OPEN_WEBUI, "-d", background("beta", task), url, token=webui)
            error = json.loads(answer)["error"]
            assert (code, error["code"], "alpha holds the slot" in error["message"]) == (503, "busy", True)
    assert scene.pid("alpha") == alpha
    assert scene.host.api("GET", "/api/switches")[1]["switches"][0]["id"] == before


CURSOR_PATCH = {
    "type": "custom",
    "name": "ApplyPatch",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'},
}


def test_cursor_checks_its_key_and_streams_with_tools(scene: Scene, token: str) -> None:
    funnel = ("-H", "X-Forwarded-For: 198.51.100.7", "-H", "X-Forwarded-Proto: https")
    funnel += ("-H", "X-Forwarded-Host: spark.tail1234.ts.net", "-H", "Host: spark.tail1234.ts.net")
    for path in ("/models", "/v1/models"):
        assert curl(scene, *funnel, f"{GATEWAY}{path}", token=token)[0] == 200
        assert curl(scene, *funnel, f"{GATEWAY}{path}")[0] == 401
    check = {"model": "scripted", "messages": [{"role": "user", "content": "Testing. Just say hi."}], "script": {}}
    assert curl(scene, *funnel, "-d", json.dumps(check), f"{GATEWAY}/v1/chat/completions", token=token)[0] == 200
    content = [{"type": "text", "text": "What is the weather?"}]
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        {"role": "system", "content": "You are an agent.", "cache_control": {"type": "ephemeral"}},
        {"role": "user", "content": content},
        {"role": "assistant", "content": [], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    sent = {"model": "scripted", "user": "auth0|user_01", "messages": turns, "tools": [WEATHER, CURSOR_PATCH]}
    sent |= {"tool_choice": "auto", "stream": True, "stream_options": {"include_usage": True}}
    for base in (f"{GATEWAY}/v1", GATEWAY):
        body = json.dumps({**sent, "script": {"tool": True}})
        code, answer = curl(scene, *funnel, "-N", "-d", body, f"{base}/chat/completions", token=token)
        assert (code, answer.strip().endswith("data: [DONE]")) == (200, True)
        assert '"name": "weather"' in answer
        whole = json.dumps({**sent, "stream": False, "script": {}})
        _, answer = curl(scene, *funnel, "-d", whole, f"{base}/chat/completions", token=token)
        seen = json.loads(json.loads(answer)["choices"][0]["message"]["content"])
        assert seen["body"] == {**sent, "stream": False}
        assert not [name for name in seen["headers"] if name.startswith("x-forwarded")]
        assert seen["headers"]["host"] == f"127.0.0.1:{SCRIPTED}"


# Who is let in, and what each side gets to see.


async def test_neither_side_sees_the_others_secret(scene: Scene, token: str) -> None:
    reply = await ask(token, "locked", script={})
    seen = json.loads(reply.text)["headers"]
    assert seen["authorization"] == hashlib.sha256(f"Bearer {KEY}".encode()).hexdigest()
    told = [str(seen), str(reply.headers), reply.body.decode()]
    told += [(await ask(token, "locked", script={"status": 500})).body.decode()]
    told += [scene.host.journal(), json.dumps(scene.status()), json.dumps(scene.host.api("GET", "/api/models/locked"))]
    told += [scene.host.run("ps", "-eo", "args").stdout.replace(f"--require-key {KEY}", "")]
    secret = token.rpartition("_")[2]
    assert [t for t in told if secret in t] == []
    assert [t for t in told if KEY in t.replace(f"--require-key {KEY}", "")] == []
    # No key of another engine reaches one that wants none.
    reply = await ask(token, "scripted", script={})
    assert "authorization" not in json.loads(reply.text)["headers"]


FORWARDED = [
    ("X-Forwarded-For", "100.64.1.2"),
    ("Tailscale-User-Login", "ada@example.org"),
    ("Tailscale-Funnel-Request", "?1"),
    ("Forwarded", "for=198.51.100.7"),
    ("Host", "spark.tail1234.ts.net"),
    ("Origin", "https://evil.example"),
]


def test_what_tailscale_brings_needs_a_token_also_from_loopback(scene: Scene, token: str) -> None:
    for name, value in FORWARDED:
        assert curl(scene, "-H", f"{name}: {value}", f"{GATEWAY}/v1/models")[0] == 401, name
        assert curl(scene, "-H", f"{name}: {value}", f"{GATEWAY}/v1/models", token=token)[0] == 200, name


def test_an_open_gateway_is_open_to_this_machine_only(scene: Scene) -> None:
    scene.host.settings(OURS + '[gateway]\nauth = "none"\n')
    scene.reload()
    try:
        assert curl(scene, f"{GATEWAY}/v1/models")[0] == 200
        assert curl(scene, "-d", json.dumps({"model": "alpha", **CHAT}), f"{GATEWAY}/v1/chat/completions")[0] == 200
        assert curl(scene, f"{GATEWAY}/props")[0] == 403
        for name, value in FORWARDED:
            assert curl(scene, "-H", f"{name}: {value}", f"{GATEWAY}/v1/models")[0] == 403, name
    finally:
        scene.host.settings(OURS)
        scene.reload()
    assert curl(scene, f"{GATEWAY}/v1/models")[0] == 401
