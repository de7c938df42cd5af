"""What is counted for ``GET /metrics``: counters, histograms and gauges, kept as plain numbers.

Nothing of Prometheus is imported here, so that counting costs the daemon's start nothing; ``control/exposition.py``
turns it all into text. Label values must come from closed sets: model ids of the catalog, phases, codes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from msgspec import Struct, field

Labels = tuple[str, ...]

SWITCH_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
"""Upper bounds in seconds for what may take from milliseconds to a very large model's load."""
FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds in seconds for how long an answer's first byte takes."""


class Counter(Struct):
    """Only ever grows. ``name`` ends in ``_total``."""

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Counts one, or ``by``, under these label values. ValueError for another number of them."""
        value = self.values.get(labels)
        if value is None:
            _check(self.name, self.labels, labels)
            value = 0.0
        self.values[labels] = value + by


class Histogram(Struct):
    """How values are spread over ``buckets``, their upper bounds in rising order."""

    name: str
    help: str
    labels: Labels
    buckets: Sequence[float]
    counts: dict[Labels, list[int]] = field(default_factory=dict)
    sums: dict[Labels, float] = field(default_factory=dict)

    def observe(self, value: float, *labels: str) -> None:
        """Counts one value under these label values. ValueError for another number of them."""
        counts = self.counts.get(labels)
        if counts is None:
            _check(self.name, self.labels, labels)
            counts = self.counts[labels] = [0] * (len(self.buckets) + 1)
            self.sums[labels] = 0.0
        counts[bisect_left(self.buckets, value)] += 1
        self.sums[labels] += value

    def cumulative(self, labels: Labels) -> list[tuple[str, float]]:
        """Upper bound and how many were at or under it, as Prometheus writes them."""
        bounds = [*(f"{bound:g}" for bound in self.buckets), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts[labels])), strict=True))


class Gauge(Struct, frozen=True):
    """What is so now: ``read`` gives it for each set of label values, when somebody asks."""

    name: str
    help: str
    labels: Labels
    read: Callable[[], Mapping[Labels, float]]


class Metrics:
    """Everything that is counted. Whoever counts something asks for its counter once, at start."""

    def __init__(self) -> None:
        self.counters: list[Counter] = []
        self.histograms: list[Histogram] = []
        self.gauges: list[Gauge] = []

    def counter(self, name: str, help: str, labels: Labels = ()) -> Counter:
        """A new counter."""
        self.counters.append(Counter(name, help, labels))
        return self.counters[-1]

    def histogram(self, name: str, help: str, labels: Labels, buckets: Sequence[float] = SWITCH_BUCKETS) -> Histogram:
        """A new histogram."""
        self.histograms.append(Histogram(name, help, labels, buckets))
        return self.histograms[-1]

    def gauge(self, name: str, help: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]) -> None:
        """A new gauge."""
        self.gauges.append(Gauge(name, help, labels, read))


def _check(name: str, expected: Labels, given: Labels) -> None:
    if len(given) != len(expected):
        raise ValueError(f"{name} has the labels {expected}, not {given}")
