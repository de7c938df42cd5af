"""The ways into a phase of a unit's life, each with what has to be done there."""

from __future__ import annotations

from msgspec.structs import replace

from spark_modeld.core.errors import Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import ASKED, Act, Acts, Life, Limits
from spark_modeld.core.unit import ActiveState, Phase

_P = Phase


def enter(
    life: Life,
    phase: Phase,
    now: Instant,
    *,
    seconds: float | None = None,
    problem: Problem | None = None,
    foreign: bool = False,
) -> Life:
    """A new phase: a new epoch, so that everything started in the old one is stale."""
    deadline = None if seconds is None else now.mono + seconds
    return Life(phase, now, life.epoch + 1, deadline, foreign=foreign, problem=problem, status=life.status)


def start(life: Life, now: Instant, limits: Limits, *, foreign: bool) -> tuple[Life, Acts]:
    """The unit is being started, by us or by somebody else: memory is watched from here on."""
    started = enter(life, _P.STARTING, now, seconds=limits.start, foreign=foreign)
    if foreign:
        return started, (Act.WATCH_FLOOR,)
    return replace(started, job=ASKED), (Act.START, Act.WATCH_FLOOR)


def warm(life: Life, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    """The start deadline covers loading too, so it moves on from ``starting`` unchanged."""
    warming = enter(life, _P.WARMING, now, seconds=limits.start)
    if life.phase is _P.STARTING:
        warming = replace(warming, deadline=life.deadline)
    if life.status is not None and life.status.active is ActiveState.ACTIVE:
        return warming, (Act.CLIMB, Act.WATCH_FLOOR)
    # A job that ended with `done` is no proof of a running unit (a skipped ExecCondition): look.
    return warming, (Act.LOOK, Act.CLIMB, Act.WATCH_FLOOR)


def stop(life: Life, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    """We stop the unit, for the reason that ``life.problem`` has, if any."""
    stopping = enter(life, _P.STOPPING, now, seconds=limits.stop, problem=life.problem)
    return replace(stopping, job=ASKED), (Act.STOP,)


def fall(life: Life, now: Instant, limits: Limits, *, foreign: bool) -> tuple[Life, Acts]:
    """The unit is going down by itself or by somebody else's hand: only wait until it has."""
    stopping = enter(life, _P.STOPPING, now, seconds=limits.stop, problem=life.problem, foreign=foreign)
    return stopping, (Act.LOOK,)
