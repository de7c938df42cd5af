"""How long a switch will take, by the history."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from spark_modeld.core.instant import Instant
from spark_modeld.core.outlook import estimate, outlook
from spark_modeld.core.progress import LoadStep, Progress
from spark_modeld.core.switch import Outcome, Requester, Rollback, Switch, SwitchPhase

pytestmark = pytest.mark.unit

WEIGHTS = Progress(LoadStep.WEIGHTS, 0.5)


def switch(
    model: str | None = "b", leaving: str | None = "a", outcome: Outcome | None = Outcome.READY, **timings: float
) -> Switch:
    return Switch(
        id="s", model=model, from_model=leaving, requested_by=Requester.CONTROL, actor=None,
        started_at=Instant(0.0, 1000.0), outcome=outcome, timings=MappingProxyType(timings),
    )  # fmt: skip


def under_way(phase: SwitchPhase, since: float) -> Switch:
    return Switch(
        id="s", model="b", from_model="a", requested_by=Requester.CONTROL, actor=None,
        started_at=Instant(0.0, 1000.0), phase=phase, phase_since=since,
    )  # fmt: skip


def test_nobody_knows_what_was_never_seen_to_go_well() -> None:
    failed = switch(outcome=Outcome.FAILED, stopping=1.0, starting=600.0)
    other = switch("c", warming=5.0)
    noop = Switch(**{**{f: getattr(other, f) for f in Switch.__slots__}, "model": "b", "noop": True})
    assert estimate([failed, other, noop], "b", "a") is None
    assert estimate([switch(warming=5.0)], None, "a") is None


def test_the_middle_one_of_the_last_three_counts_phase_by_phase() -> None:
    history = [switch(starting=1000.0, warming=1000.0)]
    history += [switch(admitting=0.1, starting=s, warming=w) for s, w in ((2.0, 60.0), (4.0, 600.0), (3.0, 50.0))]
    found = estimate(history, "b", None)
    assert found is not None
    assert (found.times, found.seconds, found.load_seconds) == (3, pytest.approx(63.1), 63.0)
    two = estimate(history[:2], "b", None)
    assert two is not None
    assert (two.times, two.load_seconds) == (2, 62.0), "of two the shorter"


def test_what_goes_is_known_from_the_model_that_goes() -> None:
    history = [
        switch("c", "a", Outcome.FAILED, draining=7.0, stopping=5.0),
        switch("b", "x", draining=0.0, stopping=90.0, warming=20.0),
    ]
    found = estimate(history, "b", "a")
    assert found is not None
    assert found.seconds == 32.0
    unseen = estimate(history, "b", "y")
    assert unseen is not None
    assert unseen.seconds == 20.0


def test_time_goes_by_phase_for_phase_and_what_is_late_comes_at_any_moment() -> None:
    expected = estimate([switch(stopping=4.0, starting=6.0, warming=100.0)], "b", "a")
    for phase, since, now, left in (
        (SwitchPhase.QUEUED, 50.0, 50.0, 110.0),
        (SwitchPhase.STOPPING, 50.0, 53.0, 107.0),
        (SwitchPhase.STOPPING, 50.0, 80.0, 106.0),  # late in this phase, and the others are to come
        (SwitchPhase.STARTING, 50.0, 50.0, 106.0),
        (SwitchPhase.WARMING, 50.0, 110.0, 40.0),
        (SwitchPhase.WARMING, 50.0, 950.0, 0.0),
        (SwitchPhase.READY, 50.0, 50.0, 0.0),
    ):
        seen = outlook(under_way(phase, since), expected, WEIGHTS, Instant(now, 2000.0))
        assert (seen.left, seen.ready_at, seen.progress) == (left, 2000.0 + left, WEIGHTS), phase


def test_on_the_way_back_only_the_progress_is_known() -> None:
    expected = estimate([switch(warming=100.0)], "b", "a")
    values = {f: getattr(under_way(SwitchPhase.WARMING, 0.0), f) for f in Switch.__slots__}
    back = Switch(**{**values, "rollback": Rollback(model="a", phase=SwitchPhase.STARTING)})
    seen = outlook(back, expected, WEIGHTS, Instant(1.0, 2000.0))
    assert (seen.left, seen.ready_at, seen.progress) == (None, None, WEIGHTS)
