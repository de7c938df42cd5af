"""Containers of models that run though their units do not: `docker start` passes every gate."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from spark_modeld import ports
from spark_modeld.core.errors import SparkError
from spark_modeld.core.model import Container, Docker, Model
from spark_modeld.core.slot import Slot
from spark_modeld.leftovers import in_containers

log = structlog.get_logger()

_PERIOD = 10.0


class Strays:
    """Looks now and then. ``tell`` gets what is found, in words, or None; each time that it changes."""

    def __init__(self, outside: ports.Outside, *, slot: Callable[[], Slot], tell: Callable[[str | None], None]) -> None:
        self._out = outside
        self._slot = slot
        self._tell = tell

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        told: str | None = None
        while True:
            await self._out.clock.sleep(_PERIOD)
            try:
                found = "; ".join([words for spec in self._idle() if (words := await self._look(spec))]) or None
            except SparkError:
                continue  # the bus is lost: nobody can say
            if found != told:
                told = found
                self._tell(found)

    def _idle(self) -> list[Model]:
        house = self._slot().house
        return [spec for spec in house.models.values() if self._at_rest(spec)]

    def _at_rest(self, spec: Model) -> bool:
        life = self._slot().house.lives.get(spec.id)
        return isinstance(spec.run, Docker | Container) and life is not None and life.idle

    async def _look(self, spec: Model) -> str | None:
        pids = frozenset[int]().union(*(await in_containers(self._out, spec)).values())
        if not pids or not self._at_rest(spec):  # it may have been started meanwhile
            return None
        name = spec.run.name if isinstance(spec.run, Container) else f"spark-model-{spec.id}"
        return (
            f"the container {name} of {spec.id} runs ({self._out.remains.named(pids)}), but its unit does not: "
            f"`spark-modelctl switch {spec.id}` takes it over, `docker stop {name}` ends it"
        )
