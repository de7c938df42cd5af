"""The daemon's line in ``systemctl status``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spark_modeld.face import Snapshot

PAUSE_SECONDS = 0.25
"""How old the line may be while a switch is under way: each costs systemd a message to the whole bus, in its midst."""


class StatusLine:
    """Follows snapshots, on the event loop. ``tell`` gives a line to systemd."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._text = ""
        self._pending: asyncio.TimerHandle | None = None

    def follow(self, snapshot: Snapshot) -> None:
        """Tells what is new: at once where things are at rest, a moment later while they move."""
        self._text = line_of(snapshot)
        if snapshot.switch is None or snapshot.bus != "connected":
            self._tell_now()
        elif self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._tell_now)

    def _tell_now(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        self._tell(self._text)


def line_of(snapshot: Snapshot) -> str:
    """What the slot does, in a few words."""
    if snapshot.config_problem:
        return "configuration is not valid; no model is touched"
    if snapshot.bus != "connected":
        return "system bus lost"
    text = f"{snapshot.slot_model}: {snapshot.slot_phase}" if snapshot.slot_model else "slot empty"
    if snapshot.switch and snapshot.switch.model != snapshot.slot_model:
        text += f"; switching to {snapshot.switch.model or 'nothing'}: {snapshot.switch.phase}"
    return text
