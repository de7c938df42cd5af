"""The guard while models serve: memory under the floor is told first, and after a grace something is stopped.

It stops side models, the one started least recently first and as many as it takes; then slot models that somebody
started past us; then an occupant that is not `desired`. Never what is desired. Requests are cut off, not waited for.
Whatever was asked to stop may first give its memory back: the grace begins anew.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from msgspec import Struct

from spark_modeld.core.instant import Instant
from spark_modeld.core.reading import Reading


class Alarm(StrEnum):
    """What the guard has to say of a reading; also the word in the ``memory`` event."""

    UNDER_FLOOR = "under-floor"
    OVER_FLOOR = "over-floor"
    STOPPING = "stopping"
    NOTHING_TO_STOP = "nothing-to-stop"
    KILLED_LOADING = "killed-loading"


class Notice(Struct, frozen=True, kw_only=True):
    """What the guard says or does, for the log, the event stream and the metrics. Sizes are bytes."""

    alarm: Alarm
    message: str
    available: int
    floor: int
    model: str | None = None


class GuardState(Struct, frozen=True):
    """For the snapshot: since when memory is under the floor, and when the next stop is due (Unix seconds)."""

    under_since: float | None = None
    next_stop: float | None = None
    helpless: bool = False
    under_seconds: float = 0.0
    actions: tuple[tuple[str, int], ...] = ()


class Guard:
    """Remembers since when memory is under the floor, and what was done about it."""

    def __init__(self) -> None:
        self.since: Instant | None = None
        self.helpless = False
        self.actions: Counter[str] = Counter()
        self._calm_since: float | None = None
        self._last: float | None = None
        self._under_seconds = 0.0

    def look(self, reading: Reading, floor: int, grace: float, now: Instant) -> Alarm | None:
        """What this reading means; ``STOPPING`` says that the grace is over.

        Over the floor by less than an eighth of it is neither: memory that swings around the floor is still short.
        """
        if self.since is not None and self._last is not None:
            self._under_seconds += max(0.0, now.mono - self._last)
        if reading.available < floor:
            return self._under(grace, now)
        self._last = now.mono if self.since is not None else None
        if self.since is None or reading.available < floor + floor // 8:
            return None
        self.since, self.helpless, self._calm_since, self._last = None, False, None, None
        return Alarm.OVER_FLOOR

    def _under(self, grace: float, now: Instant) -> Alarm | None:
        self._last = now.mono
        if self.since is None:
            self.since, self._calm_since = now, now.mono
            self.actions[Alarm.UNDER_FLOOR] += 1
            return Alarm.UNDER_FLOOR
        assert self._calm_since is not None
        return Alarm.STOPPING if now.mono - self._calm_since >= grace else None

    def acted(self, now: Instant) -> None:
        """Something was asked to stop: what comes next waits for another grace."""
        self._calm_since = now.mono
        self.helpless = False
        self.actions[Alarm.STOPPING] += 1

    def state(self, grace: float) -> GuardState:
        """As the snapshot shows it."""
        actions = tuple(sorted((str(action), count) for action, count in self.actions.items()))
        if self.since is None:
            return GuardState(under_seconds=self._under_seconds, actions=actions)
        assert self._calm_since is not None
        due = self.since.wall + (self._calm_since - self.since.mono) + grace
        return GuardState(self.since.wall, None if self.helpless else due, self.helpless, self._under_seconds, actions)


def enough(freed: list[tuple[str, int]], missing: int) -> list[str]:
    """The first of these models that together give back what is missing; all of them if even that is not enough."""
    chosen: list[str] = []
    for model, amount in freed:
        if missing <= 0 and chosen:
            break
        chosen.append(model)
        missing -= amount
    return chosen
