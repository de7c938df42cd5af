"""A model is gone when nothing of it is left anywhere: the engine with a made-up outside that leaves things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from spark_modeld.core.appraisal import UnitFacts
from spark_modeld.core.brand import brand_of
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.model import Container, Docker, Launch, OwnUnit, Run
from spark_modeld.core.reading import GpuProcess
from spark_modeld.core.record import Record
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import Phase
from spark_modeld.ports import Holder
from support.fakes import Outside, make_catalog, make_model, unit

pytestmark = pytest.mark.component

SCOPE = f"docker-{'a' * 64}.scope"
ENGINE = {7: Holder("llama-server (PID 7)", SCOPE)}
STRANGER = {8: Holder("python3 (PID 8)", "session-1.scope")}


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    """``alpha`` runs in a container, ``beta`` does not; alpha serves."""
    alpha = replace(make_model("alpha", 60), run=Docker("image"))
    made = Outside(make_catalog(alpha, make_model("beta", 70)))
    made.remains.containers["alpha"] = (SCOPE,)
    await made.up()
    await begin(made, "alpha")
    made.systemd.pids[SCOPE] = frozenset({7})
    made.remains.sockets["alpha"] = dict(ENGINE)
    yield made
    await made.engine.shut_down()
    assert made.clock.armed == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def begin(outside: Outside, model: str) -> None:
    await outside.engine.switch(model, requested_by=Requester.CONTROL, actor=None)
    await outside.advance(3)


async def switch(outside: Outside, model: str, *, force: bool = False) -> Switch:
    """One that needs no time, but a thread."""
    begun = await outside.engine.switch(model, requested_by=Requester.CONTROL, actor=None, force=force)
    async with asyncio.timeout(10):
        return await outside.engine.wait(begun.id, None)


def told(outside: Outside, model: str) -> str:
    problem = outside.engine.snapshot.models[model].error
    return problem.detail if problem is not None else ""


def phase(outside: Outside, model: str) -> Phase:
    return outside.engine.snapshot.models[model].phase


@pytest.mark.parametrize("stale", [False, True])
async def test_what_the_driver_shows_counts_while_it_answers(outside: Outside, stale: bool) -> None:
    """A driver that hangs shows what was: a model would never be gone."""
    outside.systemd.pids.pop(SCOPE)
    outside.remains.sockets.clear()
    outside.gauge.processes = (GpuProcess(pid=7, bytes=60 << 30, model="alpha"),)
    outside.gauge.stale = stale
    await begin(outside, "beta")
    assert phase(outside, "alpha") is (Phase.STOPPED if stale else Phase.STOPPING)
    assert (f"start {unit('beta')}" in outside.seen) is stale


async def test_nothing_starts_before_the_container_is_gone(outside: Outside) -> None:
    await begin(outside, "beta")
    assert phase(outside, "alpha") is Phase.STOPPING
    assert f"start {unit('beta')}" not in outside.seen
    del outside.systemd.pids[SCOPE]
    outside.remains.sockets.clear()
    await outside.advance(2)
    assert phase(outside, "alpha") is Phase.STOPPED
    assert phase(outside, "beta") is Phase.SERVING


async def test_a_container_of_another_systemd_is_seen_too(outside: Outside) -> None:
    outside.remains.elsewhere[SCOPE] = outside.systemd.pids.pop(SCOPE)
    outside.remains.sockets.clear()
    await begin(outside, "beta")
    assert phase(outside, "alpha") is Phase.STOPPING
    outside.remains.elsewhere.clear()
    await outside.advance(2)
    assert phase(outside, "beta") is Phase.SERVING


async def test_nothing_starts_while_its_engine_still_listens(outside: Outside) -> None:
    del outside.systemd.pids[SCOPE]
    await begin(outside, "beta")
    assert phase(outside, "alpha") is Phase.STOPPING
    outside.remains.sockets.clear()
    await outside.advance(2)
    assert phase(outside, "beta") is Phase.SERVING


async def test_who_listened_before_it_started_is_not_left_by_it(outside: Outside) -> None:
    del outside.systemd.pids[SCOPE]
    outside.remains.sockets["beta"] = dict(STRANGER)
    outside.remains.sockets["alpha"] = {}
    await switch(outside, "beta", force=True)
    assert phase(outside, "beta") is Phase.SERVING
    await begin(outside, "alpha")
    assert phase(outside, "beta") is Phase.STOPPED
    assert phase(outside, "alpha") is Phase.SERVING


async def test_a_container_whose_unit_fell_is_waited_for(outside: Outside) -> None:
    outside.seen.clear()
    outside.systemd.crash(unit("alpha"))
    await outside.advance(3)
    assert phase(outside, "alpha") is Phase.STOPPING
    assert outside.calls("start") == []
    del outside.systemd.pids[SCOPE]
    outside.remains.sockets.clear()
    await outside.advance(2)
    assert outside.calls("start") == [f"start {unit('alpha')}"]
    assert phase(outside, "alpha") is Phase.SERVING


async def test_what_escaped_is_ended_before_anything_starts(outside: Outside) -> None:
    del outside.systemd.pids[SCOPE]
    outside.remains.sockets.clear()
    outside.remains.gone_astray["alpha"] = {12: "session-3.scope", 13: None}
    outside.seen.clear()
    with capture_logs() as logs:
        await begin(outside, "beta")
    assert phase(outside, "alpha") is Phase.STOPPING
    assert [each for each in outside.seen if each.startswith(("sweep", "start"))] == ["sweep alpha"]
    found = (
        "alpha is down, but not gone: engine (PID 12), engine (PID 13), "
        "which escaped from the unit into no unit, session-3.scope and is being ended"
    )
    assert [line["event"] for line in logs if "not gone" in line["event"]] == [found]
    assert [(each.code, each.message) for each in outside.engine.snapshot.warnings] == [("not-gone", found)]
    outside.remains.gone_astray.clear()
    await outside.advance(2)
    assert phase(outside, "beta") is Phase.SERVING
    assert outside.engine.snapshot.warnings == ()
    assert outside.calls("sweep") == ["sweep alpha"]


async def test_who_cannot_be_ended_is_named_and_asked_for_again(outside: Outside) -> None:
    del outside.systemd.pids[SCOPE]
    outside.remains.sockets.clear()
    outside.remains.gone_astray["alpha"] = {12: "session-3.scope"}
    outside.systemd.no_sweep = Problem(Code.INTERNAL, "systemd did not start it: Access denied")
    await begin(outside, "beta")
    await outside.advance(60)
    assert phase(outside, "alpha") is Phase.STUCK
    problem = outside.engine.snapshot.models["alpha"].error
    assert problem is not None
    remedy = "end it (`kill -KILL 12` as root)"
    why = "cannot be ended: systemd did not start it: Access denied"
    assert f"session-3.scope and {why}: {remedy}" in problem.detail
    outside.systemd.no_sweep = None
    outside.seen.clear()
    await outside.advance(15)
    assert "session-3.scope and is being ended" in told(outside, "alpha")
    await outside.advance(30)
    assert len(outside.calls("sweep")) == 3
    why = "does not end (`journalctl -u spark-model-sweep@alpha.service` says why)"
    assert f"session-3.scope and {why}: {remedy}" in told(outside, "alpha")
    outside.remains.gone_astray.clear()
    await outside.advance(2)
    assert phase(outside, "alpha") is Phase.SERVING


@pytest.mark.parametrize("run", [Launch(("engine",)), Docker("image"), OwnUnit("vllm.service")])
async def test_a_unit_that_fell_has_failed_only_when_what_escaped_is_gone(run: Run) -> None:
    made = Outside(make_catalog(replace(make_model("alpha", 60), run=run)))
    await made.up()
    await begin(made, "alpha")
    made.remains.gone_astray["alpha"] = {12: "session-3.scope"}
    made.seen.clear()
    made.systemd.crash(made.catalog.models["alpha"].unit)
    await made.advance(3)
    assert phase(made, "alpha") is Phase.STOPPING
    assert (made.calls("sweep"), made.calls("start")) == (["sweep alpha"], [])
    made.remains.gone_astray.clear()
    await made.advance(3)
    assert phase(made, "alpha") is Phase.SERVING
    await made.engine.shut_down()


async def test_what_escaped_while_the_daemon_was_away_is_ended_before_anything_starts() -> None:
    made = Outside(make_catalog(), Record(desired="beta"))
    made.remains.gone_astray["alpha"] = {12: "session-3.scope"}
    await made.up()
    await made.advance(3)
    assert phase(made, "alpha") is Phase.STOPPING
    assert (made.calls("sweep"), made.calls("start")) == (["sweep alpha"], [])
    made.remains.gone_astray.clear()
    await made.advance(3)
    assert (phase(made, "alpha"), phase(made, "beta")) == (Phase.STOPPED, Phase.SERVING)
    await made.engine.shut_down()


async def test_what_does_not_go_is_named_and_the_model_is_stuck(outside: Outside) -> None:
    with capture_logs() as logs:
        await begin(outside, "beta")
        await outside.advance(60)
    assert phase(outside, "alpha") is Phase.STUCK
    problem = outside.engine.snapshot.models["alpha"].error
    assert problem is not None
    assert "engine (PID 7) in container aaaaaaaaaaaa (`docker rm -f spark-model-alpha`)" in problem.detail
    assert [line["event"] for line in logs if "not gone" in line["event"]] == [
        "alpha is down, but not gone: engine (PID 7) in container aaaaaaaaaaaa (`docker rm -f spark-model-alpha`)"
    ]
    del outside.systemd.pids[SCOPE]
    await outside.advance(2)
    assert "llama-server (PID 7) in container aaaaaaaaaaaa listening on port 30518;" in told(outside, "alpha")
    outside.remains.sockets["alpha"] = dict(STRANGER)
    await outside.advance(2)
    whose = "python3 (PID 8) in session-1.scope listening on port 30518, not known for the unit's: end it"
    assert f"{whose} (`ss -ltnp 'sport = :30518'` as root names it);" in told(outside, "alpha")
    assert whose in str(outside.engine.snapshot.warnings)
    outside.remains.sockets.clear()
    await outside.advance(2)
    # It is what the operator wanted last, and nothing is in its way any more.
    assert phase(outside, "alpha") is Phase.SERVING


@pytest.mark.parametrize("brand", [0, brand_of("vllm.service")])
async def test_who_holds_the_port_of_a_unit_without_a_brand_may_come_from_it(brand: int) -> None:
    alpha = replace(make_model("alpha", 60), run=OwnUnit("vllm.service"))
    made = Outside(make_catalog(alpha, make_model("beta", 70)))
    made.systemd.known["vllm.service"] = UnitFacts(brand=brand)
    await made.up()
    await begin(made, "alpha")
    made.remains.sockets["alpha"] = dict(STRANGER)
    await begin(made, "beta")
    (warning,) = made.engine.snapshot.warnings
    assert (
        "python3 (PID 8) in session-1.scope listening on port 30518, not known for the unit's: end" in warning.message
    )
    assert ("`spark-modelctl doctor --drop-in alpha` has such ended" in warning.message) is (brand == 0)
    made.remains.sockets.clear()
    await made.advance(2)
    assert phase(made, "beta") is Phase.SERVING
    await made.engine.shut_down()


@pytest.mark.parametrize(
    ("run", "holder", "served"),
    [
        (Docker("image"), ENGINE[7], True),
        (Docker("image"), STRANGER[8], False),
        (Container("name"), Holder("llama-server (PID 7)", "docker-never-reported.scope"), True),
        (Launch(("engine",)), STRANGER[8], False),
    ],
)
async def test_a_container_of_its_own_does_not_take_a_models_port(run: Run, holder: Holder, served: bool) -> None:
    made = Outside(make_catalog(replace(make_model("alpha", 60), run=run)))
    made.remains.containers["alpha"] = (SCOPE,) if isinstance(run, Docker) else ()
    made.remains.sockets["alpha"] = {5: holder}
    await made.up()
    try:
        assert ((await switch(made, "alpha")).outcome is Outcome.READY) == served
    finally:
        await made.engine.shut_down()


async def test_a_container_that_runs_without_its_unit_is_told(outside: Outside) -> None:
    del outside.systemd.pids[SCOPE]
    outside.remains.sockets.clear()
    await begin(outside, "beta")
    assert [each.code for each in outside.engine.snapshot.warnings] == []
    outside.systemd.pids[SCOPE] = frozenset({9})
    await outside.advance(11)
    (warning,) = outside.engine.snapshot.warnings
    assert warning.code == "stray-container"
    assert "spark-model-alpha of alpha runs (engine (PID 9)), but its unit does not" in warning.message
    assert phase(outside, "beta") is Phase.SERVING
    del outside.systemd.pids[SCOPE]
    await outside.advance(11)
    assert outside.engine.snapshot.warnings == ()
