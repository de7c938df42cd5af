"""Who the processes are that hold memory: program, user, unit, model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from spark_modeld.core.errors import SparkError
from spark_modeld.core.reading import GpuProcess
from spark_modeld.memory.attribution import Owners, unit_of_cgroup
from spark_modeld.memory.lone_thread import LoneThread
from spark_modeld.memory.procfs import Identity, identify, started

UnitOf = Callable[[int], Awaitable[str | None]]

_UNSURE_SECONDS = 5.0
_ANONYMOUS_SECONDS = 30.0


class _Known(Struct, frozen=True):
    started: int | None
    identity: Identity
    unit: str | None
    until: float | None


class Processes:
    """Names processes. A process does not change its unit, so each is looked up once, not at every reading.

    ``thread`` is where /proc is asked who they are. ``unit_of`` asks systemd; /proc/PID/cgroup is asked where that has
    no answer. ``owners`` gives the owners of the moment, since the catalog may change. No lookup takes longer than
    ``deadline`` seconds; what it did not find is left empty and looked for again later.
    """

    def __init__(
        self,
        thread: LoneThread,
        unit_of: UnitOf | None,
        owners: Callable[[], Owners],
        *,
        user: bool = False,
        deadline: float = 2.0,
    ) -> None:
        self._thread = thread
        self._unit_of = unit_of
        self._owners = owners
        self._user = user
        self._deadline = deadline
        self._known: dict[int, _Known] = {}

    async def name(self, usage: Mapping[int, int | None], now: float) -> tuple[GpuProcess, ...]:
        """The processes of ``usage`` (PID -> bytes), the largest first. ``now`` is monotonic seconds."""
        starts = {pid: started(pid) for pid in usage}
        kept = {pid: self._known[pid] for pid in usage if self._valid(pid, starts[pid], now)}
        if missing := [pid for pid in usage if pid not in kept]:
            units = asyncio.gather(*(self._find_unit(pid) for pid in missing))
            identities, units_found = await asyncio.gather(self._identify(missing), units)
            for pid, unit in zip(missing, units_found, strict=True):
                kept[pid] = _known(starts[pid], identities.get(pid), unit, now)
        self._known = kept
        owners = self._owners() if usage else Owners()
        named = (
            GpuProcess(
                pid,
                size,
                kept[pid].identity.command,
                kept[pid].unit,
                owners.model_of(kept[pid].unit, kept[pid].identity.brand),
                kept[pid].identity.user,
            )
            for pid, size in usage.items()
        )
        return tuple(sorted(named, key=lambda process: (-(process.bytes or 0), process.pid)))

    def _valid(self, pid: int, start: int | None, now: float) -> bool:
        known = self._known.get(pid)
        return known is not None and known.started == start and (known.until is None or now < known.until)

    async def _identify(self, pids: list[int]) -> dict[int, Identity]:
        try:
            return await self._thread.call(lambda: {pid: identify(pid) for pid in pids}, self._deadline)
        except TimeoutError:
            return {}

    async def _find_unit(self, pid: int) -> str | None:
        unit = None
        if self._unit_of is not None:
            with suppress(SparkError, TimeoutError):
                async with asyncio.timeout(self._deadline):
                    unit = await self._unit_of(pid)
        # A slice is no unit that runs anything: so systemd answers for a container that it knows nothing of.
        return unit if unit is not None and not unit.endswith(".slice") else _unit_from_proc(pid, user=self._user)


def _known(start: int | None, identity: Identity | None, unit: str | None, now: float) -> _Known:
    if identity is None or unit is None:
        until: float | None = now + _UNSURE_SECONDS
    else:
        until = None if start is not None else now + _ANONYMOUS_SECONDS
    return _Known(start, identity or Identity(), unit, until)


def _unit_from_proc(pid: int, *, user: bool) -> str | None:
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return unit_of_cgroup(text, user=user)
