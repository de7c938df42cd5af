"""The life of a unit: the table is complete, and nothing outside it ever happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from spark_modeld.core import life_event as life_of
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import ASKED, Act, Life, Limits
from spark_modeld.core.life_event import LifeEvent, Trigger, trigger_of
from spark_modeld.core.lifecycle import KILL_SECONDS, step
from spark_modeld.core.transitions import TABLE
from spark_modeld.core.unit import ActiveState, Phase, UnitStatus

pytestmark = pytest.mark.unit

NOW = Instant(100.0, 1_000_100.0)
LIMITS = Limits(reclaim=120, start=900, drain=60, stop=30)
EPOCH = 7
PROBLEM = Problem(Code.MODEL_FAILED, "it broke")


def lives() -> Iterator[Life]:
    """Every phase, with each combination of what a life can know in it."""
    for phase in Phase:
        for job in (None, ASKED, "/job/1"):
            for foreign in (False, True):
                for down in (False, True):
                    for killed in (False, True):
                        for fell in (False, True):
                            yield Life(phase, NOW, EPOCH, 130.0, job, foreign, down, killed, fell)


def events() -> Iterator[LifeEvent]:
    """Every event, with each thing it can carry."""
    for active in ActiveState:
        for sub in ("running", "auto-restart", "start-pre"):
            for foreign in (False, True):
                yield life_of.Shown(UnitStatus(active=active, sub=sub), foreign)
    for epoch in (EPOCH, EPOCH - 1):
        yield life_of.JobQueued(epoch, "/job/2")
        for gone, denied in ((False, False), (True, False), (False, True)):
            yield life_of.CallFailed(epoch, "no", gone, denied)
        yield life_of.Ladder(epoch)
        yield life_of.Ladder(epoch, PROBLEM)
        yield life_of.Expired(epoch)
        yield life_of.Left(epoch, "something")
        yield life_of.Gone(epoch)
    for result in ("done", "failed", "canceled", "timeout", "something-new"):
        yield life_of.JobEnded("/job/1", result)
        yield life_of.JobEnded("/job/9", result)
    yield life_of.Refused(PROBLEM)
    yield life_of.UnderFloor(PROBLEM)
    yield life_of.Stalled(EPOCH, PROBLEM)
    yield life_of.Stalled(EPOCH - 1, PROBLEM)
    for trigger in Trigger:
        if trigger not in {Trigger.REFUSED, Trigger.UNDER_FLOOR, Trigger.STALLED}:
            yield life_of.Plain(trigger)


def test_every_row_of_the_table_happens_and_nothing_else() -> None:
    seen: set[tuple[Phase, Trigger, Phase]] = set()
    for life in lives():
        for event in events():
            after, _ = step(life, event, NOW, LIMITS)
            if after.phase is not life.phase:
                seen.add((life.phase, trigger_of(event), after.phase))
    table = {(before, trigger, after) for (before, trigger), phases in TABLE.items() for after in phases}
    assert seen == table


@pytest.mark.parametrize(
    "event",
    [
        life_of.Ladder(EPOCH - 1),
        life_of.Expired(EPOCH - 1),
        life_of.Left(EPOCH - 1, "something"),
        life_of.Gone(EPOCH - 1),
        life_of.JobEnded("/job/9", "done"),
    ],
)
def test_what_is_stale_changes_nothing(event: LifeEvent) -> None:
    for life in lives():
        assert step(life, event, NOW, LIMITS) == (life, ())


def test_a_new_phase_is_a_new_epoch_but_for_stuck() -> None:
    for life in lives():
        for event in events():
            after, _ = step(life, event, NOW, LIMITS)
            if after.phase is not life.phase and after.phase is not Phase.STUCK:
                assert after.epoch > life.epoch


def test_a_floor_breach_stops_before_it_kills() -> None:
    life = Life(Phase.WARMING, NOW, EPOCH, 900.0)
    after, acts = step(life, life_of.UnderFloor(PROBLEM), NOW, LIMITS)
    assert after.phase is Phase.STOPPING
    assert acts == (Act.STOP, Act.KILL)
    assert after.problem == PROBLEM


def test_the_start_deadline_covers_loading() -> None:
    life = Life(Phase.STARTING, NOW, EPOCH, 555.0, "/job/1")
    after, acts = step(life, life_of.JobEnded("/job/1", "done"), NOW, LIMITS)
    assert (after.phase, after.deadline) == (Phase.WARMING, 555.0)
    assert Act.CLIMB in acts
    assert Act.LOOK in acts


def test_a_failed_start_is_stopped_first() -> None:
    life = Life(Phase.STARTING, NOW, EPOCH, 555.0, "/job/1")
    after, acts = step(life, life_of.JobEnded("/job/1", "failed"), NOW, LIMITS)
    assert after.phase is Phase.STOPPING
    assert acts == (Act.STOP,)
    assert after.problem is not None


def test_a_stop_is_confirmed_by_job_and_processes() -> None:
    life = Life(Phase.STOPPING, NOW, EPOCH, 130.0, "/job/1")
    assert step(life, life_of.Gone(EPOCH), NOW, LIMITS)[0].phase is Phase.STOPPING
    down, acts = step(life, life_of.JobEnded("/job/1", "done"), NOW, LIMITS)
    assert (down.phase, acts) == (Phase.STOPPING, (Act.WATCH_GONE,))
    assert step(down, life_of.Gone(down.epoch), NOW, LIMITS)[0].phase is Phase.STOPPED


def test_an_inactive_unit_does_not_confirm_a_stop_that_systemd_has_not_answered() -> None:
    life = Life(Phase.STOPPING, NOW, EPOCH, 130.0, ASKED)
    shown = life_of.Shown(UnitStatus(active=ActiveState.INACTIVE))
    assert not step(life, shown, NOW, LIMITS)[0].down


def test_first_it_is_killed_then_it_is_stuck_and_its_end_leads_out() -> None:
    life = Life(Phase.STOPPING, NOW, EPOCH, 130.0, "/job/1")
    killed, acts = step(life, life_of.Expired(EPOCH), NOW, LIMITS)
    assert (killed.phase, acts, killed.deadline) == (Phase.STOPPING, (Act.KILL,), NOW.mono + KILL_SECONDS)
    stuck, _ = step(killed, life_of.Expired(EPOCH), NOW, LIMITS)
    assert stuck.phase is Phase.STUCK
    assert stuck.problem is not None
    assert stuck.problem.code is Code.STUCK
    down, _ = step(stuck, life_of.JobEnded("/job/1", "done"), NOW, LIMITS)
    assert step(down, life_of.Gone(EPOCH), NOW, LIMITS)[0].phase is Phase.FAILED


def test_a_start_that_somebody_cancelled_was_stopped_by_somebody() -> None:
    life = Life(Phase.STARTING, NOW, EPOCH, 555.0, "/job/1")
    after, acts = step(life, life_of.JobEnded("/job/1", "canceled"), NOW, LIMITS)
    assert (after.phase, after.foreign, after.problem) == (Phase.STOPPING, True, None)
    assert Act.STOP not in acts


def test_the_gate_of_a_unit_is_no_start() -> None:
    life = Life(Phase.STOPPED, NOW, EPOCH)
    shown = life_of.Shown(UnitStatus(active=ActiveState.ACTIVATING, sub="start-pre"), foreign=True)
    assert step(life, shown, NOW, LIMITS)[0].phase is Phase.STOPPED
    unknown = replace(life, phase=Phase.UNKNOWN)
    assert step(unknown, shown, NOW, LIMITS)[0].phase is Phase.STOPPED


OUTLIVES = replace(LIMITS, outlives=True)
DEAD = life_of.Shown(UnitStatus(active=ActiveState.FAILED, result="signal", exit_status=9))


@pytest.mark.parametrize("phase", [Phase.WARMING, Phase.SERVING, Phase.DRAINING])
def test_what_may_outlive_its_unit_has_failed_only_when_nothing_is_left(phase: Phase) -> None:
    life = Life(phase, NOW, EPOCH, 130.0)
    assert step(life, DEAD, NOW, LIMITS)[0].phase is Phase.FAILED
    fallen, acts = step(life, DEAD, NOW, OUTLIVES)
    assert (fallen.phase, acts) == (Phase.STOPPING, (Act.WATCH_GONE,))
    assert fallen.alive
    failed, _ = step(fallen, life_of.Gone(fallen.epoch), NOW, OUTLIVES)
    assert failed.phase is Phase.FAILED
    assert failed.problem is not None
    assert "killed by a signal" in failed.problem.detail


def test_a_fallen_unit_that_comes_up_again_is_adopted() -> None:
    fallen, _ = step(Life(Phase.SERVING, NOW, EPOCH), DEAD, NOW, OUTLIVES)
    back = life_of.Shown(UnitStatus(active=ActiveState.ACTIVE))
    assert step(fallen, back, NOW, OUTLIVES)[0].phase is Phase.WARMING


def test_systemds_own_restart_is_not_waited_for() -> None:
    restart = life_of.Shown(UnitStatus(active=ActiveState.ACTIVATING, sub="auto-restart"))
    assert step(Life(Phase.SERVING, NOW, EPOCH), restart, NOW, OUTLIVES)[0].phase is Phase.FAILED


def test_stuck_says_what_is_left() -> None:
    life = Life(Phase.STOPPING, NOW, EPOCH, 130.0, down=True, killed=True)
    life, _ = step(life, life_of.Left(EPOCH, "python3 (PID 12) listening on port 8000"), NOW, LIMITS)
    stuck, _ = step(life, life_of.Expired(EPOCH), NOW, LIMITS)
    assert stuck.problem is not None
    assert "after its unit was killed: python3 (PID 12) listening on port 8000; nothing else" in stuck.problem.detail
