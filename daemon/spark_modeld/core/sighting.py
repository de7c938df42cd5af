"""What follows for a unit's life from what systemd shows of the unit."""

from __future__ import annotations

from msgspec.structs import replace

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Act, Acts, Life, Limits
from spark_modeld.core.life_event import Shown
from spark_modeld.core.passage import enter, fall, start, stop, warm
from spark_modeld.core.unit import ActiveState, Phase, UnitStatus

_P = Phase

UNLOADED = "unloaded"
"""The result of a unit that is a place on a server of many models, and lost its model."""

_NOT_YET = frozenset({"auto-restart", "start-pre"})
"""Substates of ``activating`` in which nothing of the model runs: `start-pre` is its gate, which asks first."""

_GONE_STATES = frozenset({ActiveState.INACTIVE, ActiveState.FAILED})


def sighted(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    """The life after systemd has shown its unit, and what has to be done, in order."""
    match life.phase:
        case _P.UNKNOWN:
            return _first_sight(life, event, now, limits)
        case _P.STOPPED | _P.FAILED | _P.RECLAIMING:
            return _woken(life, event, now, limits)
        case _P.STARTING:
            return _shown_starting(life, event, now, limits)
        case _P.WARMING | _P.SERVING | _P.DRAINING:
            return _shown_running(life, event, now, limits)
        case _P.STOPPING | _P.STUCK:
            return _shown_stopping(life, event, now, limits)


def _shown_stopping(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    status = event.status
    # At its gate again: what ran before is down, systemd starts nothing beside it.
    down = status.active in _GONE_STATES or status.sub == "start-pre"
    if down and life.job is None and not life.down:
        return replace(life, down=True), (Act.WATCH_GONE,)
    back = status.active in {ActiveState.ACTIVE, ActiveState.RELOADING} and status.job is None
    ours = life.job is not None or life.killed or (life.down and not life.foreign and not life.fell)
    if life.phase is _P.STOPPING and back and not ours:
        return warm(life, now, limits)  # restarted, by somebody or by systemd itself
    return life, ()


def _first_sight(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    match event.status.active:
        case ActiveState.FAILED | ActiveState.INACTIVE if event.left:
            falling, _ = fall(life, now, limits, foreign=False)
            return replace(falling, down=True), (Act.WATCH_GONE,)
        case ActiveState.FAILED:
            return enter(life, _P.FAILED, now, problem=life.problem), ()
        case ActiveState.INACTIVE:
            return enter(life, _P.STOPPED, now, problem=life.problem), ()
        case ActiveState.ACTIVATING if event.status.sub == "auto-restart":
            return stop(life, now, limits)
        case ActiveState.ACTIVATING if event.status.sub == "start-pre":
            return enter(life, _P.STOPPED, now, problem=life.problem), ()
        case _:
            return _woken(life, event, now, limits)


def _woken(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    """A unit that we did not start shows signs of life."""
    match event.status.active:
        case ActiveState.ACTIVE | ActiveState.RELOADING:
            return warm(life, now, limits)
        case ActiveState.ACTIVATING if event.status.sub not in _NOT_YET:
            return start(life, now, limits, foreign=True)
        case ActiveState.DEACTIVATING:
            return fall(life, now, limits, foreign=event.foreign)
        case _:
            return life, ()


def _shown_starting(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    if not life.foreign:
        return life, ()  # our own job tells when it is over
    if event.status.active in {ActiveState.ACTIVE, ActiveState.RELOADING}:
        return warm(life, now, limits)
    if event.status.active in _GONE_STATES:
        return stop(replace(life, problem=died(event.status, "while it was being started")), now, limits)
    return life, ()


def _shown_running(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    status = event.status
    restarting = status.active is ActiveState.ACTIVATING
    if status.active in _GONE_STATES or restarting:
        if event.foreign:
            falling, _ = fall(replace(life, problem=None), now, limits, foreign=True)
            return replace(falling, down=True), (Act.WATCH_GONE,)
        problem = died(status, f"while {life.phase}")
        if (limits.outlives or event.left) and not restarting:
            falling, _ = fall(replace(life, problem=problem), now, limits, foreign=False)
            return replace(falling, down=True, fell=True), (Act.WATCH_GONE,)
        return enter(life, _P.FAILED, now, problem=problem), ()
    if status.active is ActiveState.DEACTIVATING:
        lost = None if event.foreign else died(status, f"while {life.phase}")
        return fall(replace(life, problem=lost), now, limits, foreign=event.foreign)
    return life, ()


def died(status: UnitStatus, when: str) -> Problem:
    """The problem of a unit that went away by itself."""
    if status.result == UNLOADED:
        detail = f"Its server does not hold it any more {when}: another client unloaded it, or had it make room."
        return Problem(Code.MODEL_FAILED, detail, {"result": status.result})
    how = {"success": "exited", "signal": "was killed by a signal", "core-dump": "dumped core"}.get(
        status.result, f"ended with {status.result}"
    )
    detail = f"The unit {how} (status {status.exit_status}) {when}."
    return Problem(Code.MODEL_FAILED, detail, {"result": status.result, "exit_status": status.exit_status})
