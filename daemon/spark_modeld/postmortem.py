"""A unit's last words: read once for each model that fell, for its own problem and for the switch it failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.core.diagnosis import diagnose
from spark_modeld.core.effects import Effects
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.slot import Slot
from spark_modeld.core.switch import Switch

log = structlog.get_logger()

_LOG_LINES = 20
# Looked at for what went wrong: an engine's tracebacks after the line that tells are longer than what is shown.
_READ_LINES = 300
LOG_SECONDS = 2.0

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
Lines = tuple[str, ...]


class Postmortem:
    """``slot`` gives the slot of the moment, ``post`` queues a handler for the writer, ``spawn`` makes a task whose bug
    ends the engine."""

    def __init__(
        self,
        outside: ports.Outside,
        *,
        slot: Callable[[], Slot],
        post: Callable[[Callable[[], Effects]], None],
        spawn: Spawn,
    ) -> None:
        self._journal = outside.journal
        self._clock = outside.clock
        self._slot = slot
        self._post = post
        self._spawn = spawn
        self._read: dict[str, tuple[Problem, asyncio.Future[Lines]]] = {}

    def follow(self) -> None:
        """Reads the last words of every model that has fallen since."""
        fallen = self._slot().house.falls.fallen
        for model in self._read.keys() - fallen.keys():
            del self._read[model]
        for model in fallen:
            self._words_of(model)

    async def told(self, switch: Switch, rung: str | None) -> Switch:
        """The switch, its error carrying the unit's last log lines and what they are read as.

        The error of a start that took too long also says what was waited for.
        """
        error = switch.error
        assert error is not None
        words = self._words_of(str(error.extra.get("model", "")))
        unit = str(error.extra.get("unit", ""))
        lines = await (words or self._tail(unit, switch.started_at.wall))
        return replace(switch, error=with_words(error, lines, rung))

    def _words_of(self, model: str) -> asyncio.Future[Lines] | None:
        """The last words of a model that fell, being read if need be; None for one that did not."""
        house = self._slot().house
        problem = house.falls.fallen.get(model)
        if problem is None:
            return None
        known = self._read.get(model)
        if known is None or known[0] != problem:
            known = (problem, asyncio.get_running_loop().create_future())
            self._read[model] = known
            # What was adopted was never seen to rise.
            risen = house.falls.risen_at.get(model)
            tail = self._tail(house.models[model].unit, risen.wall if risen is not None else None)
            self._spawn(self._explain(model, *known, tail), f"last words of {model}")
        return known[1]

    async def _explain(
        self, model: str, problem: Problem, words: asyncio.Future[Lines], tail: Awaitable[Lines]
    ) -> None:
        lines = await tail
        words.set_result(lines)
        explained = with_words(problem, lines)

        def tell() -> Effects:
            if self._read.get(model) == (problem, words):
                self._read[model] = (explained, words)
            effects = self._slot().explained(model, problem, explained, self._clock.now())
            reading = explained.extra.get("reading", {}).get("message", "")
            switch = self._slot().switch
            story = {"switch_id": switch.id} if switch else {}
            log.warning(f"{model} went down: {problem.detail} {reading}".rstrip(), model=model, **story)
            return effects

        self._post(tell)

    async def _tail(self, unit: str, since: float | None) -> Lines:
        with contextlib.suppress(TimeoutError):
            # A unit of somebody's own may run on through many switches, as a server of many models does.
            from_then = None if unit.startswith("spark-model@") else since
            return await asyncio.wait_for(self._journal.tail(unit, _READ_LINES, since=from_then), LOG_SECONDS)
        return ()


def with_words(error: Problem, lines: Lines, rung: str | None = None) -> Problem:
    """The problem with the unit's last lines and what they are read as; ``rung`` is what was waited for last."""
    detail = error.detail
    if error.code is Code.START_TIMEOUT and rung:
        detail += f" Last it waited for: {rung}."
    extra = {**error.extra, "log": list(lines[-_LOG_LINES:])}
    if reading := diagnose(lines, result=str(error.extra.get("result", ""))):
        extra["reading"] = reading.as_dict()
    return replace(error, detail=detail, extra=extra)
