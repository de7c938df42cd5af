"""The core's invariants over any history."""

import os

import pytest
from hypothesis import HealthCheck, settings

from property.machine import SlotMachine
from property.world import GIB, World, at_rest

pytestmark = pytest.mark.property

TestSlot = SlotMachine.TestCase
TestSlot.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    # The gate tells the same of the same code each time; new histories are found on developers' machines.
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
)


def test_who_asks_while_the_bus_is_lost_causes_no_further_failure() -> None:
    world = World()
    world.outsider = 120 * GIB
    for seconds in (0.0, 31.0):
        world.look(seconds)
    for _ in range(5):
        world._once()
    world.lose_bus()
    world.demand("alpha", may_switch=True)
    world.regain_bus()
    assert not world.clients.waiting
    world.calm_down()
    at_rest(world)


def test_a_bus_that_is_lost_while_a_side_model_is_admitted_does_not_forget_who_waits() -> None:
    world = World()
    world.cancel()
    world.read()
    world.demand("side", may_switch=True)
    world.lose_bus()
    world.read()
    world.calm_down()
    at_rest(world)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_start_that_waits_for_room_ends_with_the_switch_it_belonged_to(stopped: bool) -> None:
    """A start beside, superseded while it waits for room by a switch that is cancelled, is nobody's any more."""
    world = World()
    world.cancel()
    world.demand("gamma", may_switch=True)
    for _ in range(9):
        world._once()
    world.start_beside("beta", foreign=False)
    if stopped:
        world.foreign_stop("spark-model@gamma.service")
    world.request("alpha", force=False)
    world.cancel()
    world.calm_down()
    at_rest(world)
