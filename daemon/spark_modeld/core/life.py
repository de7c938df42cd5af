"""One unit as the core knows it, and what a step of its life may ask for."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from spark_modeld.core.errors import Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.unit import Phase, UnitStatus

ASKED = ""
"""Stands for the path of a job that systemd was asked for and has not named yet."""


class Limits(Struct, frozen=True):
    """The deadlines of one model's unit, in seconds."""

    reclaim: float
    start: float
    drain: float
    stop: float
    outlives: bool = False
    """Whether processes of the model can outlive its unit: containers do, and what a user's own unit leaves."""


class Life(Struct, frozen=True):
    """One unit as the core knows it.

    ``job`` is our own pending job, ``ASKED`` between the call and its answer. ``foreign`` says that the
    start or stop under way is not ours.
    ``fell``: the unit went down by itself, and what it may have left is waited for; ``left`` is that, in words.
    ``down`` says that systemd has shown the unit inactive since the stop began, ``killed`` that the first
    stop deadline has passed. ``problem`` is why it is being stopped, or last failed.
    """

    phase: Phase
    since: Instant
    epoch: int = 0
    deadline: float | None = None
    job: str | None = None
    foreign: bool = False
    down: bool = False
    killed: bool = False
    fell: bool = False
    left: str = ""
    problem: Problem | None = None
    status: UnitStatus | None = None

    @property
    def alive(self) -> bool:
        """Whether processes of this unit may exist."""
        return self.phase not in {Phase.STOPPED, Phase.FAILED, Phase.RECLAIMING}

    @property
    def idle(self) -> bool:
        """Whether the unit is down and nothing is under way."""
        return self.phase in {Phase.STOPPED, Phase.FAILED}


class Act(StrEnum):
    """What a step asks for. Timers and watches belong to the life's epoch and end with its phase."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    LOOK = "look"
    CLIMB = "climb"
    WATCH_ROOM = "watch-room"
    WATCH_FLOOR = "watch-floor"
    WATCH_GONE = "watch-gone"
    WATCH_HEALTH = "watch-health"


Acts = tuple[Act, ...]
