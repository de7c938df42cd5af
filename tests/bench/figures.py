"""What was measured, against what was to be reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured number. ``target`` is the most it may be, None where it is shown only."""

    what: str
    value: float
    unit: str
    target: float | None = None
    note: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The row of the table: what, measured, target, measured / target, whether it holds, the note."""
        if self.target is None:
            return self.what, f"{self.value:.4g} {self.unit}", "", "", "", self.note
        holds = "yes" if self.value <= self.target else "NO"
        ratio = f"{self.value / self.target:.2f}"
        return self.what, f"{self.value:.4g} {self.unit}", f"<= {self.target:g} {self.unit}", ratio, holds, self.note


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned text."""
    rows = [("figure", "measured", "target", "ratio", "holds", "how"), *(figure.cells for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def overhead_figures(
    name: str, bare: Sequence[float], daemon: Sequence[float], target_ms: float | None
) -> list[Figure]:
    """What a switch by the daemon takes beyond a bare one, pair by pair, from seconds."""
    extra = [(ours - theirs) * 1e3 for ours, theirs in zip(daemon, bare, strict=True)]
    ours, theirs = statistics.median(daemon) * 1e3, statistics.median(bare) * 1e3
    note = f"median switch {ours:.1f} ms, bare {theirs:.1f} ms, {ours / theirs:.2f} times; {len(extra)} pairs"
    return [
        Figure(f"switch overhead, {name}: median", statistics.median(extra), "ms", target_ms, note),
        Figure(f"switch overhead, {name}: max", max(extra), "ms"),
    ]
