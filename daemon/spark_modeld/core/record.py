"""What survives a restart: the content of ``state.toml`` as a value."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field

from spark_modeld.core.switch import Switch

HISTORY = 200


class Measured(Struct, frozen=True):
    """A footprint seen before: peak bytes, when (Unix seconds), at which context (tokens), for which configuration."""

    bytes: int
    taken_at: float
    context: int | None = None
    fingerprint: str = ""


class Record(Struct, frozen=True, kw_only=True):
    """``desired``: a model id, "" for a slot emptied on purpose, None for never decided.

    ``held_boot`` is the boot id during which somebody stopped the occupant with systemctl: the slot stays empty for
    the rest of that boot. ``switch`` is the one under way, written before its first stop; ``history`` has the last
    ``HISTORY`` that ended, oldest first. ``failures`` has the failed starts in a row of each model that has any.
    ``boot`` is the boot id under which it was written, "" by a daemon that was told to end: where it is another one,
    the machine itself went down, maybe because of the switch under way.
    """

    desired: str | None = None
    last_good: str | None = None
    held_boot: str = ""
    switch: Switch | None = None
    history: tuple[Switch, ...] = ()
    measured: Mapping[str, Measured] = field(default_factory=lambda: MappingProxyType({}))
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    boot: str = ""
