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
