"""What callers of the engine wait for: each is answered exactly once, at the latest when the engine ends."""

from __future__ import annotations

import asyncio
from typing import Any

from spark_modeld.core.errors import Problem, SparkError


class Promises:
    """Every answer that is still owed."""

    def __init__(self) -> None:
        self._owed: set[asyncio.Future[Any]] = set()
        self._end: Problem | None = None

    def make(self) -> asyncio.Future[Any]:
        """A new one. SparkError when nobody is left to keep it."""
        if self._end is not None:
            raise SparkError(self._end)
        promise: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._owed.add(promise)
        promise.add_done_callback(self._owed.discard)
        return promise

    def end(self, problem: Problem) -> None:
        """Answers all that are owed with this problem, and whoever asks later. The first end stands."""
        self._end = self._end or problem
        for promise in tuple(self._owed):
            if not promise.done():
                promise.set_exception(SparkError(problem))


class Asks:
    """The promises that the core knows by a number."""

    def __init__(self) -> None:
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._last = 0

    def number(self, promise: asyncio.Future[Any]) -> int:
        """The number to tell the core."""
        self._last += 1
        self._asked[self._last] = promise
        return self._last

    def forget(self, ask: int) -> None:
        """The core will not answer this one."""
        self._asked.pop(ask, None)

    def keep(self, ask: int, value: object) -> bool:
        """Answers with a value; False if nobody waits for it any more."""
        promise = self._asked.pop(ask, None)
        if promise is None or promise.done():
            return False
        promise.set_result(value)
        return True

    def refuse(self, ask: int, problem: Problem) -> None:
        """Answers with a problem, if anybody waits for it."""
        promise = self._asked.pop(ask, None)
        if promise is not None and not promise.done():
            promise.set_exception(SparkError(problem))
