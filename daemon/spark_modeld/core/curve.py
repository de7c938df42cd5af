"""How the available memory went while a model was loading."""

from __future__ import annotations

MOST = 120
"""Points kept: what a problem carries has to stay readable, and small on disk."""
_DENSE = 40


class Curve:
    """Readings as (seconds since the start, bytes available): the last ``_DENSE`` all, older ones thinned out."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._points: list[tuple[float, int]] = []

    def add(self, at: float, available: int) -> None:
        """One more reading; ``at`` is monotonic seconds, and one that is not later than the last is left out."""
        offset = round(at - self._began, 3)
        if self._points and offset <= self._points[-1][0]:
            return
        self._points.append((offset, available))
        if len(self._points) > MOST:
            older = self._points[:-_DENSE]
            # The first stays: it is what there was when it began.
            self._points = older[::2] + self._points[-_DENSE:]

    def points(self) -> list[list[float | int]]:
        """As JSON has it: ``[[seconds, bytes], ...]``, in the order of time."""
        return [[at, available] for at, available in self._points]
