"""Admission marks: files that the gate of ``spark-model@.service`` takes, one for each start."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

LIFETIME_SECONDS = 20


def uptime() -> float:
    """Seconds since boot, suspend included, from the very file that the gate reads."""
    return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])


class Marks:
    """Keeps the marks in ``directory/admitted``; ``directory`` is the daemon's runtime directory."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = uptime) -> None:
        self._admitted = directory / "admitted"
        self._clock = clock

    def put(self, model: str) -> None:
        """Admits one start of this model within the next ``LIFETIME_SECONDS``. OSError."""
        self._admitted.mkdir(mode=0o700, exist_ok=True)
        # Outside the names a model can have, so that no gate ever sees half a mark.
        unfinished = self._admitted / f"{model}.new~"
        unfinished.write_text(f"{self._clock() + LIFETIME_SECONDS:.2f}\n", encoding="ascii")
        os.replace(unfinished, self._admitted / model)

    def take_back(self, model: str) -> None:
        """Withdraws a mark that was not used."""
        (self._admitted / model).unlink(missing_ok=True)
