"""The gauge: readings from the kernel and NVML, in whichever shape this machine has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.structs import replace

from spark_modeld.core.errors import Code, refuse
from spark_modeld.core.instant import Instant
from spark_modeld.core.reading import GpuProcess, MemorySource, Reading
from spark_modeld.memory.attribution import Owners
from spark_modeld.memory.lone_thread import LoneThread
from spark_modeld.memory.meminfo import read_meminfo
from spark_modeld.memory.nvml import Nvml, Survey
from spark_modeld.memory.processes import Processes, UnitOf
from spark_modeld.memory.shape import pool_of
from spark_modeld.memory.strangers import HostMemory, Strangers
from spark_modeld.memory.vmstat import read_paged_in
from spark_modeld.ports import Clock

_NO_OWNERS = Owners()


class NvmlGauge:
    """Implements ``ports.Gauge``.

    ``meminfo_path``, ``vmstat_path`` are the kernel's files or ones that stand for them; ``unit_of`` asks systemd for
    a PID's unit; ``owners`` gives who owns which unit and container at the moment; ``user`` is set beside a per-user
    systemd.

    ``deadline`` is how many seconds NVML may take to answer: after that the reading is ``stale``, with the processes
    of the last answer, and stays so until NVML came back. ``patience`` is how many seconds a reading that is not
    thorough waits: the kernel's number is what a load is watched by, and a wedged machine's driver is slow. Where NVML
    answers with an error, the kernel's numbers are all there is: the reading then has the shape ``host``, no
    processes, and a note that says why.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        meminfo_path: str = "/proc/meminfo",
        vmstat_path: str = "/proc/vmstat",
        deadline: float = 2.0,
        patience: float = 0.1,
        unit_of: UnitOf | None = None,
        owners: Callable[[], Owners] = lambda: _NO_OWNERS,
        user: bool = False,
    ) -> None:
        self.deadline = deadline
        self.patience = patience
        self._clock = clock
        self._meminfo_path = meminfo_path
        self._vmstat_path = vmstat_path
        self._nvml = Nvml(lambda: clock.now().mono)
        self._thread = LoneThread("nvml")
        self._proc = LoneThread("proc")

        def names() -> Processes:
            return Processes(self._proc, unit_of, owners, user=user, deadline=deadline)

        self._processes = names()
        self._strangers = Strangers(self._proc, names(), deadline=deadline)
        self._asking: asyncio.Task[None] | None = None
        self._survey = Survey()
        self._named: tuple[GpuProcess, ...] = ()
        self._answered_at: Instant | None = None
        self._late_since: Instant | None = None
        self._last: Reading | None = None

    async def read(self, *, thorough: bool = False) -> Reading:
        """A fresh reading: NVML is asked after this call, the kernel after NVML.

        ``thorough`` looks for strangers too, wherever models live in the machine's own memory. Without it, an answer
        that is not there in ``patience`` is not waited for: what came from NVML is then a moment old.
        SparkError ``internal`` when the kernel's file cannot be read and never could; later on, its last numbers stand
        in, and the reading is ``stale``.
        """
        look = self._strangers.find(self._clock.now().mono) if thorough else _nobody()
        host, _ = await asyncio.gather(look, self._hear_nvml(thorough=thorough))
        self._last = reading = self._compose()
        if reading.source is MemorySource.DISCRETE:
            return reading
        return replace(reading, strangers=host.strangers, host_held=host.held)

    async def close(self) -> bool:
        """Ends the gauge's threads. False when one hangs: it ends when its call returns, or with the process."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        closed = await self._thread.close(self._nvml.close, self.deadline)
        return await self._proc.close(lambda: None, self.deadline) and closed

    async def _hear_nvml(self, *, thorough: bool) -> None:
        """NVML is asked by one task at a time, whoever waits for it and for how long."""
        if thorough and self._asking is not None:
            await asyncio.wait({self._asking})  # it was begun before this reading
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_nvml(), name="nvml")
        asking = self._asking
        in_no_hurry = thorough or self._answered_at is None
        await asyncio.wait({asking}, timeout=None if in_no_hurry else self.patience)
        if asking.done():
            asking.result()

    async def _ask_nvml(self) -> None:
        asked_at = self._clock.now()
        try:
            survey = await self._thread.call(self._nvml.survey, self.deadline)
        except TimeoutError:
            self._late_since = self._late_since or asked_at
            return
        self._named = await self._processes.name(survey.usage, asked_at.mono)
        self._survey, self._answered_at, self._late_since = survey, self._clock.now(), None

    def _compose(self) -> Reading:
        try:
            kernel = read_meminfo(self._meminfo_path)
        except (OSError, ValueError) as error:
            return self._without_kernel(str(error))
        pool = pool_of(self._survey.devices, kernel)
        return Reading(
            total=pool.total,
            available=pool.available,
            free=kernel.free,
            source=pool.source,
            taken_at=self._clock.now(),
            stale=self._late_since is not None,
            gpu=pool.gpu,
            processes=self._named,
            huge_pages=kernel.reserved_pages,
            paged_in=read_paged_in(self._vmstat_path),
            notes=(*pool.notes, *self._survey.trouble, *self._lateness()),
        )

    def _without_kernel(self, reason: str) -> Reading:
        message = f"cannot read {self._meminfo_path}: {reason}"
        if self._last is None:
            raise refuse(Code.INTERNAL, f"{message}; the daemon's sandbox must let it see this file")
        return replace(self._last, stale=True, processes=self._named, notes=(message, *self._lateness()))

    def _lateness(self) -> tuple[str, ...]:
        if self._late_since is None:
            return ()
        since = f"NVML has not answered since {_utc(self._late_since)}"
        if self._answered_at is None:
            return (f"{since}: which processes hold GPU memory is not known",)
        return (f"{since}: the processes are those of {_utc(self._answered_at)}",)


async def _nobody() -> HostMemory:
    return HostMemory()


def _utc(instant: Instant) -> str:
    return datetime.fromtimestamp(instant.wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
