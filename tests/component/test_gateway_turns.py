"""What leaves at the end of a turn of the loop: all of it, in order, once, and never too much of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, cast

import pytest

from spark_modeld.gateway.connection import Connection
from spark_modeld.gateway.house import Place
from spark_modeld.gateway.relay import Owner, Relay
from spark_modeld.gateway.turn import Turn
from spark_modeld.gateway.upstream import Origin, Upstream
from support.relaying import AUTH, relaying, request, until

pytestmark = pytest.mark.component

BODY = b'{"model":"qwen"}'
LISTING = f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n".encode()


class Deaf:
    """A transport whose client reads nothing: it says so above its limit, as asyncio's do."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)
        if sum(map(len, self.written)) > 64 * 1024:
            self.connection.pause_writing()

    def get_extra_info(self, _name: str) -> Any:
        class Socket:
            def setsockopt(self, *_: object) -> None: ...

        return Socket()

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...


async def test_deeds_are_done_once_and_what_nobody_waits_for_comes_last() -> None:
    done: list[str] = []
    turn = Turn(asyncio.get_running_loop())
    turn.after_all(lambda: done.append("line"))
    turn.at_end(lambda: done.append("first"))
    turn.at_end(lambda: turn.at_end(lambda: done.append("next turn")))
    assert done == []
    await asyncio.sleep(0)
    assert done == ["first", "line"]
    await asyncio.sleep(0)
    assert done == ["first", "line", "next turn"]


async def test_a_deed_that_fails_keeps_no_other_from_its_end() -> None:
    done: list[int] = []
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    turn = Turn(loop)
    turn.at_end(lambda: done.append(1))
    turn.at_end(lambda: done.append(1 // 0))
    turn.at_end(lambda: done.append(3))
    turn.after_all(lambda: done.append(4))
    await until(lambda: 4 in done)
    assert done == [1, 3, 4]
    assert [type(each["exception"]) for each in failures] == [ZeroDivisionError]


async def test_who_asks_and_reads_nothing_is_noticed_within_the_turn() -> None:
    async with relaying() as it:
        connection = Connection(it.gateway._house, Place(loopback=True), lambda _: None)
        deaf = Deaf(connection)
        connection.connection_made(cast(asyncio.Transport, deaf))
        connection.data_received(LISTING * 2000)
        assert 64 * 1024 < sum(map(len, deaf.written)) < 2 * 64 * 1024
        connection.connection_lost(None)


async def test_who_closes_its_end_with_its_request_still_hears_what_was_there_at_once() -> None:
    async with relaying() as it:
        connection = Connection(it.gateway._house, Place(loopback=True), lambda _: None)
        deaf = Deaf(connection)
        connection.connection_made(cast(asyncio.Transport, deaf))
        connection.data_received(LISTING)
        connection.eof_received()
        assert b"".join(deaf.written).startswith(b"HTTP/1.1 200 ")
        connection.connection_lost(None)


async def test_a_request_whose_client_is_gone_before_the_turns_end_reaches_nobody() -> None:
    async with relaying() as it:
        await it.post(BODY)
        assert len(it.engine.asked) == 1
        house = it.gateway._house
        connection = Connection(house, Place(loopback=True), lambda _: None)
        connection.connection_made(cast(asyncio.Transport, Deaf(connection)))
        connection.data_received(request(BODY))
        assert it.leases.granted == 2
        connection.connection_lost(None)
        house.turn.end()
        await it.post(BODY)
        assert len(it.engine.asked) == 2
        assert it.leases.held == []


async def test_every_line_is_written_before_the_end() -> None:
    async with relaying() as it:
        client = await it.open()
        await client.send(LISTING * 3)
        for _ in range(3):
            await client.reply()
        await it.gateway.close(0)
        assert [record.status for record in it.records] == [200] * 3


class Hungry:
    """A transport to an engine that reads faster than anybody writes."""

    def __init__(self) -> None:
        self.taken = 0

    def write(self, data: bytes | memoryview) -> None:
        self.taken += len(data)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...


async def test_a_large_body_leaves_turns_to_others_also_when_its_engine_takes_all_of_it() -> None:
    async with relaying() as it:
        pool = it.gateway._house.pool
        origin = Origin.of("http://127.0.0.1:1")
        upstream, hungry = Upstream(origin, pool), Hungry()
        upstream.connection_made(cast(asyncio.Transport, hungry))
        pool.put(upstream, asyncio.get_running_loop().time())
        size = 20 << 20
        relay = Relay(cast(Owner, None), pool, origin, [b"head", bytes(size)], head_only=False)
        relay.start()
        turns = []
        while hungry.taken < size + 4:
            turns.append(hungry.taken)
            await asyncio.sleep(0)
        steps = [b - a for a, b in pairwise(turns)]
        assert len(steps) > 30
        assert max(steps) <= 1 << 20
        relay.cancel()
        upstream.connection_lost(None)
