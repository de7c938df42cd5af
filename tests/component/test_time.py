"""Suspend, a clock that is set, a machine that is frozen: time in which nobody did anything is held against nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from spark_modeld.core.pulse import Look, Proof, Proven, Reach
from spark_modeld.core.record import Record
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import Phase
from spark_modeld.deadline import STEP_SECONDS
from spark_modeld.face import Lease
from support.fakes import Hang, Outside, unit

pytestmark = pytest.mark.component

HOURS = 10 * 3600.0
FREEZE = 3600.0
START, STOP = 30.0, 20.0
"""The deadlines of the models here."""


@pytest.fixture
async def outside(build: Callable[..., Outside]) -> Outside:
    """alpha is what is desired, and serves."""
    made = build(record=Record(desired="alpha"))
    await made.up()
    await made.until(lambda: phase(made, "alpha") is Phase.SERVING)
    made.seen.clear()
    return made


def phase(outside: Outside, model: str) -> Phase:
    return outside.engine.snapshot.models[model].phase


def done_to_units(outside: Outside) -> list[str]:
    return outside.calls("start", "stop", "kill")


def demand(outside: Outside, model: str) -> asyncio.Task[Lease]:
    return asyncio.create_task(outside.engine.demand(model, actor="token web", may_switch=True))


async def granted(waits: asyncio.Task[Lease]) -> Lease:
    async with asyncio.timeout(5):
        return await waits


async def later(outside: Outside, seconds: float) -> None:
    """So much later; TimeoutError for an engine that goes by the wrong clock, and round in circles."""
    async with asyncio.timeout(10):
        await outside.advance(seconds)


async def switch(outside: Outside, model: str) -> Switch:
    return await outside.engine.switch(model, requested_by=Requester.CONTROL, actor="uid 0")


async def frozen(outside: Outside, seconds: float = FREEZE) -> None:
    """Everything stands still for so long, but the clock."""
    await outside.rest()
    outside.clock.time += seconds
    await outside.rest()
    await outside.advance(0)


# Suspended: the clock that deadlines go by stands still, the wall clock is ahead afterwards.


@pytest.mark.parametrize("jump", [HOURS, -HOURS])
async def test_a_wall_clock_that_jumps_moves_nothing(outside: Outside, jump: float) -> None:
    """While one model serves a client, another one loads, and somebody waits for a third."""
    lease = outside.engine.lease("alpha")
    assert lease is not None
    ready = outside.prober.hold("side")
    await outside.engine.start("side", actor=None)
    waits = demand(outside, "beta")
    await outside.until(lambda: "side" in outside.prober.climbing)
    outside.seen.clear()
    outside.clock.ahead += jump
    outside.systemd.look(unit("alpha"))  # systemd speaks again first
    await later(outside, START - 1)
    assert done_to_units(outside) == []
    assert (phase(outside, "alpha"), phase(outside, "side")) == (Phase.SERVING, Phase.WARMING)
    assert (waits.done(), outside.engine.snapshot.in_flight) == (False, 1)
    assert outside.warnings() == set()
    ready.set()
    outside.engine.release(lease)
    await outside.until(lambda: phase(outside, "side") is Phase.SERVING)
    await later(outside, START)
    beta = await granted(waits)
    assert beta.model.id == "beta"
    assert done_to_units(outside) == [f"stop {unit('alpha')}", f"start {unit('beta')}"]
    outside.engine.release(beta)


@pytest.mark.parametrize("jump", [HOURS, -HOURS])
async def test_a_model_that_was_lent_the_slot_keeps_it(outside: Outside, jump: float) -> None:
    waits = demand(outside, "beta")
    await later(outside, START)
    outside.engine.release(await granted(waits))
    outside.seen.clear()
    outside.clock.ahead += jump
    await later(outside, 60)
    assert (done_to_units(outside), phase(outside, "beta")) == ([], Phase.SERVING)
    await later(outside, 1800)
    assert phase(outside, "alpha") is Phase.SERVING


# Frozen: that clock is far ahead, and nothing has run.


@pytest.mark.parametrize("before", [0.0, START / 2, START - STEP_SECONDS / 2])
async def test_a_load_is_not_blamed_for_time_in_which_nothing_ran(outside: Outside, before: float) -> None:
    ready = outside.prober.hold("beta")
    asked = await switch(outside, "beta")
    await outside.until(lambda: "beta" in outside.prober.climbing)
    await outside.advance(before)
    outside.seen.clear()
    await frozen(outside)
    await outside.advance(max(STEP_SECONDS, START - before - STEP_SECONDS) - 0.1)
    assert (done_to_units(outside), phase(outside, "beta")) == ([], Phase.WARMING)
    ready.set()
    assert (await outside.engine.wait(asked.id, None)).outcome is Outcome.READY


async def test_a_deadline_holds_all_the_same(outside: Outside) -> None:
    outside.prober.hold("beta")
    await switch(outside, "beta")
    await outside.until(lambda: "beta" in outside.prober.climbing)
    await frozen(outside)
    outside.seen.clear()
    await outside.advance(START + STEP_SECONDS)
    assert done_to_units(outside)[0] == f"stop {unit('beta')}"


async def test_an_engine_has_its_stop_time_after_a_freeze_too(outside: Outside) -> None:
    outside.systemd.will("stop", unit("alpha"), Hang.JOB)
    await switch(outside, "beta")
    await outside.advance(STOP / 2)
    outside.seen.clear()
    await frozen(outside)
    await outside.advance(STOP / 2 - STEP_SECONDS - 0.1)
    assert done_to_units(outside) == []
    await outside.advance(2 * STEP_SECONDS)
    assert done_to_units(outside)[0] == f"kill {unit('alpha')}"


async def test_whoever_is_drained_is_not_cut_off_by_a_freeze(outside: Outside) -> None:
    lease = outside.engine.lease("alpha")
    assert lease is not None
    await switch(outside, "beta")
    await outside.until(lambda: phase(outside, "alpha") is Phase.DRAINING)
    outside.seen.clear()
    await frozen(outside)
    assert done_to_units(outside) == []
    outside.engine.release(lease)
    await outside.until(lambda: phase(outside, "beta") is Phase.SERVING)


async def test_an_engine_that_is_slow_after_a_freeze_has_not_stalled(outside: Outside) -> None:
    """At first nothing is heard of it, then an error, then it generates again."""
    outside.vitals.looks["alpha"] = Look(Reach.WELL, mark="standing")
    outside.vitals.proofs["alpha"] = Proven(Proof.GIVEN)
    await outside.advance(300)
    outside.vitals.looks["alpha"] = Look(Reach.SILENT)
    await frozen(outside)
    await outside.advance(30)
    outside.vitals.looks["alpha"] = Look(Reach.UNWELL, "HTTP 503")
    outside.vitals.proofs["alpha"] = Proven(Proof.FAILED, "HTTP 500")
    await outside.advance(30)
    outside.vitals.looks["alpha"] = Look(Reach.WELL, mark="moving")
    outside.vitals.proofs["alpha"] = Proven(Proof.GIVEN)
    await outside.advance(600)
    assert (done_to_units(outside), phase(outside, "alpha")) == ([], Phase.SERVING)


async def test_a_deadline_of_what_is_over_is_looked_at_no_more(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await switch(outside, "beta")
    assert (await outside.engine.wait(asked.id, None)).outcome is Outcome.READY
    await outside.advance(STEP_SECONDS)
    armed: list[float] = []
    call_at = outside.clock.call_at
    monkeypatch.setattr(outside.clock, "call_at", lambda at, callback: armed.append(at) or call_at(at, callback))
    await outside.advance(20)
    assert 0 < len(armed) < 10  # the looks at memory and health
