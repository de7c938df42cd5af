"""The only notion of time that the core knows; it is always handed in."""

from __future__ import annotations

from msgspec import Struct


class Instant(Struct, frozen=True):
    """One moment, on both clocks: ``mono`` for durations, ``wall`` (Unix seconds) for people."""

    mono: float
    wall: float
