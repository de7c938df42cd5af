"""The JSON of the control API, as msgspec Structs: what is encoded, what is decoded, and what the spec describes.

Times are RFC 3339 in UTC, sizes bytes, durations seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from spark_modeld.core.endpoints import EndpointKind, Reach
from spark_modeld.core.finding import Level
from spark_modeld.core.footprint import PartName
from spark_modeld.core.model import Basis, EngineKind, Role
from spark_modeld.core.progress import LoadStep
from spark_modeld.core.reading import MemorySource
from spark_modeld.core.switch import Outcome, Requester, SwitchPhase
from spark_modeld.core.unit import Phase

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Bytes = Annotated[int, Meta(description="bytes")]
Seconds = Annotated[float, Meta(description="seconds")]
ProblemJson = Annotated[dict[str, Any], Meta(extra_json_schema={"allOf": [{"$ref": "#/components/schemas/Problem"}]})]


SlotPhase = Annotated[str, Meta(extra_json_schema={"enum": ["empty", *(str(phase) for phase in Phase)]})]


class Problem(Struct, kw_only=True):
    """An RFC 9457 problem; further members depend on ``code``. Only described here: a core Problem encodes itself."""

    type: str
    title: str
    status: int
    detail: Annotated[str, Meta(description="what went wrong, and what to do next")]
    code: str


class Health(Struct, kw_only=True):
    """The daemon can work."""

    status: Literal["ok"] = "ok"


class Warning(Struct, kw_only=True):
    """Something a person should know; it stands until it is no longer true."""

    code: str
    message: str


class RollbackState(Struct, kw_only=True):
    """The way back of a failed switch."""

    model: str
    phase: SwitchPhase


class Estimate(Struct, kw_only=True):
    """How long it takes, by how long the last few took that went well."""

    seconds: Seconds
    times: Annotated[int, Meta(description="how many earlier ones it is the middle of")]


Share = Annotated[float, Meta(ge=0, le=1)]


class Switch(Struct, kw_only=True):
    """One transaction that changes the occupant; ``model`` null empties the slot.

    While it is under way: ``step`` is what its engine is doing, ``progress`` how much of that step is done,
    ``eta_s`` in how many seconds it should be ready (0: it takes longer than it used to); null where nobody can say.
    """

    id: str
    model: str | None
    from_model: str | None = msgspec.field(name="from")
    requested_by: Requester
    actor: str | None
    force: bool
    phase: SwitchPhase
    started_at: Time
    finished_at: Time | None
    outcome: Outcome | None
    error: ProblemJson | None
    rollback: RollbackState | None
    reason: Annotated[str | None, Meta(description="why, where nobody asked for it")]
    timings: Annotated[dict[str, Seconds], Meta(description="seconds spent in each phase that has ended")]
    noop: bool
    findings: Annotated[list[Finding], Meta(description="what its check found")] = []
    step: LoadStep | None = None
    progress: Share | None = None
    eta_s: Seconds | None = None
    estimate: Annotated[Estimate | None, Meta(description="from beginning to end, by earlier switches")] = None


class SwitchList(Struct, kw_only=True):
    """Switches, the one under way first, then the newest."""

    switches: list[Switch]


class Footprint(Struct, kw_only=True):
    """What a model needs, and where that number comes from."""

    bytes: Bytes
    basis: Basis
    note: Annotated[str | None, Meta(description="the same in words, where there is more to say")] = None
    taken_at: Annotated[Time | None, Meta(description="when it was measured")] = None


class Finding(Struct, kw_only=True):
    """One thing that is wrong with a model, or worth knowing, before it is tried. Errors block a switch."""

    code: str
    level: Level
    message: str
    hint: Annotated[str, Meta(description="what to do about it")]


class Part(Struct, kw_only=True):
    """Memory of one kind in an estimate."""

    name: PartName
    bytes: Bytes
    source: Annotated[str, Meta(description="the file, flag or constant the number is from")]


class Listener(Struct, kw_only=True):
    """Somebody listens on the model's port: itself, another of the catalog, or a stranger."""

    port: int
    holder: str


class Check(Struct, kw_only=True):
    """What a check found. Numbers of the checkpoint are null where it could not be read or there is none.

    ``kv_cache`` is what the engine sets aside, ``context_bytes`` what one context of ``context`` tokens takes.
    """

    model: str
    ok: Annotated[bool, Meta(description="no finding is an error")]
    findings: list[Finding]
    quantization: str | None
    quantization_source: str | None
    weights: int | None
    kv_cache: int | None
    overhead: int | None
    parts: Annotated[list[Part], Meta(description="what the estimate is made of")]
    estimate: int | None
    footprint: Footprint
    large: bool
    context: Annotated[int | None, Meta(description="tokens")]
    context_bytes: int | None
    context_source: str | None
    notes: list[str]
    fits: Annotated[bool | None, Meta(description="now, in place of what a switch would replace")]
    fits_ever: Annotated[bool | None, Meta(description="on this machine with nothing else running")]
    total: int | None
    available: int | None
    reserve: Bytes
    path: str | None
    format: str | None
    weight_files: int | None
    image: str | None
    container: str | None
    start_script: str | None
    listener: Listener | None
    fingerprint: str


class Model(Struct, kw_only=True):
    """One model as it is now; ``fits`` is null while there is no reading of memory."""

    id: str
    aliases: list[str]
    served_model_name: str
    engine: EngineKind
    url: str
    unit: str
    role: Role
    on_demand: bool
    gateway_port: int | None
    default: bool
    state: Phase
    since: Time | None
    in_flight: int
    footprint: Footprint
    large: bool
    fits: bool | None
    fit_reason: str | None
    error: Annotated[
        ProblemJson | None,
        Meta(
            description="why it is down; of one that fell also while it is up again, until somebody stops or wants it"
        ),
    ]
    path: str | None = None
    findings: Annotated[
        list[Finding], Meta(description="warnings and errors of the last look at it; memory left aside")
    ] = []
    step: Annotated[
        LoadStep | None,
        Meta(description="what its engine is doing while it loads, by its log; or by what was read from the disks"),
    ] = None
    progress: Annotated[Share | None, Meta(description="how much of that step is done")] = None
    load: Annotated[Estimate | None, Meta(description="from its unit's start until it serves, by earlier loads")] = None


class ModelList(Struct, kw_only=True):
    """Every model of the catalog, by id."""

    models: list[Model]


class Slot(Struct, kw_only=True):
    """The one serving position."""

    phase: SlotPhase
    model: str | None
    unit: str | None
    url: str | None
    since: Time | None
    in_flight: int
    reason: str | None


class SideModel(Struct, kw_only=True):
    """A side model that is not stopped."""

    model: str
    phase: Phase
    unit: str
    url: str
    since: Time | None
    in_flight: int
    error: ProblemJson | None


class Demand(Struct, kw_only=True):
    """Requests that wait for one model."""

    model: str
    waiters: int
    since: Time


class MemorySummary(Struct, kw_only=True):
    """One reading, against the levels of the configuration; ``free`` is MemFree."""

    total: Bytes
    available: Bytes
    free: Bytes
    reserve: Bytes
    floor: Bytes
    source: MemorySource
    stale: bool
    gpu: str | None
    taken_at: Time
    notes: list[str]


class Process(Struct, kw_only=True):
    """A process that holds GPU memory; ``bytes`` is null where the driver does not know."""

    pid: int
    bytes: int | None
    model: str | None
    unit: str | None
    command: Annotated[str, Meta(description="the program's name only; empty where it cannot be seen")]
    user: Annotated[str, Meta(description="the user's name, or number; empty where it cannot be seen")]


class Stranger(Struct, kw_only=True):
    """A process that works for no model and holds much of the machine's own memory."""

    pid: int
    bytes: Annotated[int, Meta(description="bytes that the kernel cannot take back, beside any GPU memory")]
    unit: str | None
    command: Annotated[str, Meta(description="the program's name only; empty where it cannot be seen")]
    user: Annotated[str, Meta(description="the user's name, or number; empty where it cannot be seen")]


class HugePages(Struct, kw_only=True):
    """Memory that is set aside as huge pages and so is no part of what is available."""

    reserved: Bytes
    free: Bytes
    page: Annotated[int, Meta(description="bytes of one page")]


class Loaded(Struct, kw_only=True):
    """A model that a server of many holds."""

    name: Annotated[str, Meta(description="the server's own name for it")]
    unit: str
    bytes: Bytes
    gpu_bytes: Annotated[int, Meta(description="bytes of it that are the GPU's")]
    model: Annotated[str | None, Meta(description="its id; null where another client had it loaded past the catalog")]
    ends_in: Annotated[Seconds | None, Meta(description="until the server drops it, unless it is used; null: never")]


class ModelMemory(Struct, kw_only=True):
    """What one model holds, and what it was said to need."""

    model: str
    state: Phase
    bytes: Annotated[
        int | None,
        Meta(description="of GPU memory, or what its server says; null where nobody shows anything of it"),
    ]
    host_bytes: Annotated[int, Meta(description="of the machine's own memory beside that, by its larger processes")]
    footprint: Footprint


class Memory(MemorySummary, kw_only=True):
    """A fresh reading and who holds the memory.

    ``strangers`` are the largest few, where models share their memory; ``loaded`` is what servers of many models hold.
    """

    huge_pages: HugePages | None
    processes: list[Process]
    strangers: list[Stranger]
    loaded: list[Loaded]
    models: list[ModelMemory]


class Status(Struct, kw_only=True):
    """Everything on one screen. ``last_failure`` is the newest switch in the history that failed or rolled back."""

    slot: Slot
    desired: str | None
    default: str | None
    switch: Switch | None
    queue: list[Demand]
    side: list[SideModel]
    memory: MemorySummary | None
    bus: Literal["connected", "lost"]
    stopping: bool
    warnings: list[Warning]
    last_failure: Switch | None
    version: str


class Reloaded(Struct, kw_only=True):
    """The configuration that is now in force."""

    models: list[str]


class Endpoint(Struct, kw_only=True):
    """One address that answers, with calls to try. Those of a gateway come with their ``/v1``."""

    kind: EndpointKind
    url: Annotated[str, Meta(description="the base URL for clients; unix: and a path for the control socket")]
    health: Annotated[str, Meta(description="where it says that it is alive, without a token where it is ours")]
    reach: Annotated[Reach, Meta(description="from where it can be reached")]
    token: Annotated[str | None, Meta(description="the scope that a token needs; null where none is asked for")]
    model: Annotated[str | None, Meta(description="the model it means; null for all of them")]
    state: Annotated[Phase | None, Meta(description="of that model")]
    examples: list[str]


class Tailscale(Struct, kw_only=True):
    """This machine in its tailnet."""

    name: str
    addresses: list[str]


class Endpoints(Struct, kw_only=True):
    """Every address at which the daemon and its models are reached, those for clients first."""

    host: Annotated[str, Meta(description="this machine's name")]
    tailscale: Annotated[Tailscale | None, Meta(description="null where `tailscale` does not answer or is not up")]
    endpoints: list[Endpoint]


class LogLine(Struct, kw_only=True):
    """One line that a unit or its processes wrote; secrets are taken out."""

    time: Time
    text: str


class Log(Struct, kw_only=True):
    """The last lines of a unit's journal, of whichever run, oldest first."""

    model: str
    unit: str
    lines: list[LogLine]


class SwitchRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which model the slot should serve: an id, alias or served name; null empties the slot."""

    model: str | None
    force: Annotated[
        bool,
        Meta(description="switch even where its check found errors or an estimate does not fit; never past the floor"),
    ] = False
