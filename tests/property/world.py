"""A world for the core: systemd, memory, clients and time, all moved by whoever plays with it.

The real ``Slot`` and the real ``Units`` run in it. ``World`` checks the invariants at the moment they could break;
a violation is an AssertionError out of whichever move caused it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from msgspec.structs import replace

from property.clients import Clients
from spark_modeld import ports
from spark_modeld.core import effects as fx
from spark_modeld.core import life_event as life_of
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, Problem, SparkError
from spark_modeld.core.guard import Alarm
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Act
from spark_modeld.core.model import Amount, EngineKind, Launch, Model, OwnUnit, Role
from spark_modeld.core.reading import GpuProcess, MemorySource, Reading
from spark_modeld.core.record import Record
from spark_modeld.core.settings import MemorySettings, Settings, SlotSettings
from spark_modeld.core.slot import Slot
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.transaction import Stage
from spark_modeld.core.unit import ActiveState, Phase, UnitStatus
from spark_modeld.units import Units

GIB = 1 << 30
TOTAL = 128 * GIB
LARGE = 24 * GIB
BOOT = "boot"


def _model(name: str, gib: int, port: int, *, role: Role = Role.SLOT, own: bool = False) -> Model:
    return Model(
        id=name,
        engine=EngineKind.OPENAI,
        url=f"http://127.0.0.1:{port}",
        run=OwnUnit(f"{name}.service") if own else Launch(("engine",)),
        served_model_name=name,
        role=role,
        memory=Amount(bytes=gib * GIB),
    )


MODELS = {
    m.id: m
    for m in (
        _model("alpha", 60, 30000),
        _model("beta", 70, 30001),
        _model("gamma", 10, 30002),
        _model("delta", 10, 30002, own=True),
        _model("side", 4, 30010, role=Role.SIDE),
        _model("bigside", 40, 30011, role=Role.SIDE),
    )
}
CATALOG = Catalog(
    Settings(slot=SlotSettings(default="alpha"), memory=MemorySettings(reclaim_timeout=20.0)),
    MODELS,
)


@dataclass
class Unit:
    """One unit as systemd has it. ``held`` is what its processes hold, in bytes."""

    active: ActiveState = ActiveState.INACTIVE
    sub: str = "dead"
    result: str = "success"
    job: tuple[str, str] | None = None
    processes: bool = False
    held: int = 0
    obeys: bool = True

    def status(self) -> UnitStatus:
        return UnitStatus(active=self.active, sub=self.sub, result=self.result, job=self.job[0] if self.job else None)


@dataclass
class FakeSystemd:
    """ports.Systemd as far as ``Units`` uses it: calls go into the world, answers come through its FIFO."""

    world: World

    def start(self, unit: str, token: int, *, reset: bool) -> None:
        self.world.called("start", unit, token)

    def stop(self, unit: str, token: int) -> None:
        self.world.called("stop", unit, token)

    def kill(self, unit: str, token: int) -> None:
        self.world.killed(unit, token)

    def look(self, unit: str) -> None:
        self.world.tell(unit)

    def watch(self, units: frozenset[str]) -> None:
        pass


@dataclass
class World:
    """Everything the core cannot see but through events."""

    time: float = 1000.0
    units: dict[str, Unit] = field(default_factory=lambda: {m.unit: Unit() for m in MODELS.values()})
    bus: deque[ports.BusReport] = field(default_factory=deque)
    bus_up: bool = True
    outsider: int = 5 * GIB
    record: Record = field(default_factory=Record)
    history: list[Switch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jobs = 0
        self.ids = 0
        self.asks = 0
        self.begun: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.verdicts: dict[int, Problem | None] = {}
        self.pending_asks: set[int] = set()
        self.reads: list[int] = []
        self.watches: dict[tuple[str, Act], int] = {}
        self.timers: dict[str, tuple[int, float]] = {}
        self.wake_at: float | None = None
        self.room_seen: dict[str, Reading] = {}
        self.driver = True
        self.gpu = True
        self.fruitless: Counter[str] = Counter()
        self.wish: str | None = None
        self.overdue: str | None = None
        self.cut: set[str | None] = set()
        self.calm = False
        self.clients = Clients()
        self._boot()

    # The daemon's life.

    def _boot(self) -> None:
        self.slot = Slot(CATALOG, self.record, self.now(), new_id=self._new_id)
        self.slot.planner.held = self.record.held_boot == BOOT
        self.systemd = FakeSystemd(self)
        self.link = Units(self.slot, self.systemd, escaped=self._escaped)  # type: ignore[arg-type]
        self.reads.clear()
        self.watches.clear()
        self.timers.clear()
        self.wake_at = None
        self.phases = {m: life.phase for m, life in self.slot.house.lives.items()}
        self.bus.clear()
        self.pending_asks.clear()
        self.fruitless.clear()
        self.clients.restart(self.slot, self.record.switch)
        if self.bus_up:
            self.bus.append(self._connected())
            self.deliver()
        self.run(self.slot.open(self.now()))

    def kill_daemon(self) -> None:
        self._boot()

    def _new_id(self) -> str:
        self.ids += 1
        self.begun.add(f"sw-{self.ids}")
        return f"sw-{self.ids}"

    def now(self) -> Instant:
        return Instant(self.time, self.time)

    # Effects, and what must be true when they are asked for.

    def run(self, effects: fx.Effects) -> None:
        guarded = (e.notice for e in effects if isinstance(e, fx.Guarded))
        self.cut = {notice.model for notice in guarded if notice.alarm is Alarm.STOPPING}
        for effect in effects:
            match effect:
                case fx.Do(model, act, epoch):
                    self._do(model, act, epoch)
                case fx.Arm(model, epoch, at):
                    self.timers[model] = (epoch, at)
                case fx.Read(token):
                    self.reads.append(token)
                case fx.Wake(at):
                    self.wake_at = at
                case fx.Save():
                    self.record = self.slot.record(tuple(self.history[-5:]), BOOT, self.record)
                case fx.Ended(switch):
                    self._switch_ended(switch)
                case fx.Guarded(notice):
                    wanted = self.slot.planner.wanted()
                    going = notice.model is not None and self.phases[notice.model] is Phase.DRAINING
                    assert notice.alarm is not Alarm.STOPPING or going or notice.model != wanted, (
                        "the guard stops what is desired"
                    )
                case fx.Verdict(ask, problem):
                    if ask in self.clients.waiting:
                        self.clients.told(ask, problem)
                        continue
                    assert ask in self.pending_asks, "an admission was answered twice, or nobody asked"
                    self.pending_asks.discard(ask)
                    self.verdicts[ask] = problem
                case fx.Granted(ask, model):
                    self.clients.granted(ask, model)
        lives = self.slot.house.lives
        self.phases = {m: life.phase for m, life in lives.items()}
        for model in (m for m, phase in self.phases.items() if phase is Phase.SERVING):
            del self.fruitless[model]
        assert self.record.desired == self.wish, f"desired is {self.record.desired} on disk, wanted was {self.wish}"
        self.watches = {k: e for k, e in self.watches.items() if lives[k[0]].epoch == e}
        self.check_alive()
        self.clients.look(self.slot, self.now())

    def _do(self, model: str, act: Act, epoch: int) -> None:
        spec = MODELS[model]
        if act is Act.START:
            self._check_start(model)
            self._check_tried(model)
            self.link.start(spec, epoch)
        elif act is Act.STOP:
            self._check_on_record(model)
            used = self.slot.house.leases.get(model) and self.phases[model] in {Phase.SERVING, Phase.DRAINING}
            excused = self.overdue == model or model in self.cut
            assert not used or excused, f"{model} is stopped under a lease before the drain deadline"
            self.link.stop(spec, epoch)
        elif act is Act.KILL:
            self.link.kill(spec, epoch)
        elif act is Act.LOOK:
            self.systemd.look(spec.unit)
        else:
            self.watches[model, act] = epoch

    def _check_start(self, model: str) -> None:
        if MODELS[model].role is Role.SLOT:
            for other, life in self.slot.house.lives.items():
                if other != model and MODELS[other].role is Role.SLOT:
                    unconfirmed = {Phase.DRAINING, Phase.STOPPING, Phase.STUCK, Phase.UNKNOWN}
                    assert life.phase not in unconfirmed, f"{model} started while {other} is {life.phase}"
            tx = self.slot.planner.tx
            assert tx is not None
            assert self.record.switch is not None, "a start that is not on record"
            assert self.record.switch.id == tx.switch.id, "a start of a switch that is not on record"
        self._check_promises(model, self.room_seen[model])

    def _check_tried(self, model: str) -> None:
        """What nobody asked for is not tried for ever, unless it serves, or the driver has come since."""
        tx = self.slot.planner.tx
        if tx is not None and tx.target == model and tx.switch.requested_by is Requester.RECONCILE:
            self.fruitless[model] += 1
            most = CATALOG.settings.slot.max_start_attempts
            assert self.fruitless[model] <= most, f"{model} is started again and again"

    def _check_promises(self, model: str, reading: Reading) -> None:
        """What all that are up were admitted for, and the reserve, was there when this one was admitted."""
        up = {Phase.STARTING, Phase.WARMING, Phase.SERVING, Phase.DRAINING}
        running = {ActiveState.ACTIVE, ActiveState.ACTIVATING}
        alive = [
            m
            for m, life in self.slot.house.lives.items()
            if m != model and life.phase in up and self.units[MODELS[m].unit].active in running
        ]
        promised = sum(self.slot.house.footprint(m).bytes for m in (model, *alive))
        seen = reading.available + sum(self.units[MODELS[m].unit].held for m in alive)
        reserve = CATALOG.settings.memory.reserve.of(TOTAL)
        assert promised + reserve <= seen, f"{model} was started beside {alive} without room"

    def _check_on_record(self, model: str) -> None:
        tx = self.slot.planner.tx
        if tx and tx.stage is not Stage.ADMIT and model == tx.switch.from_model:
            assert self.record.switch is not None, "the old model is stopped by a switch that is not on record"
            assert self.record.switch.id == tx.switch.id, "the old model is stopped by a switch that is not on record"

    def _switch_ended(self, switch: Switch) -> None:
        self.ended[switch.id] += 1
        assert self.ended[switch.id] == 1, f"{switch.id} ended twice"
        assert switch.outcome is not None
        assert switch.finished_at is not None
        phases = list(switch.timings)
        if switch.outcome is Outcome.READY and switch.requested_by in {Requester.CONTROL, Requester.SYSTEMD}:
            self.wish = switch.model or ""
        assert all(seconds >= 0 for seconds in switch.timings.values()), phases
        self.history.append(switch)
        self.clients.ended(switch, self.now())

    def check_alive(self) -> None:
        large = [m for m, s in MODELS.items() if self._alive(m) and s.memory and s.memory.of(TOTAL) >= LARGE]
        assert len(large) <= 1, f"two large models are alive: {large}"

    def _alive(self, model: str) -> bool:
        return self.units[MODELS[model].unit].processes

    def _escaped(self, model: Model) -> bool:
        """What of the model lives though its unit is down: nothing that the unit had in its control group."""
        unit = self.units[model.unit]
        return unit.processes and unit.active in {ActiveState.INACTIVE, ActiveState.FAILED}

    # systemd's side.

    def called(self, verb: str, unit: str, token: int) -> None:
        assert self.bus_up, f"{verb} {unit} without a bus"
        state = self.units[unit]
        self.jobs += 1
        path = f"/job/{self.jobs}"
        if state.job:
            self.bus.append(ports.JobRemoved(state.job[0], unit, "canceled"))
        if verb == "start" and state.active is ActiveState.ACTIVE:
            self.bus += [ports.JobQueued(token, path), ports.JobRemoved(path, unit, "done")]
            return
        state.job = (path, verb)
        self.bus.append(ports.JobQueued(token, path))
        self._begin_job(unit)

    def _begin_job(self, unit: str) -> None:
        state = self.units[unit]
        assert state.job
        if state.job[1] == "start":
            state.active, state.sub, state.result, state.processes = ActiveState.ACTIVATING, "start", "success", True
        elif state.active not in {ActiveState.INACTIVE, ActiveState.FAILED}:
            state.active, state.sub = ActiveState.DEACTIVATING, "stop-sigterm"
        self.tell(unit)

    def killed(self, unit: str, token: int) -> None:
        if self.bus_up:
            self.units[unit].obeys = True
            self.bus.append(ports.CallDone(token))

    def tell(self, unit: str) -> None:
        if self.bus_up:
            self.bus.append(ports.UnitChanged(unit, self.units[unit].status()))

    def progress(self, unit: str, *, good: bool) -> None:
        """systemd gets on with the unit's job."""
        state = self.units[unit]
        if state.job is None:
            if state.active is ActiveState.DEACTIVATING:
                self._down(unit)
                self.tell(unit)
            return
        path, verb = state.job
        if verb == "start":
            state.job = None
            if good:
                state.active, state.sub, state.held = ActiveState.ACTIVE, "running", GIB
            else:
                state.active, state.sub, state.result = ActiveState.FAILED, "failed", "exit-code"
                state.processes, state.held = False, 0
            self._job_over(unit, path, "done" if good else "failed")
        elif state.obeys or state.active in {ActiveState.INACTIVE, ActiveState.FAILED}:
            state.job = None
            self._down(unit)
            self._job_over(unit, path, "done")

    def _down(self, unit: str) -> None:
        state = self.units[unit]
        if state.active is not ActiveState.FAILED:
            state.active = ActiveState.INACTIVE
        state.sub, state.processes, state.held = "dead", False, 0

    def _job_over(self, unit: str, path: str, result: str) -> None:
        self.tell(unit)
        if self.bus_up:
            self.bus.append(ports.JobRemoved(path, unit, result))

    def crash(self, unit: str, *, lingering: bool) -> None:
        state = self.units[unit]
        if state.active is ActiveState.ACTIVE and state.job is None:
            state.active, state.sub, state.result = ActiveState.FAILED, "failed", "signal"
            state.processes = lingering
            state.held = 0
            self.tell(unit)

    def foreign_stop(self, unit: str) -> None:
        state = self.units[unit]
        if state.active is ActiveState.ACTIVE and state.job is None:
            self.jobs += 1
            state.job = (f"/job/{self.jobs}", "stop")
            self._begin_job(unit)

    def foreign_stop_at_once(self, unit: str) -> None:
        """A stop with nothing to wait for: the unit is never seen on its way down."""
        state = self.units[unit]
        if state.active is ActiveState.ACTIVE and state.job is None:
            self.jobs += 1
            self._down(unit)
            self._job_over(unit, f"/job/{self.jobs}", "done")

    def foreign_start(self, unit: str) -> None:
        """systemctl start of a unit of the user's own: nobody asks us."""
        state = self.units[unit]
        if state.active in {ActiveState.INACTIVE, ActiveState.FAILED} and state.job is None:
            self.jobs += 1
            state.job = (f"/job/{self.jobs}", "start")
            self._begin_job(unit)

    def grow(self, unit: str) -> None:
        state = self.units[unit]
        if state.processes:
            model = next(m for m in MODELS.values() if m.unit == unit)
            assert model.memory
            state.held = model.memory.of(TOTAL)

    def lose_bus(self) -> None:
        if self.bus_up:
            self.bus_up = False
            self.bus.clear()
            self.bus.append(ports.BusLost("gone"))
            self.deliver()

    def regain_bus(self) -> None:
        if not self.bus_up:
            self.bus_up = True
            self.bus.append(self._connected())
            self.deliver()

    def _connected(self) -> ports.BusConnected:
        return ports.BusConnected({name: unit.status() for name, unit in self.units.items()})

    def deliver(self) -> None:
        if self.bus:
            self.run(self.link.report(self.bus.popleft(), self.now()))

    # Memory, probes, time.

    def reading(self) -> Reading:
        used = self.outsider + sum(u.held for u in self.units.values())
        available = max(0, TOTAL - used)
        held = ((m.id, self.units[m.unit].held) for m in MODELS.values())
        return Reading(
            total=TOTAL,
            available=available,
            free=available,
            source=MemorySource.UNIFIED if self.gpu else MemorySource.HOST,
            taken_at=self.now(),
            processes=tuple(GpuProcess(1, amount, model=m) for m, amount in held if amount and self.driver),
        )

    def come(self, *, there: bool) -> None:
        """The driver comes, or goes, and is looked for."""
        if there and not self.gpu:
            self.fruitless.clear()
        self.gpu = there
        self.look(0.0)

    def explain(self, model: str) -> None:
        """The log of a model that fell is read: it lacked the driver."""
        problem = self.slot.house.falls.fallen.get(model)
        if problem is not None and "reading" not in problem.extra:
            said = replace(problem, extra={**problem.extra, "reading": {"code": "no-driver", "message": "no driver"}})
            self.run(self.slot.explained(model, problem, said, self.now()))

    def look(self, seconds: float) -> None:
        """Time goes by, and then memory is looked at, as it is while nothing happens."""
        self.time += seconds
        self.run(self.slot.observed(self.reading(), self.now()))

    def read(self) -> None:
        if self.reads:
            self.run(self.slot.taken(self.reads.pop(0), self.reading(), self.now()))

    def see(self, model: str, act: Act, *, good: bool) -> None:
        epoch = self.watches.get((model, act))
        if epoch is None:
            return
        unit = self.units[MODELS[model].unit]
        if act is Act.WATCH_ROOM:
            reading = self.room_seen[model] = self.reading()
            self.run(self.slot.room(model, epoch, reading, self.now()))
        elif act is Act.WATCH_FLOOR:
            self.run(self.slot.floor(model, epoch, self.reading(), self.now()))
        elif act is Act.WATCH_GONE:
            unit.processes = unit.processes and not good
            if not unit.processes:
                self._event(model, life_of.Gone(epoch))
        elif act is Act.CLIMB:
            if good and unit.active is ActiveState.ACTIVE:
                self.grow(MODELS[model].unit)
                self._event(model, life_of.Ladder(epoch))
            elif not good:
                self._event(model, life_of.Ladder(epoch, Problem(Code.MODEL_FAILED, "the wrong model answers")))

        elif act is Act.WATCH_HEALTH and not good:
            self.overdue = model  # whoever holds a lease on it waits for nothing
            self._event(model, life_of.Stalled(epoch, Problem(Code.MODEL_FAILED, "it generates nothing"), 1.0))
            self.overdue = None

    def _event(self, model: str, event: life_of.LifeEvent) -> None:
        self.run(self.slot.unit_event(model, event, self.now()))

    def fire(self) -> None:
        """Time goes on to the next deadline."""
        due = [(at, model, epoch) for model, (epoch, at) in self.timers.items()]
        wake = [(self.wake_at, "", 0)] if self.wake_at is not None else []
        if not due and not wake:
            return
        at, model, epoch = min([*due, *wake])
        self.time = max(self.time, at)
        if model:
            del self.timers[model]
            self.overdue = model
            self._event(model, life_of.Expired(epoch))
            self.overdue = None
        else:
            self.wake_at = None
            self.run(self.slot.wake(self.now()))
            self.pass_by()

    # People.

    def request(self, model: str | None, *, force: bool = False) -> None:
        try:
            switch, effects = self.slot.request(
                model, self.now(), requested_by=Requester.CONTROL, actor="uid 1000", force=force
            )
        except SparkError as error:
            if error.problem.code not in {Code.STUCK, Code.BUS_LOST, Code.INVALID_REQUEST}:
                raise
        else:
            if switch.noop:
                self.wish = model or ""
            self.fruitless.clear()
            self.run(effects)

    def cancel(self) -> None:
        self.run(self.slot.cancel(self.now()))

    def start_beside(self, model: str, *, foreign: bool) -> None:
        """A start by hand: through the API, or by systemctl and the unit's gate."""
        unit = self.units[MODELS[model].unit]
        if foreign and (unit.job or unit.active is not ActiveState.INACTIVE or not self.bus_up):
            return
        self.asks += 1
        self.pending_asks.add(self.asks)
        ask = self.asks
        if foreign:
            self.jobs += 1
            unit.job = (f"/job/{self.jobs}", "start")
            unit.active, unit.sub = ActiveState.ACTIVATING, "start-pre"
            self.tell(MODELS[model].unit)
        try:
            effects = self.slot.start_beside(
                model, ask, self.now(), requested_by=Requester.SYSTEMD, actor=None, foreign=foreign
            )
        except SparkError as error:
            self.pending_asks.discard(ask)
            self.verdicts[ask] = error.problem
        else:
            self.run(effects)
        idle = self.slot.house.lives[model].idle
        while self.reads and ask in self.pending_asks:
            self.read()
        if foreign and idle and self.slot.house.lives[model].phase is Phase.STARTING:
            self._check_promises(model, self.reading())
        if foreign:
            self._gate_answered(MODELS[model].unit, ask)

    def _gate_answered(self, name: str, ask: int) -> None:
        """The gate's process ends: the unit goes on to its launcher, or has failed."""
        unit = self.units[name]
        if ask in self.verdicts and self.verdicts[ask] is None:
            unit.sub, unit.processes = "start", True
        else:
            assert unit.job
            path = unit.job[0]
            unit.job, unit.active, unit.sub, unit.result = None, ActiveState.FAILED, "failed", "exit-code"
            self._job_over(name, path, "failed")

    def lease(self) -> None:
        for model in MODELS:
            if self.slot.lease(model):
                self.clients.leased(model)

    def release(self, model: str) -> None:
        if self.slot.house.leases.get(model) and self.slot.release(model, self.now()):
            self.run(self.slot.wake(self.now()))

    # Clients of the gateway.

    def demand(self, model: str | None, *, may_switch: bool = True) -> None:
        self.asks += 1
        ask = self.asks
        self.clients.comes(ask)
        try:
            self.slot.demand(model, ask, self.now(), may_switch=may_switch, actor="token web")
        except SparkError as error:
            self.clients.told(ask, error.problem)
        self.run(self.slot.wake(self.now()))
        self.pass_by()

    def pass_by(self) -> None:
        """Somebody whose request is over as soon as it is made. At the end of a story nobody comes any more."""
        for model in () if self.calm else MODELS:
            if self.slot.lease(model):
                self.clients.leased(model)
                self.release(model)

    def hang_up(self, ask: int) -> None:
        if ask in self.clients.waiting:
            self.clients.waiting.discard(ask)
            self.slot.hang_up(ask)
            self.run(self.slot.wake(self.now()))

    def be_through(self, ask: int) -> None:
        """A client has its answer: its lease is given back."""
        model = self.clients.held.pop(ask, None)
        if model is not None:
            self.release(model)

    # The end of a story.

    def calm_down(self) -> None:
        """No more adversity: everything under way may end, and every client gets what it came for, or the reason."""
        self.calm = True
        self.clients.held.clear()
        self.regain_bus()
        self.outsider = 0
        for unit in self.units.values():
            unit.obeys = True
        for model in MODELS:
            while self.slot.house.leases.get(model):
                self.release(model)
        for _ in range(3000):
            for ask in tuple(self.clients.held):
                self.be_through(ask)
            if not self._once():
                return
        raise AssertionError("the slot does not come to rest")

    def _once(self) -> bool:
        if self.bus:
            self.deliver()
        elif self.reads:
            self.read()
        elif any(u.job or u.active is ActiveState.DEACTIVATING for u in self.units.values()):
            for name in self.units:
                self.progress(name, good=True)
        elif pending := [k for k in self.watches if k[1] not in {Act.WATCH_FLOOR, Act.WATCH_HEALTH}]:
            before = dict(self.slot.house.lives)
            for model, act in pending:
                self.see(model, act, good=True)
            if before == self.slot.house.lives:
                self.fire()
        elif self.timers or self.wake_at is not None:
            self.fire()
        else:
            return False
        return True


def at_rest(world: World) -> None:
    """The slot is where the last operator wanted it, or says why not."""
    slot = world.slot
    assert slot.planner.tx is None, f"still under way: {slot.planner.tx}"
    assert not world.pending_asks, "somebody still waits for an admission"
    assert not world.clients.waiting, "somebody still waits for a model"
    assert len(slot.desk.demands) == 0, "the queue remembers who is gone"
    assert not any(slot.house.leases.values()), f"leases are left: {slot.house.leases}"
    wanted, occupant = slot.planner.wanted(), slot.planner.occupant
    if occupant:
        assert slot.house.lives[occupant].phase is Phase.SERVING, slot.house.lives[occupant].phase
    assert slot.planner.lent != occupant or slot.planner.home() == occupant or slot.planner.reason, "never went home"
    if (occupant or "") != wanted and not slot.planner.held:
        assert slot.planner.reason is not None or slot.house.busy_others(None), (
            f"{occupant}, wanted {wanted}: no reason"
        )
