"""The line in ``systemctl status``: at once at rest, once a moment while a switch moves."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from spark_modeld import status_line
from spark_modeld.core.instant import Instant
from spark_modeld.core.switch import Requester, Switch, SwitchPhase
from spark_modeld.core.unit import Phase
from spark_modeld.face import Snapshot
from spark_modeld.status_line import StatusLine

pytestmark = pytest.mark.unit

AT_REST = Snapshot(slot_phase=Phase.SERVING, slot_model="alpha", bus="connected")
SWITCH = Switch(
    id="s1", model="beta", from_model="alpha", requested_by=Requester.CONTROL, actor=None, started_at=Instant(0.0, 0.0)
)


async def test_a_switch_is_told_once_a_moment_and_its_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_line, "PAUSE_SECONDS", 0.01)
    said: asyncio.Queue[str] = asyncio.Queue()
    line = StatusLine(said.put_nowait)
    line.follow(AT_REST)
    assert said.get_nowait() == "alpha: serving"
    for phase in (SwitchPhase.ADMITTING, SwitchPhase.STOPPING):
        line.follow(replace(AT_REST, slot_phase=Phase.STOPPING, switch=replace(SWITCH, phase=phase)))
    assert said.empty()
    assert await asyncio.wait_for(said.get(), 20) == "alpha: stopping; switching to beta: stopping"
    line.follow(replace(AT_REST, slot_model="beta", slot_phase=Phase.WARMING, switch=SWITCH))
    line.follow(replace(AT_REST, slot_model="beta"))
    assert said.get_nowait() == "beta: serving"
    await asyncio.sleep(0)
    assert said.empty()


@pytest.mark.parametrize(
    ("snapshot", "text"),
    [
        (replace(AT_REST, bus="lost", switch=SWITCH), "system bus lost"),
        (Snapshot(bus="connected"), "slot empty"),
    ],
)
async def test_what_matters_is_told_at_once(snapshot: Snapshot, text: str) -> None:
    said: list[str] = []
    StatusLine(said.append).follow(snapshot)
    assert said == [text]
