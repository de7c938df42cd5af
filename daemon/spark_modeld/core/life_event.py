"""What happens to one unit: the events that ``lifecycle.step`` takes, and their names in the table.

Timers and probes carry the epoch they were started in: what comes back with another epoch is stale. Jobs are told
apart by their object path.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from spark_modeld.core.errors import Problem
from spark_modeld.core.unit import UnitStatus


class Trigger(StrEnum):
    """The events of the table, by name."""

    SHOWN = "shown"
    START_WANTED = "start-wanted"
    GATE_PASSED = "gate-passed"
    FITS = "fits"
    REFUSED = "refused"
    JOB_QUEUED = "job-queued"
    CALL_FAILED = "call-failed"
    JOB_ENDED = "job-ended"
    LADDER_PASSED = "ladder-passed"
    LADDER_REFUSED = "ladder-refused"
    UNDER_FLOOR = "under-floor"
    STALLED = "stalled"
    EXPIRED = "expired"
    STOP_WANTED = "stop-wanted"
    CUT_WANTED = "cut-wanted"
    KEEP_WANTED = "keep-wanted"
    UNUSED = "unused"
    LEFT = "left"
    GONE = "gone"
    BUS_LOST = "bus-lost"


class Shown(Struct, frozen=True):
    """What systemd shows.

    ``foreign``: a job that is not ours is, or was just now, at work on the unit. ``left``: it is down, and processes
    that it started are not.
    """

    status: UnitStatus
    foreign: bool = False
    left: bool = False


class JobQueued(Struct, frozen=True):
    """systemd queued the start or stop that was asked for in this epoch."""

    epoch: int
    job: str


class CallFailed(Struct, frozen=True):
    """The start or stop of this epoch was not taken. ``gone``: there is no such unit; ``denied``: we may not."""

    epoch: int
    message: str
    gone: bool = False
    denied: bool = False


class JobEnded(Struct, frozen=True):
    """A job ended; only ``done`` is success."""

    job: str
    result: str


class Ladder(Struct, frozen=True):
    """The readiness ladder came to an end: passed (``problem`` None) or refused."""

    epoch: int
    problem: Problem | None = None


class Expired(Struct, frozen=True):
    """The deadline armed in this epoch has passed."""

    epoch: int


class Gone(Struct, frozen=True):
    """The unit's processes and GPU memory are gone, as looked for since this epoch."""

    epoch: int


class Left(Struct, frozen=True):
    """What of the unit is still there, as looked for since this epoch."""

    epoch: int
    words: str


class Refused(Struct, frozen=True):
    """No room for it before the deadline."""

    problem: Problem


class UnderFloor(Struct, frozen=True):
    """Memory fell under the floor while it was loading."""

    problem: Problem


class Stalled(Struct, frozen=True):
    """It serves, says systemd, and has not generated anything for so many ``seconds``, or is not even listening."""

    epoch: int
    problem: Problem
    seconds: float = 0.0


class Plain(Struct, frozen=True):
    """An event that carries nothing but its name."""

    trigger: Trigger


LifeEvent = (
    Shown | JobQueued | CallFailed | JobEnded | Ladder | Expired | Left | Gone | Refused | UnderFloor | Stalled | Plain
)

START_WANTED = Plain(Trigger.START_WANTED)
GATE_PASSED = Plain(Trigger.GATE_PASSED)
FITS = Plain(Trigger.FITS)
STOP_WANTED = Plain(Trigger.STOP_WANTED)
CUT_WANTED = Plain(Trigger.CUT_WANTED)
KEEP_WANTED = Plain(Trigger.KEEP_WANTED)
UNUSED = Plain(Trigger.UNUSED)
BUS_LOST = Plain(Trigger.BUS_LOST)


def trigger_of(event: LifeEvent) -> Trigger:
    """The event's name in the table."""
    match event:
        case Plain(trigger):
            return trigger
        case Ladder(problem=problem):
            return Trigger.LADDER_PASSED if problem is None else Trigger.LADDER_REFUSED
        case Shown():
            return Trigger.SHOWN
        case JobQueued():
            return Trigger.JOB_QUEUED
        case CallFailed():
            return Trigger.CALL_FAILED
        case JobEnded():
            return Trigger.JOB_ENDED
        case Expired():
            return Trigger.EXPIRED
        case Left():
            return Trigger.LEFT
        case Gone():
            return Trigger.GONE
        case Refused():
            return Trigger.REFUSED
        case UnderFloor():
            return Trigger.UNDER_FLOOR
        case Stalled():
            return Trigger.STALLED
