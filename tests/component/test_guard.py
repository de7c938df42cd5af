"""The engine and memory: the guard while loading and while serving, what is measured, what is still coming back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from msgspec.structs import replace

from spark_modeld.core.errors import Code
from spark_modeld.core.model import Amount, Basis, Launch, Model
from spark_modeld.core.reading import GpuProcess
from spark_modeld.core.record import Measured, Record
from spark_modeld.core.settings import MemorySettings, Settings, SlotSettings
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import Phase
from support.fakes import BOOT, GIB, MODELS, OUTSIDER, TOTAL, Hang, Outside, make_catalog, make_model, unit

pytestmark = pytest.mark.component

Build = Callable[..., Awaitable[Outside]]
FREE = TOTAL - OUTSIDER
LOW = 2 * GIB


@pytest.fixture
async def up() -> AsyncIterator[Build]:
    """Builds an outside and boots its engine; afterwards nothing of it may be left."""
    built: list[Outside] = []

    async def make(*, held: str = "", **parts: object) -> Outside:
        built.append(Outside(**parts))  # type: ignore[arg-type]
        if held:
            built[-1].prober.hold(held)
        await built[-1].up()
        return built[-1]

    yield make
    async with asyncio.timeout(20):
        for outside in built:
            await outside.engine.shut_down()
            assert outside.clock.armed == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


def undeclared(name: str) -> Model:
    return replace(make_model(name, 1), memory=None)


async def ask(outside: Outside, model: str | None, *, by: Requester = Requester.CONTROL) -> Switch:
    async with asyncio.timeout(20):
        return await outside.engine.switch(model, requested_by=by, actor=None)


async def switched(outside: Outside, model: str | None, *, by: Requester = Requester.CONTROL) -> Switch:
    switch = await ask(outside, model, by=by)
    async with asyncio.timeout(20):
        return await outside.engine.wait(switch.id, None)


async def started(outside: Outside, *sides: str) -> None:
    for side in sides:
        await outside.engine.start(side, actor=None)
        await outside.until(lambda side=side: phase(outside, side) is Phase.SERVING)


def phase(outside: Outside, model: str) -> Phase:
    return outside.engine.snapshot.models[model].phase


def alarms(outside: Outside) -> dict[str, int]:
    return dict(outside.engine.snapshot.guard.actions)


# While loading.


async def test_a_load_that_goes_under_the_floor_is_killed_and_leaves_its_curve(up: Build) -> None:
    outside = await up()
    outside.prober.hold("small")
    switch = await ask(outside, "small")
    await outside.until(lambda: phase(outside, "small") is Phase.WARMING)
    for available in (29, 20, 12, 6, 2):
        outside.gauge.available = available * GIB
        await outside.advance(0.2)
    async with asyncio.timeout(20):
        ended = await outside.engine.wait(switch.id, None)
    assert ended.error is not None
    assert (ended.outcome, ended.error.code) == (Outcome.FAILED, Code.MEMORY_REFUSED)
    assert outside.calls("stop", "kill") == [f"stop {unit('small')}", f"kill {unit('small')}"]
    curve = ended.error.extra["curve"]
    assert [available // GIB for _, available in curve] == [123, 29, 20, 12, 6, 2]
    times = [at for at, _ in curve]
    assert times[0] == 0
    assert times == sorted(set(times))
    assert alarms(outside)["killed-loading"] == 1
    assert outside.engine.switches()[0].error == ended.error


async def test_three_loads_under_the_floor_and_the_model_waits_for_a_person(up: Build) -> None:
    outside = await up(record=Record(desired="small"), held="small")
    for failures in (1, 2, 3):
        outside.gauge.available = None
        await outside.advance(12)
        await outside.until(lambda: phase(outside, "small") is Phase.WARMING)
        outside.gauge.available = LOW
        await outside.advance(0.2)
        await outside.until(lambda: outside.engine.snapshot.models["small"].phase in {Phase.STOPPED, Phase.FAILED})
        assert outside.store.record.failures == {"small": failures}
    outside.gauge.available = None
    await outside.advance(600)
    assert outside.calls("start") == [f"start {unit('small')}"] * 3
    assert "waits-for-a-person" in outside.warnings()
    assert "not started again" in (outside.engine.snapshot.slot_reason or "")
    del outside.prober.held["small"]
    assert (await switched(outside, "small")).outcome is Outcome.READY
    assert "waits-for-a-person" not in outside.warnings()
    await outside.advance(90)
    assert outside.store.record.failures == {}


async def test_failures_outlast_the_daemon(up: Build) -> None:
    outside = await up(record=Record(desired="small", failures={"small": 3}))
    await outside.advance(600)
    assert outside.calls("start") == []
    assert "waits-for-a-person" in outside.warnings()


async def test_a_machine_that_goes_down_with_every_load_stops_trying(up: Build) -> None:
    """Power was cut while it loaded: nobody could write a failure down, the switch on record is the witness."""
    record = Record()
    for crash in range(3):
        outside = Outside(record=replace(record, boot=f"boot-before-{crash}"))
        outside.prober.hold("small")
        await outside.up()
        if crash == 0:
            await ask(outside, "small")
        await outside.until(lambda outside=outside: phase(outside, "small") is Phase.WARMING)
        record = outside.store.record
        assert record.switch is not None
        assert record.boot == BOOT
        await outside.engine.shut_down()
    outside = await up(record=replace(record, boot="boot-before-3"))
    await outside.advance(600)
    assert outside.calls("start") == []
    ended = outside.engine.switches()[0]
    assert ended.error is not None
    assert (ended.outcome, "the machine while it was loading" in ended.error.detail) == (Outcome.FAILED, True)


async def test_a_restart_of_the_daemon_alone_is_no_failure(up: Build) -> None:
    outside = await up(record=Record(boot=BOOT, failures={"small": 2}))
    assert (await switched(outside, "small")).outcome is Outcome.READY


async def test_want_of_room_is_waited_out(up: Build) -> None:
    """Refusals are no failed starts: when there is room, what is desired comes up by itself."""
    outside = await up(record=Record(desired="small"), catalog=make_catalog())
    await outside.until(lambda: phase(outside, "small") is Phase.SERVING)
    outside.gauge.available = 9 * GIB
    outside.systemd.crash(unit("small"))
    await outside.advance(300)
    assert phase(outside, "small") is not Phase.SERVING
    ended = len(outside.engine.switches())
    await outside.advance(300)
    assert len(outside.engine.switches()) == ended, "it is asked for again and again"
    outside.gauge.available = None
    await outside.advance(11)
    assert phase(outside, "small") is Phase.SERVING


# While serving.


async def test_under_the_floor_it_is_told_first_and_then_side_models_go(up: Build) -> None:
    sides = [replace(MODELS["side"], id=name, url=f"http://127.0.0.1:{port}") for name, port in (("s1", 1), ("s2", 2))]
    outside = await up(catalog=make_catalog(MODELS["alpha"], *sides))
    await switched(outside, "alpha")
    await started(outside, "s1")
    await outside.advance(5)
    await started(outside, "s2")
    outside.gauge.available = LOW
    outside.pressure.feel()
    await outside.rest()
    assert "memory-under-floor" in outside.warnings()
    assert outside.calls("stop") == []
    await outside.advance(29)
    assert outside.calls("stop") == []
    await outside.advance(2)
    assert outside.calls("stop") == [f"stop {unit('s1')}"], "1 GiB is missing: the one started first is enough"
    problem = outside.engine.snapshot.models["s1"].error
    assert problem is not None
    assert (problem.code, problem.extra["guard"]) == (Code.MEMORY_REFUSED, True)
    await outside.advance(33)
    assert outside.calls("stop") == [f"stop {unit('s1')}", f"stop {unit('s2')}"]
    await outside.advance(120)
    assert phase(outside, "alpha") is Phase.SERVING, "what is desired is never stopped"
    assert outside.engine.snapshot.guard.helpless
    outside.gauge.available = None
    await outside.advance(2)
    assert "memory-under-floor" not in outside.warnings()
    assert alarms(outside) == {"under-floor": 1, "stopping": 2}
    assert 90 < outside.engine.snapshot.guard.under_seconds < 200


async def test_after_the_side_models_an_occupant_on_demand_goes(up: Build) -> None:
    outside = await up()
    await switched(outside, "alpha")
    await switched(outside, "small", by=Requester.GATEWAY)
    await started(outside, "side")
    outside.gauge.available = LOW
    await outside.advance(45)
    assert phase(outside, "side") is Phase.STOPPED
    assert phase(outside, "small") is Phase.SERVING
    await outside.advance(35)
    assert phase(outside, "small") is Phase.STOPPED
    by_guard = next(s for s in outside.engine.switches() if s.requested_by is Requester.GUARD)
    assert (by_guard.model, by_guard.from_model, by_guard.outcome) == (None, "small", Outcome.READY)
    assert "small is stopped: only 2.0 GiB" in (by_guard.reason or "")
    assert outside.store.record.desired == "alpha"
    outside.gauge.available = None
    await outside.advance(120)
    assert phase(outside, "alpha") is Phase.SERVING, "what is desired comes back when there is room"


@pytest.mark.parametrize("role", ["side", "on demand"])
async def test_the_guard_waits_for_no_request(up: Build, role: str) -> None:
    outside = await up()
    model = "side" if role == "side" else "small"
    await switched(outside, "alpha")
    if role == "side":
        await started(outside, "side")
    else:
        await switched(outside, "small", by=Requester.GATEWAY)
    assert [outside.engine.lease(model) for _ in range(2)] != [None, None]
    outside.gauge.available = LOW
    outside.pressure.feel()
    await outside.advance(32)
    assert phase(outside, model) is Phase.STOPPED, "it waited for the drain's deadline"
    problem = outside.engine.snapshot.models["side"].error
    reasons = [s.reason for s in outside.engine.switches() if s.requested_by is Requester.GUARD]
    reason = problem.detail if problem else reasons[0]
    assert reason is not None
    assert "Its 2 open requests are cut off." in reason


async def test_the_guard_does_not_wait_for_somebody_elses_drain_either(up: Build) -> None:
    outside = await up()
    await switched(outside, "alpha")
    await started(outside, "side")
    lease = outside.engine.lease("side")
    assert lease is not None
    outside.gauge.available = LOW
    outside.pressure.feel()
    await outside.advance(20)
    await outside.engine.stop("side", actor=None)
    await outside.advance(5)
    assert phase(outside, "side") is Phase.DRAINING
    await outside.advance(8)
    assert phase(outside, "side") is Phase.STOPPED
    assert alarms(outside) == {"under-floor": 1, "stopping": 1}


async def test_an_engine_that_waits_for_its_requests_is_killed_by_the_guard(up: Build) -> None:
    outside = await up()
    await switched(outside, "alpha")
    await started(outside, "side")
    outside.systemd.will("stop", unit("side"), Hang.JOB)
    outside.gauge.available = LOW
    outside.pressure.feel()
    await outside.advance(32)
    assert outside.calls("stop", "kill") == [f"stop {unit('side')}"]
    await outside.advance(15)
    assert outside.calls("stop", "kill") == [f"stop {unit('side')}", f"kill {unit('side')}"]


async def test_memory_that_swings_around_the_floor_is_still_short(up: Build) -> None:
    outside = await up()
    await switched(outside, "alpha")
    await started(outside, "side")
    for _ in range(30):
        outside.gauge.available = LOW
        await outside.advance(1)
        outside.gauge.available = 3 * GIB + 1
        await outside.advance(1)
    assert phase(outside, "side") is Phase.STOPPED


async def test_without_pressure_it_is_seen_within_the_slow_look(up: Build) -> None:
    outside = await up()
    await switched(outside, "alpha")
    outside.gauge.available = LOW
    await outside.advance(11)
    assert "memory-under-floor" in outside.warnings()


async def test_a_unit_started_past_us_goes_before_the_occupant(up: Build) -> None:
    outside = await up()
    await switched(outside, "alpha")
    await switched(outside, "small", by=Requester.GATEWAY)
    outside.adopt(["beta"])
    outside.systemd.look(unit("beta"))
    await outside.until(lambda: phase(outside, "beta") is Phase.SERVING)
    outside.gauge.available = LOW
    await outside.advance(45)
    assert (phase(outside, "beta"), phase(outside, "small")) == (Phase.STOPPED, Phase.SERVING)


# What is still coming back.


async def test_a_newer_switch_waits_for_memory_of_a_model_that_is_gone(up: Build) -> None:
    outside = await up(catalog=make_catalog(MODELS["alpha"], MODELS["beta"], make_model("newer", 65)))
    await switched(outside, "alpha")
    outside.gauge.available = FREE - 60 * GIB
    first = await ask(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.RECLAIMING)
    second = await ask(outside, "newer")
    await outside.until(lambda: phase(outside, "newer") is Phase.RECLAIMING)
    outside.gauge.available = None
    await outside.advance(2)
    async with asyncio.timeout(20):
        ended = [await outside.engine.wait(s.id, None) for s in (first, second)]
    assert [s.outcome for s in ended] == [Outcome.SUPERSEDED, Outcome.READY]
    assert outside.calls("start") == [f"start {unit('alpha')}", f"start {unit('newer')}"]


async def test_who_has_an_occupant_to_lose_does_not_wait(up: Build) -> None:
    """What a third model still owes is no reason to stop the one that serves."""
    outside = await up()
    await switched(outside, "alpha")
    outside.gauge.available = FREE - 60 * GIB
    await switched(outside, "small")
    await outside.until(lambda: phase(outside, "alpha") is Phase.STOPPED)
    refused = await switched(outside, "beta")
    assert refused.error is not None
    assert (refused.outcome, refused.error.code) == (Outcome.FAILED, Code.MEMORY_REFUSED)
    assert phase(outside, "small") is Phase.SERVING
    assert unit("small") not in {line.split()[1] for line in outside.calls("stop")}


async def test_what_never_came_back_is_said(up: Build) -> None:
    settings = Settings(slot=SlotSettings(), memory=MemorySettings(reclaim_timeout=5.0))
    outside = await up(catalog=replace(make_catalog(), settings=settings))
    await switched(outside, "alpha")
    outside.gauge.available = FREE - 60 * GIB
    switch = await ask(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.RECLAIMING)
    await outside.advance(12)
    async with asyncio.timeout(20):
        ended = await outside.engine.wait(switch.id, None)
    assert ended.error is not None
    assert ended.error.extra["returning"] == [{"model": "alpha", "expected": 60 * GIB, "outstanding": 60 * GIB}]
    assert "Of the 60.0 GiB of alpha, which is down, 60.0 GiB have not come back." in ended.error.detail


# What was measured.


async def test_what_the_driver_attributes_is_measured_and_kept_with_a_margin(up: Build) -> None:
    model = undeclared("vague")
    outside = await up(catalog=make_catalog(model))
    assert outside.engine.snapshot.models["vague"].footprint.basis is Basis.UNKNOWN
    outside.prober.hold("vague")
    await ask(outside, "vague")
    await outside.until(lambda: phase(outside, "vague") is Phase.WARMING)
    outside.gauge.processes = (GpuProcess(7, 40 * GIB, model="vague"), GpuProcess(8, 9 * GIB))
    await outside.advance(0.3)
    assert outside.store.record.measured == {}
    outside.prober.held["vague"].set()
    await outside.until(lambda: phase(outside, "vague") is Phase.SERVING)
    assert outside.store.record.measured["vague"].bytes == 40 * GIB
    footprint = outside.engine.snapshot.models["vague"].footprint
    assert (footprint.bytes, footprint.basis) == (42 * GIB, Basis.MEASURED)
    assert footprint.taken_at is not None
    saves = outside.store.saves
    outside.gauge.processes = (GpuProcess(7, 40 * GIB + 1, model="vague"),)
    await outside.advance(11)
    assert outside.store.saves == saves, "a byte more is not worth a write"
    outside.gauge.processes = (GpuProcess(7, 44 * GIB, model="vague"),)
    await outside.advance(11)
    assert outside.store.record.measured["vague"].bytes == 44 * GIB


async def test_what_memory_dropped_by_is_measured_where_nothing_else_moved(up: Build) -> None:
    outside = await up(catalog=make_catalog(undeclared("vague")))
    outside.prober.hold("vague")
    outside.gauge.available = 100 * GIB
    await ask(outside, "vague")
    await outside.until(lambda: phase(outside, "vague") is Phase.WARMING)
    for available in (70, 55, 60):
        outside.gauge.available = available * GIB
        await outside.advance(0.2)
    outside.prober.held["vague"].set()
    await outside.until(lambda: phase(outside, "vague") is Phase.SERVING)
    assert outside.store.record.measured["vague"].bytes == 45 * GIB


@pytest.mark.parametrize("other", ["a start", "memory that came back"])
async def test_a_drop_that_may_be_others_is_not_learnt(up: Build, other: str) -> None:
    outside = await up(catalog=make_catalog(undeclared("vague"), MODELS["side"], MODELS["small"]))
    outside.prober.hold("vague")
    outside.gauge.available = 100 * GIB
    await ask(outside, "vague")
    await outside.until(lambda: phase(outside, "vague") is Phase.WARMING)
    if other == "a start":
        await outside.engine.start("side", actor=None)
    else:
        outside.gauge.available = 101 * GIB
        await outside.advance(0.2)
    outside.gauge.available = 60 * GIB
    await outside.advance(0.3)
    outside.prober.held["vague"].set()
    await outside.until(lambda: phase(outside, "vague") is Phase.SERVING)
    assert "vague" not in outside.store.record.measured


async def test_what_was_measured_is_forgotten_with_the_configuration(up: Build) -> None:
    outside = await up(catalog=make_catalog(undeclared("vague")))
    outside.gauge.processes = (GpuProcess(7, 40 * GIB, model="vague"),)
    await switched(outside, "vague")
    outside.gauge.processes = ()
    await switched(outside, None)
    await outside.engine.reload()
    assert outside.engine.snapshot.models["vague"].footprint.basis is Basis.MEASURED
    outside.source.good = make_catalog(replace(undeclared("vague"), run=Launch(("engine", "--context-length", "9"))))
    await outside.engine.reload()
    await outside.rest()
    assert outside.engine.snapshot.models["vague"].footprint.basis is Basis.UNKNOWN
    assert outside.store.record.measured == {}


async def test_a_measurement_of_another_configuration_does_not_count(up: Build) -> None:
    measured = {"vague": Measured(40 * GIB, 1.7e9, None, "another")}
    outside = await up(catalog=make_catalog(undeclared("vague")), record=Record(measured=measured))
    assert outside.engine.snapshot.models["vague"].footprint.basis is Basis.UNKNOWN


async def test_declared_goes_before_measured(up: Build) -> None:
    outside = await up()
    outside.gauge.processes = (GpuProcess(7, 20 * GIB, model="small"),)
    await switched(outside, "small")
    assert outside.store.record.measured["small"].bytes == 20 * GIB
    footprint = outside.engine.snapshot.models["small"].footprint
    assert (footprint.bytes, footprint.basis) == (Amount(bytes=10 * GIB).of(TOTAL), Basis.DECLARED)
