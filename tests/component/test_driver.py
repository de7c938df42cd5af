"""An engine that fails because the NVIDIA driver is not there yet is started again when it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from spark_modeld.core.errors import SparkError
from spark_modeld.core.reading import MemorySource
from spark_modeld.core.record import Record
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import Phase
from support.fakes import Outside, make_catalog, unit

pytestmark = pytest.mark.component

Build = Callable[..., Outside]
NO_DRIVER = ("ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "exiting")
MINUTES = 300.0


def wanting(build: Build, *, source: MemorySource = MemorySource.HOST, **record: object) -> Outside:
    """A machine whose default, alpha, comes up when it is let."""
    outside = build(catalog=make_catalog(default="alpha"), record=Record(**record))  # type: ignore[arg-type]
    outside.gauge.source = source
    outside.journal.lines = NO_DRIVER
    return outside


def starts(outside: Outside, model: str = "alpha") -> int:
    return outside.calls("start").count(f"start {unit(model)}")


def phase(outside: Outside, model: str = "alpha") -> Phase:
    return outside.engine.snapshot.models[model].phase


async def given_up(build: Build, **more: object) -> Outside:
    """Three starts have failed for want of the driver, and for minutes nothing happens."""
    outside = wanting(build, **more)  # type: ignore[arg-type]
    outside.systemd.will("start", unit("alpha"), *["failed"] * 3)
    await outside.up()
    await outside.advance(MINUTES)
    assert starts(outside) == 3
    return outside


async def test_a_default_that_failed_without_the_driver_serves_when_it_has_come(build: Build) -> None:
    outside = await given_up(build)
    outside.gauge.source = MemorySource.UNIFIED
    await outside.advance(5)
    assert (starts(outside), phase(outside)) == (4, Phase.SERVING)
    switch = outside.engine.switches()[0]
    assert (switch.requested_by, switch.outcome) == (Requester.RECONCILE, Outcome.READY)
    assert (outside.engine.snapshot.slot_reason, outside.warnings()) == (None, set())


async def test_meanwhile_everybody_is_told_what_is_waited_for(build: Build) -> None:
    outside = await given_up(build)
    reason = outside.engine.snapshot.slot_reason or ""
    assert reason.startswith("Waiting for the NVIDIA driver: alpha needs it, and is started again")
    (warning,) = outside.engine.snapshot.warnings
    assert warning.code == "waits-for-driver"
    assert "without it alpha failed 3 times in a row, and is started again" in warning.message
    error = outside.engine.switches()[0].error
    assert error is not None
    assert error.extra["reading"]["code"] == "no-driver"


async def test_each_coming_of_the_driver_is_worth_the_bounded_number_of_tries(build: Build) -> None:
    """It is there, and the engine goes on saying that it is not: no container toolkit, say."""
    outside = await given_up(build)
    outside.systemd.will("start", unit("alpha"), *["failed"] * 9)
    outside.gauge.source = MemorySource.UNIFIED
    await outside.advance(MINUTES)
    assert starts(outside) == 6
    assert "waits-for-a-person" in outside.warnings()
    assert "not started again by itself" in (outside.engine.snapshot.slot_reason or "")
    for source in (MemorySource.HOST, MemorySource.UNIFIED):
        outside.gauge.source = source
        await outside.advance(MINUTES)
    assert starts(outside) == 6


@pytest.mark.parametrize("lines", [("RuntimeError: No CUDA GPUs are available",), ("CUDA out of memory",), ("what?",)])
async def test_with_the_driver_there_nothing_is_forgotten(build: Build, lines: tuple[str, ...]) -> None:
    outside = wanting(build, source=MemorySource.UNIFIED)
    outside.journal.lines = lines
    outside.systemd.will("start", unit("alpha"), *["failed"] * 9)
    await outside.up()
    await outside.advance(MINUTES)
    for source in (MemorySource.HOST, MemorySource.UNIFIED):
        outside.gauge.source = source
        await outside.advance(60)
    assert starts(outside) == 3
    assert outside.store.record.failures == {"alpha": 3}


async def test_what_failed_for_another_reason_still_waits_for_a_person(build: Build) -> None:
    outside = wanting(build)
    outside.journal.lines = ("ModuleNotFoundError: No module named 'sglang'",)
    outside.systemd.will("start", unit("alpha"), *["failed"] * 9)
    await outside.up()
    await outside.advance(MINUTES)
    assert outside.warnings() == {"waits-for-a-person"}
    outside.gauge.source = MemorySource.UNIFIED
    await outside.advance(60)
    assert starts(outside) == 3


async def test_failures_of_before_are_not_forgotten_with_those_for_want_of_the_driver(build: Build) -> None:
    """A machine that its model takes down at every boot, on which the driver is always late."""
    outside = wanting(build, failures={"alpha": 2})
    outside.systemd.will("start", unit("alpha"), *["failed"] * 9)
    await outside.up()
    await outside.advance(MINUTES)
    assert starts(outside) == 1
    assert outside.store.record.failures == {"alpha": 2}
    outside.gauge.source = MemorySource.UNIFIED
    await outside.advance(MINUTES)
    assert starts(outside) == 2
    assert outside.store.record.failures == {"alpha": 3}


async def test_a_driver_that_comes_before_the_log_is_read_counts_as_well(build: Build) -> None:
    outside = wanting(build)
    outside.journal.hang = asyncio.Event()
    outside.systemd.will("start", unit("alpha"), *["failed"] * 3)
    await outside.up()
    await outside.until(lambda: starts(outside) == 2)
    outside.journal.hang.set()
    outside.journal.hang = None
    outside.gauge.source = MemorySource.UNIFIED
    await outside.advance(60)
    assert (starts(outside), phase(outside)) == (4, Phase.SERVING)


async def test_a_daemon_that_starts_meanwhile_tries_anew(build: Build) -> None:
    before = await given_up(build)
    assert before.store.record.failures == {}
    after = wanting(build, source=MemorySource.UNIFIED, desired=before.store.record.desired)
    await after.up()
    assert (starts(after), phase(after)) == (1, Phase.SERVING)


async def test_who_asks_for_it_gets_it_as_soon_as_the_driver_is_there(build: Build) -> None:
    """Until then each is told the failure, and causes no further one."""
    outside = wanting(build)
    outside.systemd.will("start", unit("small"), *["failed"] * 3)
    outside.systemd.will("start", unit("alpha"), *["failed"] * 3)
    await outside.up()
    await outside.advance(60)
    for _ in range(5):
        with pytest.raises(SparkError, match="systemd could not start"):
            await asked(outside)
    assert starts(outside, "small") == 3
    waiting = [w for w in outside.engine.snapshot.warnings if w.code == "waits-for-driver"]
    assert any("small failed 3 times in a row; switch to it once nvidia-smi" in w.message for w in waiting)
    outside.gauge.source = MemorySource.UNIFIED
    await outside.advance(40)
    assert phase(outside) is Phase.SERVING
    lease = await asked(outside)
    assert lease is not None
    assert phase(outside, "small") is Phase.SERVING
    outside.engine.release(lease)


async def asked(outside: Outside) -> object:
    asking = asyncio.create_task(outside.engine.demand("small", actor=None))
    await outside.advance(30)
    async with asyncio.timeout(5):
        return await asking


async def test_a_person_need_not_wait(build: Build) -> None:
    outside = await given_up(build)
    switch = await switched(outside, "alpha")
    assert switch.outcome is Outcome.READY
    assert outside.warnings() == set()


async def switched(outside: Outside, model: str) -> Switch:
    async with asyncio.timeout(5):
        switch = await outside.engine.switch(model, requested_by=Requester.CONTROL, actor=None)
        return await outside.engine.wait(switch.id, None)
