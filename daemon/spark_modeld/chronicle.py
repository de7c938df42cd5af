"""The switches that ended: kept, told with the unit's last words, and handed to whoever waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import structlog

from spark_modeld import ports
from spark_modeld.core.diagnosis import diagnose
from spark_modeld.core.errors import Code
from spark_modeld.core.model import Switch
from spark_modeld.core.record import HISTORY

log = structlog.get_logger()

_LOG_LINES = 20
# Looked at for what went wrong: an engine's tracebacks after the line that tells are longer than what is shown.
_READ_LINES = 300
_LOG_SECONDS = 2.0
_BLAMED_ON_THE_UNIT = frozenset({Code.MODEL_FAILED, Code.START_TIMEOUT})


class Chronicle:
    """The last ``HISTORY`` switches, oldest first.

    A switch is told after it was put on record: ``tell`` is the last thing the writer does in a turn.
    """

    def __init__(self, told: Callable[[Switch], None]) -> None:
        self.history: tuple[Switch, ...] = ()
        self._told = told
        self._to_tell: list[Switch] = []
        self._untold: set[str] = set()
        self._waiters: dict[str, list[asyncio.Future[Switch]]] = {}

    def add(self, switch: Switch) -> bool:
        """Keeps a switch that ended. True if its unit is to blame and its last words are worth waiting for."""
        self.history = (*self.history, switch)[-HISTORY:]
        self._untold.add(switch.id)
        blamed = switch.error is not None and switch.error.code in _BLAMED_ON_THE_UNIT
        if not blamed:
            self._to_tell.append(switch)
        return blamed

    def amend(self, switch: Switch) -> None:
        """Puts the switch with its unit's last words in the place of the one without, and tells it."""
        self.history = tuple(switch if s.id == switch.id else s for s in self.history)
        self._to_tell.append(switch)

    def join(self, switch: Switch, waiter: asyncio.Future[Switch]) -> None:
        """Answers the waiter when the switch is told: now if it was."""
        if switch.outcome is not None and switch.id not in self._untold:
            waiter.set_result(switch)
        else:
            self._waiters.setdefault(switch.id, []).append(waiter)

    def leave(self, switch_id: str, waiter: asyncio.Future[Switch]) -> None:
        """The waiter waits no longer."""
        waiting = self._waiters.get(switch_id, [])
        if waiter in waiting:
            waiting.remove(waiter)

    def tell(self) -> None:
        """Tells what has ended: in the log, as an event, to those who wait."""
        ended, self._to_tell = self._to_tell, []
        for switch in ended:
            detail = f": {switch.error.detail}" if switch.error else ""
            log.info(
                f"switch to {switch.model or 'nothing'} ended {switch.outcome}{detail}",
                model=switch.model or "",
                switch_id=switch.id,
            )
            self._untold.discard(switch.id)
            self._told(switch)
            for waiter in self._waiters.pop(switch.id, []):
                if not waiter.done():
                    waiter.set_result(switch)


async def with_last_words(switch: Switch, journal: ports.Journal, rung: str | None) -> Switch:
    """The switch, its error carrying the unit's last log lines and what they are read as.

    The error of a start that took too long also says what was waited for.
    """
    error = switch.error
    assert error is not None
    unit = str(error.extra.get("unit", ""))
    # A unit of somebody's own may run on through many switches, as a server of many models does.
    since = None if unit.startswith("spark-model@") else switch.started_at.wall
    lines: tuple[str, ...] = ()
    with contextlib.suppress(TimeoutError):
        lines = await asyncio.wait_for(journal.tail(unit, _READ_LINES, since=since), _LOG_SECONDS)
    detail = error.detail
    if error.code is Code.START_TIMEOUT and rung:
        detail += f" Last it waited for: {rung}."
    extra = {**error.extra, "log": list(lines[-_LOG_LINES:])}
    if reading := diagnose(lines, result=str(error.extra.get("result", ""))):
        extra["reading"] = reading.as_dict()
    return replace(switch, error=replace(error, detail=detail, extra=extra))
