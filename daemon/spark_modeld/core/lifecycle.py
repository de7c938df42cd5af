"""One unit's life: ``step(life, event, now, limits) -> (life, effects)``.

``TABLE`` is the whole truth about which phase may follow which on what; ``step`` never leaves it, and
an event that has no row changes nothing.
"""

from __future__ import annotations

from msgspec.structs import replace

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import ASKED, Act, Acts, Life, Limits
from spark_modeld.core.life_event import (
    CallFailed,
    Expired,
    Gone,
    JobEnded,
    JobQueued,
    Ladder,
    Left,
    LifeEvent,
    Plain,
    Refused,
    Shown,
    Stalled,
    Trigger,
    UnderFloor,
    trigger_of,
)
from spark_modeld.core.passage import enter, fall, start, stop, warm
from spark_modeld.core.sighting import sighted
from spark_modeld.core.transitions import TABLE
from spark_modeld.core.unit import Phase

_P = Phase

KILL_SECONDS = 15.0
"""How long a killed unit may take to vanish before it counts as stuck."""
CUT_SECONDS = 15.0
"""How long a unit that is cut off its requests may take to end by itself: engines wait for theirs after SIGTERM."""


def step(life: Life, event: LifeEvent, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    """The life after this event, and what has to be done, in order."""
    after, acts = _step(life, event, now, limits)
    if after.phase is not life.phase:
        allowed = TABLE.get((life.phase, trigger_of(event)), frozenset())
        assert after.phase in allowed, f"{life.phase} -{trigger_of(event)}-> {after.phase} is not in the table"
    return after, acts


def _step(life: Life, event: LifeEvent, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    match event:
        case Shown():
            return sighted(replace(life, status=event.status), event, now, limits)
        case JobQueued(epoch, job):
            return (replace(life, job=job) if epoch == life.epoch else life), ()
        case JobEnded():
            return _job_ended(life, event, now, limits)
        case CallFailed(epoch):
            return _call_failed(life, event, now, limits) if epoch == life.epoch else (life, ())
        case Expired(epoch):
            return _expired(life, now, limits) if epoch == life.epoch else (life, ())
        case Ladder(epoch, problem):
            return _ladder(life, problem, now, limits) if epoch == life.epoch else (life, ())
        case Left(epoch, words):
            if epoch != life.epoch:
                return life, ()
            stuck = life.phase is _P.STUCK and life.killed
            return replace(life, left=words, problem=_still_there(words) if stuck else life.problem), ()
        case Gone(epoch):
            return _gone(life, now) if epoch == life.epoch else (life, ())
        case Refused(problem):
            return (enter(life, _P.FAILED, now, problem=problem), ()) if life.phase is _P.RECLAIMING else (life, ())
        case UnderFloor(problem):
            if life.phase in {_P.STARTING, _P.WARMING}:
                # Stop first: a unit with Restart= must not come back between the kill and the stop.
                stopping, acts = stop(replace(life, problem=problem), now, limits)
                return replace(stopping, killed=True, deadline=now.mono + KILL_SECONDS), (*acts, Act.KILL)
            return life, ()
        case Stalled(epoch, problem):
            serving = life.phase is _P.SERVING and epoch == life.epoch
            return stop(replace(life, problem=problem), now, limits) if serving else (life, ())
        case Plain(trigger):
            return _plain(life, trigger, now, limits)


def _plain(life: Life, trigger: Trigger, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    match trigger, life.phase:
        case Trigger.BUS_LOST, phase if phase is not _P.UNKNOWN:
            return enter(life, _P.UNKNOWN, now, problem=life.problem), ()
        case Trigger.START_WANTED, (_P.STOPPED | _P.FAILED):
            return enter(life, _P.RECLAIMING, now, seconds=limits.reclaim), (Act.WATCH_ROOM,)
        case Trigger.GATE_PASSED, (_P.STOPPED | _P.FAILED):
            return start(life, now, limits, foreign=True)
        case Trigger.FITS, _P.RECLAIMING:
            return start(life, now, limits, foreign=False)
        case Trigger.STOP_WANTED, _P.RECLAIMING:
            return enter(life, _P.STOPPED, now), ()
        case Trigger.STOP_WANTED, (_P.STARTING | _P.WARMING):
            return stop(life, now, limits)
        case Trigger.STOP_WANTED, _P.STUCK if not life.killed and not life.down:
            return stop(replace(life, problem=None), now, limits)  # it was denied: a rule may be there by now
        case Trigger.STOP_WANTED, _P.SERVING:
            return enter(life, _P.DRAINING, now, seconds=limits.drain), ()
        case Trigger.CUT_WANTED, (_P.STARTING | _P.WARMING | _P.SERVING | _P.DRAINING):
            return stop(life, now, replace(limits, stop=min(limits.stop, CUT_SECONDS)))
        case Trigger.KEEP_WANTED, _P.DRAINING:
            return enter(life, _P.SERVING, now), (Act.WATCH_HEALTH,)
        case Trigger.UNUSED, _P.DRAINING:
            return stop(life, now, limits)
        case _:
            return life, ()


_NO_RULE = (
    ": a unit of your own needs a polkit rule for the daemon. `spark-modelctl doctor --polkit-rule` prints it and says "
    "where it goes, `sudo spark-modelctl doctor` sees whether it works; with it in place, ask again. systemd said:"
)


def _job_ended(life: Life, event: JobEnded, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    if life.job != event.job:
        return life, ()
    life = replace(life, job=None)
    if life.phase is _P.STARTING:
        if event.result == "done":
            return warm(life, now, limits)
        if event.result == "canceled":
            # We wait for no start any more once we have asked for a stop: this is somebody else's stop.
            return fall(life, now, limits, foreign=True)
        problem = Problem(Code.MODEL_FAILED, f"systemd could not start the unit (job result: {event.result}).")
        return stop(replace(life, problem=problem), now, limits)
    if event.result == "done":
        return replace(life, down=True), (Act.WATCH_GONE,)
    if life.phase is _P.STOPPING:
        # Cancelled by somebody's start, or timed out: ask again; the deadline bounds it.
        return replace(life, job=ASKED), (Act.STOP,)
    return life, (Act.LOOK,)


def _call_failed(life: Life, event: CallFailed, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    if life.phase is _P.STARTING and not life.foreign:
        detail = (
            f"systemd did not let us start the unit{_NO_RULE}" if event.denied else "systemd did not take the start:"
        )
        problem = Problem(Code.MODEL_FAILED, f"{detail} {event.message}")
        if event.gone or event.denied:
            return enter(life, _P.FAILED, now, problem=problem), ()
        return stop(replace(life, problem=problem), now, limits)
    if life.phase is _P.STOPPING:
        if event.gone:
            return replace(life, down=True, job=None), (Act.WATCH_GONE,)
        if event.denied:
            problem = Problem(Code.STUCK, f"systemd did not let us stop the unit{_NO_RULE} {event.message}")
            return replace(life, phase=_P.STUCK, since=now, deadline=None, job=None, problem=problem), (Act.LOOK,)
        return replace(life, job=ASKED), (Act.LOOK, Act.STOP)
    if life.phase is _P.STUCK:
        return replace(life, job=None), (Act.LOOK,)
    return life, ()


def _ladder(life: Life, problem: Problem | None, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    if life.phase is not _P.WARMING:
        return life, ()
    if problem is None:
        return enter(life, _P.SERVING, now), (Act.WATCH_HEALTH,)
    return stop(replace(life, problem=problem), now, limits)


def _expired(life: Life, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    match life.phase:
        case _P.STARTING | _P.WARMING:
            detail = f"It was not ready after {limits.start:g} s (it was still {life.phase})."
            return stop(replace(life, problem=Problem(Code.START_TIMEOUT, detail)), now, limits)
        case _P.DRAINING:
            return stop(life, now, limits)
        case _P.STOPPING if not life.killed:
            return replace(life, killed=True, deadline=now.mono + KILL_SECONDS), (Act.KILL,)
        case _P.STOPPING:
            # The epoch stays: the watch for its processes goes on, and is what leads out of `stuck`.
            problem = _still_there(life.left)
            return replace(life, phase=_P.STUCK, since=now, deadline=None, problem=problem), ()
        case _:
            return life, ()


def _still_there(left: str) -> Problem:
    # What is left elsewhere got no SIGKILL.
    what = f"Still there {KILL_SECONDS:g} s after" + (f" its unit was killed: {left}" if left else " SIGKILL")
    return Problem(Code.STUCK, f"{what}; nothing else can be started until it is gone.")


def _gone(life: Life, now: Instant) -> tuple[Life, Acts]:
    match life.phase:
        case _P.STOPPING if life.down and life.fell:
            return enter(life, _P.FAILED, now, problem=life.problem), ()
        case _P.STOPPING if life.down:
            return replace(enter(life, _P.STOPPED, now, problem=life.problem), foreign=life.foreign), ()
        case _P.STUCK if life.down:
            return enter(life, _P.FAILED, now, problem=life.problem), ()
        case _:
            return life, ()
