"""The relay between raw sockets: framing, keep-alive, pipelining, back-pressure, hang-ups."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from spark_modeld.core.model import EngineKind
from support.relaying import AUTH, EVENTS, TOKEN, Call, Relaying, chunk, plain, relaying, request, until

pytestmark = pytest.mark.component


@pytest.fixture
async def it() -> AsyncIterator[Relaying]:
    async with relaying() as running:
        yield running


BODY = b'{"model":"qwen","n":123456789012345678901234567890,"t":1.10}'


async def test_a_request_goes_there_and_back(it: Relaying) -> None:
    reply = await it.post(BODY)
    assert (reply.status, reply.body) == (200, b'{"ok":true}')
    asked = it.engine.asked[0]
    assert asked.line == "POST /v1/chat/completions HTTP/1.1"
    assert asked.body == b'{"model":"served/qwen","n":123456789012345678901234567890,"t":1.10}'
    assert asked.get("host") == f"127.0.0.1:{it.engine.port}"
    assert it.leases.granted == 1
    await until(lambda: len(it.records) == 1)
    record = it.records[0]
    assert (record.model, record.actor, record.status, record.outcome) == ("qwen", "token any", 200, "complete")
    assert record.first_byte is not None
    assert 0 <= record.first_byte <= record.total


async def test_neither_side_sees_what_is_for_the_gateway_only(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(plain(b"{}", extra="Connection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nX-Kept: 1\r\n"))

    it.engine.behave = behave
    extra = (
        f"{AUTH}Cookie: a=b\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\n"
        "Proxy-Authorization: x\r\n"
        "X-Api-Key: y\r\nX-Forwarded-For: 1.2.3.4\r\nTailscale-User-Login: me\r\nX-Yours: 2\r\n"
        "Accept-Encoding: gzip\r\n"
    )
    reply = await it.post(BODY, extra=extra)
    names = {name for name, _ in it.engine.asked[0].headers}
    assert names == {"host", "content-type", "content-length", "x-yours"}
    assert TOKEN not in str(it.engine.asked)
    assert {"x-secret", "keep-alive", "connection"}.isdisjoint(reply.headers)
    assert reply.headers["x-kept"] == "1"


async def test_requests_on_one_connection_share_one_to_the_engine(it: Relaying) -> None:
    client = await it.open()
    for _ in range(3):
        await client.send(request(BODY))
        assert (await client.reply()).status == 200
    assert it.engine.connections == 1


async def test_an_engine_with_a_thread_for_each_connection_keeps_none(it: Relaying) -> None:
    qwen = it.leases.catalog.models["qwen"]
    it.leases.configure({"qwen": replace(qwen, engine=EngineKind.LLAMA_SERVER)})
    client = await it.open()
    for number in range(3):
        await client.send(request(BODY))
        assert (await client.reply()).status == 200
        await until(lambda: it.gateway.upstreams == 0)
        assert it.engine.connections == number + 1


async def test_pipelined_requests_are_answered_in_their_order(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(plain(call.asked.body))

    it.engine.behave = behave
    client = await it.open()
    await client.send(b"".join(request(b'{"model":"qwen","n":%d}' % n) for n in range(5)))
    assert [json.loads((await client.reply()).body)["n"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert it.leases.granted == 5


async def test_a_chunked_request_arrives_with_its_length(it: Relaying) -> None:
    client = await it.open()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n".encode()
    await client.send(head + chunk(BODY[:7]) + chunk(BODY[7:]) + b"0\r\nTrailer: x\r\n\r\n")
    assert (await client.reply()).status == 200
    assert json.loads(it.engine.asked[0].body)["model"] == "served/qwen"
    assert it.engine.asked[0].get("transfer-encoding") is None


async def test_a_stream_flows_as_it_comes(it: Relaying) -> None:
    go = asyncio.Queue[bytes]()

    async def behave(call: Call) -> None:
        await call.send(EVENTS)
        while data := await go.get():
            await call.send(chunk(data))
        await call.send(b"0\r\n\r\n")

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(b'{"model":"qwen","stream":true}'))
    status, headers = await client.head()
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    for piece in (b"data: 1\n\n", b"data: ha", b"lf\n\n"):
        go.put_nowait(piece)
        assert await client.chunk() == piece
    assert set(it.leases.flowed) == {"qwen"}
    go.put_nowait(b"")
    assert await client.chunk() == b""


async def test_an_error_is_no_sign_that_the_model_generates(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(b"HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\n{}")

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(b'{"model":"qwen"}'))
    assert (await client.reply()).status == 500
    assert it.leases.flowed == []


async def test_a_client_of_http_1_0_gets_neither_chunks_nor_a_second_turn(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(EVENTS + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(b'{"model":"qwen"}').replace(b"HTTP/1.1", b"HTTP/1.0"))
    status, headers = await client.head()
    assert (status, headers.get("transfer-encoding"), headers["connection"]) == (200, None, "close")
    assert await client.ended() == b"data: 1\n\ndata: 2\n\n"


async def test_a_body_until_the_connections_end_gets_chunks(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end")
        call.writer.close()

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(BODY) + request(BODY))
    assert [(await client.reply()).body for _ in range(2)] == [b"to the end", b"to the end"]
    assert it.engine.connections == 2


async def test_interim_answers_are_for_nobody(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plain(b"{}"))

    it.engine.behave = behave
    assert (await it.post(BODY)).status == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_what_follows_a_response_reaches_nobody(it: Relaying, answer: bytes) -> None:
    async def behave(call: Call) -> None:
        await call.send(answer)

    it.engine.behave = behave
    client = await it.open()
    for n in (1, 2):
        await client.send(request(BODY))
        assert (await client.reply()).body == b"{}"
        assert it.engine.connections == n


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_an_answer_that_has_no_body_has_none(it: Relaying, status: str) -> None:
    async def behave(call: Call) -> None:
        await call.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(BODY) + request(BODY))
    assert [(await client.reply()).status for _ in range(2)] == [int(status[:3])] * 2


async def test_head_is_answered_without_a_body(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    it.engine.behave = behave
    client = await it.open()
    head = "HEAD /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer smd_admin\r\n\r\n"
    await client.send((head + head).encode())
    for _ in range(2):
        status, headers = await client.head()
        assert (status, headers["content-length"]) == (200, "1000")
    assert it.leases.granted == 0


async def test_continue_is_said_where_it_is_expected(it: Relaying) -> None:
    client = await it.open()
    sent = request(BODY, extra=f"{AUTH}Expect: 100-continue\r\n")
    head, body = sent[: -len(BODY)], sent[-len(BODY) :]
    await client.send(head)
    assert (await client.head())[0] == 100
    await client.send(body)
    assert (await client.reply()).status == 200
    assert it.engine.asked[0].get("expect") is None


async def test_who_is_refused_is_not_told_to_go_on(it: Relaying) -> None:
    client = await it.open()
    await client.send(request(BODY, extra="Expect: 100-continue\r\n")[: -len(BODY)])
    assert (await client.reply()).status == 401
    assert await client.ended() == b""


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
async def test_upgrades_are_not_done(it: Relaying, upgrade: str) -> None:
    reply = await it.get("/v1/realtime", extra=f"{AUTH}Connection: Upgrade\r\nUpgrade: {upgrade}\r\n")
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (501, "not_implemented")


# Who hangs up, and when.


async def test_a_client_that_hangs_up_ends_the_engines_work(it: Relaying) -> None:
    started = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.send(EVENTS + chunk(b"data: 1\n\n"))
        started.set()
        await call.reader.read()

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(b'{"model":"qwen","stream":true}'))
    await started.wait()
    begun = asyncio.get_running_loop().time()
    await client.close()
    await it.engine.closed.wait()
    took = asyncio.get_running_loop().time() - begun
    # Meant to be under 0.1 s; so much more for a machine with other work. `pytest -rP` shows the figure.
    print(f"the engine saw it after {took * 1e3:.1f} ms")
    assert took < 1
    assert it.leases.held == []
    assert it.records[0].outcome == "client gone"


async def test_a_client_that_hangs_up_before_the_first_token_too(it: Relaying) -> None:
    asked = asyncio.Event()

    async def behave(call: Call) -> None:
        asked.set()
        await call.reader.read()

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(BODY))
    await asked.wait()
    await client.close()
    await it.engine.closed.wait()
    assert it.records[0].status == 499


async def test_an_engine_that_breaks_off_a_stream_ends_it_with_an_event(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        await call.send(EVENTS + chunk(b"data: 1\n\n") + b"20\r\ndata: ha")
        call.writer.transport.abort()

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(b'{"model":"qwen","stream":true}'))
    reply = await client.reply()
    events = reply.body.decode().split("\n\n")
    assert events[0] == "data: 1"
    error = json.loads(events[-2].removeprefix("data: "))["error"]
    assert (error["type"], error["code"], error["message"]) == (
        "server_error",
        "model_failed",
        "The model broke off its answer.",
    )
    assert it.leases.held == []
    assert it.records[0].outcome == "broken"


@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"])
async def test_an_answer_that_breaks_off_otherwise_is_not_taken_for_whole(it: Relaying, head: bytes) -> None:
    async def behave(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head)
        call.writer.transport.abort()

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(BODY))
    _, headers = await client.head()
    rest = await client.ended()
    if "content-length" in headers:
        assert len(rest) < int(headers["content-length"])
    else:
        assert not rest.endswith(b"0\r\n\r\n")


async def test_an_engine_that_is_not_there_is_a_502(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        call.writer.transport.abort()

    it.engine.behave = behave
    reply = await it.post(BODY)
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["message"]) == (502, "The model hung up without an answer.")
    assert it.engine.connections == 1


async def test_an_engine_that_takes_no_connection_in_time_is_a_502(
    it: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spark_modeld.gateway.upstream.CONNECT_SECONDS", 0.05)
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):
            # What the kernel holds for a listener that accepts nothing; whoever comes now is not answered at all.
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        qwen = replace(it.leases.catalog.models["qwen"], url=f"http://127.0.0.1:{full.getsockname()[1]}")
        it.leases.configure({"qwen": qwen})
        reply = await it.post(BODY)
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["message"]) == (502, "The model does not take connections in time.")


async def test_a_post_is_sent_again_only_over_a_connection_that_was_used(it: Relaying) -> None:
    answered = 0

    async def behave(call: Call) -> None:
        nonlocal answered
        answered += 1
        if answered == 2:
            call.writer.transport.abort()
        else:
            await call.send(plain(b"{}"))

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(BODY) + request(BODY))
    assert [(await client.reply()).status for _ in range(2)] == [200, 200]
    assert (it.engine.connections, len(it.engine.asked)) == (2, 3)


async def test_it_is_not_sent_again_when_an_answer_had_begun(it: Relaying) -> None:
    async def behave(call: Call) -> None:
        if len(it.engine.asked) == 1:
            await call.send(plain(b"{}"))
        else:
            await call.send(b"HTTP/1.1 2")
            call.writer.transport.abort()

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(BODY) + request(BODY))
    assert [(await client.reply()).status for _ in range(2)] == [200, 502]
    assert len(it.engine.asked) == 2


# Much at once.


async def test_an_engine_is_not_read_faster_than_the_client_reads(it: Relaying) -> None:
    sent = 0

    async def behave(call: Call) -> None:
        nonlocal sent
        await call.send(EVENTS)
        while sent < 64 << 20:
            await call.send(chunk(b"x" * 65536))
            sent += 65536
        await call.send(b"0\r\n\r\n")

    it.engine.behave = behave
    client = await it.open()
    await client.send(request(b'{"model":"qwen","stream":true}'))
    await client.head()
    previous = -1
    while previous != sent or not sent:
        previous = sent
        await asyncio.sleep(0.1)
    assert 0 < sent < 32 << 20, "the sockets' own buffers, and little more"
    received = 0
    while piece := await client.chunk():
        received += len(piece)
    assert received == 64 << 20


async def test_an_engine_that_reads_slowly_holds_up_its_own_request_only(it: Relaying) -> None:
    """The body is held once, within the house's room; what the engine does not take yet is not copied for it."""
    size = 50 << 20
    hears, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(re.search(r"content-length: (\d+)", head)[1])  # type: ignore[index]
        hears.set()
        await goes_on.wait()
        taken = 0
        while taken < length:
            taken += len(await reader.read(1 << 20))
        writer.write(plain(str(taken).encode()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    it.leases.configure(
        {**it.leases.catalog.models, "qwen": replace(it.leases.catalog.models["qwen"], url=f"http://127.0.0.1:{port}")}
    )
    body = b'{"messages":[{"content":"' + b"A" * size + b'"}],"model":"qwen"}'
    client = await it.open()
    before = resident_bytes()
    sending = asyncio.create_task(client.send(request(body)))
    try:
        await hears.wait()
        await sending
        # What does not fit the sockets' buffers stays where it is; nobody else waits for it.
        assert (await it.get("/health")).status == 200
        assert it.gateway.held_bytes == len(body)
        assert resident_bytes() - before < 3 * len(body), "the client's request and the gateway's body, once each"
    finally:
        goes_on.set()
        reply = await client.reply()
        server.close()
        await server.wait_closed()
    assert (reply.status, int(reply.body)) == (200, len(body) + len("served/"))
    assert it.gateway.held_bytes == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("size", [100_000, 20 << 20])
async def test_a_large_body_arrives_as_it_was(it: Relaying, size: int) -> None:
    image = b"A" * size
    body = b'{"messages":[{"content":"' + image + b'"}], "model" : "q" ,"last":1.50}'
    reply = await it.post(body)
    assert reply.status == 200
    wanted = body.replace(b'"q"', b'"served/qwen"')
    assert json.loads(it.engine.asked[0].body) == json.loads(wanted)
    assert len(it.engine.asked[0].body) <= len(wanted)


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(it: Relaying) -> None:
    client = await it.open()
    await client.send(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: 67108865\r\n\r\n".encode())
    reply = await client.reply()
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (413, "too_large")
    assert await client.ended() == b""


async def test_all_bodies_together_are_bounded(it: Relaying) -> None:
    clients = [await it.open() for _ in range(5)]
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: {60 << 20}\r\n\r\n".encode()
    for client in clients[:4]:
        await client.send(head)
    await until(lambda: it.gateway.held_bytes == 240 << 20)
    await clients[4].send(head)
    reply = await clients[4].reply()
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    await clients[0].close()
    await until(lambda: it.gateway.held_bytes == 180 << 20)


async def test_a_connection_that_nobody_uses_is_closed(it: Relaying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_modeld.gateway.connection.IDLE_SECONDS", 0.05)
    silent, answered = await it.open(), await it.open()
    await answered.send(request(BODY))
    assert (await answered.reply()).status == 200
    assert [await each.ended() for each in (silent, answered)] == [b"", b""]
    assert [record.status for record in it.records] == [200]


async def test_a_clients_silence_has_an_end(it: Relaying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_modeld.gateway.connection.HEAD_SECONDS", 0.05)
    monkeypatch.setattr("spark_modeld.gateway.connection.BODY_SECONDS", 0.05)
    for sent in (b"POST /v1/compl", request(BODY)[:-5]):
        client = await it.open()
        await client.send(sent)
        reply = await client.reply()
        assert reply.status == 408
        assert await client.ended() == b""
