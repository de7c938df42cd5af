"""Looks off the event loop, in threads that can be walked away from: a path on a dead file server hangs for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

import structlog

from spark_modeld.core.appraisal import Inspection, UnitFacts
from spark_modeld.core.finding import error, warning
from spark_modeld.core.fingerprint import fingerprint
from spark_modeld.core.footprint import flags_of
from spark_modeld.core.model import Model
from spark_modeld.inspection.eyes import Eyes

LOOK_SECONDS = 10.0
"""How long one look may take before it counts as hanging."""
_CLOSE_SECONDS = 1.0

_FAILED = warning(
    "check-incomplete", "The check came to an end before it was done", "Read the daemon's journal, which says why"
)

log = structlog.get_logger()

T = TypeVar("T")


class Thread(Protocol):
    """One thread for one call at a time; while a call is late, every other is late at once."""

    async def call(self, work: Callable[[], T], timeout: float) -> T:
        """What ``work`` returns. TimeoutError when it takes longer than ``timeout`` seconds."""

    async def close(self, farewell: Callable[[], None], timeout: float) -> bool:
        """Ends the thread; False for one that hangs, which is left behind."""


class HostInspector:
    """The Inspector port. However often a model that hangs is asked about, it costs one thread."""

    def __init__(self, eyes: Eyes, new_thread: Callable[[str], Thread], *, seconds: float = LOOK_SECONDS) -> None:
        self._eyes = eyes
        self._new_thread = new_thread
        self._seconds = seconds
        self._idle: Thread | None = None
        self._hung: dict[str, Thread] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def inspect(self, model: Model, facts: UnitFacts | None) -> Inspection:
        """What is to be seen of this model now; within ``seconds`` of its turn, one look at a model after the other."""
        async with self._turns.setdefault(model.id, asyncio.Lock()):
            thread = self._hung.pop(model.id, None) or self._take()
            try:
                seen = await thread.call(lambda: _look(model, facts, self._eyes), self._seconds)
            except (TimeoutError, asyncio.CancelledError) as reason:
                # A cancelled look goes on in its thread all the same.
                self._hung[model.id] = thread
                if isinstance(reason, asyncio.CancelledError):
                    raise
                return _hangs(model, self._seconds)
            except Exception:
                # One odd file must not end the daemon: it would find it again after every restart.
                log.exception(f"looking at {model.id} failed", model=model.id)
                seen = Inspection(fingerprint=fingerprint(model), flags=flags_of(model), findings=(_FAILED,))
            await self._give_back(thread)
            return seen

    async def close(self) -> None:
        """Ends every thread that does not hang."""
        threads = [*self._hung.values(), *([self._idle] if self._idle else [])]
        self._hung, self._idle = {}, None
        await asyncio.gather(*(thread.close(_nothing, _CLOSE_SECONDS) for thread in threads))

    def _take(self) -> Thread:
        thread, self._idle = self._idle, None
        return thread or self._new_thread("inspection")

    async def _give_back(self, thread: Thread) -> None:
        if self._idle is None:
            self._idle = thread
        else:
            await thread.close(_nothing, _CLOSE_SECONDS)


def _look(model: Model, facts: UnitFacts | None, eyes: Eyes) -> Inspection:
    from spark_modeld.inspection.look import look  # noqa: PLC0415 - the daemon's start does not wait for it

    return look(model, facts, eyes)


def _nothing() -> None:
    """What a thread is left with."""


def _hangs(model: Model, seconds: float) -> Inspection:
    where = model.path or f"the program of {model.id}"
    finding = error(
        "path-hangs",
        f"Looking at {where} did not come to an end within {seconds:g} s; a file server that does not answer hangs so, "
        "and the engine would hang with it",
        "See whether `ls` of it answers, and mount it again",
    )
    return Inspection(fingerprint=fingerprint(model), flags=flags_of(model), findings=(finding,))
