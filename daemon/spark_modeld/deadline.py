"""Deadlines in which only that time counts in which the daemon was there.

A suspended machine's clock stands still. One that is frozen or paused by whatever runs it finds its clock far ahead
afterwards, and so does a daemon that was stopped: what it waited for had no more of that time than it had itself.
"""

from __future__ import annotations

from collections.abc import Callable

from spark_modeld.ports import Clock

STEP_SECONDS = 1.0
"""How closely it is looked at: a step that takes more than twice as long was one in which nothing ran."""


class Deadline:
    """Calls ``expired`` at ``at`` (monotonic seconds), later by the time that was missed; never after ``cancel``."""

    def __init__(self, clock: Clock, at: float, expired: Callable[[], None]) -> None:
        self._clock = clock
        self._at = at
        self._expired = expired
        self._arm(clock.now().mono)

    def cancel(self) -> None:
        """Takes it back."""
        self._cancel()

    def _arm(self, now: float) -> None:
        self._next = min(self._at, now + STEP_SECONDS)
        self._cancel = self._clock.call_at(self._next, self._look)

    def _look(self) -> None:
        now = self._clock.now().mono
        late = now - self._next
        if late > STEP_SECONDS:
            # The step began before the time that was missed; a whole one is left in any case.
            self._at = max(self._at + late, now + STEP_SECONDS)
        if now >= self._at:
            self._expired()
        else:
            self._arm(now)
