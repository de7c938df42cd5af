"""The connection's life: losses, returns, and the end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import pytest
from tests.support.bus import Bus, Recorder

from spark_modeld.core.unit import ActiveState
from spark_modeld.ports import BusConnected, BusLost, CallFailed, CallFailure, JobQueued, JobRemoved, UnitChanged
from spark_modeld.systemd.manager import Manager

pytestmark = pytest.mark.dbus

UNIT = "spark-model@a.service"


async def test_bus_death_and_return(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(UNIT, ActiveState="active")
    await manager.connect(seen, frozenset({UNIT}))
    await bus.plan("StartUnit", {"hang": True})
    await bus.plan("GetUnitProcesses", {"hang": True})
    manager.start(UNIT, 1)
    asked = asyncio.create_task(manager.processes(UNIT))
    await bus.called("StartUnit", "GetUnitProcesses")
    await bus.kill()
    await seen.until(BusLost)
    failed = await seen.until(CallFailed)
    assert (failed.token, failed.failure) == (1, CallFailure.UNCLEAR)
    assert seen.reports.index(failed) == 2
    with pytest.raises(Exception, match="lost before it answered"):
        await asked

    manager.watch(frozenset({UNIT, "added.service"}))
    await bus.start()
    await bus.start_systemd(own=False)
    await bus.unit(UNIT, ActiveState="failed")
    await bus.do("own")
    back = await seen.until(BusConnected, since=1)
    assert {name: status.active for name, status in back.units.items()} == {
        UNIT: ActiveState.FAILED,
        "added.service": ActiveState.INACTIVE,
    }
    assert len(seen.of(BusLost)) == 1
    await bus.unit(UNIT, emit=True, ActiveState="active")
    await seen.until(UnitChanged, lambda r: r.status.active is ActiveState.ACTIVE)
    manager.start(UNIT, 2)
    queued = await seen.until(JobQueued)
    assert queued.token == 2
    await seen.until(JobRemoved, lambda r: r.job == queued.job)


async def test_bus_dies_again_and_again(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await manager.connect(seen, frozenset({UNIT}))
    for _ in range(3):
        here = len(seen.reports)
        await bus.kill()
        await seen.until(BusLost, since=here)
        await bus.start()
        await bus.start_systemd()
        await seen.until(BusConnected, since=here)
    assert [type(report) for report in seen.reports] == [BusConnected, *[BusLost, BusConnected] * 3]


async def test_no_bus_at_first(bare_bus: Bus, manager: Manager, seen: Recorder) -> None:
    await manager.connect(seen, frozenset({UNIT}))
    assert [type(report) for report in seen.reports] == [BusLost]
    await bare_bus.start()
    await bare_bus.start_systemd()
    await seen.until(BusConnected)
    assert [type(report) for report in seen.reports] == [BusLost, BusConnected]


async def test_no_systemd_on_the_bus_at_first(bare_bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bare_bus.start()
    await manager.connect(seen, frozenset({UNIT}))
    assert seen.reports == [BusLost("systemd is not on the bus")]
    await bare_bus.start_systemd()
    assert set((await seen.until(BusConnected)).units) == {UNIT}


@pytest.mark.parametrize("how", ["same connection", "reexec"])
async def test_systemd_loses_its_name_and_comes_back(bus: Bus, manager: Manager, seen: Recorder, how: str) -> None:
    await bus.unit(UNIT)
    await manager.connect(seen, frozenset({UNIT}))
    await bus.plan("StopUnit", {"hang": True})
    manager.stop(UNIT, 8)
    await bus.called("StopUnit")
    if how == "reexec":
        await bus.do("reexec")
    else:
        await bus.do("release")
        await seen.until(BusLost)
        await bus.do("own")
    await seen.until(BusConnected, since=1)
    kinds = [type(report) for report in seen.reports]
    assert kinds.count(BusLost) == kinds.count(CallFailed) == 1
    assert seen.of(CallFailed)[0].failure is CallFailure.UNCLEAR
    assert "Subscribe" in {call[0] for call in await bus.do("calls")}
    manager.start(UNIT, 9)
    assert (await seen.until(JobQueued)).token == 9
    await seen.until(UnitChanged, lambda r: r.status.active is ActiveState.ACTIVE)


async def test_a_bus_that_answers_nothing(bus: Bus, seen: Recorder) -> None:
    bus.pause()
    manager = Manager(address=bus.address, timeout=0.3)
    await manager.connect(seen, frozenset({UNIT}))
    assert [type(report) for report in seen.reports] == [BusLost]
    await manager.close()


@pytest.mark.parametrize("method", ["Subscribe", "LoadUnit", "GetAll"])
async def test_a_systemd_that_does_not_answer_at_first(bus: Bus, seen: Recorder, method: str) -> None:
    await bus.unit(UNIT)
    await bus.plan(method, *[{"hang": True}] * 2)
    manager = Manager(address=bus.address, timeout=0.3)
    await manager.connect(seen, frozenset({UNIT}))
    lost = seen.reports[0]
    assert isinstance(lost, BusLost)
    assert "does not answer" in lost.reason
    await seen.until(BusConnected)
    await manager.close()


async def test_what_happens_while_connecting_is_told_afterwards(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(UNIT)
    await bus.plan("Subscribe", {"hold": True})
    connecting = asyncio.create_task(manager.connect(seen, frozenset({UNIT})))
    await bus.called("Subscribe", "LoadUnit")
    await bus.do("job_removed", unit=UNIT)
    await bus.unit(UNIT, emit=True, MainPID=3)
    assert seen.reports == []
    await bus.do("answer")
    await connecting
    await seen.until(JobRemoved)
    assert isinstance(seen.reports[0], BusConnected)


async def test_signals_of_others_are_not_believed(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await manager.connect(seen, frozenset({UNIT}))
    forged = await asyncio.create_subprocess_exec(
        "dbus-send", f"--bus={bus.address}", "--type=signal", "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager.JobRemoved",
        "uint32:9", "objpath:/org/freedesktop/systemd1/job/9", f"string:{UNIT}", "string:done",
    )  # fmt: skip
    assert await forged.wait() == 0
    manager.kill(UNIT, 1)
    manager.start(UNIT, 2)
    await seen.until(JobRemoved)
    assert [report.job[-2:] for report in seen.of(JobRemoved)] == ["/1"]


def descriptors() -> list[str]:
    gc.collect()
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("when", ["connected", "lost", "opening"])
async def test_close_leaves_nothing(bus: Bus, seen: Recorder, when: str) -> None:
    async def once() -> None:
        manager = Manager(address=bus.address if when != "lost" else "unix:path=/nowhere", timeout=5)
        connecting = asyncio.create_task(manager.connect(seen, frozenset({UNIT})))
        if when == "opening":
            await asyncio.sleep(0)
            connecting.cancel()
        else:
            await connecting
        await manager.close()
        manager.start(UNIT, 1)
        assert await manager.unit_of(1) is None
        del manager, connecting
        gc.collect()  # GLib's wrappers are in cycles, and a context has a descriptor of its own

    await once()  # GLib's own worker thread and its descriptors stay for good
    threads, before, told = threading.active_count(), len(descriptors()), len(seen.reports)
    for _ in range(5):
        await once()
    assert threading.active_count() == threads
    assert "systemd-bus" not in {thread.name for thread in threading.enumerate()}
    assert len(descriptors()) == before
    assert len(seen.reports) == told * 6


@pytest.mark.parametrize(("user", "variable"), [(True, "DBUS_SESSION_BUS_ADDRESS"), (False, "DBUS_SYSTEM_BUS_ADDRESS")])
async def test_which_bus(bus: Bus, seen: Recorder, monkeypatch: pytest.MonkeyPatch, user: bool, variable: str) -> None:
    for name in ("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"):
        monkeypatch.setenv(name, bus.address if name == variable else "unix:path=/nowhere")
    manager = Manager(user=user)
    await manager.connect(seen, frozenset({UNIT}))
    assert [type(report) for report in seen.reports] == [BusConnected]
    await manager.close()


async def test_close_without_connect(bare_bus: Bus) -> None:
    await Manager(address=bare_bus.address).close()
