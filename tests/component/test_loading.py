"""How far a load is, and when it should be over: from the unit's journal to the snapshot, the events and the API."""

from __future__ import annotations

import asyncio

import pytest

from spark_modeld.core.appraisal import Inspection
from spark_modeld.core.footprint.checkpoint import Checkpoint
from spark_modeld.core.progress import LoadStep, Progress
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import Phase
from support.fakes import GIB, Outside, unit

pytestmark = pytest.mark.component

HALF = "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:00<00:00,  2.3it/s]"
DONE = "Loading safetensors checkpoint shards: 100% Completed | 4/4 [00:00<00:00,  2.3it/s]"


async def request(outside: Outside, model: str) -> Switch:
    return await outside.engine.switch(model, requested_by=Requester.CONTROL, actor=None)


async def loads(outside: Outside, model: str) -> Switch:
    """A switch to a model that takes its time."""
    outside.prober.hold(model)
    asked = await request(outside, model)
    await outside.until(lambda: outside.engine.snapshot.models[model].phase is Phase.WARMING)
    return asked


async def comes_up(outside: Outside, model: str, switch: Switch) -> Switch:
    outside.prober.hold(model).set()
    return await outside.engine.wait(switch.id, None)


def say(outside: Outside, model: str, *lines: str, ago: float = 0.0) -> None:
    outside.journal.say(unit(model), outside.clock.now().wall - ago, *lines)


def progress(outside: Outside, model: str) -> Progress | None:
    return outside.engine.snapshot.models[model].progress


async def test_a_load_says_how_far_it_is_until_it_is_over(outside: Outside) -> None:
    say(outside, "alpha", DONE, ago=60.0)
    asked = await loads(outside, "alpha")
    say(outside, "alpha", HALF)
    await outside.rest()
    assert outside.journal.followed == [], "most loads are over before anybody could read"
    await outside.advance(1.0)
    assert outside.journal.followed == [unit("alpha")]
    half = Progress(LoadStep.WEIGHTS, 0.5)
    assert progress(outside, "alpha") == half, "not what it said the last time it loaded"
    outlook = outside.engine.snapshot.outlook
    assert outlook is not None
    assert outlook.progress == half
    say(outside, "alpha", "no news", DONE)
    await outside.rest()
    assert progress(outside, "alpha") == Progress(LoadStep.WEIGHTS, 1.0)
    ended = await comes_up(outside, "alpha", asked)
    await outside.rest()
    assert ended.outcome is Outcome.READY
    assert (progress(outside, "alpha"), outside.engine.snapshot.outlook) == (None, None)
    assert outside.journal.followed == []


async def reading_from_disk(outside: Outside, weights: int) -> Switch:
    """A load of small, whose weights are so large, by an engine that says no more than that it loads them."""
    outside.inspector.sights["small"] = Inspection(checkpoint=Checkpoint(path="/srv/small", weight_bytes=weights))
    outside.gauge.paged_in = 900 * GIB
    asked = await loads(outside, "small")
    await outside.advance(1.0)
    say(outside, "small", "Starting to load model small...")
    return asked


async def test_until_its_engine_says_more_a_load_is_as_far_as_its_weights_were_read(outside: Outside) -> None:
    asked = await reading_from_disk(outside, 64 * GIB)
    await outside.advance(0.2)
    assert progress(outside, "small") == Progress(LoadStep.WEIGHTS)
    for read, share in ((41, 0.64), (70, 1.0)):
        outside.gauge.paged_in = (900 + read) * GIB
        await outside.advance(0.2)
        assert progress(outside, "small") == Progress(LoadStep.READING, share)
        outlook = outside.engine.snapshot.outlook
        assert outlook is not None
        assert outlook.progress == Progress(LoadStep.READING, share)
    say(outside, "small", HALF)
    await outside.rest()
    assert progress(outside, "small") == Progress(LoadStep.WEIGHTS, 0.5), "what the engine says itself counts"
    await comes_up(outside, "small", asked)


async def test_what_two_that_load_have_read_is_nobodys(outside: Outside) -> None:
    await reading_from_disk(outside, 64 * GIB)
    outside.prober.hold("side")
    await outside.engine.start("side", actor=None)
    await outside.until(lambda: outside.engine.snapshot.models["side"].phase is Phase.WARMING)
    outside.gauge.paged_in = 941 * GIB
    await outside.advance(0.2)
    assert progress(outside, "small") == Progress(LoadStep.WEIGHTS)


@pytest.mark.parametrize(("weights", "read"), [(1 << 20, GIB), (64 * GIB, 3 * GIB), (64 * GIB, None)])
async def test_no_share_is_made_up(outside: Outside, weights: int, read: int | None) -> None:
    """Of weights that are read in a moment, that lie in the page cache, or where the kernel does not say."""
    await reading_from_disk(outside, weights)
    outside.gauge.paged_in = None if read is None else 900 * GIB + read
    await outside.advance(0.2)
    assert progress(outside, "small") == Progress(LoadStep.WEIGHTS)


async def test_each_step_forward_is_an_event_and_the_same_again_is_none(outside: Outside) -> None:
    asked = await loads(outside, "alpha")
    stream = outside.engine.events(None)
    following = asyncio.ensure_future(anext(stream))
    await outside.advance(1.0)
    say(outside, "alpha", HALF, HALF, DONE)
    told = []
    while len(told) < 2:
        event = await following
        following = asyncio.ensure_future(anext(stream))
        if event.kind == "switch":
            assert event.data["id"] == asked.id
            told.append((event.data["step"], event.data["progress"], event.data["eta_s"], event.data["estimate"]))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert told == [("loading weights", 0.5, None, None), ("loading weights", 1.0, None, None)]


async def test_a_load_that_ends_badly_leaves_no_progress_to_the_next(outside: Outside) -> None:
    asked = await loads(outside, "alpha")
    await outside.advance(1.0)
    say(outside, "alpha", HALF)
    await outside.rest()
    await outside.engine.cancel(asked.id, actor=None)
    await outside.until(lambda: outside.engine.snapshot.models["alpha"].phase is Phase.STOPPED)
    assert progress(outside, "alpha") is None
    await outside.advance(1.0)
    asked = await loads(outside, "alpha")
    await outside.advance(1.0)
    assert progress(outside, "alpha") is None
    say(outside, "alpha", HALF)
    await outside.rest()
    assert progress(outside, "alpha") is not None


async def test_the_second_time_it_is_known_how_long_it_takes(outside: Outside) -> None:
    asked = await loads(outside, "alpha")
    outlook = outside.engine.snapshot.outlook
    assert outlook is not None
    assert (outlook.estimate, outlook.left) == (None, None)
    await outside.advance(20.0)
    await comes_up(outside, "alpha", asked)
    await comes_up(outside, "beta", await loads(outside, "beta"))
    outside.prober.held.clear()
    await loads(outside, "alpha")
    await outside.advance(5.0)
    await outside.engine.ping()
    outlook = outside.engine.snapshot.outlook
    assert outlook is not None
    assert outlook.estimate is not None
    assert outlook.estimate.times == 1
    assert outlook.left == pytest.approx(15.0, abs=1.0)
    await outside.advance(20.0)
    await outside.engine.ping()
    outlook = outside.engine.snapshot.outlook
    assert outlook is not None
    assert outlook.left == 0.0


async def test_of_a_side_model_too(outside: Outside) -> None:
    """It has no switch: how long it took is remembered while the daemon runs."""
    for seconds in (3.0, 9.0):
        ready = outside.prober.hold("side")
        await outside.engine.start("side", actor=None)
        await outside.until(lambda: outside.engine.snapshot.models["side"].phase is Phase.WARMING)
        await outside.advance(seconds)
        ready.set()
        await outside.until(lambda: outside.engine.snapshot.models["side"].phase is Phase.SERVING)
        del outside.prober.held["side"]
        await outside.engine.stop("side", actor=None)
        await outside.until(lambda: outside.engine.snapshot.models["side"].phase is Phase.STOPPED)
    loads = outside.engine.snapshot.models["side"].loads
    assert loads is not None
    assert (loads.times, round(loads.load_seconds)) == (2, 3)
