"""Who the processes are that hold GPU memory: program, unit, model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spark_modeld.core.errors import SparkError
from spark_modeld.core.model import GpuProcess
from spark_modeld.memory.attribution import Owners, unit_of_cgroup

UnitOf = Callable[[int], Awaitable[str | None]]

_UNSURE_SECONDS = 5.0
_ANONYMOUS_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Identity:
    """The program's name, and the start time (Unix seconds) that tells a PID from its next use."""

    command: str = ""
    started: float | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    started: float | None
    unit: str | None
    until: float | None


class Processes:
    """Names processes. A process does not change its unit, so each is looked up once, not at every reading.

    ``unit_of`` asks systemd; /proc/PID/cgroup is asked where that has no answer. ``owners`` gives the owners of the
    moment, since the catalog may change. No lookup takes longer than ``deadline`` seconds.
    """

    def __init__(
        self, unit_of: UnitOf | None, owners: Callable[[], Owners], *, user: bool = False, deadline: float = 2.0
    ) -> None:
        self._unit_of = unit_of
        self._owners = owners
        self._user = user
        self._deadline = deadline
        self._known: dict[int, _Known] = {}

    async def name(self, usage: Mapping[int, int | None], now: float) -> tuple[GpuProcess, ...]:
        """The processes of ``usage`` (PID -> bytes), the largest first. ``now`` is monotonic seconds."""
        identities = {pid: _identify(pid) for pid in usage}
        kept = {pid: self._known[pid] for pid in usage if self._valid(pid, identities[pid], now)}
        missing = [pid for pid in usage if pid not in kept]
        units = await asyncio.gather(*(self._find_unit(pid) for pid in missing))
        for pid, unit in zip(missing, units, strict=True):
            started = identities[pid].started
            if unit is None:
                until: float | None = now + _UNSURE_SECONDS
            else:
                until = None if started is not None else now + _ANONYMOUS_SECONDS
            kept[pid] = _Known(started, unit, until)
        self._known = kept
        owners = self._owners()
        named = (
            GpuProcess(pid, size, identities[pid].command, kept[pid].unit, owners.model_of(kept[pid].unit))
            for pid, size in usage.items()
        )
        return tuple(sorted(named, key=lambda process: (-(process.bytes or 0), process.pid)))

    def _valid(self, pid: int, identity: _Identity, now: float) -> bool:
        known = self._known.get(pid)
        return known is not None and known.started == identity.started and (known.until is None or now < known.until)

    async def _find_unit(self, pid: int) -> str | None:
        unit = None
        if self._unit_of is not None:
            with suppress(SparkError, TimeoutError):
                async with asyncio.timeout(self._deadline):
                    unit = await self._unit_of(pid)
        # A slice is no unit that runs anything: so systemd answers for a container that it knows nothing of.
        return unit if unit is not None and not unit.endswith(".slice") else _unit_from_proc(pid, user=self._user)


def _identify(pid: int) -> _Identity:
    """Empty for a process that is gone, or that a hardened /proc hides."""
    import psutil  # noqa: PLC0415 - a fifteenth of the daemon's start, and most readings have no process to name

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return _Identity(process.name(), process.create_time())
    except psutil.Error:
        return _Identity()


def _unit_from_proc(pid: int, *, user: bool) -> str | None:
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return unit_of_cgroup(text, user=user)
