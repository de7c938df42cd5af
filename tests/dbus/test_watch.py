"""What is seen of the units that are watched."""

from __future__ import annotations

import pytest
from tests.support.bus import Bus, Recorder

from spark_modeld.core.unit import ActiveState, UnitStatus
from spark_modeld.ports import BusConnected, CallDone, HostStopping, JobRemoved, UnitChanged
from spark_modeld.systemd.manager import Manager

pytestmark = pytest.mark.dbus

UNIT = "spark-model@a.service"


async def test_the_first_report_has_every_unit(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(
        UNIT,
        ActiveState="failed",
        SubState="failed",
        Result="exit-code",
        ExecMainStatus=3,
        MainPID=12,
        Job=4,
        NeedDaemonReload=True,
    )
    await bus.unit("odd.service", ActiveState="never-heard-of")
    await bus.plan("LoadUnit", {}, {"error": "org.freedesktop.DBus.Error.InvalidArgs"})
    await manager.connect(seen, frozenset({UNIT, "missing.service", "odd.service", "a bad name"}))
    assert seen.reports == [
        BusConnected(
            {
                UNIT: UnitStatus(
                    active=ActiveState.FAILED,
                    sub="failed",
                    job="/org/freedesktop/systemd1/job/4",
                    result="exit-code",
                    exit_status=3,
                    main_pid=12,
                    need_reload=True,
                ),
                "missing.service": UnitStatus(active=ActiveState.INACTIVE, sub="dead", load="error"),
                "odd.service": UnitStatus(active=ActiveState.UNKNOWN, sub="dead"),
                "a bad name": UnitStatus(active=ActiveState.INACTIVE, sub="dead", load="not-found"),
            }
        )
    ]


async def test_changes_end_at_the_last_state_and_cost_few_reads(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(UNIT)
    await manager.connect(seen, frozenset({UNIT}))
    await bus.do("calls")
    await bus.do("burst", unit=UNIT, count=500)
    await seen.until(UnitChanged, lambda r: r.status.main_pid == 500)
    pids = [report.status.main_pid for report in seen.of(UnitChanged)]
    assert pids == sorted(pids)
    assert len(await bus.do("calls")) < 250
    await bus.unit(UNIT, emit=True, MainPID=7)
    await seen.until(UnitChanged, lambda r: r.status.main_pid == 7)


async def test_a_change_during_a_read_is_not_lost(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(UNIT)
    await manager.connect(seen, frozenset({UNIT}))
    await bus.do("calls")
    await bus.plan("GetAll", {"hold": True})
    manager.look(UNIT)
    await bus.called("GetAll")
    await bus.unit(UNIT, emit=True, MainPID=1)
    await bus.unit(UNIT, emit=True, MainPID=2)
    await bus.do("answer")
    await seen.until(UnitChanged, lambda r: r.status.main_pid == 2)
    assert [report.status.main_pid for report in seen.of(UnitChanged)] == [2]


async def test_watch_replaces_the_units(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit("old.service")
    await bus.unit("new.service", ActiveState="active")
    await manager.connect(seen, frozenset({"old.service", UNIT}))
    manager.watch(frozenset({"new.service", UNIT}))
    assert (await seen.until(UnitChanged)).unit == "new.service"
    await bus.unit("old.service", emit=True, MainPID=1)
    await bus.unit("new.service", emit=True, MainPID=2)
    await seen.until(UnitChanged, lambda r: r.status.main_pid == 2)
    assert {report.unit for report in seen.of(UnitChanged)} == {"new.service"}
    manager.watch(frozenset({"old.service"}))
    assert (await seen.until(UnitChanged, lambda r: r.unit == "old.service")).status.main_pid == 1


async def test_look_reads_again(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(UNIT)
    await manager.connect(seen, frozenset({UNIT}))
    await bus.unit(UNIT, MainPID=5)
    manager.look("not-watched.service")
    manager.look(UNIT)
    assert (await seen.until(UnitChanged)) == UnitChanged(
        UNIT, UnitStatus(active=ActiveState.INACTIVE, sub="dead", main_pid=5)
    )


async def test_a_read_that_hangs_is_tried_again(bus: Bus, seen: Recorder) -> None:
    manager = Manager(address=bus.address, timeout=0.3)
    try:
        await bus.unit(UNIT)
        await manager.connect(seen, frozenset({UNIT}))
        await seen.until(BusConnected)  # on a busy machine not at the first attempt
        await bus.plan("GetAll", {"hang": True}, {"hang": True})
        await bus.unit(UNIT, emit=True, MainPID=5)
        assert (await seen.until(UnitChanged)).status.main_pid == 5
    finally:
        await manager.close()


async def test_an_alias_goes_by_the_name_it_is_watched_under(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit("real.service")
    await bus.do("alias", name="alias.service", unit="real.service")
    await manager.connect(seen, frozenset({"alias.service"}))
    manager.stop("alias.service", 1)
    assert (await seen.until(JobRemoved)).unit == "alias.service"
    assert (await seen.until(UnitChanged)).unit == "alias.service"


async def test_a_reload_reads_everything_again(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit("real.service", ActiveState="active")
    await manager.connect(seen, frozenset({"alias.service"}))
    await bus.do("calls")
    await bus.do("alias", name="alias.service", unit="real.service")
    await bus.do("reloading", active=True)
    await bus.do("reloading", active=False)
    assert (await seen.until(UnitChanged)).status.active is ActiveState.ACTIVE
    assert [call[0] for call in await bus.do("calls")] == ["Subscribe", "LoadUnit", "GetAll"]
    await bus.unit("real.service", emit=True, ActiveState="failed")
    await seen.until(UnitChanged, lambda r: r.status.active is ActiveState.FAILED)


@pytest.mark.parametrize("target", ["shutdown.target", "poweroff.target", "reboot.target"])
async def test_the_host_goes_down(bus: Bus, manager: Manager, seen: Recorder, target: str) -> None:
    await manager.connect(seen, frozenset())
    await bus.called("GetAll")  # at connect, which does not wait for it
    await bus.do("state", value="stopping")
    await bus.do("job_new", unit="some.service")
    await bus.do("job_new", unit=target)
    await seen.until(HostStopping)
    calls = [call for call in await bus.do("calls") if call[0] == "GetAll"]
    assert len(calls) == 1  # for the target
    await bus.do("job_new", unit="final.target")
    await bus.do("job_removed", unit="some.service")
    await bus.called("GetAll")
    manager.kill(UNIT, 1)
    await seen.until(CallDone)
    assert len(seen.of(HostStopping)) == 1


async def test_the_host_is_going_down_already(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.do("state", value="stopping")
    await manager.connect(seen, frozenset({UNIT}))
    assert [type(report) for report in seen.reports] == [HostStopping, BusConnected]


async def test_a_way_down_that_is_not_taken(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(UNIT)
    await manager.connect(seen, frozenset({UNIT}))
    await bus.do("job_new", unit="shutdown.target")
    await bus.unit(UNIT, emit=True, MainPID=1)
    await seen.until(UnitChanged)
    assert seen.of(HostStopping) == []
