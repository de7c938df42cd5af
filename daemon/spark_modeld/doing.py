"""What the engine holds, and how it does what the core asks for.

Effects never raise into the core; what fails comes back as an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.appraisals import Appraisals
from spark_modeld.chronicle import Chronicle
from spark_modeld.core import effects as fx
from spark_modeld.core import life_event as life_of
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, Problem, SparkError
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Act
from spark_modeld.core.model import Model, OwnUnit
from spark_modeld.core.reading import Reading
from spark_modeld.core.record import Record
from spark_modeld.core.slot import Slot
from spark_modeld.core.switch import Switch
from spark_modeld.deadline import Deadline
from spark_modeld.face import Warning
from spark_modeld.leases import Leases
from spark_modeld.loading import Loading
from spark_modeld.postmortem import Postmortem
from spark_modeld.promises import Asks, Promises
from spark_modeld.publish import Publisher
from spark_modeld.saver import Saver
from spark_modeld.tenancy.gauge import TenantGauge
from spark_modeld.tenancy.tenants import Tenants
from spark_modeld.units import Units
from spark_modeld.watches import Watches

log = structlog.get_logger()

_BROKEN = Problem(Code.INTERNAL, "The daemon ends because of a bug, its journal says which; ask again when it is back.")

Handler = Callable[[], fx.Effects]


class Doing:
    """The engine's parts, its queue, and the effects of each turn."""

    def __init__(self, outside: ports.Outside, *, boot_id: str, new_id: Callable[[], str]) -> None:
        self._out = outside = self._with_tenants(outside)
        self._boot_id = boot_id
        self._new_id = new_id
        self._queue: asyncio.Queue[Handler] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        self._configuring = asyncio.Lock()
        self._opened = False
        self._promises = Promises()
        self._saver = Saver(outside.store, lambda: self._post(lambda: [fx.Save()]))
        self._tasks: set[asyncio.Task[None]] = set()
        self._appraisals = Appraisals(outside, slot=lambda: self._slot, post=self._post, spawn=self._spawn)
        self._watches = Watches(
            outside,
            slot=lambda: self._slot,
            post=self._post,
            spawn=self._spawn,
            blind=self._say_blind,
            appraisals=self._appraisals,
        )
        self._postmortem = Postmortem(outside, slot=lambda: self._slot, post=self._post, spawn=self._spawn)
        self._loading = Loading(outside, slot=lambda: self._slot, post=self._post, spawn=self._spawn)
        self._timers: dict[str, Deadline] = {}
        self._wake: Callable[[], None] | None = None
        self._asks = Asks()
        self._told_when_done: list[Callable[[], object]] = []
        self._warnings: dict[str, Warning] = {}
        self._config_problem: Problem | None = None
        self._publisher = Publisher(outside.clock.now())
        self._chronicle = Chronicle(self._publisher.ended)
        self._record = Record()
        self._slot = Slot(Catalog(), self._record, outside.clock.now(), new_id=new_id)
        self._units = Units(self._slot, outside.systemd, escaped=outside.remains.escaped)
        self._leases = Leases(
            self._promises,
            self._asks,
            slot=lambda: self._slot,
            now=outside.clock.now,
            post=self._post,
            check=self._check_configured,
        )

    def _with_tenants(self, outside: ports.Outside) -> ports.Outside:
        """The same outside, where models on one server are units of their own."""
        tenants = Tenants(
            outside,
            slot=lambda: self._slot,
            spawn=self._spawn,
            changed=lambda: self._watches.glance(self._observe),
        )
        return replace(outside, systemd=tenants, gauge=TenantGauge(outside.gauge, tenants.rounds))

    def _now(self) -> Instant:
        return self._out.clock.now()

    def _post(self, handler: Handler) -> None:
        self._queue.put_nowait(handler)

    def _check_configured(self) -> None:
        if self._config_problem is not None:
            raise SparkError(self._config_problem)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Half an engine is worse than none: a bug in any task ends it, and systemd starts the daemon anew."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or self._broken.is_set():
            return
        log.critical(f"a bug has ended the engine's task {task.get_name()!r}: {error!r}", exc_info=error)
        if self._writer:
            self._writer.cancel()
        self._promises.end(_BROKEN)
        self._broken.set()

    async def _run(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Do(model, act, epoch):
                self._do(model, act, epoch)
            case fx.Arm(model, epoch, at):
                self._arm(model, epoch, at)
            case fx.Read(token, model):
                self._watches.read(token, model)
            case fx.Wake(at):
                if self._wake:
                    self._wake()
                self._wake = self._out.clock.call_at(at, lambda: self._post(lambda: self._slot.wake(self._now())))
            case fx.Save():
                await self._save()
            case fx.Ended(switch):
                self._ended(switch)
            case fx.Verdict(ask, problem):
                if problem is None:
                    self._asks.keep(ask, None)
                else:
                    self._asks.refuse(ask, problem)
            case fx.Granted(ask, model):
                self._leases.granted(ask, model)
            case fx.Guarded(notice):
                log.warning(f"memory: {notice.message}", alarm=str(notice.alarm), model=notice.model or "")
                # Whoever hears of it finds the warning in the snapshot.
                self._told_when_done.append(lambda: self._publisher.guarded(notice))

    def _do(self, model: str, act: Act, epoch: int) -> None:
        spec = self._slot.house.models[model]
        match act:
            case Act.START:
                self._mark(spec)
                log.info(f"starting {spec.unit}", **self._story(spec))
                self._units.start(spec, epoch)
            case Act.STOP:
                self._take_back(model)
                log.info(f"stopping {spec.unit}", **self._story(spec))
                self._units.stop(spec, epoch)
            case Act.KILL:
                log.warning(f"killing {spec.unit}", **self._story(spec))
                self._units.kill(spec, epoch)
            case Act.LOOK:
                self._out.systemd.look(spec.seat)
            case _:
                self._watches.begin(spec, act, epoch)

    def _story(self, spec: Model) -> dict[str, str]:
        """The log's fields of what is done to a model: also which switch it is done for."""
        switch = self._slot.switch
        return {"model": spec.id, "unit": spec.unit, **({"switch_id": switch.id} if switch else {})}

    def _mark(self, spec: Model) -> None:
        if isinstance(spec.run, OwnUnit):
            return
        try:
            self._out.marks.put(spec.id)
        except OSError as error:
            log.warning(f"no admission mark for {spec.id}, its gate will ask: {error}", model=spec.id)

    def _take_back(self, model: str) -> None:
        try:
            self._out.marks.take_back(model)
        except OSError as error:
            log.warning(f"the admission mark of {model} stays until it expires: {error}", model=model)

    def _arm(self, model: str, epoch: int, at: float) -> None:
        if before := self._timers.pop(model, None):
            before.cancel()

        def expired() -> None:
            self._post(lambda: self._slot.unit_event(model, life_of.Expired(epoch), self._now()))

        self._timers[model] = Deadline(self._out.clock, at, expired)

    def _disarm(self) -> None:
        """A deadline that nothing is under way for is not looked at again and again."""
        lives = self._slot.house.lives
        for model in [m for m in self._timers if m not in lives or lives[m].deadline is None]:
            self._timers.pop(model).cancel()

    async def _save(self) -> None:
        self._record = self._slot.record(self._chronicle.history, self._boot_id, self._record)
        failure = await self._saver.save(self._record)
        if failure is None:
            self._warnings.pop("state-not-saved", None)
        else:
            self._warn("state-not-saved", f"The state cannot be saved ({failure}).")

    def _warn(self, code: str, message: str) -> None:
        if self._warnings.get(code) is None:
            log.warning(message, code=code)
        self._warnings[code] = Warning(code=code, message=message)

    def _ended(self, switch: Switch) -> None:
        if self._chronicle.add(switch):
            self._spawn(self._add_last_words(switch), f"log of {switch.id}")

    async def _add_last_words(self, switch: Switch) -> None:
        rung = self._watches.rungs.get(switch.model or "")
        told = await self._postmortem.told(switch, rung)

        def amend() -> fx.Effects:
            self._chronicle.amend(told)
            self._slot.reworded(switch.error, told.error)
            return [fx.Save()]

        self._post(amend)

    def _observe(self, reading: Reading) -> fx.Effects:
        effects = self._slot.observed(reading, self._now())
        return [*effects, fx.Save()] if "state-not-saved" in self._warnings else effects

    def _say_stray(self, what: str | None) -> None:
        """A model's container that runs without its unit, as a warning."""

        def say() -> fx.Effects:
            self._warnings.pop("stray-container", None)
            if what is not None:
                self._warn("stray-container", what)
            return []

        self._post(say)

    def _say_blind(self, why: str | None) -> None:
        """Whether memory can be read at all, as a warning."""
        if why is None:
            self._warnings.pop("no-reading", None)
            return

        def warn() -> fx.Effects:
            self._warn("no-reading", why)
            return []

        self._post(warn)
