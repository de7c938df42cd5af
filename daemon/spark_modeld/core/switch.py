"""A switch: its phases, how it ends, who asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct, field

from spark_modeld.core.errors import Problem
from spark_modeld.core.finding import Finding
from spark_modeld.core.instant import Instant


class SwitchPhase(StrEnum):
    """How far a switch has come; the order of the members is the order of the phases."""

    QUEUED = "queued"
    ADMITTING = "admitting"
    DRAINING = "draining"
    STOPPING = "stopping"
    RECLAIMING = "reclaiming"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"


class Outcome(StrEnum):
    """How a switch ended."""

    READY = "ready"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Requester(StrEnum):
    """Who asked for a switch."""

    CONTROL = "control"
    GATEWAY = "gateway"
    RECONCILE = "reconcile"
    GUARD = "guard"
    SYSTEMD = "systemd"


class Rollback(Struct, frozen=True, kw_only=True):
    """The way back of a failed switch: which model is being started again, and how far it is."""

    model: str
    phase: SwitchPhase


class Switch(Struct, frozen=True, kw_only=True):
    """One transaction that changes the occupant; ``model`` None empties the slot.

    ``timings`` has the seconds spent in each phase that has ended. ``findings`` are the warnings and errors
    of its check. ``reason`` is why, where nobody asked for it.
    """

    id: str
    model: str | None
    from_model: str | None
    requested_by: Requester
    actor: str | None
    started_at: Instant
    force: bool = False
    phase: SwitchPhase = SwitchPhase.QUEUED
    phase_since: float = 0.0
    finished_at: Instant | None = None
    outcome: Outcome | None = None
    error: Problem | None = None
    rollback: Rollback | None = None
    timings: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    noop: bool = False
    findings: tuple[Finding, ...] = ()
    reason: str | None = None
