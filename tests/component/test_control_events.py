"""The event stream: order, resuming, heartbeats, slow readers and those who vanish."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spark_modeld.control import stream
from support.control import Control, assert_no_tasks_but, read_event, read_head, running

pytestmark = pytest.mark.component


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


async def subscribe(control: Control, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await control.open()
    lines = "".join(f"{header}\r\n" for header in ("Host: x", *headers))
    writer.write(f"GET /api/events HTTP/1.1\r\n{lines}\r\n".encode())
    status, answered = await read_head(reader)
    assert status == 200
    assert answered["content-type"] == "text/event-stream"
    assert answered["cache-control"] == "no-store"
    return reader, writer


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_events_come_in_order_with_ids(control: Control) -> None:
    reader, writer = await subscribe(control)
    for number in range(3):
        control.face.publish("memory", {"n": number})
    got = [await read_event(reader) for _ in range(3)]
    assert [(e["id"], e["event"], json.loads(e["data"])) for e in got] == [
        ("1", "memory", {"n": 0}), ("2", "memory", {"n": 1}), ("3", "memory", {"n": 2}),
    ]  # fmt: skip
    await hang_up(writer)


async def test_a_reader_resumes_where_it_was(control: Control) -> None:
    for number in range(4):
        control.face.publish("slot", {"n": number})
    reader, writer = await subscribe(control, "Last-Event-ID: 2")
    assert [(await read_event(reader))["id"] for _ in range(2)] == ["3", "4"]
    await hang_up(writer)


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "", "1\r\nLast-Event-ID: 2"])
async def test_bad_last_ids(control: Control, last: str) -> None:
    answer = await control.call("GET", "/api/events", headers={"Last-Event-ID": last})
    assert (answer.status, answer.json["code"]) == (400, "invalid-request")


async def test_silence_is_broken_by_comments(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.01)
    reader, writer = await subscribe(control)
    await reader.readuntil(b": \n\n")
    await reader.readuntil(b": \n\n")
    control.face.publish("slot", {})
    await reader.readuntil(b"id: 1\n")
    await hang_up(writer)


async def test_vanished_readers_leave_nothing(control: Control) -> None:
    before = asyncio.all_tasks()
    readers = [await subscribe(control) for _ in range(50)]
    assert control.face.readers == 50
    for _, writer in readers:
        writer.transport.abort()
    await assert_no_tasks_but(before)
    assert control.face.readers == 0


async def test_a_reader_that_stops_reading_stalls_nobody_and_is_cut_off(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STALLED", 0.2)
    slow = socket.socket(socket.AF_UNIX)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(str(control.path))
    slow.sendall(b"GET /api/events HTTP/1.1\r\nHost: x\r\n\r\n")
    reader, writer = await subscribe(control)
    await control.face.until_readers(2)
    for _ in range(200):
        control.face.publish("memory", {"text": "x" * 10_000})
    for number in range(200):
        assert (await read_event(reader))["id"] == str(number + 1)
    assert control.face.readers == 2
    await control.face.until_readers(1)
    await hang_up(writer)
    slow.close()


async def test_closing_ends_the_stream(control: Control) -> None:
    reader, writer = await subscribe(control)
    await control.runner.close()
    with pytest.raises(EOFError):
        await read_event(reader)
    await hang_up(writer)


async def test_hundreds_of_connections_leave_nothing(control: Control) -> None:
    before = asyncio.all_tasks()
    for batch in range(4):
        opened = [await control.open(tcp=bool(batch % 2)) for _ in range(100)]
        for number, (_, writer) in enumerate(opened):
            match number % 4:
                case 0:
                    writer.write(b"GET /heal")
                case 1:
                    writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                case 2:
                    writer.write(b"POST /api/switch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{")
        for _, writer in opened:
            writer.transport.abort()
    await assert_no_tasks_but(before)
    assert control.runner.connections == 0
    assert (await control.call("GET", "/health")).status == 200
