"""Which event loops the tests of this layer run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> LoopFactories:
    """The gateway's transports differ: it is tested on uvloop's, which the daemon runs on, and on asyncio's."""
    factories: LoopFactories = {"asyncio": asyncio.new_event_loop}
    return {**factories, "uvloop": uvloop.new_event_loop} if "test_gateway_" in item.nodeid else factories
