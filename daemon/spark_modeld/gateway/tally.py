"""The gateway's counters."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from spark_modeld.gateway.record import Record

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class FirstBytes:
    """How long clients of one model waited for the first byte of an answer: a histogram, in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Tally:
    """Requests by model and status code, and first bytes by model. A request about no model has model ""."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.first_bytes: dict[str, FirstBytes] = {}

    def add(self, record: Record) -> None:
        """One request that has ended."""
        model = record.model or ""
        self.requests[model, record.status] += 1
        if record.first_byte is not None and model:
            histogram = self.first_bytes.get(model)
            if histogram is None:
                histogram = self.first_bytes[model] = FirstBytes()
            histogram.add(record.first_byte)
