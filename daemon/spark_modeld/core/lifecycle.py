"""One unit's life: ``step(life, event, now, limits) -> (life, effects)``.

``TABLE`` is the whole truth about which phase may follow which on what; ``step`` never leaves it, and
an event that has no row changes nothing. Timers and probes carry the epoch they were started in:
what comes back with another epoch is stale. Jobs are told apart by their object path.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.model import ActiveState, Instant, Phase, UnitStatus

KILL_SECONDS = 15.0
"""How long a killed unit may take to vanish before it counts as stuck."""
CUT_SECONDS = 15.0
"""How long a unit that is cut off its requests may take to end by itself: engines wait for theirs after SIGTERM."""


UNLOADED = "unloaded"
"""The result of a unit that is a place on a server of many models, and lost its model."""

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

_P = Phase
_T = Trigger
_RUNNING = (_P.WARMING, _P.SERVING, _P.DRAINING)


def _table() -> Mapping[tuple[Phase, Trigger], frozenset[Phase]]:
    rows: dict[tuple[Phase, Trigger], frozenset[Phase]] = {
        (_P.UNKNOWN, _T.SHOWN): frozenset({_P.STOPPED, _P.STARTING, _P.WARMING, _P.STOPPING, _P.FAILED}),
        (_P.STOPPED, _T.START_WANTED): frozenset({_P.RECLAIMING}),
        (_P.FAILED, _T.START_WANTED): frozenset({_P.RECLAIMING}),
        (_P.STOPPED, _T.GATE_PASSED): frozenset({_P.STARTING}),
        (_P.FAILED, _T.GATE_PASSED): frozenset({_P.STARTING}),
        (_P.RECLAIMING, _T.FITS): frozenset({_P.STARTING}),
        (_P.RECLAIMING, _T.REFUSED): frozenset({_P.FAILED}),
        (_P.RECLAIMING, _T.STOP_WANTED): frozenset({_P.STOPPED}),
        (_P.STARTING, _T.SHOWN): frozenset({_P.WARMING, _P.STOPPING}),
        (_P.STARTING, _T.JOB_ENDED): frozenset({_P.WARMING, _P.STOPPING}),
        (_P.STARTING, _T.CALL_FAILED): frozenset({_P.STOPPING, _P.FAILED}),
        (_P.STARTING, _T.EXPIRED): frozenset({_P.STOPPING}),
        (_P.STARTING, _T.UNDER_FLOOR): frozenset({_P.STOPPING}),
        (_P.STARTING, _T.STOP_WANTED): frozenset({_P.STOPPING}),
        (_P.WARMING, _T.LADDER_PASSED): frozenset({_P.SERVING}),
        (_P.WARMING, _T.LADDER_REFUSED): frozenset({_P.STOPPING}),
        (_P.WARMING, _T.EXPIRED): frozenset({_P.STOPPING}),
        (_P.WARMING, _T.UNDER_FLOOR): frozenset({_P.STOPPING}),
        (_P.WARMING, _T.STOP_WANTED): frozenset({_P.STOPPING}),
        (_P.SERVING, _T.STOP_WANTED): frozenset({_P.DRAINING}),
        (_P.SERVING, _T.STALLED): frozenset({_P.STOPPING}),
        (_P.DRAINING, _T.KEEP_WANTED): frozenset({_P.SERVING}),
        (_P.DRAINING, _T.UNUSED): frozenset({_P.STOPPING}),
        (_P.DRAINING, _T.EXPIRED): frozenset({_P.STOPPING}),
        (_P.STOPPING, _T.SHOWN): frozenset({_P.WARMING}),
        (_P.STOPPING, _T.GONE): frozenset({_P.STOPPED, _P.FAILED}),
        (_P.STOPPING, _T.CALL_FAILED): frozenset({_P.STUCK}),
        (_P.STOPPING, _T.EXPIRED): frozenset({_P.STUCK}),
        (_P.STUCK, _T.GONE): frozenset({_P.FAILED}),
        (_P.STUCK, _T.STOP_WANTED): frozenset({_P.STOPPING}),
    }
    for phase in (_P.STOPPED, _P.FAILED, _P.RECLAIMING):
        rows[phase, _T.SHOWN] = frozenset({_P.STARTING, _P.WARMING, _P.STOPPING})
    for phase in _RUNNING:
        rows[phase, _T.SHOWN] = frozenset({_P.FAILED, _P.STOPPING})
    for phase in (_P.STARTING, *_RUNNING):
        rows[phase, _T.CUT_WANTED] = frozenset({_P.STOPPING})
    for phase in Phase:
        if phase is not _P.UNKNOWN:
            rows[phase, _T.BUS_LOST] = frozenset({_P.UNKNOWN})
    return rows


TABLE = _table()


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
            return _shown(replace(life, status=event.status), event, now, limits)
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
            return (_enter(life, _P.FAILED, now, problem=problem), ()) if life.phase is _P.RECLAIMING else (life, ())
        case UnderFloor(problem):
            if life.phase in {_P.STARTING, _P.WARMING}:
                # Stop first: a unit with Restart= must not come back between the kill and the stop.
                stopping, acts = _stop(replace(life, problem=problem), now, limits)
                return replace(stopping, killed=True, deadline=now.mono + KILL_SECONDS), (*acts, Act.KILL)
            return life, ()
        case Stalled(epoch, problem):
            serving = life.phase is _P.SERVING and epoch == life.epoch
            return _stop(replace(life, problem=problem), now, limits) if serving else (life, ())
        case Plain(trigger):
            return _plain(life, trigger, now, limits)


def _enter(
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


def _start(life: Life, now: Instant, limits: Limits, *, foreign: bool) -> tuple[Life, Acts]:
    started = _enter(life, _P.STARTING, now, seconds=limits.start, foreign=foreign)
    if foreign:
        return started, (Act.WATCH_FLOOR,)
    return replace(started, job=ASKED), (Act.START, Act.WATCH_FLOOR)


def _warm(life: Life, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    """The start deadline covers loading too, so it moves on from ``starting`` unchanged."""
    warming = _enter(life, _P.WARMING, now, seconds=limits.start)
    if life.phase is _P.STARTING:
        warming = replace(warming, deadline=life.deadline)
    if life.status is not None and life.status.active is ActiveState.ACTIVE:
        return warming, (Act.CLIMB, Act.WATCH_FLOOR)
    # A job that ended with `done` is no proof of a running unit (a skipped ExecCondition): look.
    return warming, (Act.LOOK, Act.CLIMB, Act.WATCH_FLOOR)


def _stop(life: Life, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    stopping = _enter(life, _P.STOPPING, now, seconds=limits.stop, problem=life.problem)
    return replace(stopping, job=ASKED), (Act.STOP,)


def _falling(life: Life, now: Instant, limits: Limits, *, foreign: bool) -> tuple[Life, Acts]:
    """The unit is going down by itself or by somebody else's hand: only wait until it has."""
    stopping = _enter(life, _P.STOPPING, now, seconds=limits.stop, problem=life.problem, foreign=foreign)
    return stopping, (Act.LOOK,)


def _plain(life: Life, trigger: Trigger, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    match trigger, life.phase:
        case Trigger.BUS_LOST, phase if phase is not _P.UNKNOWN:
            return _enter(life, _P.UNKNOWN, now, problem=life.problem), ()
        case Trigger.START_WANTED, (_P.STOPPED | _P.FAILED):
            return _enter(life, _P.RECLAIMING, now, seconds=limits.reclaim), (Act.WATCH_ROOM,)
        case Trigger.GATE_PASSED, (_P.STOPPED | _P.FAILED):
            return _start(life, now, limits, foreign=True)
        case Trigger.FITS, _P.RECLAIMING:
            return _start(life, now, limits, foreign=False)
        case Trigger.STOP_WANTED, _P.RECLAIMING:
            return _enter(life, _P.STOPPED, now), ()
        case Trigger.STOP_WANTED, (_P.STARTING | _P.WARMING):
            return _stop(life, now, limits)
        case Trigger.STOP_WANTED, _P.STUCK if not life.killed and not life.down:
            return _stop(replace(life, problem=None), now, limits)  # it was denied: a rule may be there by now
        case Trigger.STOP_WANTED, _P.SERVING:
            return _enter(life, _P.DRAINING, now, seconds=limits.drain), ()
        case Trigger.CUT_WANTED, (_P.STARTING | _P.WARMING | _P.SERVING | _P.DRAINING):
            return _stop(life, now, replace(limits, stop=min(limits.stop, CUT_SECONDS)))
        case Trigger.KEEP_WANTED, _P.DRAINING:
            return _enter(life, _P.SERVING, now), (Act.WATCH_HEALTH,)
        case Trigger.UNUSED, _P.DRAINING:
            return _stop(life, now, limits)
        case _:
            return life, ()


_NO_RULE = (
    ": a unit of your own needs a polkit rule for the daemon. `spark-modelctl doctor --polkit-rule` prints it and says "
    "where it goes, `sudo spark-modelctl doctor` sees whether it works; with it in place, ask again. systemd said:"
)

_NOT_YET = frozenset({"auto-restart", "start-pre"})
"""Substates of ``activating`` in which nothing of the model runs: `start-pre` is its gate, which asks first."""

_GONE_STATES = frozenset({ActiveState.INACTIVE, ActiveState.FAILED})


def _shown(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
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
        return _warm(life, now, limits)  # restarted, by somebody or by systemd itself
    return life, ()


def _first_sight(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    match event.status.active:
        case ActiveState.FAILED | ActiveState.INACTIVE if event.left:
            falling, _ = _falling(life, now, limits, foreign=False)
            return replace(falling, down=True), (Act.WATCH_GONE,)
        case ActiveState.FAILED:
            return _enter(life, _P.FAILED, now, problem=life.problem), ()
        case ActiveState.INACTIVE:
            return _enter(life, _P.STOPPED, now, problem=life.problem), ()
        case ActiveState.ACTIVATING if event.status.sub == "auto-restart":
            return _stop(life, now, limits)
        case ActiveState.ACTIVATING if event.status.sub == "start-pre":
            return _enter(life, _P.STOPPED, now, problem=life.problem), ()
        case _:
            return _woken(life, event, now, limits)


def _woken(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    """A unit that we did not start shows signs of life."""
    match event.status.active:
        case ActiveState.ACTIVE | ActiveState.RELOADING:
            return _warm(life, now, limits)
        case ActiveState.ACTIVATING if event.status.sub not in _NOT_YET:
            return _start(life, now, limits, foreign=True)
        case ActiveState.DEACTIVATING:
            return _falling(life, now, limits, foreign=event.foreign)
        case _:
            return life, ()


def _shown_starting(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    if not life.foreign:
        return life, ()  # our own job tells when it is over
    if event.status.active in {ActiveState.ACTIVE, ActiveState.RELOADING}:
        return _warm(life, now, limits)
    if event.status.active in _GONE_STATES:
        return _stop(replace(life, problem=died(event.status, "while it was being started")), now, limits)
    return life, ()


def _shown_running(life: Life, event: Shown, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    status = event.status
    restarting = status.active is ActiveState.ACTIVATING
    if status.active in _GONE_STATES or restarting:
        if event.foreign:
            falling, _ = _falling(replace(life, problem=None), now, limits, foreign=True)
            return replace(falling, down=True), (Act.WATCH_GONE,)
        problem = died(status, f"while {life.phase}")
        if (limits.outlives or event.left) and not restarting:
            falling, _ = _falling(replace(life, problem=problem), now, limits, foreign=False)
            return replace(falling, down=True, fell=True), (Act.WATCH_GONE,)
        return _enter(life, _P.FAILED, now, problem=problem), ()
    if status.active is ActiveState.DEACTIVATING:
        lost = None if event.foreign else died(status, f"while {life.phase}")
        return _falling(replace(life, problem=lost), now, limits, foreign=event.foreign)
    return life, ()


def _job_ended(life: Life, event: JobEnded, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    if life.job != event.job:
        return life, ()
    life = replace(life, job=None)
    if life.phase is _P.STARTING:
        if event.result == "done":
            return _warm(life, now, limits)
        if event.result == "canceled":
            # We wait for no start any more once we have asked for a stop: this is somebody else's stop.
            return _falling(life, now, limits, foreign=True)
        problem = Problem(Code.MODEL_FAILED, f"systemd could not start the unit (job result: {event.result}).")
        return _stop(replace(life, problem=problem), now, limits)
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
            return _enter(life, _P.FAILED, now, problem=problem), ()
        return _stop(replace(life, problem=problem), now, limits)
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
        return _enter(life, _P.SERVING, now), (Act.WATCH_HEALTH,)
    return _stop(replace(life, problem=problem), now, limits)


def _expired(life: Life, now: Instant, limits: Limits) -> tuple[Life, Acts]:
    match life.phase:
        case _P.STARTING | _P.WARMING:
            detail = f"It was not ready after {limits.start:g} s (it was still {life.phase})."
            return _stop(replace(life, problem=Problem(Code.START_TIMEOUT, detail)), now, limits)
        case _P.DRAINING:
            return _stop(life, now, limits)
        case _P.STOPPING if not life.killed:
            return replace(life, killed=True, deadline=now.mono + KILL_SECONDS), (Act.KILL,)
        case _P.STOPPING:
            # The epoch stays: the watch for its processes goes on, and is what leads out of `stuck`.
            problem = _still_there(life.left)
            return replace(life, phase=_P.STUCK, since=now, deadline=None, problem=problem), ()
        case _:
            return life, ()


def _still_there(left: str) -> Problem:
    what = f": {left}" if left else ""
    detail = f"Still there {KILL_SECONDS:g} s after SIGKILL{what}; nothing else can be started until it is gone."
    return Problem(Code.STUCK, detail)


def _gone(life: Life, now: Instant) -> tuple[Life, Acts]:
    match life.phase:
        case _P.STOPPING if life.down and life.fell:
            return _enter(life, _P.FAILED, now, problem=life.problem), ()
        case _P.STOPPING if life.down:
            return replace(_enter(life, _P.STOPPED, now, problem=life.problem), foreign=life.foreign), ()
        case _P.STUCK if life.down:
            return _enter(life, _P.FAILED, now, problem=life.problem), ()
        case _:
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
