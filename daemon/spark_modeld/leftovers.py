"""What is left of a model whose unit is down: in its control group and its containers, on the GPU, on its port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from spark_modeld import ports
from spark_modeld.core.brand import brand_of
from spark_modeld.core.errors import SparkError
from spark_modeld.core.model import Container, Docker, Model, OwnUnit

_SWEEP_SECONDS = 20.0
"""How long a sweep may take before it is asked for again, and people are told what they can do."""


class Leftovers:
    """Looks, and names what it finds. What has escaped from the unit it has ended; whatever else there is ends by
    systemd, the launcher and its clean-up, or is somebody else's.
    """

    def __init__(self, outside: ports.Outside) -> None:
        self._out = outside
        self._before: dict[str, frozenset[int]] = {}
        self._sweeps: dict[str, tuple[int, float]] = {}

    def starting(self, spec: Model) -> None:
        """Remembers who listens at the model's address before the model can: that one is not left by it."""
        self._before[spec.id] = self._out.remains.listeners(spec)
        self._sweeps.pop(spec.id, None)

    async def of(self, spec: Model) -> tuple[str, ...]:
        """Each thing left, in words; empty when the model is gone. SparkError when nobody can say."""
        reading, own, containers = await asyncio.gather(
            self._out.gauge.read(), self._out.systemd.processes(spec.seat), in_containers(self._out, spec)
        )
        left = [
            f"{self._out.remains.named(pids)} in {_place(unit)}{_remedy(spec, unit)}"
            for unit, pids in ((spec.seat, own), *containers.items())
            if pids
        ]
        if not left:
            left += await self._escaped(spec)
        # A gauge that hangs knows nothing; what starts next still needs a fresh reading that fits.
        holding = [each.pid for each in reading.processes if each.model == spec.id and not reading.stale]
        if holding and not left:
            left.append(f"{self._out.remains.named(holding)} with memory of the GPU")
        if not left and not spec.tenant:  # there its server listens, and stays
            left += await self._on_port(spec)
        return tuple(left)

    async def _escaped(self, spec: Model) -> list[str]:
        """What the unit started and does not hold: it had no signal yet."""
        found = self._out.remains.escaped(spec)
        if not found:
            self._sweeps.pop(spec.id, None)
            return []
        now, denied = self._out.clock.now().mono, ""
        sweeps, again = self._sweeps.get(spec.id, (0, now))
        if now >= again:
            try:
                await self._out.systemd.sweep(spec.id)
                sweeps, again = sweeps + 1, now + _SWEEP_SECONDS
                self._sweeps[spec.id] = sweeps, again
            except SparkError as error:
                denied = f": {error.problem.detail}"
        places = sorted({unit or "no unit" for unit in found.values()})
        fate = _fate(spec, found, denied) if denied or sweeps > 1 else "is being ended"
        return [f"{self._out.remains.named(found)}, which escaped from the unit into {', '.join(places)} and {fate}"]

    async def _on_port(self, spec: Model) -> list[str]:
        inodes = self._out.remains.listeners(spec) - self._before.get(spec.id, frozenset())
        if not inodes:
            return []
        _, port = spec.endpoint
        ours = {spec.unit, *self._out.remains.scopes(spec)}
        stranger = f", not known for the unit's: end it (`ss -ltnp 'sport = :{port}'` as root names it)"
        if isinstance(spec.run, OwnUnit) and (await self._out.systemd.facts(spec.unit)).brand != brand_of(spec.unit):
            stranger += f"; `spark-modelctl doctor --drop-in {spec.id}` has such ended, if they come from the unit"
        return [
            f"{holder.who} {f'in {_place(holder.unit)} ' if holder.unit else ''}listening on port {port}"
            f"{'' if holder.unit in ours else stranger}"
            for holder in self._out.remains.holders(spec, inodes)
        ]


async def in_containers(outside: ports.Outside, spec: Model) -> dict[str, frozenset[int]]:
    """The processes in each of the containers that the model ran in last. SparkError ``bus-lost``."""
    return {
        scope: outside.remains.processes(scope) | await outside.systemd.processes(scope)
        for scope in outside.remains.scopes(spec)
    }


def _place(unit: str) -> str:
    """A container by its short id, as docker's own lists show it."""
    if unit.startswith("docker-") and unit.endswith(".scope"):
        return f"container {unit.removeprefix('docker-')[:12]}"
    return unit


def _fate(spec: Model, pids: Iterable[int], denied: str) -> str:
    """What people can do about it."""
    log = f"`journalctl -u spark-model-sweep@{spec.id}.service` says why"
    why = f"cannot be ended{denied}" if denied else f"does not end ({log})"
    return f"{why}: end it (`kill -KILL {' '.join(map(str, sorted(pids)))}` as root)"


def _remedy(spec: Model, unit: str) -> str:
    if not unit.endswith(".scope"):
        return ""
    if isinstance(spec.run, Docker):
        return f" (`docker rm -f spark-model-{spec.id}`)"
    return f" (`docker kill {spec.run.name}`)" if isinstance(spec.run, Container) else ""
