"""Who holds much of the machine's own memory: models, and strangers that work for none, a stray CPU server, say."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field

from spark_modeld.core.reading import HostProcess
from spark_modeld.memory.lone_thread import LoneThread
from spark_modeld.memory.processes import Processes
from spark_modeld.memory.procfs import big_processes

LEAST_BYTES = 256 << 20
STRANGE_BYTES = 1 << 30
SHOWN = 5


class HostMemory(Struct, frozen=True):
    """The largest strangers, and model -> bytes, each without what it holds of a GPU's memory.

    A driver's allocations are not part of a process's resident memory.
    """

    strangers: tuple[HostProcess, ...] = ()
    held: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


class Strangers:
    """Looks through /proc. ``processes`` names what is found there, in the same ``thread``."""

    def __init__(self, thread: LoneThread, processes: Processes, *, deadline: float) -> None:
        self._thread = thread
        self._processes = processes
        self._deadline = deadline

    async def find(self, now: float) -> HostMemory:
        """The processes of this moment; none when /proc does not answer in time. ``now`` is monotonic seconds."""
        try:
            big = await self._thread.call(lambda: big_processes(LEAST_BYTES), self._deadline)
        except (TimeoutError, OSError):
            return HostMemory()
        held: dict[str, int] = {}
        strangers = []
        for process in await self._processes.name(big, now):
            size = process.bytes or 0
            if process.model is not None:
                held[process.model] = held.get(process.model, 0) + size
            elif size >= STRANGE_BYTES:
                strangers.append(HostProcess(process.pid, size, process.command, process.unit, process.user))
        return HostMemory(tuple(strangers[:SHOWN]), held)
