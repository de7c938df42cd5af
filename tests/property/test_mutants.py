"""The invariants can fail: each mutant breaks one of them, and the state machine must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Step
from hypothesis.stateful import initialize, run_state_machine_as_test
from msgspec.structs import replace

from property.machine import SlotMachine
from property.world import GIB, MODELS, TOTAL, World
from spark_modeld.core.admission import Holder
from spark_modeld.core.desk import Desk
from spark_modeld.core.driver import Driver
from spark_modeld.core.effects import Ended, Verdict
from spark_modeld.core.house import House
from spark_modeld.core.life_event import BUS_LOST
from spark_modeld.core.planner import Planner
from spark_modeld.core.reconcile import Reconciler
from spark_modeld.core.slot import Slot
from spark_modeld.core.turns import Turns
from spark_modeld.core.unit import Phase
from spark_modeld.core.warden import Warden
from spark_modeld.units import Units

pytestmark = pytest.mark.property

EFFORT = settings(
    max_examples=2500,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Step.generate],
    suppress_health_check=list(HealthCheck),
)


def everything_fits(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_, **__: None


def loading_models_are_promised_nothing(original: property) -> property:
    return property(lambda _: 0)


def desired_is_stopped_too(original: Callable[..., Any]) -> Callable[..., Any]:
    def next_one(warden: Warden) -> Any:
        occupant = warden._planner.occupant
        return ([occupant], "the occupant") if occupant else original(warden)

    return next_one


def nothing_is_large(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: False


def stops_count_when_asked_for(original: Callable[..., Any]) -> Callable[..., Any]:
    def busy_others(house: House, model: str | None) -> list[str]:
        return [m for m in original(house, model) if house.lives[m].phase.value != "stopping"]

    return busy_others


def ends_twice(original: Callable[..., Any]) -> Callable[..., Any]:
    def finish(planner: Planner, *args: Any) -> None:
        original(planner, *args)
        planner.house.effects += [e for e in planner.house.effects if isinstance(e, Ended)]

    return finish


def leases_do_not_count(original: Callable[..., Any]) -> Callable[..., Any]:
    def drain(house: House, now: Any) -> bool:
        leases, house.leases = house.leases, {}
        try:
            return bool(original(house, now))
        finally:
            house.leases = leases

    return drain


def the_switch_is_not_on_record(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: replace(original(*args), switch=None)


def desired_is_not_on_record(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: replace(original(*args), desired=None)


def a_crash_is_not_noticed(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: False


def the_gate_is_open(original: Callable[..., Any]) -> Callable[..., Any]:
    def start_beside(slot: Slot, name: str, ask: int, now: Any, **kwargs: Any) -> Any:
        if kwargs["foreign"]:
            return [Verdict(ask, None)]
        return original(slot, name, ask, now, **kwargs)

    return start_beside


def lives_outlast_the_bus(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda house, model, event, now: None if event is BUS_LOST else original(house, model, event, now)


def jobs_are_not_told_apart(original: Callable[..., Any]) -> Callable[..., Any]:
    def job_removed(units: Units, report: Any, now: Any) -> Any:
        return []

    return job_removed


def min_residency_does_not_count(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: 0.0


def an_occupant_in_use_may_be_taken(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda turns, demand, now: 0.0


def a_loading_model_may_be_taken(original: Callable[..., Any]) -> Callable[..., Any]:
    def free_at(turns: Turns, demand: Any, now: Any) -> float | None:
        return original(turns, demand, now) or 0.0

    return free_at


def leases_are_given_while_the_reading_is_awaited(original: Callable[..., Any]) -> Callable[..., Any]:
    def is_open(desk: Desk, model: str) -> bool:
        life = desk.house.lives.get(model)
        return life is not None and life.phase.value == "serving"

    return is_open


def nobody_is_granted_later(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: None


def who_hung_up_stays_in_the_queue(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: None


def a_start_for_nobody_goes_on(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: False


def failures_are_not_told(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: None


def failures_are_forgotten(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: None


def a_demand_is_an_operator(original: Callable[..., Any]) -> Callable[..., Any]:
    def finish(planner: Planner, tx: Any, outcome: Any, now: Any) -> None:
        original(planner, tx, outcome, now)
        if outcome.value == "ready" and tx.switch.requested_by.value == "gateway":
            planner.desired = tx.switch.model

    return finish


def nobody_goes_home(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *_: False


def whatever_failed_lacked_the_driver(original: Callable[..., Any]) -> Callable[..., Any]:
    def heard(driver: Driver, model: str, reading: Any) -> bool:
        tries = driver._attempts.get(model)
        if tries is None or not reading:
            return False
        tries.without_driver, tries.lacked_driver = tries.failures, True
        return True

    return heard


def answered_twice(original: Callable[..., Any]) -> Callable[..., Any]:
    def tell(desk: Desk, demands: Any, problem: Any) -> None:
        original(desk, demands, problem)
        original(desk, demands, problem)

    return tell


# How a story begins in which the mutant has its chance: from a random one it would take thousands.


def go_on(world: World, until: Callable[[], bool]) -> None:
    """Good weather until then; RuntimeError, which kills no mutant, if it never comes."""
    for _ in range(200):
        if until():
            return
        world._once()
    raise RuntimeError("the lead leads nowhere")


def phase(world: World, model: str) -> Phase:
    return world.slot.house.lives[model].phase


def memory_is_short(world: World) -> None:
    world.request("alpha")
    go_on(world, lambda: phase(world, "alpha") is Phase.SERVING and world.slot.planner.tx is None)
    world.outsider = TOTAL
    world.look(0.0)


def nothing_is_wanted(world: World) -> None:
    world.request(None)
    go_on(world, lambda: world.slot.planner.tx is None and world.slot.planner.standing() is None)


def alpha_is_in_use(world: World) -> None:
    world.request("alpha")
    go_on(world, lambda: phase(world, "alpha") is Phase.SERVING and world.slot.planner.tx is None)
    world.lease()


def what_serves_is_seen_anew(world: World) -> None:
    world.request("beta")
    go_on(world, lambda: phase(world, "beta") is Phase.SERVING and world.slot.planner.tx is None)
    world.lose_bus()
    world.regain_bus()
    go_on(world, lambda: phase(world, "beta") is Phase.WARMING)
    world.demand("beta")


def a_demand_is_loaded_for(world: World) -> None:
    nothing_is_wanted(world)
    world.demand("beta")
    go_on(world, lambda: phase(world, "beta") in {Phase.STARTING, Phase.WARMING})


def there_is_room_for_what_loads(world: World) -> None:
    a_demand_is_loaded_for(world)
    world.outsider = 48 * GIB


def beta_has_failed_too_often(world: World) -> None:
    a_demand_is_loaded_for(world)
    while True:
        world.progress(MODELS["beta"].unit, good=False)
        go_on(world, lambda: world.slot.planner.tx is None)
        if world.slot.house.exhausted("beta"):
            return
        world.time += 120.0
        world.demand("beta")
        go_on(world, lambda: phase(world, "beta") in {Phase.STARTING, Phase.WARMING})


def alpha_fails_with_the_driver_there(world: World) -> None:
    for _ in range(4):
        go_on(world, lambda: phase(world, "alpha") is Phase.STARTING or world.slot.house.exhausted("alpha"))
        world.progress(MODELS["alpha"].unit, good=False)
        go_on(world, lambda: phase(world, "alpha") is not Phase.STARTING)
        go_on(world, lambda: world.slot.house.lives["alpha"].idle)
        world.explain("alpha")


LEADS: dict[str, Callable[[World], None]] = {
    "desired_is_stopped_too": memory_is_short,
    "leases_do_not_count": alpha_is_in_use,
    "a_loading_model_may_be_taken": what_serves_is_seen_anew,
    "loading_models_are_promised_nothing": there_is_room_for_what_loads,
    "a_start_for_nobody_goes_on": a_demand_is_loaded_for,
    "whatever_failed_lacked_the_driver": alpha_fails_with_the_driver_there,
    "failures_are_forgotten": beta_has_failed_too_often,
}

MUTANTS = [
    (House, "admit", everything_fits),
    (Holder, "outstanding", loading_models_are_promised_nothing),
    (Warden, "_next", desired_is_stopped_too),
    (House, "large", nothing_is_large),
    (House, "busy_others", stops_count_when_asked_for),
    (House, "drain", leases_do_not_count),
    (Planner, "finish", ends_twice),
    (Reconciler, "_watch_occupant", a_crash_is_not_noticed),
    (Slot, "record", the_switch_is_not_on_record),
    (Slot, "record", desired_is_not_on_record),
    (Slot, "start_beside", the_gate_is_open),
    (House, "step", lives_outlast_the_bus),
    (Units, "_job_removed", jobs_are_not_told_apart),
    (Turns, "stays_until", min_residency_does_not_count),
    (Turns, "_free_at", an_occupant_in_use_may_be_taken),
    (Turns, "_free_at", a_loading_model_may_be_taken),
    (Desk, "open", leases_are_given_while_the_reading_is_awaited),
    (Desk, "answer", nobody_is_granted_later),
    (Desk, "hang_up", who_hung_up_stays_in_the_queue),
    (Desk, "_refusal", failures_are_forgotten),
    (Desk, "_tell", answered_twice),
    (Driver, "heard", whatever_failed_lacked_the_driver),
    (Turns, "give_up", a_start_for_nobody_goes_on),
    (Turns, "_go_home", nobody_goes_home),
    (Planner, "_lose", failures_are_not_told),
    (Planner, "finish", a_demand_is_an_operator),
]


def machine(lead: Callable[[World], None] | None) -> type[SlotMachine]:
    class Led(SlotMachine):
        @initialize()
        def begin(self) -> None:
            super().begin()
            if lead:
                lead(self.world)

    return Led


@pytest.mark.parametrize("lead", sorted(set(LEADS.values()), key=lambda lead: lead.__name__))
def test_a_lead_kills_nothing(lead: Callable[[World], None]) -> None:
    run_state_machine_as_test(machine(lead), settings=settings(EFFORT, max_examples=30))


@pytest.mark.parametrize(("where", "name", "mutant"), MUTANTS, ids=[m.__name__ for _, _, m in MUTANTS])
def test_mutant_is_killed(monkeypatch: pytest.MonkeyPatch, where: type, name: str, mutant: Callable[..., Any]) -> None:
    monkeypatch.setattr(where, name, mutant(getattr(where, name)))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(LEADS.get(mutant.__name__)), settings=EFFORT)
