from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from tests.support.bus import Bus, Recorder

from spark_modeld.systemd.manager import Manager


@pytest_asyncio.fixture
async def bare_bus() -> AsyncIterator[Bus]:
    """A dbus-daemon that is not running yet. In a folder of its own: a socket's path may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="bus-"))
    bus = Bus(folder)
    try:
        yield bus
    finally:
        await bus.kill()
        shutil.rmtree(folder)


@pytest_asyncio.fixture
async def bus(bare_bus: Bus) -> Bus:
    """A dbus-daemon with a scripted systemd."""
    await bare_bus.start()
    await bare_bus.start_systemd()
    return bare_bus


@pytest_asyncio.fixture
async def seen() -> Recorder:
    return Recorder()


@pytest_asyncio.fixture
async def manager(bare_bus: Bus) -> AsyncIterator[Manager]:
    """Not yet connected; closed at the end in any case."""
    made = Manager(address=bare_bus.address, timeout=20.0)
    try:
        yield made
    finally:
        await made.close()
