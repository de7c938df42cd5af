"""How this process sees checkpoints: who reads them for it, and what it has read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct, field

from spark_modeld.core.footprint import Checkpoint

Files = Mapping[str, os.stat_result]


class Stamped(Protocol):
    """Which files make up a checkpoint, and a text that changes with them."""

    @property
    def text(self) -> str:
        """ "" where there is nothing to see."""

    @property
    def files(self) -> Mapping[str, os.stat_result]:
        """The files themselves, by their path."""


class Eyes(Struct):
    """How this process sees: who reads checkpoints for it, and what it has read. ``user``: a per-user daemon's."""

    read: Callable[[str], Checkpoint]
    stamp: Callable[[str], Stamped]
    user: bool = False
    known: dict[str, tuple[str, Checkpoint]] = field(default_factory=dict)

    def checkpoint(self, path: str) -> tuple[str, Files, Checkpoint]:
        """The stamp, the files and what they say; read anew only when the stamp has changed."""
        seen = self.stamp(path)
        known = self.known.get(path)
        if known is None or not seen.text or known[0] != seen.text:
            known = (seen.text, self.read(path))
            self.known[path] = known
        return seen.text, seen.files, known[1]
