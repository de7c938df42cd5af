"""The switches that ended: kept, told with the unit's last words, and handed to whoever waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from spark_modeld.core.errors import BLAMED_ON_THE_UNIT
from spark_modeld.core.record import HISTORY
from spark_modeld.core.switch import Switch

log = structlog.get_logger()


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
        blamed = switch.error is not None and switch.error.code in BLAMED_ON_THE_UNIT
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
