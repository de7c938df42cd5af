"""Every error of the control API is a problem, whatever was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog.testing

from spark_modeld.core.errors import Code
from support.control import Answer, Control, read_answer, running
from support.fake_face import refused

pytestmark = pytest.mark.component
MIB = 1 << 20


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


def assert_problem(answer: Answer, status: int, code: Code, *, says: str = "") -> None:
    assert answer.headers["content-type"].startswith("application/problem+json"), answer
    shown = answer.json
    assert (answer.status, shown["status"], shown["code"]) == (status, status, str(code)), shown
    assert shown["type"] == f"urn:spark-modeld:problem:{code}"
    assert shown["title"]
    assert says in shown["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"  ", "empty"),
        (b"{", "not JSON"),
        (b'{"model":"a"} x', "not JSON"),
        (b'{"model":"\xff"}', "not JSON"),
        (b"[" * 100_000, "array"),
        (b"[]", "array"),
        (b"null", "null"),
        (b"{}", "model"),
        (b'{"model":1}', "$.model"),
        (b'{"model":"qwen","force":1}', "$.force"),
        (b'{"modle":"qwen"}', "modle"),
        (b'{"model":"qwen","frce":true}', "frce"),
    ],
)
async def test_bad_bodies(control: Control, body: bytes, says: str) -> None:
    answer = await control.call("POST", "/api/switch", raw=body)
    assert_problem(answer, 400, Code.INVALID_REQUEST, says=says)
    assert control.face.asked == []


async def test_a_body_of_one_mebibyte_is_read(control: Control) -> None:
    body = b'{"model":"qwen"}'
    assert (await control.call("POST", "/api/switch", raw=body + b" " * (MIB - len(body)))).status == 200


@pytest.mark.parametrize("path", ["/api/switch", "/api/reload", "/api/models/qwen/start"])
async def test_a_large_body_is_refused_by_its_length(control: Control, path: str) -> None:
    assert_problem(await control.call("POST", path, raw=b" " * (2 * MIB)), 413, Code.TOO_LARGE)
    assert control.face.asked == []


async def test_a_large_body_is_refused_before_it_is_sent(control: Control) -> None:
    sent = b"POST /api/switch HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n"
    assert_problem(await control.send(sent), 413, Code.TOO_LARGE)


async def test_a_large_chunked_body_is_refused_while_it_comes(control: Control) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    sent = b"POST /api/switch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 17 + b"0\r\n\r\n"
    assert_problem(await control.send(sent), 413, Code.TOO_LARGE)


async def test_a_body_is_invited(control: Control) -> None:
    reader, writer = await control.open()
    head = b"POST /api/switch HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n"
    writer.write(head)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b'{"model":"qwen"}')
    assert (await read_answer(reader)).status == 200
    writer.close()
    await writer.wait_closed()


async def test_a_broken_chunk_is_a_problem(control: Control) -> None:
    sent = b"POST /api/switch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    answer = await control.send(sent)
    assert_problem(answer, 400, Code.INVALID_REQUEST)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /api/switch HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
        b"POST /api/switch HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_a_problem(control: Control, sent: bytes) -> None:
    assert_problem(await control.send(sent), 400, Code.INVALID_REQUEST)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/switch", "POST"),
        ("GET", "/api/switch", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/api/status", "GET, HEAD"),
        ("PATCH", "/api/switches/s1", "DELETE, GET, HEAD"),
        ("DELETE", "/api/models/qwen", "GET, HEAD"),
        ("TRACE", "/api/models", "GET, HEAD"),
    ],
)
async def test_wrong_methods(control: Control, method: str, path: str, allow: str) -> None:
    answer = await control.call(method, path)
    assert_problem(answer, 405, Code.METHOD_NOT_ALLOWED, says=method)
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    "path", ["/nothing", "/api", "/api/status/", "//api/status", "/api/models/qwen/dance", "/api/models/a/b/start"]
)
async def test_unknown_paths(control: Control, path: str) -> None:
    assert_problem(await control.call("GET", path), 404, Code.NOT_FOUND)


async def test_odd_targets_are_answered(control: Control) -> None:
    options = await control.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    assert options.status in {400, 404}
    absolute = await control.send(b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert absolute.status == 200
    old = await control.send(b"GET /health HTTP/1.0\r\n\r\n")
    assert old.status == 200


@pytest.mark.parametrize("path", ["/api/models/%zz", "/api/models/%", "/api/models/%ff", "/api/switches?limit=%zz"])
async def test_broken_percent_encoding(control: Control, path: str) -> None:
    assert_problem(await control.call("GET", path), 400, Code.INVALID_REQUEST, says="percent-encoding")


async def test_escapes_that_are_fine_are_decoded(control: Control) -> None:
    assert (await control.call("GET", "/api/models/q%77en")).json["id"] == "qwen"


@pytest.mark.parametrize("wait", ["maybe", "-1", "nan", "inf", "1e9", "True", "1&wait=2", "%F0%9F%98%80"])
async def test_bad_waits(control: Control, wait: str) -> None:
    answer = await control.call("POST", f"/api/switch?wait={wait}", {"model": "qwen"})
    assert_problem(answer, 400, Code.INVALID_REQUEST)
    assert control.face.asked == []


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=", "limit=1001", "limit=-1", "limit=٣", "lmit=3"])
async def test_bad_queries(control: Control, query: str) -> None:
    answer = await control.call("GET", f"/api/switches?{quote(query, safe='=&')}")
    assert_problem(answer, 400, Code.INVALID_REQUEST)


async def test_unknown_models_come_with_the_nearest(control: Control) -> None:
    for answer in (
        await control.call("POST", "/api/switch", {"model": "qwn"}),
        await control.call("GET", "/api/models/qwn"),
        await control.call("POST", "/api/models/qwn/start"),
    ):
        assert_problem(answer, 404, Code.UNKNOWN_MODEL, says="Did you mean")
        assert answer.json["nearest"] == ["qwen"]
    alias = await control.call("GET", "/api/models/llama")
    assert alias.json["nearest"] == ["llama-70b"]


@pytest.mark.parametrize("name", ["", "x" * 5000, "\x00", "qwen\n", "../../etc", "😀"])
async def test_names_that_no_model_has(control: Control, name: str) -> None:
    answer = await control.call("POST", "/api/switch", {"model": name})
    assert_problem(answer, 404, Code.UNKNOWN_MODEL)
    assert len(answer.json["detail"]) < 300


@pytest.mark.parametrize("model_id", ["qwen3", "QWEN", "qwen%0A", "-", "%2e%2e", "a%2Fb", "q" * 65])
async def test_paths_take_ids_only(control: Control, model_id: str) -> None:
    assert_problem(await control.call("GET", f"/api/models/{model_id}"), 404, Code.UNKNOWN_MODEL)
    assert_problem(await control.call("POST", f"/api/models/{model_id}/start"), 404, Code.UNKNOWN_MODEL)
    assert control.face.asked == []


@pytest.mark.parametrize("model_id", ["qwen%0A", "QWEN", "%20", "a%2Fb"])
async def test_the_gate_takes_ids_only(control: Control, model_id: str) -> None:
    assert_problem(await control.call("POST", f"/api/gate/{model_id}"), 404, Code.UNKNOWN_MODEL)
    assert control.face.asked == []


@pytest.mark.parametrize("switch_id", ["s99", "%00", "x" * 200, "a%2Fb"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_unknown_switches(control: Control, method: str, switch_id: str) -> None:
    assert_problem(await control.call(method, f"/api/switches/{switch_id}"), 404, Code.NOT_FOUND)


async def test_what_the_engine_refuses_is_passed_on(control: Control) -> None:
    control.face.refusal = refused(Code.MEMORY_REFUSED, "needs more", needed=5, available=3, holders=[{"model": "q"}])
    answer = await control.call("POST", "/api/switch", {"model": "llama"})
    assert_problem(answer, 507, Code.MEMORY_REFUSED, says="needs more")
    assert (answer.json["needed"], answer.json["available"], answer.json["holders"]) == (5, 3, [{"model": "q"}])


async def test_the_unexpected_is_logged_and_not_told(control: Control) -> None:
    control.face.refusal = RuntimeError("the secret is 42")
    with structlog.testing.capture_logs() as logs:
        answer = await control.call("POST", "/api/switch", {"model": "llama"})
    assert_problem(answer, 500, Code.INTERNAL)
    assert b"42" not in answer.body
    assert b"Traceback" not in answer.body
    assert [(log["log_level"], log["path"]) for log in logs] == [("error", "/api/switch")]


async def test_a_client_that_gives_up_ends_its_wait_but_not_the_switch(control: Control) -> None:
    before = asyncio.all_tasks()
    _, writer = await control.open()
    writer.write(b'POST /api/switch?wait=true HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{"model":"llama"}')
    switch = await control.face.requested.get()
    writer.close()
    await writer.wait_closed()
    left = asyncio.all_tasks() - before
    assert left
    _, pending = await asyncio.wait(left, timeout=20)
    assert not pending
    assert control.face.find_switch(switch.id).outcome is None
