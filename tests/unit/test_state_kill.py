"""kill -9 while state.toml is being saved: it is always the old one or the new one, whole."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from spark_modeld import durable
from spark_modeld.state import StateFile
from support.records import record

pytestmark = pytest.mark.unit


def in_child(work: Callable[[], None]) -> int:
    """Runs ``work`` in a forked child; its PID."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def save(directory: Path, number: int) -> None:
    asyncio.run(StateFile(directory).save(record(number)))


def stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def save_and_die(directory: Path, number: int, line: int) -> None:
    """Saves, and dies by SIGKILL before the ``line``-th line that is executed by the module that writes."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not any(caller.f_code.co_filename == durable.__file__ for caller in stack(frame)):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    save(directory, number)


def test_killed_before_every_line(tmp_path: Path) -> None:
    save(tmp_path, 0)
    seen = set()
    old = 0
    for line in range(1, 300):
        status = os.waitpid(in_child(lambda line=line: save_and_die(tmp_path, line, line)), 0)[1]
        loaded, warning = StateFile(tmp_path).load()
        assert warning is None
        assert loaded in (record(old), record(line))
        assert os.listdir(tmp_path) == ["state.toml"]
        seen.add("new" if loaded == record(line) else "old")
        if not os.WIFSIGNALED(status):
            break
        old = line if loaded == record(line) else old
    assert not os.WIFSIGNALED(status), "the child never came to the end: kill points are missing"
    assert line > 10
    assert loaded == record(line)
    assert seen == {"old", "new"}


def test_killed_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(0)
    save(tmp_path, 0)
    number = 0
    for _ in range(10):
        read_end, write_end = os.pipe()

        def work(first: int = number + 1, write_end: int = write_end) -> None:
            async def save_for_ever() -> None:
                store = StateFile(tmp_path)
                current = first
                while True:
                    await store.save(record(current))
                    os.write(write_end, b"%d\n" % current)
                    current += 1

            asyncio.run(save_for_ever())

        pid = in_child(work)
        os.close(write_end)
        with open(read_end, "rb") as told:
            for _ in range(chance.randrange(1, 8)):
                number = int(told.readline())
            for _ in range(chance.randrange(2000)):  # somewhere inside the next save
                pass
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            number = max([number, *map(int, told.read().split())])
        loaded, warning = StateFile(tmp_path).load()
        assert warning is None
        # What was acknowledged is there; the one under way may be.
        assert loaded in (record(number), record(number + 1))
        number += loaded == record(number + 1)
        assert os.listdir(tmp_path) == ["state.toml"]
