"""Units of the template stay loaded between their starts, until their files change or the catalog lacks them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.bus import Bus, Recorder

from spark_modeld.ports import JobQueued, JobRemoved
from spark_modeld.systemd.manager import Manager

pytestmark = pytest.mark.dbus

UNIT = "spark-model@a-b.service"
OTHER = "spark-model@c.service"
DENIED = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


async def start(manager: Manager, seen: Recorder, unit: str, token: int) -> None:
    manager.start(unit, token)
    queued = await seen.until(JobQueued, lambda report: report.token == token)
    await seen.until(JobRemoved, lambda report: report.job == queued.job)


async def references(bus: Bus, manager: Manager) -> list[list[Any]]:
    """The calls about references since the last time; everything that was asked before has been."""
    await manager.processes(UNIT)
    return [call for call in await bus.do("calls") if call[0] in {"RefUnit", "UnrefUnit"}]


async def test_a_unit_is_referred_to_once(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await manager.connect(seen, frozenset({UNIT, "own.service"}))
    for token, unit in enumerate((UNIT, "own.service", UNIT)):
        await start(manager, seen, unit, token)
    assert await references(bus, manager) == [["RefUnit", UNIT]]


async def test_it_is_let_go_when_its_facts_are_asked_anew_and_kept_by_its_next_start(
    bus: Bus, manager: Manager, seen: Recorder
) -> None:
    await manager.connect(seen, frozenset({UNIT}))
    await start(manager, seen, UNIT, 1)
    await manager.facts(UNIT)
    await start(manager, seen, UNIT, 2)
    assert await references(bus, manager) == [["RefUnit", UNIT], ["UnrefUnit", UNIT], ["RefUnit", UNIT]]


async def test_what_leaves_the_catalog_is_let_go(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await manager.connect(seen, frozenset({UNIT, OTHER}))
    await start(manager, seen, UNIT, 1)
    await start(manager, seen, OTHER, 2)
    manager.watch(frozenset({OTHER}))
    assert (await references(bus, manager))[2:] == [["UnrefUnit", UNIT]]


async def test_letting_go_waits_for_the_answer(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await manager.connect(seen, frozenset({UNIT}))
    await bus.plan("RefUnit", {"hold": True})
    await start(manager, seen, UNIT, 1)
    await manager.facts(UNIT)
    assert await references(bus, manager) == [["RefUnit", UNIT]]
    await bus.do("answer")
    await bus.called("UnrefUnit")


async def test_a_denial_is_no_failure_and_not_asked_for_again(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await manager.connect(seen, frozenset({UNIT, OTHER}))
    await bus.plan("RefUnit", {"error": DENIED})
    await start(manager, seen, UNIT, 1)
    assert await references(bus, manager) == [["RefUnit", UNIT]]
    await start(manager, seen, OTHER, 2)
    assert await references(bus, manager) == []
