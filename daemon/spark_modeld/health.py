"""The looks at an engine that serves. What they come to is decided in ``core.pulse``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from spark_modeld import ports
from spark_modeld.core import life_event as life_of
from spark_modeld.core.effects import Effects
from spark_modeld.core.errors import SparkError
from spark_modeld.core.model import Model
from spark_modeld.core.pulse import Proven, Pulse
from spark_modeld.core.slot import Slot

log = structlog.get_logger()

_WORK_SECONDS = 1.0
_WORK_SHARE = 0.05


class Health:
    """Watches engines that serve. ``slot`` gives the slot of the moment, ``post`` queues a handler for the writer."""

    def __init__(
        self, outside: ports.Outside, *, slot: Callable[[], Slot], post: Callable[[Callable[[], Effects]], None]
    ) -> None:
        self._out = outside
        self._slot = slot
        self._post = post

    async def watch(self, spec: Model, epoch: int) -> None:
        """Looks until the engine stalls, then tells the core once. Cancelling it leaves nothing behind."""
        patience = self._slot().house.catalog.settings.health.stall_timeout
        pulse = Pulse(spec, self._mono(), patience=patience, may_ask=spec.warm_up)
        asked: asyncio.Task[Proven] | None = None
        try:
            while (seconds := await self._stalled(spec, pulse)) is None:
                await self._out.clock.sleep(pulse.pause)
                await self._look(spec, pulse)
                if asked is not None and asked.done():
                    pulse.proved(asked.result(), self._mono())
                    asked = None
                if asked is None and pulse.due(self._mono()):
                    asked = asyncio.create_task(self._out.vitals.ask(spec, patience / 2), name=f"ask {spec.id}")
        except Exception:
            # One engine's odd answer must neither end the daemon nor the model.
            log.exception(f"the health of {spec.id} is not watched any more", model=spec.id)
            return
        finally:
            if asked is not None:
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
        problem = pulse.problem(self._mono())
        log.warning(f"{spec.id}: {problem.detail}", model=spec.id, unit=spec.unit)
        stalled = life_of.Stalled(epoch, problem, seconds)
        self._post(lambda: self._slot().unit_event(spec.id, stalled, self._out.clock.now()))

    async def _stalled(self, spec: Model, pulse: Pulse) -> float | None:
        seconds = pulse.stalled(self._mono())
        if seconds is not None and pulse.excusable(self._mono()) and await self._works(spec):
            pulse.works(self._mono())
            return None
        return seconds

    async def _works(self, spec: Model) -> bool:
        """Whether the processes of its unit use a processor now: who generates does, whatever the GPU does."""
        units = (spec.unit, *self._out.remains.scopes(spec))
        try:
            pids = frozenset().union(*[await self._out.systemd.processes(unit) for unit in units])
        except SparkError:
            return False
        before = self._out.vitals.cpu_seconds(pids)
        await self._out.clock.sleep(_WORK_SECONDS)
        return self._out.vitals.cpu_seconds(pids) - before >= _WORK_SECONDS * _WORK_SHARE

    async def _look(self, spec: Model, pulse: Pulse) -> None:
        look = await self._out.vitals.look(spec, pulse.look_seconds, others=pulse.wonders(self._mono()))
        house = self._slot().house
        pulse.looked(
            look,
            self._mono(),
            flowed_at=house.flowed_at.get(spec.id),
            in_flight=house.leases.get(spec.id, 0),
            # A token now and then would keep what another client had loaded from ever reaching its end.
            may_ask=not (spec.tenant and spec.id in self._slot().intruders()),
        )

    def _mono(self) -> float:
        return self._out.clock.now().mono
