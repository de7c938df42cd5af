"""Which event loops the tests of this layer run on, and engines with a made-up outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from support.fakes import Outside

LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> LoopFactories:
    """The gateway's transports differ: it is tested on uvloop's, which the daemon runs on, and on asyncio's."""
    factories: LoopFactories = {"asyncio": asyncio.new_event_loop}
    return {**factories, "uvloop": uvloop.new_event_loop} if "test_gateway_" in item.nodeid else factories


@pytest.fixture
async def build() -> AsyncIterator[Callable[..., Outside]]:
    """Builds outsides; afterwards nothing may be left of any: no task, no timer, no lease, nobody who waits."""
    built: list[Outside] = []

    def make(**parts: object) -> Outside:
        built.append(Outside(**parts))  # type: ignore[arg-type]
        return built[-1]

    yield make
    async with asyncio.timeout(20):
        for outside in built:
            await outside.engine.shut_down()
            assert outside.systemd.closed
            assert outside.clock.armed == 0
            assert outside.journal.followed == []
            assert outside.engine.snapshot.queue == ()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def outside(build: Callable[..., Outside]) -> Outside:
    """An outside whose engine runs."""
    made = build()
    await made.up()
    return made
