"""One measurement of memory, and who holds it. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct, field

from spark_modeld.core.instant import Instant


class MemorySource(StrEnum):
    """The shape of the gauge a reading came from."""

    UNIFIED = "unified"
    DISCRETE = "discrete"
    HOST = "host"


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
    say that they hold. ``paged_in`` is what the machine has read from its disks since it was started, None where
    nobody can say. ``notes`` say in words what a person should know.
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
    paged_in: int | None = None
    notes: tuple[str, ...] = ()
