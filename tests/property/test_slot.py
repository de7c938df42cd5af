"""The core's invariants over any history."""

import os

import pytest
from hypothesis import HealthCheck, settings

from property.machine import SlotMachine

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
