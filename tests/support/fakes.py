"""Everything the engine may touch, made up: the test moves time, systemd, memory, engines and the disk.

Whatever the engine does to the outside is written into one list, ``Outside.seen``, in the order in which it happens.
No fake takes real time: a loop that has nothing to run is at rest.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.core.appraisal import Inspection, UnitFacts
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, Problem, SparkError, refuse
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Amount, EngineKind, Launch, Model, Role
from spark_modeld.core.pulse import Look, Proof, Proven, Reach
from spark_modeld.core.reading import GpuProcess, Loaded, MemorySource, Reading
from spark_modeld.core.record import Record
from spark_modeld.core.settings import GatewaySettings, Settings, SlotSettings
from spark_modeld.core.switch import Requester, Switch
from spark_modeld.core.unit import ActiveState, LogLine, UnitStatus
from spark_modeld.engine import Engine
from spark_modeld.ports import Holder
from spark_modeld.ports import Outside as Ports

GIB = 1 << 30
TOTAL = 128 * GIB
OUTSIDER = 5 * GIB
BOOT = "boot-1"
ROUNDS = 2000


def make_model(name: str, gib: int, *, role: Role = Role.SLOT, on_demand: bool = True) -> Model:
    return Model(
        id=name,
        engine=EngineKind.OPENAI,
        url=f"http://127.0.0.1:{30000 + sum(name.encode())}",
        run=Launch(("engine", name)),
        served_model_name=name,
        aliases=(f"{name}-alias",),
        role=role,
        on_demand=on_demand,
        memory=Amount(bytes=gib * GIB),
        start_timeout=30.0,
        stop_timeout=20.0,
    )


MODELS = {
    m.id: m
    for m in (
        make_model("alpha", 60),
        make_model("beta", 70),
        make_model("small", 10),
        make_model("side", 4, role=Role.SIDE),
        make_model("bigside", 40, role=Role.SIDE),
    )
}


def make_catalog(*models: Model, max_waiting: int = 256, **slot: object) -> Catalog:
    chosen = {m.id: m for m in models} if models else MODELS
    gateway = GatewaySettings(max_waiting=max_waiting)
    return Catalog(Settings(slot=replace(SlotSettings(), **slot), gateway=gateway), chosen)


class FakeClock:
    """ports.Clock. Time stands still until the test moves it; ``ahead`` is how far the wall clock was put forward."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.ahead = 0.0
        self._order = count()
        self._timers: list[tuple[float, int, list[Callable[[], None]]]] = []

    def now(self) -> Instant:
        return Instant(self.time, 1_700_000_000.0 + self.time + self.ahead)

    def call_at(self, at: float, callback: Callable[[], None]) -> Callable[[], None]:
        armed = [callback]
        heapq.heappush(self._timers, (at, next(self._order), armed))
        return armed.clear

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cancel = self.call_at(self.time + seconds, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            cancel()

    @property
    def armed(self) -> int:
        """How many timers and sleepers there are."""
        return sum(bool(armed) for _, _, armed in self._timers)

    def next_at(self) -> float | None:
        """When the next of them is due."""
        while self._timers and not self._timers[0][2]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def fire_until(self, until: float) -> None:
        """Moves time on to ``until`` and calls what is due by then."""
        while (at := self.next_at()) is not None and at <= until:
            _, _, armed = heapq.heappop(self._timers)
            self.time = max(self.time, at)
            armed.pop()()
        self.time = max(self.time, until)


class Order(StrEnum):
    """In which order a job's reports come. All have been seen of the real systemd."""

    PROMPT = "reply, states, end of the job"
    STATES_FIRST = "states, reply, end of the job"
    END_FIRST = "reply, end of the job, the state it left"


class Hang(StrEnum):
    """What a call may do instead of being answered."""

    SILENT = "no reply at all"
    JOB = "a job that never ends"


Result = str | ports.CallFailure | Hang


class FakeSystemd:
    """ports.Systemd. A call's outcome is ``done`` unless the test has scripted another with ``will``."""

    def __init__(self, seen: list[str]) -> None:
        self.units: dict[str, UnitStatus] = {}
        self.pids: dict[str, frozenset[int]] = {}
        self.known: dict[str, UnitFacts] = {}
        self.order = Order.PROMPT
        self.lingering = False
        self.no_sweep: Problem | None = None
        self.connects = True
        self.closed = False
        self.watched: frozenset[str] = frozenset()
        self.sink: ports.BusSink | None = None
        self._seen = seen
        self._numbers = count(1)
        self._script: dict[tuple[str, str], deque[Result]] = {}
        self._open_jobs: dict[str, str] = {}

    # What the test does.

    def will(self, verb: str, unit: str, *results: Result) -> None:
        """The next calls of this verb on this unit end so."""
        self._script.setdefault((verb, unit), deque()).extend(results)

    def tell(self, *reports: ports.BusReport) -> None:
        """Reports, in this order."""
        assert self.sink is not None
        for report in reports:
            asyncio.get_running_loop().call_soon(self.sink, report)

    def show(self, unit: str, active: ActiveState, **more: object) -> None:
        """The unit is now so, and says it."""
        self.units[unit] = UnitStatus(active=active, **more)  # type: ignore[arg-type]
        self.tell(ports.UnitChanged(unit, self.units[unit]))

    def crash(self, unit: str) -> None:
        """The unit's main process dies, and all others with it."""
        self.pids.pop(unit, None)
        self.show(unit, ActiveState.FAILED, sub="failed", result="exit-code", exit_status=1)

    def lose(self) -> None:
        self.tell(ports.BusLost("the bus is gone"))

    def regain(self) -> None:
        self.tell(ports.BusConnected({u: self.status(u) for u in self.watched}))

    def end_job(self, unit: str, result: str = "done") -> None:
        """The job of this unit that did not end by itself ends now."""
        self.tell(ports.JobRemoved(self._open_jobs.pop(unit), unit, result))

    def status(self, unit: str) -> UnitStatus:
        return self.units.get(unit, UnitStatus(active=ActiveState.INACTIVE, sub="dead"))

    def running(self) -> set[str]:
        """The units that are up."""
        return {u for u, s in self.units.items() if s.active is ActiveState.ACTIVE}

    # The port.

    async def connect(self, sink: ports.BusSink, units: frozenset[str]) -> None:
        assert self.sink is None, "connected twice"
        self.sink, self.watched = sink, units
        if self.connects:
            sink(ports.BusConnected({u: self.status(u) for u in units}))
        else:
            sink(ports.BusLost("there is no bus"))

    def watch(self, units: frozenset[str]) -> None:
        new, self.watched = units - self.watched, units
        self.tell(*(ports.UnitChanged(u, self.status(u)) for u in sorted(new)))

    def look(self, unit: str) -> None:
        self.tell(ports.UnitChanged(unit, self.status(unit)))

    def start(self, unit: str, token: int, *, reset: bool) -> None:
        self._seen.append(f"start {unit}")
        result = self._result("start", unit)
        if not self._taken(token, result):
            return
        job = self._job()
        up = result == "done"
        end = UnitStatus(active=ActiveState.ACTIVE, sub="running", main_pid=token)
        if not up:
            end = UnitStatus(active=ActiveState.FAILED, sub="failed", result="exit-code", exit_status=1)
        self._go(unit, token, job, ActiveState.ACTIVATING, end, result)
        if up:
            self.pids[unit] = frozenset({token})

    def stop(self, unit: str, token: int) -> None:
        self._seen.append(f"stop {unit}")
        result = self._result("stop", unit)
        if not self._taken(token, result):
            return
        end = UnitStatus(active=ActiveState.INACTIVE, sub="dead")
        self._go(unit, token, self._job(), ActiveState.DEACTIVATING, end, result)
        if result == "done" and not self.lingering:
            self.pids.pop(unit, None)

    def kill(self, unit: str, token: int) -> None:
        self._seen.append(f"kill {unit}")
        self.tell(ports.CallDone(token))
        if self._result("kill", unit) != "done":
            return
        self.pids.pop(unit, None)
        self.show(unit, ActiveState.FAILED, sub="failed", result="signal", exit_status=9)
        if unit in self._open_jobs:
            self.end_job(unit)

    async def sweep(self, model: str) -> None:
        self._seen.append(f"sweep {model}")
        if self.no_sweep is not None:
            raise SparkError(self.no_sweep)

    async def processes(self, unit: str) -> frozenset[int]:
        return self.pids.get(unit, frozenset())

    async def unit_of(self, pid: int) -> str | None:
        return next((u for u, pids in self.pids.items() if pid in pids), None)

    async def facts(self, unit: str) -> UnitFacts:
        return self.known.get(unit, UnitFacts())

    async def close(self) -> None:
        self.closed = True

    # Inside.

    def _result(self, verb: str, unit: str) -> Result:
        scripted = self._script.get((verb, unit))
        return scripted.popleft() if scripted else "done"

    def _taken(self, token: int, result: Result) -> bool:
        if isinstance(result, ports.CallFailure):
            self.tell(ports.CallFailed(token, result, f"systemd says {result}"))
            return False
        return result is not Hang.SILENT

    def _job(self) -> str:
        return f"/job/{next(self._numbers)}"

    def _go(self, unit: str, token: int, job: str, during: ActiveState, end: UnitStatus, result: Result) -> None:
        reply = ports.JobQueued(token, job)
        states: list[ports.BusReport] = [ports.UnitChanged(unit, UnitStatus(active=during, job=job))]
        if result is Hang.JOB:
            self._open_jobs[unit] = job
            self.units[unit] = UnitStatus(active=during, job=job)
            self.tell(reply, *states)
            return
        self.units[unit] = end
        states.append(ports.UnitChanged(unit, end))
        removed = ports.JobRemoved(job, unit, str(result))
        match self.order:
            case Order.PROMPT:
                self.tell(reply, *states, removed)
            case Order.STATES_FIRST:
                self.tell(*states, reply, removed)
            case Order.END_FIRST:
                self.tell(reply, removed, states[-1])


class FakeGauge:
    """ports.Gauge over the memory that the running units' models are declared with."""

    def __init__(self, clock: FakeClock, systemd: FakeSystemd, source: FakeSource) -> None:
        self.failure: Problem | None = None
        self.source = MemorySource.UNIFIED
        self.paged_in: int | None = None
        self.available: int | None = None
        self.processes: tuple[GpuProcess, ...] = ()
        self.stale = False
        self.hang: asyncio.Event | None = None
        self._clock, self._systemd, self._source = clock, systemd, source

    async def read(self, *, thorough: bool = False) -> Reading:
        if self.hang is not None:
            await self.hang.wait()
        if self.failure is not None:
            raise SparkError(self.failure)
        models = self._source.good.models.values()
        held = sum(m.memory.of(TOTAL) for m in models if m.memory and not m.tenant and self._systemd.pids.get(m.unit))
        available = TOTAL - OUTSIDER - held if self.available is None else self.available
        return Reading(
            total=TOTAL,
            available=available,
            free=available,
            source=self.source,
            taken_at=self._clock.now(),
            processes=self.processes,
            stale=self.stale,
            paged_in=self.paged_in,
        )


class FakePressure:
    """ports.Pressure: felt when the test says so."""

    def __init__(self) -> None:
        self._felt = asyncio.Event()

    def feel(self) -> None:
        """The kernel tells pressure, once."""
        self._felt.set()

    async def felt(self) -> None:
        await self._felt.wait()
        self._felt.clear()


class FakeProber:
    """ports.Prober. Every model is ready at once, unless its ladder is held or has been given an end."""

    def __init__(self, seen: list[str]) -> None:
        self.ends: dict[str, ports.LadderRefused | Exception] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.climbing: set[str] = set()
        self._seen = seen

    def hold(self, model: str) -> asyncio.Event:
        """This model is ready when the event is set."""
        return self.held.setdefault(model, asyncio.Event())

    async def climb(self, model: Model, rung: Callable[[str], None]) -> ports.LadderPassed | ports.LadderRefused:
        self._seen.append(f"climb {model.id}")
        rung("health")
        self.climbing.add(model.id)
        try:
            if model.id in self.held:
                await self.held[model.id].wait()
        finally:
            self.climbing.discard(model.id)
        end = self.ends.get(model.id, ports.LadderPassed())
        if isinstance(end, Exception):
            raise end
        return end


class FakeVitals:
    """ports.Vitals. Every engine generates, unless the test says what is to be seen of it."""

    def __init__(self, clock: FakeClock) -> None:
        self.looks: dict[str, Look] = {}
        self.proofs: dict[str, Proven] = {}
        self.asked: list[str] = []
        self.working = 0.0
        self._clock = clock
        self._moves = count()

    async def look(self, model: Model, seconds: float, *, others: bool) -> Look:
        return self.looks.get(model.id, Look(Reach.WELL, mark=str(next(self._moves))))

    async def ask(self, model: Model, seconds: float) -> Proven:
        self.asked.append(model.id)
        if model.id not in self.proofs:
            await self._clock.sleep(seconds)
        return self.proofs.get(model.id, Proven(Proof.HUNG))

    def cpu_seconds(self, pids: Iterable[int]) -> float:
        return self._clock.time * self.working


class FakeServer:
    """ports.ModelServer: by unit, the names held and how many bytes each. A server not in here does not answer."""

    def __init__(self, seen: list[str]) -> None:
        self.holds: dict[str, dict[str, int]] = {}
        self.ending: dict[str, float] = {}
        self.pinning: asyncio.Event | None = None
        self.keeps = False
        self._seen = seen

    async def loaded(self, model: Model) -> tuple[Loaded, ...] | None:
        await asyncio.sleep(0)
        held = self.holds.get(model.unit)
        if held is None:
            return None
        return tuple(
            Loaded(unit=model.unit, name=name, bytes=size, gpu_bytes=size, ends_in=self.ending.get(name))
            for name, size in held.items()
        )

    async def pin(self, model: Model) -> None:
        self._seen.append(f"pin {model.served_model_name}")
        if self.pinning is not None:
            await self.pinning.wait()
        self.ending.pop(model.served_model_name, None)

    async def unload(self, model: Model) -> None:
        self._seen.append(f"unload {model.served_model_name}")
        if not self.keeps:
            for name in (model.served_model_name, f"{model.served_model_name}:latest"):
                self.holds.get(model.unit, {}).pop(name, None)


class FakeStore:
    """ports.Store: a disk that can be full, or not answer."""

    def __init__(self, seen: list[str], record: Record) -> None:
        self.record = record
        self.warning: str | None = None
        self.failure: OSError | None = None
        self.hang: asyncio.Event | None = None
        self.saves = 0
        self._seen = seen

    def load(self) -> tuple[Record, str | None]:
        return self.record, self.warning

    async def save(self, record: Record) -> None:
        self.saves += 1
        self._seen.append("save")
        if self.hang is not None:
            await self.hang.wait()
        if self.failure is not None:
            raise self.failure
        self.record = record


class FakeMarks:
    """ports.Marks."""

    def __init__(self, seen: list[str]) -> None:
        self.failure: OSError | None = None
        self._seen = seen

    def put(self, model: str) -> None:
        if self.failure:
            raise self.failure
        self._seen.append(f"mark {model}")

    def take_back(self, model: str) -> None:
        if self.failure:
            raise self.failure


class FakeJournal:
    """ports.Journal."""

    def __init__(self) -> None:
        self.lines: tuple[str, ...] = ("CUDA out of memory", "exiting")
        self.hang: asyncio.Event | None = None
        self.asked: list[str] = []
        self.since: float | None = None
        self.followed: list[str] = []
        self._said: dict[str, list[LogLine]] = {}
        self._news = asyncio.Event()

    def say(self, unit: str, at: float, *texts: str) -> None:
        """Further lines of this unit, for whoever follows it."""
        self._said.setdefault(unit, []).extend(LogLine(at, text) for text in texts)
        self._news.set()
        self._news = asyncio.Event()

    async def tail(self, unit: str, lines: int, *, since: float | None = None) -> tuple[str, ...]:
        self.asked.append(unit)
        self.since = since
        if self.hang is not None:
            await self.hang.wait()
        return self.lines[-lines:]

    async def read(self, unit: str, lines: int) -> tuple[LogLine, ...]:
        self.asked.append(unit)
        return tuple(LogLine(float(n), text) for n, text in enumerate(self.lines))[-lines:]

    async def follow(self, unit: str, lines: int) -> AsyncIterator[LogLine]:
        self.followed.append(unit)
        said = self._said.setdefault(unit, [])
        position = max(0, len(said) - lines)
        try:
            while True:
                for line in said[position:]:
                    yield line
                position, news = len(said), self._news
                await news.wait()
        finally:
            self.followed.remove(unit)


class FakeInspector:
    """ports.Inspector. It sees what the test has put into ``sights``, and nothing of other models."""

    def __init__(self) -> None:
        self.sights: dict[str, Inspection] = {}
        self.hang: asyncio.Event | None = None
        self.asked: list[str] = []

    async def inspect(self, model: Model, facts: UnitFacts | None) -> Inspection:
        self.asked.append(model.id)
        if self.hang is not None:
            await self.hang.wait()
        return self.sights.get(model.id, Inspection())

    async def close(self) -> None:
        """Nothing is held."""


class FakeSource:
    """ports.CatalogSource: ``good`` is the configuration, unless ``bad`` says what is wrong with it."""

    def __init__(self, catalog: Catalog) -> None:
        self.good = catalog
        self.bad: str | None = None

    def load(self) -> Catalog:
        if self.bad is not None:
            raise refuse(Code.INVALID_CONFIG, self.bad)
        return self.good


class FakeRemains:
    """What models leave behind: ``containers`` model -> scopes, ``sockets`` model -> inode -> whose it is.

    ``elsewhere``: scope -> the PIDs that our systemd does not know of. ``gone_astray``: model -> PID -> where it is.
    """

    def __init__(self) -> None:
        self.containers: dict[str, tuple[str, ...]] = {}
        self.sockets: dict[str, dict[int, Holder]] = {}
        self.elsewhere: dict[str, frozenset[int]] = {}
        self.gone_astray: dict[str, dict[int, str | None]] = {}

    def scopes(self, model: Model) -> tuple[str, ...]:
        return self.containers.get(model.id, ())

    def processes(self, scope: str) -> frozenset[int]:
        return self.elsewhere.get(scope, frozenset())

    def escaped(self, model: Model) -> dict[int, str | None]:
        return self.gone_astray.get(model.id, {})

    def listeners(self, model: Model) -> frozenset[int]:
        return frozenset(self.sockets.get(model.id, ()))

    def holders(self, model: Model, inodes: frozenset[int]) -> tuple[Holder, ...]:
        return tuple(holder for inode, holder in self.sockets.get(model.id, {}).items() if inode in inodes)

    def named(self, pids: Iterable[int]) -> str:
        return ", ".join(f"engine (PID {pid})" for pid in sorted(pids))


@dataclass
class Outside:
    """An engine and everything around it."""

    catalog: Catalog = field(default_factory=make_catalog)
    record: Record = field(default_factory=Record)

    def __post_init__(self) -> None:
        self.seen: list[str] = []
        self.clock = FakeClock()
        self.systemd = FakeSystemd(self.seen)
        self.source = FakeSource(self.catalog)
        self.gauge = FakeGauge(self.clock, self.systemd, self.source)
        self.pressure = FakePressure()
        self.remains = FakeRemains()
        self.prober = FakeProber(self.seen)
        self.vitals = FakeVitals(self.clock)
        self.server = FakeServer(self.seen)
        self.store = FakeStore(self.seen, self.record)
        self.marks = FakeMarks(self.seen)
        self.journal = FakeJournal()
        self.inspector = FakeInspector()
        numbers = count(1)
        self.engine = Engine(
            Ports(
                systemd=self.systemd,
                gauge=self.gauge,
                remains=self.remains,
                prober=self.prober,
                vitals=self.vitals,
                server=self.server,
                store=self.store,
                marks=self.marks,
                clock=self.clock,
                journal=self.journal,
                inspector=self.inspector,
                source=self.source,
                pressure=self.pressure,
            ),
            boot_id=BOOT,
            new_id=lambda: f"sw-{next(numbers)}",
        )

    async def up(self) -> None:
        """Boots and opens."""
        await self.engine.boot()
        self.engine.open()
        await self.rest()

    async def rest(self) -> None:
        """Lets everything happen that needs no time."""
        for _ in range(200):
            await asyncio.sleep(0)

    async def until(self, true: Callable[[], object]) -> None:
        """Lets things happen, in no time, until this is so."""
        for _ in range(ROUNDS):
            if true():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"it never came to that; seen {self.seen}, now {self.engine.snapshot}")

    async def advance(self, seconds: float) -> None:
        """Moves time on, and lets everything happen at its moment."""
        await self.rest()
        end = self.clock.time + seconds
        while (at := self.clock.next_at()) is not None and at <= end:
            self.clock.fire_until(at)
            await self.rest()
        self.clock.fire_until(end)
        await self.rest()

    async def up_to_save(self, model: str) -> asyncio.Task[Switch]:
        """Asks for a switch and stops where the writer waits for the disk, which hangs from now on."""
        self.store.hang, saves = asyncio.Event(), self.store.saves
        asked = asyncio.create_task(self.engine.switch(model, requested_by=Requester.CONTROL, actor=None))
        await self.until(lambda: self.store.saves > saves)
        return asked

    def calls(self, *verbs: str) -> list[str]:
        """What was done to the outside, these verbs only."""
        return [line for line in self.seen if line.split()[0] in verbs]

    def warnings(self) -> set[str]:
        """The codes of the warnings that stand."""
        return {w.code for w in self.engine.snapshot.warnings}

    def adopt(self, models: Iterable[str]) -> None:
        """Before the boot: these models are running."""
        for number, name in enumerate(models, 1):
            unit = self.catalog.models[name].unit
            self.systemd.units[unit] = UnitStatus(active=ActiveState.ACTIVE, sub="running", main_pid=number)
            self.systemd.pids[unit] = frozenset({number})


def unit(model: str) -> str:
    """The unit of a model that we launch."""
    return f"spark-model@{model}.service"
