"""The frozen types and closed vocabularies that every part shares.

Sizes are bytes, durations seconds. ``Instant`` is the only notion of time the core knows; it is
always handed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import urlsplit

from msgspec import Struct, field

from spark_modeld.core.errors import Problem
from spark_modeld.core.finding import Finding

MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MODEL_NAME = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
RESERVED_NAMES = frozenset({"local", "default"})


class EngineKind(StrEnum):
    """The kind of server that runs in a model's unit."""

    SGLANG = "sglang"
    VLLM = "vllm"
    OLLAMA = "ollama"
    LLAMA_SERVER = "llama-server"
    TRTLLM = "trtllm"
    NIM = "nim"
    OPENAI = "openai"


class Role(StrEnum):
    """Whether a model goes into the slot or may run beside its occupant."""

    SLOT = "slot"
    SIDE = "side"


class Phase(StrEnum):
    """One unit's life (the table is in DESIGN.md)."""

    UNKNOWN = "unknown"
    STOPPED = "stopped"
    RECLAIMING = "reclaiming"
    STARTING = "starting"
    WARMING = "warming"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"
    STUCK = "stuck"
    FAILED = "failed"


class SwitchPhase(StrEnum):
    """How far a switch has come; the order of the members is the order of the phases."""

    QUEUED = "queued"
    ADMITTING = "admitting"
    DRAINING = "draining"
    STOPPING = "stopping"
    RECLAIMING = "reclaiming"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"


class Outcome(StrEnum):
    """How a switch ended."""

    READY = "ready"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Requester(StrEnum):
    """Who asked for a switch."""

    CONTROL = "control"
    GATEWAY = "gateway"
    RECONCILE = "reconcile"
    GUARD = "guard"
    SYSTEMD = "systemd"


class MemorySource(StrEnum):
    """The shape of the gauge a reading came from."""

    UNIFIED = "unified"
    DISCRETE = "discrete"
    HOST = "host"


class Basis(StrEnum):
    """Where a footprint's number comes from; ``unknown`` means nobody could say."""

    DECLARED = "declared"
    MEASURED = "measured"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class Instant(Struct, frozen=True):
    """One moment, on both clocks: ``mono`` for durations, ``wall`` (Unix seconds) for people."""

    mono: float
    wall: float


class Amount(Struct, frozen=True):
    """A size: either ``bytes`` or a ``percent`` of the machine's memory, never both."""

    bytes: int | None = None
    percent: float | None = None

    def of(self, total: int) -> int:
        """Bytes, given the machine's total memory in bytes."""
        if self.bytes is not None:
            return self.bytes
        assert self.percent is not None
        return int(total * self.percent / 100)


class OwnUnit(Struct, frozen=True):
    """A unit the user already has."""

    unit: str


class Launch(Struct, frozen=True):
    """A command that ``spark-model@<id>.service`` executes."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Docker(Struct, frozen=True):
    """An image that ``spark-model@<id>.service`` runs in the foreground."""

    image: str
    options: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


class Container(Struct, frozen=True):
    """A container that exists already, started and stopped by name."""

    name: str
    start_script: str | None = None


def seat_of(unit: str, name: str) -> str:
    """The seat of the model that a server knows by this name. A name without a tag means the latest."""
    return f"{unit}/{name}" if ":" in name.rpartition("/")[2] else f"{unit}/{name}:latest"


Run = OwnUnit | Launch | Docker | Container


class Model(Struct, frozen=True, kw_only=True):
    """One entry of the catalog: ``models.d/<id>.toml``, defaults filled in."""

    id: str
    engine: EngineKind
    url: str
    run: Run
    served_model_name: str
    aliases: tuple[str, ...] = ()
    role: Role = Role.SLOT
    on_demand: bool = True
    path: str | None = None
    memory: Amount | None = None
    context: int | None = None
    gateway_port: int | None = None
    warm_up: bool = True
    user: str = "spark-model"
    api_key_file: str | None = None
    start_timeout: float = 900.0
    stop_timeout: float = 120.0

    @property
    def unit(self) -> str:
        """The systemd unit that runs this model. The id is the instance verbatim, never escaped."""
        if isinstance(self.run, OwnUnit):
            return self.run.unit
        return f"spark-model@{self.id}.service"

    @property
    def tenant(self) -> bool:
        """Whether its unit is a server that holds other models too, and stays when this one goes."""
        return self.engine is EngineKind.OLLAMA and isinstance(self.run, OwnUnit)

    @property
    def seat(self) -> str:
        """What stands for it among units: its unit; for a tenant, its place on that server."""
        return seat_of(self.unit, self.served_model_name) if self.tenant else self.unit

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host (lower case; every loopback name is ``127.0.0.1``) and port the engine listens on."""
        parts = urlsplit(self.url)
        host = (parts.hostname or "").lower()
        if host in {"localhost", "::1"} or host.startswith("127."):
            host = "127.0.0.1"
        return host, parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def names(self) -> frozenset[str]:
        """Every name a caller may use for this model."""
        return frozenset({self.id, self.served_model_name, *self.aliases})


class SlotSettings(Struct, frozen=True, kw_only=True):
    """``[slot]``; ``idle_return`` is None for "never"."""

    default: str = ""
    idle_return: float | None = 1800.0
    min_residency: float = 30.0
    max_wait: float = 600.0
    drain_timeout: float = 60.0
    start_timeout: float = 900.0
    stop_timeout: float = 120.0
    overlap: str = "auto"
    max_start_attempts: int = 3


class MemorySettings(Struct, frozen=True, kw_only=True):
    """``[memory]``."""

    reserve: Amount = Amount(bytes=8 << 30)
    large: Amount = Amount(bytes=24 << 30)
    floor: Amount = Amount(bytes=3 << 30)
    reclaim_timeout: float = 120.0
    guard_grace: float = 30.0


class HealthSettings(Struct, frozen=True, kw_only=True):
    """``[health]``."""

    stall_timeout: float = 120.0


class ControlSettings(Struct, frozen=True, kw_only=True):
    """``[control]``: ``listen`` is used when no socket was passed."""

    listen: tuple[str, ...] = ("127.0.0.1:30100",)


class GatewaySettings(Struct, frozen=True, kw_only=True):
    """``[gateway]``."""

    listen: tuple[str, ...] = ("127.0.0.1:30101",)
    auth: str = "token"
    loading_keepalive: float = 5.0
    max_waiting: int = 256


class LogSettings(Struct, frozen=True, kw_only=True):
    """``[log]``."""

    level: str = "info"


class Settings(Struct, frozen=True, kw_only=True):
    """``spark-modeld.toml``."""

    slot: SlotSettings = SlotSettings()
    memory: MemorySettings = MemorySettings()
    health: HealthSettings = HealthSettings()
    control: ControlSettings = ControlSettings()
    gateway: GatewaySettings = GatewaySettings()
    log: LogSettings = LogSettings()


class Catalog(Struct, frozen=True):
    """The whole configuration: settings and every model, by id."""

    settings: Settings = Settings()
    models: Mapping[str, Model] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, name: str) -> Model | None:
        """The model with this id, alias or served name; None if there is none."""
        if name in self.models:
            return self.models[name]
        return next((m for m in self.models.values() if name in m.names), None)


class Footprint(Struct, frozen=True):
    """What a model needs, in bytes, and where that number comes from.

    ``note`` says more of it in words, ``taken_at`` (Unix seconds) when it was measured.
    """

    bytes: int
    basis: Basis
    note: str = ""
    taken_at: float | None = None


class GpuProcess(Struct, frozen=True):
    """One process that holds GPU memory. ``bytes`` is None where the driver does not know.

    ``command`` is the program's name only, never its arguments; ``unit`` the systemd unit or
    container scope it runs in; ``user`` the name of the user, or the number where there is no name.
    """

    pid: int
    bytes: int | None
    command: str = ""
    unit: str | None = None
    model: str | None = None
    user: str = ""


class HostProcess(Struct, frozen=True):
    """A process that is nobody's and holds much of the machine's own memory, in bytes."""

    pid: int
    bytes: int
    command: str = ""
    unit: str | None = None
    user: str = ""


class HugePages(Struct, frozen=True):
    """Memory set aside as huge pages, in bytes: it is not part of what is available."""

    reserved: int
    free: int
    page: int


class Loaded(Struct, frozen=True, kw_only=True):
    """A model that a server of many holds: in bytes, and how much of that is the GPU's.

    ``model`` is its id in the catalog, None for one that is not in it. ``ends_in``: seconds until the server drops it
    unless somebody uses it, None for never.
    """

    unit: str
    name: str
    bytes: int
    gpu_bytes: int
    ends_in: float | None = None
    model: str | None = None


class Reading(Struct, frozen=True, kw_only=True):
    """One measurement of memory, in bytes. ``free`` is MemFree (some engine images gate on it).

    ``stale`` says that NVML did not answer in time and ``processes`` are from an earlier reading;
    ``total`` and ``available`` are then still fresh wherever the kernel supplies them. ``strangers``
    and ``host_held`` (what models hold of the machine's own memory beside the GPU's) are looked for in
    thorough readings only, strangers with the largest first. ``loaded`` is what servers of many models
    say that they hold. ``notes`` say in words what a person should know.
    """

    total: int
    available: int
    free: int
    source: MemorySource
    taken_at: Instant
    stale: bool = False
    gpu: str | None = None
    processes: tuple[GpuProcess, ...] = ()
    strangers: tuple[HostProcess, ...] = ()
    host_held: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    huge_pages: HugePages | None = None
    loaded: tuple[Loaded, ...] = ()
    notes: tuple[str, ...] = ()


class ActiveState(StrEnum):
    """systemd's ActiveState; ``unknown`` for what this code has never heard of."""

    ACTIVE = "active"
    RELOADING = "reloading"
    INACTIVE = "inactive"
    FAILED = "failed"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"


class UnitStatus(Struct, frozen=True, kw_only=True):
    """What systemd shows of one unit, read in one piece.

    ``load`` is LoadState ("loaded", "not-found", "masked", ...), ``job`` the object path of a
    pending job or None. ``result`` is the service's Result ("success", "exit-code", "signal",
    "timeout", "start-limit-hit", ...), ``exit_status`` its ExecMainStatus.
    """

    active: ActiveState
    sub: str = ""
    load: str = "loaded"
    job: str | None = None
    result: str = "success"
    exit_status: int = 0
    main_pid: int = 0
    need_reload: bool = False


class LogLine(Struct, frozen=True):
    """One line of a unit's journal, without secrets; ``at`` is Unix seconds."""

    at: float
    text: str


class Rollback(Struct, frozen=True, kw_only=True):
    """The way back of a failed switch: which model is being started again, and how far it is."""

    model: str
    phase: SwitchPhase


class Switch(Struct, frozen=True, kw_only=True):
    """One transaction that changes the occupant; ``model`` None empties the slot.

    ``timings`` has the seconds spent in each phase that has ended. ``findings`` are the warnings and errors
    of its check. ``reason`` is why, where nobody asked for it.
    """

    id: str
    model: str | None
    from_model: str | None
    requested_by: Requester
    actor: str | None
    started_at: Instant
    force: bool = False
    phase: SwitchPhase = SwitchPhase.QUEUED
    phase_since: float = 0.0
    finished_at: Instant | None = None
    outcome: Outcome | None = None
    error: Problem | None = None
    rollback: Rollback | None = None
    timings: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    noop: bool = False
    findings: tuple[Finding, ...] = ()
    reason: str | None = None
