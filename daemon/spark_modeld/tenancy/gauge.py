"""Memory, with what is known only to servers of many models."""

from __future__ import annotations

from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.core.reading import MemorySource, Reading
from spark_modeld.tenancy.rounds import FRESH_SECONDS, Rounds


class TenantGauge:
    """ports.Gauge over another one: its readings say too what the servers hold, and whose it is."""

    def __init__(self, gauge: ports.Gauge, rounds: Rounds) -> None:
        self._gauge = gauge
        self._rounds = rounds

    async def read(self, *, thorough: bool = False) -> Reading:
        """See ports.Gauge. The servers are asked before memory is read: a holder's memory is never free as well."""
        await self._rounds.refresh(within=0.0 if thorough else FRESH_SECONDS)
        reading = await self._gauge.read(thorough=thorough)
        loaded = self._rounds.loaded()
        if not loaded:
            return reading
        if reading.source is MemorySource.DISCRETE:
            loaded = tuple(replace(entry, bytes=entry.gpu_bytes) for entry in loaded)
        return replace(reading, loaded=loaded)
