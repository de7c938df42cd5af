"""The engine's looks at models before they are tried: one by one in the background, and afresh where it decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.core.appraisal import Inspection, Listener, UnitFacts
from spark_modeld.core.effects import Effects
from spark_modeld.core.errors import SparkError
from spark_modeld.core.model import Container, Model, OwnUnit
from spark_modeld.core.reading import Reading
from spark_modeld.core.slot import Slot

_LATE_SECONDS = 0.5

Handler = Callable[[], Effects]
Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Appraisals:
    """Has models inspected. ``slot`` gives the slot of the moment, ``post`` queues a handler for the writer."""

    def __init__(
        self, outside: ports.Outside, *, slot: Callable[[], Slot], post: Callable[[Handler], None], spawn: Spawn
    ) -> None:
        self._out = outside
        self._slot = slot
        self._post = post
        self._spawn = spawn
        self._round: asyncio.Task[None] | None = None

    def all(self) -> None:
        """Inspects the whole catalog in the background. A round under way gives way to the new one."""
        if self._round is not None:
            self._round.cancel()
        models = tuple(self._slot().house.catalog.models.values())
        self._round = self._spawn(self._each(models), "appraisals")

    async def _each(self, models: tuple[Model, ...]) -> None:
        for spec in models:
            seen = await self.inspect(spec)
            self._post(_told(self._slot, spec, seen))

    async def inspect(self, spec: Model) -> Inspection:
        """What is to be seen of this model now. Bounded in time: what hangs is a finding."""
        inspect, listener = self._out.inspector.inspect, self._listener(spec)
        if isinstance(spec.run, OwnUnit):
            # Its user and its flags are in the unit.
            facts = await self._facts(spec)
            seen = await inspect(spec, facts)
        else:
            facts, seen = await asyncio.gather(self._facts(spec), inspect(spec, None))
        return replace(seen, unit=facts, listener=listener)

    async def _facts(self, spec: Model) -> UnitFacts | None:
        """None without the bus: nothing is started then, and the rest can still be told."""
        with contextlib.suppress(SparkError):
            return await self._out.systemd.facts(spec.unit)
        return None

    def _listener(self, spec: Model) -> Listener | None:
        """Who listens where this model's engine is to answer. A process of the catalog's there is not looked for."""
        house = self._slot().house
        inodes = frozenset[int]() if house.at_home(spec) else self._out.remains.listeners(spec)
        if not inodes:
            return None
        holders = self._out.remains.holders(spec, inodes)
        ours = {spec.unit, *self._out.remains.scopes(spec)}
        strangers = [each for each in holders if each.unit not in ours]
        if not strangers:
            return None
        words = ", ".join(f"{each.who} in {each.unit}" if each.unit else each.who for each in strangers)
        contained = all((each.unit or "").startswith("docker-") for each in strangers)
        return Listener(spec.endpoint[1], words, isinstance(spec.run, Container) and contained)

    async def look(self, spec: Model) -> tuple[Inspection, Reading | None]:
        """An inspection, and a reading where one can be taken."""
        seen, reading = await asyncio.gather(self.inspect(spec), self._out.gauge.read(), return_exceptions=True)
        if isinstance(seen, BaseException):
            raise seen
        if isinstance(reading, BaseException):
            if not isinstance(reading, SparkError):
                raise reading
            return seen, None
        return seen, reading

    async def with_reading(
        self, spec: Model, read: Callable[[], Coroutine[Any, Any, Reading]]
    ) -> tuple[Inspection, Reading]:
        """An inspection and a reading, taken side by side; a look that took long gets a reading fresher than itself."""
        began = self._out.clock.now().mono
        seen, reading = await asyncio.gather(self.inspect(spec), read())
        if self._out.clock.now().mono - began > _LATE_SECONDS:
            reading = await read()
        return seen, reading


def _told(slot: Callable[[], Slot], spec: Model, seen: Inspection) -> Handler:
    def handle() -> Effects:
        # Of a file that was changed meanwhile, the next round tells.
        return slot().inspected(spec.id, seen) if slot().house.models.get(spec.id) == spec else []

    return handle
