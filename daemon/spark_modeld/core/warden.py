"""What the guard stops, and what it says: ``Guard`` keeps the time, this knows the house."""

from __future__ import annotations

from collections.abc import Callable

from spark_modeld.core import life_event as life_of
from spark_modeld.core.admission import gib
from spark_modeld.core.effects import Guarded
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.guard import Alarm, Guard, GuardState, Notice, enough
from spark_modeld.core.house import House
from spark_modeld.core.instant import Instant
from spark_modeld.core.planner import Planner
from spark_modeld.core.reading import Reading
from spark_modeld.core.switch import Requester
from spark_modeld.core.transaction import Transaction
from spark_modeld.core.unit import Phase

_GOING = frozenset({Phase.DRAINING, Phase.STOPPING})
_STOPPABLE = frozenset({Phase.STARTING, Phase.WARMING, Phase.SERVING})


class Warden:
    """Looks at the readings while models serve. ``intruders`` gives slot models that came up past us."""

    def __init__(self, house: House, planner: Planner, intruders: Callable[[], tuple[str, ...]]) -> None:
        self._house = house
        self._planner = planner
        self._intruders = intruders
        self._guard = Guard()

    @property
    def state(self) -> GuardState:
        """As the snapshot shows it."""
        return self._guard.state(self._grace)

    @property
    def _grace(self) -> float:
        return self._house.catalog.settings.memory.guard_grace

    def look(self, reading: Reading, now: Instant) -> None:
        """A reading: under the floor it is told, and after the grace something is stopped."""
        floor = self._house.catalog.settings.memory.floor.of(reading.total)
        alarm = self._guard.look(reading, floor, self._grace, now)
        left = f"{gib(reading.available)} of memory are available"
        if alarm is Alarm.UNDER_FLOOR:
            message = f"Only {left}, under the floor of {gib(floor)}. {self._plan()}"
            self._say(alarm, message, reading, floor)
        elif alarm is Alarm.OVER_FLOOR:
            self._say(alarm, f"{left} again, over the floor of {gib(floor)}.", reading, floor)
        elif alarm is Alarm.STOPPING:
            self._act(reading, floor, now)

    def killed(self, model: str, message: str, reading: Reading, floor: int) -> None:
        """A model was killed because memory fell under the floor while it was loading."""
        self._guard.actions[Alarm.KILLED_LOADING] += 1
        self._say(Alarm.KILLED_LOADING, message, reading, floor, model)

    def _plan(self) -> str:
        chosen, what = self._next()
        if not chosen:
            return "There is nothing that the guard may stop."
        return f"If it stays so for {self._grace:g} s, {what} is stopped: {', '.join(chosen)}."

    def _next(self) -> tuple[list[str], str]:
        """Who would be stopped next, the first one first, and what they are in words."""
        lives, wanted = self._house.lives, self._planner.wanted()
        sides = [m for m in self._house.sides() if lives[m].phase in _STOPPABLE]
        if sides:
            return sorted(sides, key=lambda m: lives[m].since.mono), "a side model"
        intruders = [m for m in self._intruders() if m != wanted and lives[m].phase in _STOPPABLE]
        if intruders:
            return intruders, "what was started beside the slot's occupant"
        occupant = self._planner.occupant
        if occupant and occupant != wanted and lives[occupant].phase in _STOPPABLE and self._planner.tx is None:
            return [occupant], "the occupant, which is there on demand,"
        return [], ""

    def _act(self, reading: Reading, floor: int, now: Instant) -> None:
        if any(life.phase in _GOING for life in self._house.lives.values()):
            self._hurry(reading, floor, now)
            return  # what is on its way down may be enough
        chosen, what = self._next()
        if not chosen:
            if not self._guard.helpless and self._planner.tx is None:
                self._guard.helpless = True
                self._say(Alarm.NOTHING_TO_STOP, self._helpless(reading, floor), reading, floor)
            return
        holders = self._house.holders(chosen, reading)
        for model in enough([(h.model, h.gives_back) for h in holders], floor - reading.available):
            message = (
                f"{model} is stopped: only {gib(reading.available)} of memory were available for "
                f"{self._grace:g} s, under the floor of {gib(floor)}, and it is {what.rstrip(',')}.{self._cut(model)}"
            )
            self._say(Alarm.STOPPING, message, reading, floor, model)
            extra = {"guard": True, "available": reading.available, "floor": floor}
            self._house.falls.blamed[model] = Problem(Code.MEMORY_REFUSED, message, extra)
            self._stop(model, message, now)
        self._guard.acted(now)

    def _stop(self, model: str, reason: str, now: Instant) -> None:
        """At once: a request may take as long as the drain's deadline, and the machine may freeze sooner."""
        plan = self._planner
        if model != plan.occupant:
            self._house.step(model, life_of.CUT_WANTED, now)
            return
        # Where `desired` is up already, it is what remains; else the slot is emptied, and what belongs there comes back
        # by the way of every start: when a reading admits it.
        wanted = plan.wanted()
        target = wanted if wanted and self._house.lives[wanted].phase in _STOPPABLE else None
        switch = plan.new_switch(target, model, now, requested_by=Requester.GUARD, reason=reason)
        plan.begin(Transaction(switch, target=target))
        self._house.step(model, life_of.CUT_WANTED, now)

    def _hurry(self, reading: Reading, floor: int, now: Instant) -> None:
        """What somebody else had drained is not waited for any longer either."""
        for model in [m for m, life in self._house.lives.items() if life.phase is Phase.DRAINING]:
            message = (
                f"{model}, which was to stop when its requests have ended, is stopped at once: only "
                f"{gib(reading.available)} of memory were available for {self._grace:g} s, under the floor of "
                f"{gib(floor)}.{self._cut(model)}"
            )
            self._say(Alarm.STOPPING, message, reading, floor, model)
            self._house.step(model, life_of.CUT_WANTED, now)
            self._guard.acted(now)

    def _cut(self, model: str) -> str:
        count = self._house.leases.get(model, 0)
        return f" Its {count} open request{'s are' if count > 1 else ' is'} cut off." if count else ""

    def _helpless(self, reading: Reading, floor: int) -> str:
        shown = [*((p.command, p.pid, p.bytes) for p in reading.processes)]
        shown += [(p.command, p.pid, p.bytes) for p in reading.strangers]
        largest = sorted((s for s in shown if s[2]), key=lambda s: -(s[2] or 0))[:5]
        held = ", ".join(f"{command or 'a process'} (PID {pid}) {gib(size or 0)}" for command, pid, size in largest)
        by = f" Held by {held}." if held else ""
        return (
            f"Only {gib(reading.available)} of memory are available, under the floor of {gib(floor)}, and there is "
            f"nothing that the guard may stop.{by}"
        )

    def _say(self, alarm: Alarm, message: str, reading: Reading, floor: int, model: str | None = None) -> None:
        notice = Notice(alarm=alarm, message=message, available=reading.available, floor=floor, model=model)
        self._house.effects.append(Guarded(notice))
