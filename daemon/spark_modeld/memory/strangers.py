"""Processes that hold much of the machine's own memory and work for no model: a stray CPU server, say."""

from __future__ import annotations

from spark_modeld.core.model import HostProcess
from spark_modeld.memory.lone_thread import LoneThread
from spark_modeld.memory.processes import Processes
from spark_modeld.memory.procfs import big_processes

LEAST_BYTES = 1 << 30
SHOWN = 5


class Strangers:
    """Looks through /proc. ``processes`` names what is found there, in the same ``thread``."""

    def __init__(self, thread: LoneThread, processes: Processes, *, deadline: float) -> None:
        self._thread = thread
        self._processes = processes
        self._deadline = deadline

    async def find(self, now: float) -> tuple[HostProcess, ...]:
        """The largest ones; empty when /proc does not answer in time. ``now`` is monotonic seconds.

        One that also holds GPU memory is among them with what it holds beside that: a driver's allocations are not
        part of a process's resident memory.
        """
        try:
            big = await self._thread.call(lambda: big_processes(LEAST_BYTES), self._deadline)
        except (TimeoutError, OSError):
            return ()
        named = await self._processes.name(big, now)
        nobodys = [process for process in named if process.model is None]
        return tuple(
            HostProcess(process.pid, process.bytes or 0, process.command, process.unit, process.user)
            for process in nobodys[:SHOWN]
        )
