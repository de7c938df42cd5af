"""What the engine may touch, as Protocols, and the events the outside sends it.

Adapters import this module and the core, never each other or the engine. Everything an adapter has
to say arrives as one of the ``Report`` types, through a ``Sink`` that is only ever called on the
event loop's thread, in the order in which things happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from spark_modeld.core.appraisal import Inspection, UnitFacts
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Model
from spark_modeld.core.pulse import Look, Proven
from spark_modeld.core.reading import Loaded, Reading
from spark_modeld.core.record import Record
from spark_modeld.core.unit import LogLine, UnitStatus


class CallFailure(StrEnum):
    """Why a call to systemd failed; ``unclear`` when nobody can say whether it took effect."""

    NO_SUCH_UNIT = "no-such-unit"
    ACCESS_DENIED = "access-denied"
    REFUSED = "refused"
    UNCLEAR = "unclear"


class JobQueued(Struct, frozen=True):
    """systemd took the call ``token``; ``job`` is the job's object path."""

    token: int
    job: str


class CallDone(Struct, frozen=True):
    """The call ``token`` (kill, reset-failed) was done; it has no job."""

    token: int


class CallFailed(Struct, frozen=True):
    """The call ``token`` failed."""

    token: int
    failure: CallFailure
    message: str


class JobRemoved(Struct, frozen=True):
    """A job ended, ours or anybody's. Only ``done`` is success."""

    job: str
    unit: str
    result: str


class UnitChanged(Struct, frozen=True):
    """systemd shows something new of a unit we watch."""

    unit: str
    status: UnitStatus


class BusConnected(Struct, frozen=True):
    """The bus is (again) there: the state of every unit we watch, read after subscribing."""

    units: Mapping[str, UnitStatus]


class BusLost(Struct, frozen=True):
    """The bus is gone; nothing is known of any unit until ``BusConnected``."""

    reason: str


class HostStopping(Struct, frozen=True):
    """systemd itself is going down: nothing may be started any more."""


BusReport = JobQueued | CallDone | CallFailed | JobRemoved | UnitChanged | BusConnected | BusLost | HostStopping
BusSink = Callable[[BusReport], None]


class Systemd(Protocol):
    """systemd's manager over D-Bus. No call blocks; answers come as reports through the sink.

    ``token`` is the caller's own number for a call and comes back with its answer.
    """

    async def connect(self, sink: BusSink, units: frozenset[str]) -> None:
        """Connects and stays connected until ``close``; reports ``BusConnected`` or ``BusLost`` each time."""

    def watch(self, units: frozenset[str]) -> None:
        """Replaces the set of units watched; reports ``UnitChanged`` once for each that is new."""

    def look(self, unit: str) -> None:
        """Reads a unit again and reports ``UnitChanged``."""

    def start(self, unit: str, token: int, *, reset: bool) -> None:
        """With ``reset``, ResetFailedUnit (a unit that is not loaded is no error); then StartUnit ``replace``."""

    def stop(self, unit: str, token: int) -> None:
        """StopUnit ``replace``."""

    def kill(self, unit: str, token: int) -> None:
        """SIGKILL for every process of the unit."""

    async def sweep(self, model: str) -> None:
        """Has ended what escaped from the model's unit, which is down. SparkError when systemd does not take it on.

        It is under way when this returns; what comes of it is seen by what is left.
        """

    async def processes(self, unit: str) -> frozenset[int]:
        """The PIDs in the unit's control group now, empty for a unit that is not loaded. SparkError ``bus-lost``."""

    async def unit_of(self, pid: int) -> str | None:
        """The unit a process belongs to, None if it is gone or in none."""

    async def facts(self, unit: str) -> UnitFacts:
        """What systemd says of a unit whether it runs or not. SparkError ``bus-lost``."""

    async def close(self) -> None:
        """Disconnects for good."""


class Holder(Struct, frozen=True):
    """Who holds a port: processes in words, and the unit or container scope they are in, if that is known."""

    who: str
    unit: str | None


class Remains(Protocol):
    """What a model can leave behind outside its unit's control group. Nothing here blocks for long."""

    def scopes(self, model: Model) -> tuple[str, ...]:
        """The scopes of the containers that the model's launcher reported last."""

    def processes(self, scope: str) -> frozenset[int]:
        """The PIDs of a container, wherever docker has put it: not every scope is the systemd's that we speak to."""

    def escaped(self, model: Model) -> Mapping[int, str | None]:
        """The processes that the model's unit started and that are not in its control group: PID -> where they are."""

    def listeners(self, model: Model) -> frozenset[int]:
        """The sockets (inodes) that listen where the model's engine does, if that is on this machine."""

    def holders(self, model: Model, inodes: frozenset[int]) -> tuple[Holder, ...]:
        """Whose sockets these are."""

    def named(self, pids: Iterable[int]) -> str:
        """Processes in words: programs and PIDs."""


class Gauge(Protocol):
    """Reads memory. Never blocks the event loop, however long NVML hangs."""

    async def read(self, *, thorough: bool = False) -> Reading:
        """A fresh reading; ``stale`` when NVML did not answer within its deadline.

        ``thorough`` also looks for the strangers in the machine's own memory: for what people read, and for what may be
        refused; not for what is read many times a second.
        """


class Pressure(Protocol):
    """The kernel's own word that memory is short, where it has one."""

    async def felt(self) -> None:
        """Returns when tasks were held up for want of memory; never where the kernel does not tell."""


class LadderPassed(Struct, frozen=True):
    """The engine answers, under the right name, and generates."""


class LadderRefused(Struct, frozen=True):
    """The engine answered something that more waiting will not mend (the wrong model, a missing key)."""

    problem: Problem


class Prober(Protocol):
    """Climbs an engine's readiness ladder."""

    async def climb(self, model: Model, rung: Callable[[str], None]) -> LadderPassed | LadderRefused:
        """Returns when the model is ready or never will be; the caller cancels it at the deadline.

        ``rung`` is told what is being waited for, in words ("connection", "health", ...).
        """


class Vitals(Protocol):
    """The signs of life of an engine that serves. Nothing of it counts as use."""

    async def look(self, model: Model, seconds: float, *, others: bool) -> Look:
        """One cheap look, on the engine's own terms; no request of it takes longer than ``seconds``.

        ``others``: also at who else is connected, which is not cheap.
        """

    async def ask(self, model: Model, seconds: float) -> Proven:
        """Asks for one token, and waits so long for it."""

    def cpu_seconds(self, pids: Iterable[int]) -> float:
        """How much processor time these processes have used so far; those that are gone count for nothing."""


class ModelServer(Protocol):
    """The API of a server that holds many models; any of its models says where it is."""

    async def loaded(self, model: Model) -> tuple[Loaded, ...] | None:
        """What the model's server holds now; None if it does not say."""

    async def pin(self, model: Model) -> None:
        """Has it keep this model, which it holds, until it is told otherwise. What comes of it shows in ``loaded``."""

    async def unload(self, model: Model) -> None:
        """Asks it to let go of this model. What comes of it shows in ``loaded``."""


class Store(Protocol):
    """The daemon's memory across restarts."""

    def load(self) -> tuple[Record, str | None]:
        """The record on disk, and a warning when it had to be set aside. Blocking: for before the loop runs."""

    async def save(self, record: Record) -> None:
        """On disk, atomically, when it returns. OSError when it could not be (disk full, read-only)."""


class Marks(Protocol):
    """Admission marks: each lets the gate of one unit pass once, for a short time."""

    def put(self, model: str) -> None:
        """Admits one start of this model. OSError when it could not be written (the gate then asks the daemon)."""

    def take_back(self, model: str) -> None:
        """Withdraws a mark that was not used."""


class Clock(Protocol):
    """Both clocks, and what is timed by them."""

    def now(self) -> Instant:
        """This moment."""

    def call_at(self, at: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back at ``at`` (monotonic seconds); returns what cancels it."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""


class Journal(Protocol):
    """What a unit and its processes said. Secrets are taken out of every line."""

    async def tail(self, unit: str, lines: int, *, since: float | None = None) -> tuple[str, ...]:
        """The last journal lines of the unit's latest run, oldest first; empty if they cannot be read.

        ``since`` (Unix seconds) leaves out what is older.
        """

    async def read(self, unit: str, lines: int) -> tuple[LogLine, ...]:
        """The last journal lines of the unit, of whichever run, oldest first. SparkError ``internal``."""

    def follow(self, unit: str, lines: int) -> AsyncIterator[LogLine]:
        """The same, and then every further line as it is written, until closed. SparkError ``busy`` at once."""


class Inspector(Protocol):
    """Looks at what a model needs to start: its checkpoint, its program, its port."""

    async def inspect(self, model: Model, facts: UnitFacts | None) -> Inspection:
        """What is to be seen now. Never raises, never blocks the event loop, and ends in bounded time.

        ``facts`` are of the model's unit, None where systemd could not be asked.
        """

    async def close(self) -> None:
        """Lets go of every thread; one that hangs is left behind, to end when it comes back."""


class CatalogSource(Protocol):
    """Reads the configuration."""

    def load(self) -> Catalog:
        """The configuration on disk. SparkError ``invalid-config`` with every finding. Blocking."""


class Outside(Struct, frozen=True, kw_only=True):
    """Everything the engine may touch."""

    systemd: Systemd
    gauge: Gauge
    remains: Remains
    prober: Prober
    vitals: Vitals
    server: ModelServer
    store: Store
    marks: Marks
    clock: Clock
    journal: Journal
    inspector: Inspector
    source: CatalogSource
    pressure: Pressure
