"""The relay with its bytes cut anywhere: what comes out does not depend on how they came in. No sockets are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spark_modeld.gateway.connection import Connection
from spark_modeld.gateway.house import House, Place
from spark_modeld.gateway.record import Record
from spark_modeld.gateway.server import Gateway
from spark_modeld.gateway.turn import Turn
from spark_modeld.gateway.upstream import Origin, Pool, Upstream
from spark_modeld.gateway.usage import Usage
from spark_modeld.metrics import Metrics
from support.relaying import AUTH, FakeLeases, Tokens, chunk, model, request

pytestmark = pytest.mark.component


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.out += data

    def get_extra_info(self, _name: str) -> Any:
        class Socket:
            def setsockopt(self, *_: object) -> None: ...

        return Socket()

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Ready(Pool):
    """Every connection is there already; what is sent on it is seen by ``sent``."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self.made: list[tuple[Upstream, Wire]] = []

    def take(self, origin: Origin, now: float) -> Upstream | None:
        taken = super().take(origin, now)
        if taken is not None:
            return taken
        upstream, wire = Upstream(origin, self), Wire()
        upstream.connection_made(cast(asyncio.Transport, wire))
        self.made.append((upstream, wire))
        return upstream


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


class Answers:
    """What llhttp makes of what a client got."""

    def __init__(self, data: bytes) -> None:
        self.bodies: list[bytes] = []
        self.statuses: list[int] = []
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.bodies.append(b"")

    def on_status(self, _status: bytes) -> None:
        self.statuses.append(self._parser.get_status_code())

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body


CUTS = st.lists(st.integers(0, 3000), max_size=12)
BODY = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5)
FRAMINGS: dict[str, Callable[[list[bytes]], bytes]] = {
    "length": lambda parts: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(b"".join(parts)), b"".join(parts))
    ),
    "chunks": lambda parts: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(map(chunk, parts))
        + b"0\r\nTrailer: x\r\n\r\n"
    ),
    "events": lambda parts: (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(map(chunk, parts))
        + b"0\r\n\r\n"
    ),
    "interim": lambda parts: b"HTTP/1.1 100 Continue\r\n\r\n" + FRAMINGS["chunks"](parts),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(BODY, st.sampled_from(sorted(FRAMINGS)), CUTS, st.booleans()), min_size=1, max_size=4),
    CUTS,
    st.booleans(),
)
def test_what_comes_out_does_not_depend_on_the_cuts(
    exchanges: list[tuple[list[bytes], str, list[int], bool]], cuts: list[int], ends_turns: bool
) -> None:
    asyncio.run(relay(exchanges, cuts, ends_turns))


async def relay(exchanges: list[tuple[list[bytes], str, list[int], bool]], cuts: list[int], ends_turns: bool) -> None:
    there = There()
    pool, house, client = there.pool, there.house, there.client
    sent = b""
    for number, (_, _, _, in_chunks) in enumerate(exchanges):
        body = b'{"model":"qwen","n":%d}' % number
        if in_chunks:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n"
            sent += head.encode() + chunk(body[:5]) + chunk(body[5:]) + b"0\r\n\r\n"
        else:
            sent += request(body)
    for piece in pieces(sent, cuts):
        there.connection.data_received(piece)
    house.turn.end()
    for number, (parts, framing, answer_cuts, _) in enumerate(exchanges):
        assert len(pool.made) == 1, "one connection after the other's end"
        upstream, wire = pool.made[0]
        head, _, got = bytes(wire.out).partition(b"\r\n\r\n")
        assert head.startswith(b"POST ")
        assert got == b'{"model":"served/qwen","n":%d}' % number
        wire.out.clear()
        for piece in pieces(FRAMINGS[framing](parts), answer_cuts):
            upstream.data_received(piece)
            if ends_turns:
                house.turn.end()
        house.turn.end()
    answers = Answers(bytes(client.out))
    assert answers.bodies == [b"".join(parts) for parts, _, _, _ in exchanges]
    assert set(answers.statuses) == {200}
    there.over([len(b"".join(parts)) for parts, _, _, _ in exchanges])


EVENTS = st.sampled_from(
    [
        b'data: {"choices":[{"delta":{"content":"word "}}]}\n\n',
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":20}}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":21}}\n\n',
        b"data: [DONE]\n\n",
        b"data: {}\r\n\r\n",
        b": a comment\n\n",
        b"\n",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(EVENTS, st.sampled_from(["alone", "with the next", "in two"])), min_size=2, max_size=12),
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.one_of(st.just([]), CUTS),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]),
)
def test_events_pass_however_they_are_cut(
    events: list[tuple[bytes, str]], ends: list[bool], cuts: list[int], version: bytes
) -> None:
    """``ends``: behind which chunks a delivery ends, in turn."""
    parts = [b""]
    for event, how in events:
        half = len(event) // 2 if how == "in two" else 0
        parts[-1] += event[:half]
        parts += [event[half:]] if half else []
        parts[-1] += b"" if half else event
        parts += [] if how == "with the next" else [b""]
    asyncio.run(stream([part for part in parts if part], ends, cuts, version))


async def stream(parts: list[bytes], ends: list[bool], cuts: list[int], version: bytes) -> None:
    there = There()
    there.connection.data_received(request(b'{"model":"qwen","stream":true}').replace(b"HTTP/1.1", version))
    there.house.turn.end()
    upstream, _ = there.pool.made[0]
    sent, borders = FRAMINGS["events"]([]).removesuffix(LAST), []
    for number, part in enumerate(parts):
        borders += [len(sent)] if ends[number % len(ends)] else []
        sent += chunk(part)
    for piece in pieces(sent + LAST, borders + cuts):
        upstream.data_received(piece)
    there.house.turn.end()
    answers, usage = Answers(bytes(there.client.out)), Usage()
    usage.see([b"".join(parts)])
    assert answers.bodies == [b"".join(parts)]
    there.over([len(b"".join(parts))])
    assert [(each.prompt_tokens, each.completion_tokens) for each in there.records] == [usage.tokens]


LAST = b"0\r\n\r\n"


class There:
    """A client's connection, and one to an engine."""

    def __init__(self) -> None:
        self.leases = FakeLeases({"qwen": model("qwen", 1)})
        self.records: list[Record] = []
        self.house: House = Gateway(self.leases, Tokens(), Metrics(), recorder=self.records.append)._house
        self.pool = self.house.pool = Ready(self.house.turn)
        self.connection, self.client = Connection(self.house, Place(loopback=True), lambda _: None), Wire()
        self.connection.connection_made(cast(asyncio.Transport, self.client))

    def over(self, lengths: list[int]) -> None:
        """Everything has ended well, with so many bytes in each answer, and nothing is left."""
        assert self.leases.held == []
        assert [(record.outcome, record.length) for record in self.records] == [("complete", each) for each in lengths]
        self.connection.connection_lost(None)
        self.pool.close()
