"""Calls to systemd: what they do, what their answers become, and the order of answers and signals."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.support.bus import Bus, Recorder

from spark_modeld.core.appraisal import UnitFacts
from spark_modeld.core.errors import Code, SparkError
from spark_modeld.core.unit import ActiveState
from spark_modeld.ports import (
    BusConnected,
    BusLost,
    CallDone,
    CallFailed,
    CallFailure,
    JobQueued,
    JobRemoved,
    UnitChanged,
)
from spark_modeld.systemd.manager import Manager
from spark_modeld.systemd.translate import unit_facts

pytestmark = pytest.mark.dbus

UNIT = "spark-model@a-b.service"
STARTS = 300


async def connected(manager: Manager, seen: Recorder, *units: str) -> None:
    await manager.connect(seen, frozenset(units))
    assert isinstance(seen.reports[0], BusConnected)


@pytest.mark.parametrize("nasty", [False, True], ids=["reply first", "signal before the reply"])
async def test_a_job_never_ends_before_it_is_queued(bus: Bus, manager: Manager, seen: Recorder, nasty: bool) -> None:
    units = [f"m{number}.service" for number in range(5)]
    await connected(manager, seen, *units)
    await bus.plan("StartUnit", *([{"signal_first": nasty}] * STARTS))
    for token in range(STARTS):
        manager.start(units[token % 5], token)
    await seen.until(JobQueued, lambda r: r.token == STARTS - 1)
    for queued in seen.of(JobQueued):
        removed = await seen.until(JobRemoved, lambda r, job=queued.job: r.job == job)
        assert seen.reports.index(queued) < seen.reports.index(removed)
    assert [queued.token for queued in seen.of(JobQueued)] == list(range(STARTS))
    assert len(seen.of(JobRemoved)) == STARTS


async def test_start_resets_failures_first_and_replaces(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await connected(manager, seen, UNIT)
    await bus.do("calls")
    await bus.plan("ResetFailedUnit", {"error": "org.freedesktop.systemd1.NoSuchUnit"})
    manager.start(UNIT, 1)
    await seen.until(JobRemoved)
    calls = [call for call in await bus.do("calls") if call[0] not in {"GetAll", "RefUnit"}]
    assert calls == [["ResetFailedUnit", UNIT], ["StartUnit", UNIT, "replace"]]


async def test_stop_and_its_result(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await connected(manager, seen, UNIT)
    await bus.plan("StopUnit", {"result": "timeout"})
    manager.stop(UNIT, 5)
    queued = await seen.until(JobQueued)
    assert queued.token == 5
    assert await seen.until(JobRemoved) == JobRemoved(queued.job, UNIT, "timeout")
    assert ["StopUnit", UNIT, "replace"] in await bus.do("calls")


@pytest.mark.parametrize("plan", [{}, {"error": "org.freedesktop.systemd1.NoSuchProcess"}])
async def test_kill(bus: Bus, manager: Manager, seen: Recorder, plan: dict[str, str]) -> None:
    await connected(manager, seen, UNIT)
    await bus.plan("KillUnit", plan)
    manager.kill(UNIT, 9)
    assert await seen.until(CallDone) == CallDone(9)
    assert ["KillUnit", UNIT, "all", 9] in await bus.do("calls")


SYSTEMD = "org.freedesktop.systemd1."
BUS = "org.freedesktop.DBus.Error."


@pytest.mark.parametrize(
    ("error", "message", "failure"),
    [
        (SYSTEMD + "NoSuchUnit", "Unit x not found.", CallFailure.NO_SUCH_UNIT),
        (SYSTEMD + "LoadFailed", "Unit x not found.", CallFailure.NO_SUCH_UNIT),
        (SYSTEMD + "LoadFailed", "Unit x failed to load properly.", CallFailure.REFUSED),
        (SYSTEMD + "UnitMasked", "Unit x is masked.", CallFailure.REFUSED),
        (SYSTEMD + "TransactionIsDestructive", "shutting down", CallFailure.REFUSED),
        (BUS + "InvalidArgs", "no", CallFailure.REFUSED),
        (BUS + "AccessDenied", "no", CallFailure.ACCESS_DENIED),
        (BUS + "InteractiveAuthorizationRequired", "no", CallFailure.ACCESS_DENIED),
        (BUS + "NoReply", "no", CallFailure.UNCLEAR),
        (BUS + "Timeout", "no", CallFailure.UNCLEAR),
        (BUS + "Disconnected", "no", CallFailure.UNCLEAR),
    ],
)
@pytest.mark.parametrize("method", ["StartUnit", "StopUnit", "KillUnit"])
async def test_errors(
    bus: Bus, manager: Manager, seen: Recorder, method: str, error: str, message: str, failure: CallFailure
) -> None:
    await connected(manager, seen)
    await bus.plan(method, {"error": error, "message": message})
    {"StartUnit": manager.start, "StopUnit": manager.stop, "KillUnit": manager.kill}[method](UNIT, 3)
    assert await seen.until(CallFailed) == CallFailed(3, failure, message)


async def test_a_call_without_an_answer_is_unclear(bus: Bus, seen: Recorder) -> None:
    manager = Manager(address=bus.address, timeout=0.5)
    try:
        await manager.connect(seen, frozenset({UNIT}))
        await seen.until(BusConnected)  # on a busy machine not at the first attempt
        await bus.plan("StartUnit", {"hang": True})
        manager.start(UNIT, 1)
        failed = await seen.until(CallFailed)
        assert (failed.token, failed.failure) == (1, CallFailure.UNCLEAR)
    finally:
        await manager.close()


async def test_a_call_without_an_answer_holds_up_nothing(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await connected(manager, seen, UNIT, "other.service")
    await bus.plan("StartUnit", {"hang": True})
    manager.start(UNIT, 1)
    manager.start("other.service", 2)
    assert (await seen.until(JobQueued)).token == 2
    assert (await seen.until(JobRemoved)).unit == "other.service"
    assert seen.of(CallFailed) == []


async def test_a_foreign_job_of_the_same_unit_waits_for_the_answer_only(
    bus: Bus, manager: Manager, seen: Recorder
) -> None:
    await connected(manager, seen, UNIT)
    await bus.plan("StartUnit", {"hold": True})
    manager.start(UNIT, 1)
    await bus.called("StartUnit")
    await bus.do("job_removed", unit=UNIT)
    await bus.do("job_removed", unit="foreign.service")
    await seen.until(JobRemoved, lambda r: r.unit == "foreign.service")
    assert len(seen.of(JobRemoved)) == 1
    await bus.do("answer")
    await seen.until(JobQueued)
    await seen.until(JobRemoved, lambda r: r.unit == UNIT and r.job.endswith("/7"))
    order = [type(r).__name__ for r in seen.reports if isinstance(r, JobQueued | JobRemoved)]
    assert order[:3] == ["JobRemoved", "JobQueued", "JobRemoved"]


async def test_processes(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await connected(manager, seen)
    assert await manager.processes(UNIT) == {41, 42}
    await bus.plan("GetUnitProcesses", {"error": SYSTEMD + "NoSuchUnit"}, {"error": BUS + "AccessDenied"})
    assert await manager.processes(UNIT) == frozenset()
    with pytest.raises(SparkError) as refused:
        await manager.processes(UNIT)
    assert refused.value.problem.code is Code.INTERNAL


async def test_facts(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(UNIT, UnitFileState="enabled", Restart="always", User="spark")
    await connected(manager, seen, UNIT)
    assert await manager.facts(UNIT) == UnitFacts(file_state="enabled", restart="always", user="spark")
    assert (await manager.facts("other.service")).load == "not-found"
    for error, load in (("NoSuchUnit", "not-found"), ("BadUnitSetting", "error")):
        await bus.plan("LoadUnit", {"error": SYSTEMD + error})
        assert (await manager.facts(UNIT)).load == load
    await bus.plan("LoadUnit", {"error": BUS + "NoReply"})
    with pytest.raises(SparkError) as refusal:
        await manager.facts(UNIT)
    assert refusal.value.problem.code is Code.BUS_LOST


async def test_facts_are_asked_again_when_a_file_changed_or_all_are_read_anew(
    bus: Bus, manager: Manager, seen: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / UNIT
    file.write_text("[Service]\n")
    written_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: written_ns + 5_000_000_000)
    await bus.do("folders", paths=[str(tmp_path)])
    await bus.unit(UNIT, Names=[UNIT], FragmentPath=str(file), DropInPaths=[], NeedDaemonReload=False, Restart="no")
    await connected(manager, seen, UNIT)

    async def asked() -> bool:
        await bus.do("calls")
        await manager.facts(UNIT)
        return "LoadUnit" in {call[0] for call in await bus.do("calls")}

    assert await asked()
    assert not await asked()
    await bus.do("reloading", active=False)
    await bus.called("LoadUnit")  # by the watch, which hears of it first
    assert await asked()
    assert not await asked()
    (tmp_path / f"{UNIT}.d").mkdir()
    await bus.unit(UNIT, Restart="always")
    assert (await manager.facts(UNIT)).restart == "always"
    await bus.do("release")
    await seen.until(BusLost)
    with pytest.raises(SparkError):
        await manager.facts(UNIT)


def test_the_command_of_a_unit_is_its_only_one() -> None:
    start = ("/opt/vllm", ["/opt/vllm", "serve"], False, 0, 0, 0, 0, 0, 0, 0)
    assert unit_facts({"ExecStart": [start]}).command == ("/opt/vllm", "serve")
    assert unit_facts({"ExecStart": [start, start]}).command == ()
    assert unit_facts({"LimitRTTIME": 7 << 60}).brand == 7 << 60


async def test_unit_of(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await bus.unit(UNIT)
    await connected(manager, seen)
    assert await manager.unit_of(41) == UNIT
    await bus.plan("GetUnitByPID", {"error": SYSTEMD + "NoUnitForPID"})
    assert await manager.unit_of(41) is None


async def test_asked_while_there_is_no_bus(bare_bus: Bus, manager: Manager, seen: Recorder) -> None:
    await manager.connect(seen, frozenset({UNIT}))
    manager.start(UNIT, 4)
    failed = await seen.until(CallFailed)
    assert (failed.token, failed.failure) == (4, CallFailure.UNCLEAR)
    assert await manager.unit_of(1) is None
    with pytest.raises(SparkError) as lost:
        await manager.processes(UNIT)
    assert lost.value.problem.code is Code.BUS_LOST


async def test_never_a_reload(bus: Bus, manager: Manager, seen: Recorder) -> None:
    await connected(manager, seen, UNIT)
    manager.start(UNIT, 1)
    changed = await seen.until(UnitChanged, lambda r: r.status.active is ActiveState.ACTIVE)
    assert changed.unit == UNIT
    manager.stop(UNIT, 2)
    await seen.until(UnitChanged, lambda r: r.status.active is ActiveState.INACTIVE)
    assert "Reload" not in {call[0] for call in await bus.do("calls")}
