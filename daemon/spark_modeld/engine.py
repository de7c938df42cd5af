"""The single writer: one task takes events in order, asks the core, runs the effects, publishes a snapshot.

Everything that changes state goes through one queue: API calls, what systemd reports, timers, probes,
readings, leases. Effects never raise into the core; what fails comes back as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from spark_modeld import ports
from spark_modeld.appraisals import Appraisals
from spark_modeld.chronicle import Chronicle
from spark_modeld.core import effects as fx
from spark_modeld.core import lifecycle as life_of
from spark_modeld.core.errors import Code, Problem, SparkError, refuse
from spark_modeld.core.lifecycle import Act
from spark_modeld.core.model import Catalog, Instant, LogLine, Model, OwnUnit, Reading, Requester, Switch
from spark_modeld.core.record import HISTORY, Record
from spark_modeld.core.report import Report
from spark_modeld.core.slot import Slot
from spark_modeld.face import Event, Lease, Snapshot, Warning
from spark_modeld.leases import Leases
from spark_modeld.postmortem import Postmortem
from spark_modeld.promises import Asks, Promises
from spark_modeld.publish import Publisher, snapshot_of
from spark_modeld.saver import Saver
from spark_modeld.strays import Strays
from spark_modeld.tenancy.gauge import TenantGauge
from spark_modeld.tenancy.tenants import Tenants
from spark_modeld.units import Units
from spark_modeld.watches import Watches

log = structlog.get_logger()

_ENDING = Problem(Code.SHUTTING_DOWN, "The daemon is shutting down; ask again when it is back.", {"retry_after": 1})
_BROKEN = Problem(Code.INTERNAL, "The daemon ends because of a bug, its journal says which; ask again when it is back.")

T = TypeVar("T")
Handler = Callable[[], fx.Effects]


class Engine:
    """The daemon's state and the only thing that changes it. Implements ``face.Face`` and ``face.Leases``."""

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
        self._postmortem = Postmortem(outside.journal, slot=lambda: self._slot, post=self._post, spawn=self._spawn)
        self._timers: dict[str, Callable[[], None]] = {}
        self._wake: Callable[[], None] | None = None
        self._asks = Asks()
        self._told_when_done: list[Callable[[], object]] = []
        self._warnings: dict[str, Warning] = {}
        self._config_problem: Problem | None = None
        self._publisher = Publisher(outside.clock.now())
        self._chronicle = Chronicle(self._publisher.ended)
        self._record = Record()
        self._slot = Slot(Catalog(), self._record, outside.clock.now(), new_id=new_id)
        self._units = Units(self._slot, outside.systemd)
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
        return replace(outside, systemd=tenants, gauge=TenantGauge(outside.gauge, tenants))

    # Life of the engine itself.

    async def boot(self) -> None:
        """Loads configuration and record, reads systemd, adopts what runs. Starts no model before ``open``."""
        async with self._configuring:
            await self._boot()

    async def _boot(self) -> None:
        self._record, warning = self._out.store.load()
        self._chronicle.history = self._record.history
        if warning:
            self._warn("state-damaged", warning)
        try:
            catalog = self._out.source.load()
        except SparkError as error:
            # A broken configuration keeps nobody from asking what is wrong; no model is touched until it is mended.
            self._config_problem = error.problem
            catalog = Catalog()
        self._build(catalog)
        self._writer = self._spawn(self._serve(), "engine")
        with contextlib.suppress(SparkError):
            self._slot.house.look(await self._out.gauge.read(), self._now())
        if self._config_problem is None:
            await self._connect()
        await self.ping()
        self._spawn(self._watches.sample(self._observe), "sample")
        self._spawn(Strays(self._out, slot=lambda: self._slot, tell=self._say_stray).watch(), "strays")

    def open(self) -> None:
        """From here on models are started: the one that belongs in the slot first."""
        self._opened = True
        self._post(lambda: self._slot.open(self._now()))
        self._appraisals.all()

    async def ping(self) -> None:
        """Returns when the engine has handled everything that came before. SparkError when it handles nothing more."""
        await self._ask(lambda: (None, []))

    async def broken(self) -> None:
        """Returns when a bug has ended the engine: nothing is decided any more, the process has to end."""
        await self._broken.wait()

    def refrain(self) -> None:
        """Starts nothing any more, from the next turn on."""
        self._post(lambda: self._slot.shut_down(self._now()))

    async def shut_down(self) -> None:
        """Starts nothing any more, puts the record on disk, lets go of everything. No model is touched."""
        self.refrain()
        self._post(lambda: [fx.Save()])
        # A broken engine saves nothing: what it would write may be the very thing that broke it.
        with contextlib.suppress(SparkError):
            await self.ping()
        self._publisher.events.close()
        for cancel in self._timers.values():
            cancel()
        if self._wake:
            self._wake()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._saver.close()
        await self._out.inspector.close()
        self._promises.end(_ENDING)
        await self._out.systemd.close()

    def listen(self, listener: Callable[[Snapshot], None]) -> None:
        """Calls back with every new snapshot."""
        self._publisher.listeners.append(listener)

    def listen_ended(self, listener: Callable[[Switch], None]) -> None:
        """Calls back with every switch that has ended."""
        self._publisher.ended_listeners.append(listener)

    def _build(self, catalog: Catalog) -> None:
        self._slot = Slot(catalog, self._record, self._now(), new_id=self._new_id)
        self._slot.planner.held = bool(self._boot_id) and self._record.held_boot == self._boot_id
        if self._record.boot and self._record.boot != self._boot_id:
            self._slot.machine_went_down(self._now())
        self._units = Units(self._slot, self._out.systemd)

    async def _connect(self) -> None:
        await self._out.systemd.connect(self._on_bus, self._units.names())

    def _now(self) -> Instant:
        return self._out.clock.now()

    # The writer.

    def _post(self, handler: Handler) -> None:
        self._queue.put_nowait(handler)

    async def _serve(self) -> None:
        while True:
            handler = await self._queue.get()
            before = self._slot.switch
            effects = handler()
            # First: while the disk is waited for, a switch that ended is in the history, as it will be in the record.
            for effect in sorted(effects, key=lambda effect: not isinstance(effect, fx.Ended)):
                await self._run(effect)
            self._tidy()
            self._tell(before)
            self._publish()
            # What an answer speaks of is on disk, and in the snapshot, when the caller has it.
            answers, self._told_when_done = self._told_when_done, []
            for answer in answers:
                answer()
            self._chronicle.tell()

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
                self._publisher.guarded(notice)

    def _publish(self) -> None:
        warnings = tuple(self._warnings.values())
        self._publisher.publish(snapshot_of(self._slot, warnings=warnings, config_problem=self._config_problem))

    def _tidy(self) -> None:
        """Ends what is over, reads the log of what fell, and watches the units the catalog names now."""
        self._watches.tidy()
        self._postmortem.follow()
        self._units.follow()

    def _tell(self, before: Switch | None) -> None:
        """The log's line for each phase of a switch."""
        after = self._slot.switch
        if after is None or (before and before.id == after.id and before.phase is after.phase):
            return
        log.info(
            f"switch to {after.model or 'nothing'}: {after.phase}",
            model=after.model or "",
            switch_id=after.id,
            requested_by=str(after.requested_by),
        )

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

    # Effects.

    def _do(self, model: str, act: Act, epoch: int) -> None:
        spec = self._slot.house.models[model]
        match act:
            case Act.START:
                self._mark(spec)
                log.info(f"starting {spec.unit}", model=model, unit=spec.unit)
                self._units.start(spec, epoch)
            case Act.STOP:
                self._take_back(model)
                log.info(f"stopping {spec.unit}", model=model, unit=spec.unit)
                self._units.stop(spec, epoch)
            case Act.KILL:
                log.warning(f"killing {spec.unit}", model=model, unit=spec.unit)
                self._units.kill(spec, epoch)
            case Act.LOOK:
                self._out.systemd.look(spec.seat)
            case _:
                self._watches.begin(spec, act, epoch)

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
        if cancel := self._timers.pop(model, None):
            cancel()

        def expired() -> None:
            self._post(lambda: self._slot.unit_event(model, life_of.Expired(epoch), self._now()))

        self._timers[model] = self._out.clock.call_at(at, expired)

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

    # Reports from systemd.

    def _on_bus(self, report: ports.BusReport) -> None:
        self._post(lambda: self._units.report(report, self._now()))

    # The face.

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot, its leases as they are counted now."""
        if self._leases.changed:
            self._publisher.snapshot = self._leases.recount(self._publisher.snapshot)
        return self._publisher.snapshot

    async def switch(
        self, name: str | None, *, requested_by: Requester, actor: str | None, force: bool = False
    ) -> Switch:
        """See ``Face``."""

        def request() -> tuple[Switch, fx.Effects]:
            self._check_configured()
            return self._slot.request(name, self._now(), requested_by=requested_by, actor=actor, force=force)

        return await self._ask(request)

    async def cancel(self, switch_id: str) -> Switch:
        """See ``Face``."""

        def cancel() -> tuple[Switch, fx.Effects]:
            current = self._slot.switch
            if current is None or current.id != switch_id:
                return self.find_switch(switch_id), []
            effects = self._slot.cancel(self._now())
            ended = next((e.switch for e in effects if isinstance(e, fx.Ended)), None)
            return ended or self._slot.switch or current, effects

        return await self._ask(cancel)

    async def start_beside(self, name: str, *, requested_by: Requester, actor: str | None, foreign: bool) -> None:
        """Asks for a start that may stop nothing; returns when it is admitted."""
        verdict = self._promises.make()

        def request() -> fx.Effects:
            self._check_configured()
            ask = self._asks.number(verdict)
            try:
                return self._slot.start_beside(
                    name, ask, self._now(), requested_by=requested_by, actor=actor, foreign=foreign
                )
            except SparkError:
                self._asks.forget(ask)
                raise

        self._in_turn(verdict, request)
        await verdict

    async def start(self, name: str, *, actor: str | None) -> None:
        """See ``Face``."""
        await self.start_beside(name, requested_by=Requester.CONTROL, actor=actor, foreign=False)

    async def gate(self, model_id: str) -> None:
        """See ``Face``."""
        await self.start_beside(model_id, requested_by=Requester.SYSTEMD, actor=None, foreign=True)

    async def stop(self, name: str, *, actor: str | None) -> None:
        """See ``Face``."""
        log.info(f"stop of {name} requested", model=name, actor=actor or "")

        def request() -> tuple[None, fx.Effects]:
            self._check_configured()
            return None, self._slot.stop_side(name, self._now())

        await self._ask(request)

    async def wait(self, switch_id: str, timeout: float | None) -> Switch:
        """See ``Face``."""
        waiter: asyncio.Future[Switch] = self._promises.make()

        def join() -> fx.Effects:
            self._chronicle.join(self.find_switch(switch_id), waiter)
            return []

        self._in_turn(waiter, join)
        try:
            return await asyncio.wait_for(waiter, timeout)
        except TimeoutError:
            return self.find_switch(switch_id)
        finally:
            self._chronicle.leave(switch_id, waiter)

    def find_switch(self, switch_id: str) -> Switch:
        """See ``Face``."""
        found = next((s for s in self.switches() if s.id == switch_id), None)
        if found is None:
            raise refuse(Code.NOT_FOUND, f"There is no switch {switch_id!r} among the last {HISTORY}.")
        return found

    def switches(self) -> tuple[Switch, ...]:
        """See ``Face``."""
        ended = tuple(reversed(self._chronicle.history))
        return (self._slot.switch, *ended) if self._slot.switch else ended

    async def check(self, model_id: str) -> Report:
        """See ``Face``."""
        self._check_configured()
        spec = self._slot.house.models.get(model_id)
        if spec is None:
            raise refuse(Code.UNKNOWN_MODEL, f"There is no model {model_id!r} in the catalog.", model=model_id)
        seen, reading = await self._appraisals.look(spec)
        return await self._ask(lambda: (self._slot.report(spec.id, seen, reading), []))

    async def measure(self) -> Reading:
        """See ``Face``."""
        reading = await self._out.gauge.read(thorough=True)
        self._post(lambda: self._observe(reading))
        return reading

    async def log(self, model_id: str, lines: int) -> tuple[LogLine, ...]:
        """See ``Face``."""
        return await self._out.journal.read(self._unit_of(model_id), lines)

    def follow_log(self, model_id: str, lines: int) -> AsyncIterator[LogLine]:
        """See ``Face``."""
        return self._out.journal.follow(self._unit_of(model_id), lines)

    def _unit_of(self, model_id: str) -> str:
        state = self.snapshot.models.get(model_id)
        if state is None:
            raise refuse(Code.UNKNOWN_MODEL, f"There is no model {model_id!r}.")
        return state.model.unit

    async def reload(self) -> None:
        """See ``Face``."""
        async with self._configuring:
            try:
                catalog = await asyncio.to_thread(self._out.source.load)
            except SparkError as error:
                raise SparkError(replace(error.problem, http_status=422)) from error
            if await self._ask(lambda: self._take(catalog)):
                await self._connect()
                if self._opened:
                    self.open()
            await self.ping()
        self._appraisals.all()
        log.info(f"configuration read: {len(catalog.models)} models")

    def _take(self, catalog: Catalog) -> tuple[bool, fx.Effects]:
        """A good configuration; True when it is the first one and systemd has to be read."""
        if self._config_problem is None:
            return False, self._slot.configure(catalog, self._now())
        self._config_problem = None
        self._build(catalog)
        return True, []

    def events(self, last_id: int | None) -> AsyncIterator[Event]:
        """See ``Face``."""
        return self._publisher.events.follow(last_id)

    def find(self, name: str | None) -> Model:
        """See ``Leases``."""
        return self._leases.find(name)

    def lease(self, name: str | None) -> Lease | None:
        """See ``Leases``."""
        return self._leases.lease(name)

    async def demand(self, name: str | None, *, actor: str | None, may_switch: bool = True) -> Lease:
        """See ``Leases``."""
        return await self._leases.demand(name, actor=actor, may_switch=may_switch)

    def release(self, lease: Lease) -> None:
        """See ``Leases``."""
        self._leases.release(lease)

    def flows(self, lease: Lease) -> None:
        """See ``Leases``."""
        self._leases.flows(lease)

    def _check_configured(self) -> None:
        if self._config_problem is not None:
            raise SparkError(self._config_problem)

    async def _ask(self, request: Callable[[], tuple[T, fx.Effects]]) -> T:
        """Runs a request in its turn; what it refuses is raised here."""
        answer: asyncio.Future[T] = self._promises.make()

        def handle() -> fx.Effects:
            result, effects = request()
            self._told_when_done.append(lambda: None if answer.done() else answer.set_result(result))
            return effects

        self._in_turn(answer, handle)
        return await answer

    def _in_turn(self, promise: asyncio.Future[Any], request: Handler) -> None:
        """Posts a request. A caller that is gone when its turn comes asks nothing; a refusal is its answer."""

        def handle() -> fx.Effects:
            if promise.done():
                return []
            try:
                return request()
            except SparkError as error:
                promise.set_exception(error)
                return []

        self._post(handle)
