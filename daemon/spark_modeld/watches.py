"""What has no signal and must be looked at again and again. Each look is posted to the writer, in its epoch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from spark_modeld import ports
from spark_modeld.appraisals import Appraisals
from spark_modeld.core import life_event as life_of
from spark_modeld.core.effects import Effects
from spark_modeld.core.errors import Code, Problem, SparkError
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Act
from spark_modeld.core.model import Model
from spark_modeld.core.reading import Reading
from spark_modeld.core.slot import Slot
from spark_modeld.core.unit import Phase
from spark_modeld.health import Health
from spark_modeld.leftovers import Leftovers

log = structlog.get_logger()

_FLOOR_PERIOD = 0.2
_IDLE_PERIOD = 10.0
_SHORT_PERIOD = 1.0
_DRIVER_PERIOD = 5.0
_NO_READING_PAUSE = 1.0
_HASTE = 0.1

Handler = Callable[[], Effects]
Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Watches:
    """The looks under way, by model and kind.

    ``slot`` gives the slot of the moment, ``post`` queues a handler for the writer, ``spawn`` makes a task whose bug
    ends the engine, ``blind`` is told why no reading can be taken, and None when one was.
    """

    def __init__(
        self,
        outside: ports.Outside,
        *,
        slot: Callable[[], Slot],
        post: Callable[[Handler], None],
        spawn: Spawn,
        blind: Callable[[str | None], None],
        appraisals: Appraisals,
    ) -> None:
        self.rungs: dict[str, str] = {}
        self._out = outside
        self._slot = slot
        self._post = post
        self._spawn = spawn
        self._blind = blind
        self._health = Health(outside, slot=slot, post=post)
        self._leftovers = Leftovers(outside)
        self._appraisals = appraisals
        self._running: dict[tuple[str, Act], tuple[int, asyncio.Task[None]]] = {}

    def begin(self, spec: Model, act: Act, epoch: int) -> None:
        """Begins a watch; one of the same kind for the same model ends."""
        if act is Act.WATCH_FLOOR and self._slot().house.lives[spec.id].phase is Phase.STARTING:
            self._leftovers.starting(spec)
        look = {
            Act.CLIMB: self._climb,
            Act.WATCH_ROOM: self._room,
            Act.WATCH_FLOOR: self._floor,
            Act.WATCH_GONE: self._gone,
            Act.WATCH_HEALTH: self._health.watch,
        }[act]
        if old := self._running.pop((spec.id, act), None):
            old[1].cancel()
        self._running[spec.id, act] = (epoch, self._spawn(look(spec, epoch), f"{act} {spec.id}"))

    def tidy(self) -> None:
        """Ends what belongs to an epoch that is over."""
        lives = self._slot().house.lives
        for key, (epoch, task) in tuple(self._running.items()):
            life = lives.get(key[0])
            if task.done() or life is None or life.epoch != epoch:
                task.cancel()
                del self._running[key]

    def read(self, token: int, model: str | None) -> None:
        """Takes the reading that the core asked for, and has the model it is about inspected."""
        self._spawn(self._read_for(token, self._slot().house.models.get(model or "")), "reading")

    def glance(self, observe: Callable[[Reading], Effects]) -> None:
        """One look at memory, because something has changed there."""

        async def look() -> None:
            self._post(_given(observe, await self._reading()))

        self._spawn(look(), "glance")

    async def sample(self, observe: Callable[[Reading], Effects]) -> None:
        """The slow look at memory while nothing happens: at once under pressure, closer while memory is short, and as
        often as the driver is asked while a model waits for it."""
        period = _IDLE_PERIOD
        while True:
            await self._pause(period)
            reading = await self._reading()
            self._post(_given(observe, reading))
            house = self._slot().house
            short = reading.available < house.catalog.settings.memory.reserve.of(reading.total)
            period = _SHORT_PERIOD if short else _DRIVER_PERIOD if house.driver.awaited else _IDLE_PERIOD

    async def _pause(self, seconds: float) -> None:
        ways = (self._out.clock.sleep(seconds), self._out.pressure.felt())
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _now(self) -> Instant:
        return self._out.clock.now()

    async def _reading(self, *, thorough: bool = False) -> Reading:
        """A reading, however long it takes: what waits for one must not start without it."""
        while True:
            try:
                reading = await self._out.gauge.read(thorough=thorough)
            except SparkError as error:
                self._blind(error.problem.detail)
            else:
                self._blind(None)
                return reading
            await self._out.clock.sleep(_NO_READING_PAUSE)

    async def _read_for(self, token: int, spec: Model | None) -> None:
        async def read() -> Reading:
            return await self._reading(thorough=True)

        if spec is None:
            reading = await read()
            self._post(lambda: self._slot().taken(token, reading, self._now()))
            return
        seen, reading = await self._appraisals.with_reading(spec, read)
        self._post(lambda: self._slot().taken(token, reading, self._now(), (spec.id, seen)))

    async def _climb(self, spec: Model, epoch: int) -> None:
        self.rungs.pop(spec.id, None)
        try:
            ended = await self._out.prober.climb(spec, lambda rung: self.rungs.update({spec.id: rung}))
            problem = ended.problem if isinstance(ended, ports.LadderRefused) else None
        except Exception as error:
            # One engine's odd answer must not end the daemon: it would find it again after every restart.
            log.exception(f"the readiness probe of {spec.id} failed", model=spec.id)
            problem = Problem(Code.MODEL_FAILED, f"Its readiness could not be probed: {error!r}.")
        self._post(lambda: self._slot().unit_event(spec.id, life_of.Ladder(epoch, problem), self._now()))

    async def _room(self, spec: Model, epoch: int) -> None:
        pause = 0.02
        while True:
            # Most starts go with the first looks; strangers matter where it comes to a refusal.
            reading = await self._reading(thorough=pause > _HASTE)
            self._post(_given(lambda r: self._slot().room(spec.id, epoch, r, self._now()), reading))
            await self._out.clock.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    async def _floor(self, spec: Model, epoch: int) -> None:
        while True:
            began = self._now().mono
            reading = await self._reading()
            self._post(_given(lambda r: self._slot().floor(spec.id, epoch, r, self._now()), reading))
            # From start to start: a driver that answers slowly must not make the readings fewer.
            await self._out.clock.sleep(max(0.0, began + _FLOOR_PERIOD - self._now().mono))

    async def _gone(self, spec: Model, epoch: int) -> None:
        """Nothing may be left of this unit, neither with systemd, nor the driver, nor on its port."""
        pause, told = 0.005, ""
        while True:
            with contextlib.suppress(SparkError):
                left = "; ".join(await self._leftovers.of(spec))
                if not left:
                    break
                if left != told and pause > _HASTE:
                    told = left
                    switch = self._slot().switch
                    story = {"switch_id": switch.id} if switch else {}
                    log.warning(f"{spec.id} is down, but not gone: {left}", model=spec.id, unit=spec.unit, **story)
                    self._post(partial(self._left, spec.id, epoch, left))
            await self._out.clock.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        self._post(lambda: self._slot().unit_event(spec.id, life_of.Gone(epoch), self._now()))

    def _left(self, model: str, epoch: int, left: str) -> Effects:
        return self._slot().unit_event(model, life_of.Left(epoch, left), self._now())


def _given(handle: Callable[[Reading], Effects], reading: Reading) -> Handler:
    return lambda: handle(reading)
