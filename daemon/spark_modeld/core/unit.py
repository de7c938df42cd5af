"""A model's unit: the phases of its life, and what systemd shows and says of it."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Phase(StrEnum):
    """One unit's life (the table is in DESIGN.md)."""

    UNKNOWN = "unknown"
    STOPPED = "stopped"
    RECLAIMING = "reclaiming"
    STARTING = "starting"
    WARMING = "warming"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"
    STUCK = "stuck"
    FAILED = "failed"


class ActiveState(StrEnum):
    """systemd's ActiveState; ``unknown`` for what this code has never heard of."""

    ACTIVE = "active"
    RELOADING = "reloading"
    INACTIVE = "inactive"
    FAILED = "failed"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"


class UnitStatus(Struct, frozen=True, kw_only=True):
    """What systemd shows of one unit, read in one piece.

    ``load`` is LoadState ("loaded", "not-found", "masked", ...), ``job`` the object path of a
    pending job or None. ``result`` is the service's Result ("success", "exit-code", "signal",
    "timeout", "start-limit-hit", ...), ``exit_status`` its ExecMainStatus.
    """

    active: ActiveState
    sub: str = ""
    load: str = "loaded"
    job: str | None = None
    result: str = "success"
    exit_status: int = 0
    main_pid: int = 0
    need_reload: bool = False


class LogLine(Struct, frozen=True):
    """One line of a unit's journal, without secrets; ``at`` is Unix seconds."""

    at: float
    text: str
