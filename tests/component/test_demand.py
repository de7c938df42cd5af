"""Requests that wait for a model, through the engine: who is served, when, and who is told why not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from spark_modeld.core.errors import Code, Problem, SparkError
from spark_modeld.core.record import Record
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import ActiveState, Phase
from spark_modeld.face import Lease, Leases
from spark_modeld.ports import LadderRefused
from support.fakes import GIB, MODELS, Hang, Outside, make_catalog, make_model, unit

pytestmark = pytest.mark.component

WRONG = LadderRefused(Problem(Code.MODEL_FAILED, "The wrong model answers."))


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


def demand(outside: Outside, name: str | None, *, may_switch: bool = True) -> asyncio.Task[Lease]:
    face: Leases = outside.engine
    return asyncio.create_task(face.demand(name, actor="token web", may_switch=may_switch))


async def granted(task: asyncio.Task[Lease]) -> Lease:
    async with asyncio.timeout(20):
        return await task


async def refused(task: asyncio.Task[Lease]) -> Problem:
    async with asyncio.timeout(20):
        with pytest.raises(SparkError) as refusal:
            await task
    return refusal.value.problem


def waiting(outside: Outside) -> dict[str, int]:
    return {w.model: w.waiters for w in outside.engine.snapshot.queue}


async def waits(outside: Outside, *tasks: asyncio.Task[Lease]) -> None:
    await outside.rest()
    assert [t for t in tasks if t.done()] == []


async def switched(outside: Outside, model: str | None) -> Switch:
    async with asyncio.timeout(20):
        switch = await outside.engine.switch(model, requested_by=Requester.CONTROL, actor="uid 0")
        return await outside.engine.wait(switch.id, None)


def last(outside: Outside) -> Switch:
    return outside.engine.switches()[0]


# Granted.


async def test_what_serves_is_leased_at_once(outside: Outside) -> None:
    for name in ("alpha", "alpha-alias", "local", "default", None):
        lease = await outside.engine.demand(name, actor=None)
        assert lease.model.id == "alpha"
        outside.engine.release(lease)
    assert outside.calls("start", "stop") == []
    assert outside.engine.snapshot.in_flight == 0


async def test_a_demand_switches_and_leaves_desired_as_it_is(outside: Outside) -> None:
    await outside.advance(30)
    lease = await granted(demand(outside, "beta-alias"))
    assert lease.model.id == "beta"
    assert outside.calls("start", "stop") == [f"stop {unit('alpha')}", f"start {unit('beta')}"]
    await outside.rest()
    switch = last(outside)
    assert (switch.requested_by, switch.actor, switch.outcome) == (Requester.GATEWAY, "token web", Outcome.READY)
    assert outside.engine.snapshot.desired == outside.store.record.desired == "alpha"
    outside.engine.release(lease)


async def test_an_empty_slot_is_filled_at_once(build: Callable[..., Outside]) -> None:
    outside = build()
    await outside.up()
    lease = await granted(demand(outside, "beta"))
    outside.engine.release(lease)
    assert outside.clock.time == 1000.0


async def test_all_who_wait_join_one_start_and_are_granted_in_the_same_step(outside: Outside) -> None:
    await outside.advance(30)
    ready = outside.prober.hold("beta")
    tasks = [demand(outside, "beta") for _ in range(5)]
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    late = demand(outside, "beta")
    await waits(outside, late, *tasks)
    assert waiting(outside) == {"beta": 6}
    ready.set()
    leases = [await granted(t) for t in (*tasks, late)]
    assert outside.engine.snapshot.models["beta"].in_flight == 6
    await outside.rest()
    assert waiting(outside) == {}
    assert len(outside.calls("start")) == 1
    for lease in leases:
        outside.engine.release(lease)


async def test_the_way_into_an_empty_slot_is_not_made_twice(build: Callable[..., Outside]) -> None:
    """At the start of the daemon a request for the other model comes before the first one is there."""
    outside = build(record=Record(desired="alpha"))
    ready = outside.prober.hold("alpha")
    await outside.up()
    await outside.until(lambda: phase(outside, "alpha") is Phase.WARMING)
    local, beta = demand(outside, None), demand(outside, "beta")
    await outside.advance(20)
    await waits(outside, local, beta)
    assert outside.calls("start", "stop") == [f"start {unit('alpha')}"]
    ready.set()
    outside.engine.release(await granted(local))
    await waits(outside, beta)
    await outside.advance(29)
    await waits(outside, beta)
    await outside.advance(1)
    outside.engine.release(await granted(beta))


# Whose turn it is.


async def test_an_occupant_stays_for_min_residency(outside: Outside) -> None:
    task = demand(outside, "beta")
    await outside.advance(29)
    await waits(outside, task)
    assert outside.calls("stop") == []
    await outside.advance(1)
    outside.engine.release(await granted(task))


async def test_an_occupant_in_use_stays_until_it_is_not(outside: Outside) -> None:
    await outside.advance(30)
    lease = outside.engine.lease("alpha")
    assert lease is not None
    task = demand(outside, "beta")
    await outside.advance(300)
    await waits(outside, task)
    again = outside.engine.lease("alpha")
    assert again is not None
    outside.engine.release(lease)
    await waits(outside, task)
    outside.engine.release(again)
    outside.engine.release(await granted(task))


async def test_nobody_waits_longer_than_max_wait_for_a_busy_occupant(outside: Outside) -> None:
    held = outside.engine.lease("alpha")
    assert held is not None
    task = demand(outside, "beta")
    await outside.advance(599)
    kept = outside.engine.lease("alpha")
    assert kept is not None
    outside.engine.release(kept)
    await waits(outside, task)
    await outside.advance(1)
    assert phase(outside, "alpha") is Phase.DRAINING
    assert outside.engine.lease("alpha") is None
    behind = demand(outside, "alpha")
    await outside.advance(59)
    assert outside.calls("stop") == []
    await outside.advance(1)
    outside.engine.release(await granted(task))
    outside.engine.release(held)
    await waits(outside, behind)
    await outside.advance(30)
    outside.engine.release(await granted(behind))


async def test_whoever_has_waited_longest_comes_first(build: Callable[..., Outside]) -> None:
    models = [make_model(name, 60) for name in ("alpha", "beta", "gamma")]
    outside = build(catalog=make_catalog(*models), record=Record(desired="alpha"))
    await outside.up()
    first, second = demand(outside, "gamma"), demand(outside, "beta")
    more = demand(outside, "gamma")
    await outside.advance(30)
    for task in (first, more):
        outside.engine.release(await granted(task))
    await waits(outside, second)
    await outside.advance(30)
    outside.engine.release(await granted(second))


async def test_a_loading_model_is_not_stopped_for_another(outside: Outside) -> None:
    await outside.advance(30)
    ready = outside.prober.hold("beta")
    beta = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    back = demand(outside, "alpha")
    await outside.advance(25)
    await waits(outside, beta, back)
    assert outside.calls("stop") == [f"stop {unit('alpha')}"]
    ready.set()
    lease = await granted(beta)
    outside.engine.release(lease)
    await outside.advance(30)
    outside.engine.release(await granted(back))


async def test_while_the_switch_waits_for_its_reading_nobody_gets_on_the_leaving_model(outside: Outside) -> None:
    await outside.advance(30)
    outside.gauge.hang = asyncio.Event()
    task = demand(outside, "beta")
    await outside.until(lambda: outside.engine.snapshot.switch is not None)
    assert phase(outside, "alpha") is Phase.SERVING
    assert outside.engine.lease("alpha") is None
    outside.gauge.hang.set()
    outside.engine.release(await granted(task))


async def test_who_asks_for_the_leaving_model_is_not_put_on_it_when_the_reading_comes(outside: Outside) -> None:
    await outside.advance(30)
    outside.gauge.hang = asyncio.Event()
    task = demand(outside, "beta")
    await outside.until(lambda: outside.engine.snapshot.switch is not None)
    behind, unable = demand(outside, "alpha"), demand(outside, "alpha", may_switch=False)
    await waits(outside, behind, unable)
    outside.gauge.hang.set()
    outside.engine.release(await granted(task))
    problem = await refused(unable)
    assert (problem.code, problem.extra["holder"]) == (Code.BUSY, "beta")
    assert problem.detail.startswith("alpha makes way for beta")
    await waits(outside, behind)
    await outside.advance(30)
    outside.engine.release(await granted(behind))


async def test_who_asks_for_the_leaving_model_is_put_on_it_when_the_reading_refuses(outside: Outside) -> None:
    await outside.advance(30)
    outside.gauge.available, outside.gauge.hang = 0, asyncio.Event()
    task = demand(outside, "beta")
    await outside.until(lambda: outside.engine.snapshot.switch is not None)
    behind = demand(outside, "alpha")
    await waits(outside, behind)
    outside.gauge.hang.set()
    assert (await refused(task)).code is Code.MEMORY_REFUSED
    outside.engine.release(await granted(behind))
    assert outside.calls("stop") == []


# Hanging up.


async def hang_up(*tasks: asyncio.Task[Lease]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_hangs_up_leaves_the_queue(outside: Outside) -> None:
    one, other = demand(outside, "beta"), demand(outside, "beta")
    await outside.rest()
    assert waiting(outside) == {"beta": 2}
    await hang_up(one)
    await outside.rest()
    assert waiting(outside) == {"beta": 1}
    await hang_up(other)
    await outside.advance(100)
    assert waiting(outside) == {}
    assert outside.calls("start", "stop") == []


async def test_a_start_that_nobody_waits_for_is_cancelled_and_the_old_model_comes_back(outside: Outside) -> None:
    await outside.advance(30)
    outside.prober.hold("beta")
    task = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    await hang_up(task)
    await outside.advance(1)
    assert phase(outside, "beta") is Phase.WARMING
    await outside.advance(1)
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)
    assert last(outside).outcome is Outcome.CANCELLED
    assert outside.systemd.running() == {unit("alpha")}


async def test_who_tries_again_at_once_finds_the_start_under_way(outside: Outside) -> None:
    await outside.advance(30)
    ready = outside.prober.hold("beta")
    for _ in range(3):
        task = demand(outside, "beta")
        await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
        await outside.advance(5)
        await hang_up(task)
        await outside.advance(1)
    ready.set()
    outside.engine.release(await granted(demand(outside, "beta")))
    assert len(outside.calls("start")) == 1


async def test_an_abandoned_start_makes_way_for_who_still_waits(build: Callable[..., Outside]) -> None:
    models = [make_model(name, 60) for name in ("alpha", "beta", "gamma")]
    outside = build(catalog=make_catalog(*models), record=Record(desired="alpha"))
    await outside.up()
    await outside.advance(30)
    outside.seen.clear()
    outside.prober.hold("beta")
    beta = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    gamma = demand(outside, "gamma")
    await waits(outside, gamma)
    await hang_up(beta)
    outside.engine.release(await granted(gamma))
    assert outside.calls("start") == [f"start {unit('beta')}", f"start {unit('gamma')}"]


async def test_an_operators_switch_is_not_given_up(outside: Outside) -> None:
    ready = outside.prober.hold("beta")
    await outside.engine.switch("beta", requested_by=Requester.CONTROL, actor=None)
    task = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    await hang_up(task)
    await outside.advance(20)
    ready.set()
    await outside.until(lambda: outside.engine.snapshot.desired == "beta")


@pytest.mark.parametrize("turns", range(12))
async def test_a_hang_up_at_any_moment_leaves_no_lease_behind(outside: Outside, turns: int) -> None:
    await outside.advance(30)
    ready = outside.prober.hold("beta")
    task = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    ready.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    [result] = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, Lease):
        outside.engine.release(result)
    await outside.advance(5)
    assert outside.engine.snapshot.models["beta"].in_flight == 0
    assert waiting(outside) == {}


# Told why not.


async def test_a_failed_start_is_told_to_everybody_once_and_the_old_model_comes_back(outside: Outside) -> None:
    await outside.advance(30)
    outside.prober.ends["beta"] = WRONG
    tasks = [demand(outside, "beta") for _ in range(3)]
    for task in tasks:
        problem = await refused(task)
        assert problem.code is Code.MODEL_FAILED
        assert problem.extra["retry_after"] >= 1
    assert waiting(outside) == {}
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)


async def test_what_failed_again_and_again_is_not_hammered(outside: Outside) -> None:
    outside.prober.ends["beta"] = WRONG
    for _ in range(3):
        task = demand(outside, "beta")
        await outside.advance(60)
        await refused(task)
    starts = len(outside.calls("start"))
    for _ in range(5):
        problem = await refused(demand(outside, "beta"))
        assert problem.code is Code.MODEL_FAILED
        assert 200 < problem.extra["retry_after"] <= 300
    assert len(outside.calls("start")) == starts
    await outside.advance(300)
    del outside.prober.ends["beta"]
    outside.engine.release(await granted(demand(outside, "beta")))


async def test_what_does_not_fit_is_refused_and_the_occupant_serves_on(outside: Outside) -> None:
    await outside.advance(30)
    outside.gauge.available = 9 * GIB
    problem = await refused(demand(outside, "beta"))
    assert (problem.code, problem.status, problem.extra["retry_after"]) == (Code.MEMORY_REFUSED, 507, 5)
    reads = len(outside.engine.switches())
    assert (await refused(demand(outside, "beta"))).code is Code.MEMORY_REFUSED
    assert len(outside.engine.switches()) == reads
    lease = outside.engine.lease("alpha")
    assert lease is not None
    outside.engine.release(lease)
    outside.gauge.available = None
    await outside.advance(5)
    outside.engine.release(await granted(demand(outside, "beta")))


async def test_a_start_beside_that_was_refused_keeps_no_demand_from_its_switch(outside: Outside) -> None:
    await outside.advance(30)
    with pytest.raises(SparkError) as refusal:
        await outside.engine.gate("beta")
    assert refusal.value.problem.code is Code.LARGE_PARALLEL
    outside.engine.release(await granted(demand(outside, "beta")))


@pytest.mark.parametrize("why", ["token", "model"])
async def test_who_may_not_switch_is_told_who_holds_the_slot(build: Callable[..., Outside], why: str) -> None:
    models = dict(MODELS)
    if why == "model":
        models["beta"] = make_model("beta", 70, on_demand=False)
    outside = build(catalog=make_catalog(*models.values()), record=Record(desired="alpha"))
    await outside.up()
    since = outside.engine.snapshot.slot_since
    await outside.advance(300)
    problem = await refused(demand(outside, "beta", may_switch=why != "token"))
    assert (problem.code, problem.status) == (Code.BUSY, 503)
    assert (problem.extra["holder"], problem.extra["since"]) == ("alpha", since)
    assert problem.extra["retry_after"] > 0
    assert "alpha holds the slot, for 5 min now" in problem.detail
    assert waiting(outside) == {}
    assert len(outside.calls("start")) == 1


async def test_who_may_not_switch_still_gets_what_serves_or_is_coming(outside: Outside) -> None:
    outside.engine.release(await granted(demand(outside, None, may_switch=False)))
    ready = outside.prober.hold("beta")
    await outside.engine.switch("beta", requested_by=Requester.CONTROL, actor=None)
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    task = demand(outside, "beta", may_switch=False)
    await waits(outside, task)
    ready.set()
    outside.engine.release(await granted(task))


async def test_who_may_not_switch_does_not_keep_a_start_going(outside: Outside) -> None:
    await outside.advance(30)
    outside.prober.hold("beta")
    able = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    unable = demand(outside, "beta", may_switch=False)
    await waits(outside, unable)
    await hang_up(able)
    await outside.advance(2)
    assert (await refused(unable)).code is Code.BUSY


@pytest.mark.parametrize(("most", "told"), [(1, "1 request waits for models already"), (2, "2 requests wait for")])
async def test_a_full_queue_sends_the_next_away(build: Callable[..., Outside], most: int, told: str) -> None:
    outside = build(catalog=make_catalog(max_waiting=most), record=Record(desired="alpha"))
    await outside.up()
    outside.prober.hold("side")
    tasks = [demand(outside, name) for name in ("beta", "side")[:most]]
    await outside.rest()
    problem = await refused(demand(outside, "beta"))
    assert (problem.code, problem.status) == (Code.TOO_MANY_WAITING, 429)
    assert problem.detail.startswith(told)
    assert problem.extra["retry_after"] > 0
    outside.engine.release(await granted(demand(outside, "alpha")))
    await hang_up(*tasks)


async def test_an_unknown_name_and_an_empty_slot_are_said(build: Callable[..., Outside]) -> None:
    outside = build()
    await outside.up()
    for name in ("nobody", None, "local"):
        assert (await refused(demand(outside, name))).code is Code.UNKNOWN_MODEL


async def test_a_model_that_leaves_the_catalog_is_waited_for_no_longer(outside: Outside) -> None:
    task = demand(outside, "beta")
    await outside.rest()
    outside.source.good = make_catalog(MODELS["alpha"])
    await outside.engine.reload()
    assert (await refused(task)).code is Code.UNKNOWN_MODEL


async def test_a_cancel_by_hand_is_told_and_not_undone_at_once(outside: Outside) -> None:
    await outside.advance(30)
    outside.prober.hold("beta")
    task = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    assert outside.engine.snapshot.switch is not None
    await outside.engine.cancel(outside.engine.snapshot.switch.id, actor=None)
    assert (await refused(task)).code is Code.CANCELLED
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)
    assert (await refused(demand(outside, "beta"))).code is Code.CANCELLED
    assert phase(outside, "alpha") is Phase.SERVING


# The operator.


async def test_an_operator_wins_and_who_waited_waits_on(outside: Outside) -> None:
    models = [*MODELS.values(), make_model("gamma", 60)]
    outside.source.good = make_catalog(*models)
    await outside.engine.reload()
    await outside.advance(30)
    outside.prober.hold("beta")
    task = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    assert (await switched(outside, "gamma")).outcome is Outcome.READY
    assert [s.outcome for s in outside.engine.switches()[:2]] == [Outcome.READY, Outcome.SUPERSEDED]
    await waits(outside, task)
    outside.prober.held.clear()
    await outside.advance(30)
    outside.engine.release(await granted(task))
    assert outside.engine.snapshot.desired == "gamma"


async def test_an_operator_who_joins_a_demands_switch_makes_it_his_own(outside: Outside) -> None:
    await outside.advance(30)
    ready = outside.prober.hold("beta")
    task = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    switch = await outside.engine.switch("beta", requested_by=Requester.CONTROL, actor="uid 0")
    await hang_up(task)
    await outside.advance(10)
    ready.set()
    async with asyncio.timeout(20):
        ended = await outside.engine.wait(switch.id, None)
    assert (ended.outcome, ended.requested_by, ended.actor) == (Outcome.READY, Requester.CONTROL, "uid 0")
    assert outside.store.record.desired == "beta"
    await outside.advance(3600)
    assert phase(outside, "beta") is Phase.SERVING


# The way home.


async def test_the_slot_goes_back_to_desired_when_nobody_uses_it(outside: Outside) -> None:
    await outside.advance(30)
    lease = await granted(demand(outside, "beta"))
    await outside.advance(3600)
    assert phase(outside, "beta") is Phase.SERVING
    outside.engine.release(lease)
    await outside.advance(1000)
    short = outside.engine.lease("beta")
    assert short is not None
    outside.engine.release(short)
    await outside.advance(1799)
    assert phase(outside, "beta") is Phase.SERVING
    await outside.advance(1)
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)
    assert (last(outside).requested_by, last(outside).model) == (Requester.RECONCILE, "alpha")
    await outside.advance(7200)
    assert phase(outside, "alpha") is Phase.SERVING


async def test_never_means_never(build: Callable[..., Outside]) -> None:
    outside = build(catalog=make_catalog(idle_return=None), record=Record(desired="alpha"))
    await outside.up()
    await outside.advance(30)
    outside.engine.release(await granted(demand(outside, "beta")))
    await outside.advance(100_000)
    assert phase(outside, "beta") is Phase.SERVING


async def test_an_emptied_slot_is_lent_and_emptied_again(build: Callable[..., Outside]) -> None:
    outside = build(record=Record(desired=""))
    await outside.up()
    outside.engine.release(await granted(demand(outside, "beta")))
    await outside.advance(1800)
    await outside.until(lambda: outside.systemd.running() == set())
    await outside.advance(3600)
    assert (outside.systemd.running(), outside.store.record.desired) == (set(), "")


async def test_a_slot_stopped_by_systemctl_is_lent_and_held_again(outside: Outside) -> None:
    outside.systemd.pids.clear()
    outside.systemd.show(unit("alpha"), ActiveState.DEACTIVATING, job="/job/foreign")
    await outside.rest()
    outside.systemd.show(unit("alpha"), ActiveState.INACTIVE)
    await outside.until(lambda: outside.engine.snapshot.slot_phase is None)
    outside.engine.release(await granted(demand(outside, "beta")))
    assert outside.store.record.held_boot == "boot-1"
    await outside.advance(1800)
    await outside.until(lambda: outside.systemd.running() == set())
    await outside.advance(3600)
    assert outside.systemd.running() == set()
    assert outside.store.record.desired == "alpha"


async def test_a_new_request_takes_the_return_back(outside: Outside) -> None:
    await outside.advance(30)
    outside.engine.release(await granted(demand(outside, "beta")))
    await outside.rest()
    outside.seen.clear()
    await outside.advance(1799)
    outside.gauge.hang = asyncio.Event()
    await outside.advance(1)
    assert outside.engine.snapshot.switch is not None
    assert outside.engine.lease("beta") is None
    outside.engine.release(await granted(demand(outside, "beta")))
    outside.gauge.hang.set()
    assert outside.calls("start", "stop") == []
    await outside.advance(1799)
    assert phase(outside, "beta") is Phase.SERVING


async def test_what_was_lent_is_known_after_a_restart(outside: Outside, build: Callable[..., Outside]) -> None:
    await outside.advance(30)
    outside.engine.release(await granted(demand(outside, "beta")))
    await outside.rest()
    after = build(record=outside.store.record)
    after.adopt(["beta"])
    await after.up()
    await after.until(lambda: phase(after, "beta") is Phase.SERVING)
    await after.advance(1800)
    await after.until(lambda: phase(after, "alpha") is Phase.SERVING)


async def test_what_was_adopted_and_not_lent_stays(build: Callable[..., Outside]) -> None:
    outside = build(catalog=make_catalog(default="alpha"))
    outside.adopt(["beta"])
    await outside.up()
    await outside.advance(7200)
    assert outside.systemd.running() == {unit("beta")}


async def test_a_demands_switch_that_a_kill_interrupted_goes_back(
    outside: Outside, build: Callable[..., Outside]
) -> None:
    await outside.advance(30)
    outside.prober.hold("beta")
    task = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    after = build(record=outside.store.record)
    after.adopt(["beta"])
    after.prober.hold("beta")
    await after.up()
    await after.advance(2)
    await after.until(lambda: phase(after, "alpha") is Phase.SERVING)
    assert last(after).outcome is Outcome.CANCELLED
    await hang_up(task)


# The bus, and the end.


async def test_a_bus_that_comes_back_soon_is_not_noticed_by_who_waits(outside: Outside) -> None:
    outside.systemd.lose()
    await outside.rest()
    assert outside.engine.lease("alpha") is None
    task = demand(outside, "alpha")
    await outside.advance(9)
    await waits(outside, task)
    outside.systemd.regain()
    outside.engine.release(await granted(task))
    assert outside.calls("start", "stop") == []


async def test_a_bus_that_stays_away_is_said(outside: Outside) -> None:
    outside.systemd.lose()
    await outside.rest()
    task = demand(outside, "alpha")
    await outside.advance(10)
    assert (await refused(task)).code is Code.BUS_LOST
    assert (await refused(demand(outside, "beta"))).code is Code.BUS_LOST


async def test_the_end_is_told_to_who_waits_and_starts_nothing(outside: Outside) -> None:
    task = demand(outside, "beta")
    await outside.rest()
    outside.engine.refrain()
    assert (await refused(task)).code is Code.SHUTTING_DOWN
    assert (await refused(demand(outside, "beta"))).code is Code.SHUTTING_DOWN
    await outside.advance(100)
    assert outside.calls("start", "stop") == []
    outside.engine.release(await granted(demand(outside, "alpha")))


async def test_a_crash_of_the_occupant_is_waited_out(outside: Outside) -> None:
    lease = outside.engine.lease("alpha")
    assert lease is not None
    outside.systemd.crash(unit("alpha"))
    await outside.until(lambda: phase(outside, "alpha") is not Phase.SERVING)
    outside.engine.release(lease)
    outside.engine.release(await granted(demand(outside, None)))


async def test_an_engine_that_dies_while_it_loads_is_told_to_who_waits(outside: Outside) -> None:
    await outside.advance(30)
    outside.prober.hold("beta")
    task = demand(outside, "beta")
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    outside.systemd.crash(unit("beta"))
    assert (await refused(task)).code is Code.MODEL_FAILED
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)


async def test_a_start_that_hangs_is_told_at_its_deadline(outside: Outside) -> None:
    await outside.advance(30)
    outside.systemd.will("start", unit("beta"), Hang.JOB)
    task = demand(outside, "beta")
    await outside.advance(29)
    await waits(outside, task)
    await outside.advance(30)
    assert (await refused(task)).code is Code.START_TIMEOUT


# Side models.


async def test_a_side_model_is_started_beside_and_stopped_when_nobody_uses_it(outside: Outside) -> None:
    lease = await granted(demand(outside, "side"))
    assert outside.systemd.running() == {unit("alpha"), unit("side")}
    await outside.advance(3600)
    outside.engine.release(lease)
    await outside.advance(1799)
    assert phase(outside, "side") is Phase.SERVING
    await outside.advance(1)
    await outside.until(lambda: outside.systemd.running() == {unit("alpha")})
    assert outside.calls("stop") == [f"stop {unit('side')}"]


async def test_a_side_model_that_a_person_started_stays(outside: Outside) -> None:
    await outside.engine.start("side", actor=None)
    outside.engine.release(await granted(demand(outside, "side")))
    await outside.advance(7200)
    assert phase(outside, "side") is Phase.SERVING


async def test_a_side_model_without_room_is_refused(outside: Outside) -> None:
    problem = await refused(demand(outside, "bigside"))
    assert problem.code is Code.LARGE_PARALLEL
    assert outside.calls("start") == []


async def test_a_side_model_that_fails_is_told(outside: Outside) -> None:
    outside.prober.ends["side"] = WRONG
    tasks = [demand(outside, "side") for _ in range(3)]
    for task in tasks:
        assert (await refused(task)).code is Code.MODEL_FAILED
    await outside.rest()
    assert len(outside.calls("start")) == 1


async def test_a_side_model_that_nobody_waits_for_is_stopped(outside: Outside) -> None:
    outside.prober.hold("side")
    task = demand(outside, "side")
    await outside.until(lambda: phase(outside, "side") is Phase.WARMING)
    await hang_up(task)
    await outside.advance(2)
    await outside.until(lambda: outside.systemd.running() == {unit("alpha")})


async def test_a_side_model_is_not_started_for_who_may_not(outside: Outside) -> None:
    problem = await refused(demand(outside, "side", may_switch=False))
    assert (problem.code, problem.extra["holder"]) == (Code.BUSY, None)


async def test_a_side_model_waits_until_a_switch_has_its_memory(outside: Outside) -> None:
    held = outside.engine.lease("alpha")
    assert held is not None
    await outside.engine.switch("beta", requested_by=Requester.CONTROL, actor=None)
    await outside.until(lambda: phase(outside, "alpha") is Phase.DRAINING)
    task = demand(outside, "side")
    await waits(outside, task)
    assert outside.calls("start") == []
    outside.engine.release(held)
    outside.engine.release(await granted(task))
    assert outside.systemd.running() == {unit("beta"), unit("side")}
