"""Rules of the slot that show between two events only: what is stale, what is in the way, what is gone back to."""

from __future__ import annotations

from itertools import count

import pytest

from spark_modeld.core import life_event as life_of
from spark_modeld.core.effects import Do, Effects, Ended, Read, Verdict, Wake
from spark_modeld.core.errors import Code, Problem, SparkError
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Act, Life
from spark_modeld.core.model import Model
from spark_modeld.core.reading import MemorySource, Reading
from spark_modeld.core.record import Record
from spark_modeld.core.slot import Slot
from spark_modeld.core.switch import Outcome, Requester, Switch, SwitchPhase
from spark_modeld.core.unit import ActiveState, Phase, UnitStatus
from spark_modeld.ports import CallFailed, CallFailure
from spark_modeld.units import Units
from support.fakes import GIB, MODELS, make_catalog, make_model

pytestmark = pytest.mark.unit

TOTAL = 128 * GIB
DOWN = UnitStatus(active=ActiveState.INACTIVE)
UP = UnitStatus(active=ActiveState.ACTIVE, sub="running", main_pid=7)


class Bench:
    """A slot without an engine. Time moves where a test moves it."""

    def __init__(self, *models: Model, record: Record | None = None, up: str | None = None, **slot: object) -> None:
        numbers = count(1)
        self.now = Instant(100.0, 1_000_100.0)
        self.slot = Slot(
            make_catalog(*models, **slot), record or Record(), self.now, new_id=lambda: f"s{next(numbers)}"
        )
        self.slot.house.look(self.reading(), self.now)
        self.slot.bus_connected({m: UP if m == up else DOWN for m in self.slot.house.models}, self.now)
        if up is not None:
            self.event(up, life_of.Ladder(self.life(up).epoch, None))
        self.slot.open(self.now)

    def life(self, model: str) -> Life:
        return self.slot.house.lives[model]

    def phase(self, model: str) -> Phase:
        return self.life(model).phase

    def reading(self, available: int = TOTAL) -> Reading:
        return Reading(total=TOTAL, available=available, free=available, source=MemorySource.UNIFIED, taken_at=self.now)

    def event(self, model: str, event: life_of.LifeEvent) -> Effects:
        return self.slot.unit_event(model, event, self.now)

    def pass_time(self, seconds: float) -> Effects:
        self.now = Instant(self.now.mono + seconds, self.now.wall + seconds)
        return self.slot.wake(self.now)

    def ask(self, model: str | None) -> tuple[Switch, Effects]:
        return self.slot.request(model, self.now, requested_by=Requester.CONTROL, actor=None)

    def admit(self, effects: Effects) -> Effects:
        """Gives the reading that was asked for: there is room for anything that fits the machine."""
        return self.slot.taken(token_in(effects), self.reading(), self.now)

    def start(self, model: str) -> Effects:
        """Switches to it until systemd is asked to start it."""
        self.admit(self.ask(model)[1])
        return self.slot.room(model, self.life(model).epoch, self.reading(), self.now)


def token_in(effects: Effects) -> int:
    return next(effect.token for effect in effects if isinstance(effect, Read))


def ended_in(effects: Effects) -> list[Outcome | None]:
    return [effect.switch.outcome for effect in effects if isinstance(effect, Ended)]


def verdicts_in(effects: Effects) -> dict[int, Problem | None]:
    return {effect.ask: effect.problem for effect in effects if isinstance(effect, Verdict)}


# What is stale changes nothing.


def test_a_reading_for_an_earlier_wait_starts_nothing() -> None:
    bench = Bench()
    bench.admit(bench.ask("alpha")[1])
    epoch = bench.life("alpha").epoch
    assert bench.phase("alpha") is Phase.RECLAIMING
    assert bench.slot.room("alpha", epoch - 1, bench.reading(), bench.now) == []
    assert bench.phase("alpha") is Phase.RECLAIMING
    bench.slot.room("alpha", epoch, bench.reading(), bench.now)
    assert bench.phase("alpha") is Phase.STARTING


def test_a_reading_for_an_earlier_load_kills_nothing() -> None:
    bench = Bench()
    bench.start("alpha")
    epoch = bench.life("alpha").epoch
    assert bench.slot.floor("alpha", epoch - 1, bench.reading(GIB), bench.now) == []
    assert bench.phase("alpha") is Phase.STARTING
    effects = bench.slot.floor("alpha", epoch, bench.reading(GIB), bench.now)
    assert [effect.act for effect in effects if isinstance(effect, Do)][:2] == [Act.STOP, Act.KILL]


def test_a_reading_for_an_earlier_switch_admits_nothing() -> None:
    bench = Bench()
    first = token_in(bench.ask("alpha")[1])
    second = token_in(bench.ask("beta")[1])
    bench.slot.taken(first, bench.reading(), bench.now)
    assert {bench.phase("alpha"), bench.phase("beta")} == {Phase.STOPPED}
    bench.slot.taken(second, bench.reading(), bench.now)
    assert bench.phase("beta") is Phase.RECLAIMING


def test_a_kill_that_systemd_does_not_take_is_no_stop_that_it_does_not_take() -> None:
    class Deaf:
        """It takes no call."""

        def kill(self, unit: str, token: int) -> None:
            self.token = token

    bench, systemd = Bench(up="alpha"), Deaf()
    units = Units(bench.slot, systemd, escaped=lambda _: None)  # type: ignore[arg-type]
    bench.ask(None)
    bench.event("alpha", life_of.Expired(bench.life("alpha").epoch))
    before = bench.life("alpha")
    assert (before.phase, before.killed) == (Phase.STOPPING, True)
    units.kill(MODELS["alpha"], before.epoch)
    assert units.report(CallFailed(systemd.token, CallFailure.UNCLEAR, "no answer"), bench.now) == []
    assert bench.life("alpha") == before


# What is in the way.


def stick(bench: Bench, model: str) -> None:
    """It was stopped, killed, and is still there."""
    bench.ask(None)
    for _ in range(2):
        bench.event(model, life_of.Expired(bench.life(model).epoch))
    assert bench.phase(model) is Phase.STUCK


@pytest.mark.parametrize("foreign", [False, True], ids=["by hand", "at the gate"])
def test_what_is_stuck_is_named_to_whoever_starts_another(foreign: bool) -> None:
    bench = Bench(up="alpha")
    stick(bench, "alpha")
    with pytest.raises(SparkError) as refusal:
        bench.slot.start_beside("beta", 1, bench.now, requested_by=Requester.SYSTEMD, actor=None, foreign=foreign)
    assert (refusal.value.problem.code, refusal.value.problem.extra["model"]) == (Code.STUCK, "alpha")


@pytest.mark.parametrize("foreign", [False, True], ids=["by hand", "at the gate"])
def test_a_gate_does_not_wait_for_memory_that_is_still_to_come_back(foreign: bool) -> None:
    """systemd's start has a timeout of its own; what we start ourselves waits in `reclaiming`."""
    bench = Bench()
    debts = bench.slot.house.accounts.returning
    debts.begin("gone", 100 * GIB, 9 * GIB)
    debts.down("gone", bench.now, patience=60)
    asked = bench.slot.start_beside("side", 5, bench.now, requested_by=Requester.SYSTEMD, actor=None, foreign=foreign)
    verdict = verdicts_in(bench.slot.taken(token_in(asked), bench.reading(9 * GIB), bench.now))[5]
    assert (verdict and verdict.code, bench.phase("side")) == (
        (Code.MEMORY_REFUSED, Phase.STOPPED) if foreign else (None, Phase.RECLAIMING)
    )


# What is gone back to.


def test_a_refusal_takes_the_stop_of_the_occupant_back() -> None:
    bench = Bench(*MODELS.values(), make_model("huge", 200), up="alpha")
    assert bench.slot.lease("alpha") == "alpha"
    bench.admit(bench.ask("beta")[1])
    assert bench.phase("alpha") is Phase.DRAINING
    effects = bench.admit(bench.ask("huge")[1])
    assert ended_in(effects) == [Outcome.FAILED]
    assert bench.phase("alpha") is Phase.SERVING
    assert bench.slot.lease("alpha") == "alpha"


@pytest.mark.parametrize("held", [False, True], ids=["empty", "emptied with systemctl"])
def test_a_slot_that_was_emptied_with_systemctl_is_left_empty_by_a_switch_that_fails(held: bool) -> None:
    bench = Bench(record=Record(desired="alpha"))
    bench.slot.planner.held = held
    bench.start("beta")
    effects = bench.event("beta", life_of.CallFailed(bench.life("beta").epoch, "no such unit", gone=True))
    assert (bench.slot.switch is None) is held
    assert ended_in(effects) == ([Outcome.FAILED] if held else [])


def test_after_a_second_failure_the_slot_waits_before_it_tries_again() -> None:
    bench = Bench(record=Record(desired="alpha"), up="alpha")
    fallen = UnitStatus(active=ActiveState.FAILED, sub="failed", result="exit-code", exit_status=1)
    bench.admit(bench.event("alpha", life_of.Shown(fallen)))  # at once, the first time
    bench.slot.room("alpha", bench.life("alpha").epoch, bench.reading(), bench.now)
    effects = bench.event("alpha", life_of.CallFailed(bench.life("alpha").epoch, "no such unit", gone=True))
    assert ended_in(effects) == [Outcome.FAILED]
    assert [effect.at for effect in effects if isinstance(effect, Wake)] == [bench.now.mono + 2]
    assert bench.slot.switch is None
    bench.pass_time(1.9)
    assert bench.slot.switch is None
    bench.pass_time(0.2)
    assert bench.slot.switch is not None
    assert bench.slot.switch.requested_by is Requester.RECONCILE


# A switch that was under way when the daemon was killed.


def recorded(phase: SwitchPhase) -> Switch:
    began = Instant(1.0, 1_000_001.0)
    return Switch(
        id="s9",
        model="beta",
        from_model="alpha",
        requested_by=Requester.CONTROL,
        actor=None,
        started_at=began,
        phase=phase,
    )


@pytest.mark.parametrize("up", [None, "alpha"])
def test_what_was_admitted_before_the_kill_is_not_asked_for_again_once_the_old_model_is_gone(up: str | None) -> None:
    """What was counted on may come back late: a second admission would refuse what the first has promised."""
    bench = Bench(record=Record(desired="alpha", switch=recorded(SwitchPhase.STOPPING)), up=up)
    assert bench.phase("beta") is (Phase.RECLAIMING if up is None else Phase.STOPPED)


def test_a_model_that_failed_too_often_is_not_tried_again_by_a_restart() -> None:
    record = Record(desired="alpha", switch=recorded(SwitchPhase.STARTING), failures={"beta": 3})
    bench = Bench(record=record)
    tx = bench.slot.planner.tx
    assert tx is not None
    assert (tx.target, tx.rolled, bench.phase("beta")) == ("alpha", True, Phase.STOPPED)
    assert tx.error is not None
    assert "failed 3 times" in tx.error.detail
