"""What the engine does with what is found about a model: refusing before anything is stopped, estimating, waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from spark_modeld.core.appraisal import Inspection, UnitFacts
from spark_modeld.core.errors import Code, Problem, SparkError
from spark_modeld.core.finding import error, warning
from spark_modeld.core.footprint import Checkpoint, Format, parse_flags
from spark_modeld.core.model import Basis, Container, EngineKind, Model, OwnUnit
from spark_modeld.core.record import Record
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import Phase
from spark_modeld.ports import Holder
from support.fakes import GIB, MODELS, Outside, make_catalog, make_model, unit

pytestmark = pytest.mark.component

BROKEN = Inspection(findings=(error("unfinished-download", "half of it is not there", "Fetch it again"),))
ODD = Inspection(findings=(warning("custom-code", "it brings code", "Trust it"),))


@pytest.fixture
async def outside(build: Callable[..., Outside]) -> Outside:
    made = build()
    await made.up()
    return made


async def switched(outside: Outside, model: str | None, *, force: bool = False) -> Switch:
    async with asyncio.timeout(20):
        asked = await outside.engine.switch(model, requested_by=Requester.CONTROL, actor="uid 0", force=force)
        return await outside.engine.wait(asked.id, None) if asked.outcome is None else asked


async def checked(outside: Outside, model: str) -> list[str]:
    """The codes of the check's findings, but that no model here has a path."""
    return [f.code for f in (await outside.engine.check(model)).findings if f.code != "no-path"]


def phase(outside: Outside, model: str) -> Phase:
    return outside.engine.snapshot.models[model].phase


def undeclared(name: str, engine: EngineKind = EngineKind.VLLM) -> Model:
    return replace(make_model(name, 1), memory=None, engine=engine)


def weighs(gib: int, *words: str, engine: EngineKind = EngineKind.VLLM) -> Inspection:
    checkpoint = Checkpoint(
        path="/m", format=Format.SAFETENSORS, weight_bytes=gib * GIB, weight_source="sizes", tokenizer=True
    )
    return Inspection(checkpoint=checkpoint, flags=parse_flags(engine, ("serve", *words)))


async def test_an_error_refuses_before_anything_is_stopped(outside: Outside) -> None:
    await switched(outside, "alpha")
    outside.inspector.sights["beta"] = BROKEN
    outside.seen.clear()
    ended = await switched(outside, "beta")
    assert (ended.outcome, phase(outside, "alpha")) == (Outcome.FAILED, Phase.SERVING)
    assert ended.error is not None
    assert (ended.error.code, ended.error.status, ended.error.exit_code) == (Code.CHECK_FAILED, 422, 4)
    assert [f["code"] for f in ended.error.extra["findings"]] == ["unfinished-download"]
    assert "half of it is not there. Fetch it again." in ended.error.detail
    assert [f.code for f in ended.findings] == ["unfinished-download"]
    assert outside.calls("start", "stop", "mark") == []
    assert outside.engine.snapshot.desired == "alpha"


async def test_force_goes_past_it(outside: Outside) -> None:
    await switched(outside, "alpha")
    outside.inspector.sights["beta"] = BROKEN
    ended = await switched(outside, "beta", force=True)
    assert (ended.outcome, [f.code for f in ended.findings]) == (Outcome.READY, ["unfinished-download"])
    assert outside.systemd.running() == {unit("beta")}


async def test_warnings_are_shown_and_stop_nothing(outside: Outside) -> None:
    outside.inspector.sights["alpha"] = ODD
    ended = await switched(outside, "alpha")
    assert (ended.outcome, [f.code for f in ended.findings]) == (Outcome.READY, ["custom-code"])
    assert [f.code for f in outside.engine.snapshot.models["alpha"].findings] == ["custom-code"]


async def test_the_look_is_a_fresh_one(outside: Outside) -> None:
    outside.inspector.sights["alpha"] = BROKEN
    assert (await switched(outside, "alpha")).outcome is Outcome.FAILED
    outside.inspector.sights.clear()
    assert (await switched(outside, "alpha")).outcome is Outcome.READY
    assert outside.engine.snapshot.models["alpha"].findings == ()


async def test_a_switch_waits_for_the_look(outside: Outside) -> None:
    await switched(outside, "alpha")
    outside.inspector.hang = asyncio.Event()
    outside.seen.clear()
    waiting = asyncio.create_task(switched(outside, "beta"))
    await outside.until(lambda: outside.inspector.asked[-1] == "beta")
    await outside.rest()
    assert (outside.calls("start", "stop"), waiting.done()) == ([], False)
    outside.inspector.hang.set()
    assert (await waiting).outcome is Outcome.READY


async def test_a_default_that_cannot_load_is_not_tried_for_ever(build: Callable[..., Outside]) -> None:
    outside = build(catalog=make_catalog(default="alpha"))
    outside.inspector.sights["alpha"] = BROKEN
    await outside.up()
    await outside.advance(600)
    assert outside.calls("start") == []
    snapshot = outside.engine.snapshot
    assert snapshot.slot_model is None or snapshot.slot_phase is not Phase.SERVING
    assert snapshot.slot_reason is not None
    assert "half of it is not there" in snapshot.slot_reason
    assert "not started again by itself" in snapshot.slot_reason
    assert len(outside.engine.switches()) == 3
    outside.inspector.sights.clear()
    assert (await switched(outside, "alpha")).outcome is Outcome.READY


async def test_what_runs_is_adopted_whatever_is_found(build: Callable[..., Outside]) -> None:
    outside = build(record=Record(desired="alpha"))
    outside.inspector.sights["alpha"] = BROKEN
    outside.adopt(["alpha"])
    await outside.up()
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)
    assert outside.calls("start", "stop") == []
    assert [f.code for f in outside.engine.snapshot.models["alpha"].findings] == ["unfinished-download"]


@pytest.mark.parametrize("ask", ["start", "gate"])
async def test_a_start_beside_is_refused_too(outside: Outside, ask: str) -> None:
    outside.inspector.sights["side"] = BROKEN
    with pytest.raises(SparkError) as refused:
        await (outside.engine.start("side", actor=None) if ask == "start" else outside.engine.gate("side"))
    assert refused.value.problem.code is Code.CHECK_FAILED
    assert outside.calls("start") == []


async def test_the_way_back_is_not_checked(outside: Outside) -> None:
    """What ran a moment ago is better than nothing."""
    await switched(outside, "alpha")
    outside.inspector.sights["alpha"] = BROKEN
    outside.systemd.will("start", unit("beta"), "failed")
    ended = await switched(outside, "beta")
    assert (ended.outcome, phase(outside, "alpha")) == (Outcome.ROLLED_BACK, Phase.SERVING)


# Units and ports.


@pytest.mark.parametrize(
    ("facts", "code", "refused"),
    [
        (UnitFacts(load="not-found"), "unit-missing", True),
        (UnitFacts(load="masked"), "unit-masked", True),
        (UnitFacts(load="bad-setting"), "unit-broken", True),
        (UnitFacts(restart="always"), "restart-policy", False),
        (UnitFacts(file_state="enabled"), "unit-enabled", False),
    ],
)
async def test_what_systemd_knows_of_the_unit(outside: Outside, facts: UnitFacts, code: str, refused: bool) -> None:
    outside.systemd.known[unit("alpha")] = facts
    ended = await switched(outside, "alpha")
    assert [f.code for f in ended.findings] == [code]
    assert ended.outcome is (Outcome.FAILED if refused else Outcome.READY)


async def test_a_server_of_many_models_may_run_when_it_likes(build: Callable[..., Outside]) -> None:
    tenant = replace(make_model("tenant", 8), engine=EngineKind.OLLAMA, run=OwnUnit("ollama.service"))
    outside = build(catalog=make_catalog(tenant))
    outside.systemd.known["ollama.service"] = UnitFacts(file_state="enabled", restart="always", user="ollama")
    await outside.up()
    assert await checked(outside, "tenant") == []
    outside.systemd.known["ollama.service"] = UnitFacts(load="masked")
    assert await checked(outside, "tenant") == ["unit-masked"]


async def test_a_stranger_on_the_port(outside: Outside) -> None:
    outside.remains.sockets["alpha"] = {17: Holder("python3 (PID 12)", "notebook.service")}
    ended = await switched(outside, "alpha")
    assert ended.error is not None
    assert [f["code"] for f in ended.error.extra["findings"]] == ["port-taken"]
    assert "taken by python3 (PID 12) in notebook.service" in ended.error.detail


async def test_a_container_that_runs_already_is_no_stranger(build: Callable[..., Outside]) -> None:
    """By its name only docker knows it, and nobody asks docker: whatever container is there may be the model's own."""
    model = replace(make_model("scout", 8), run=Container("sglang-scout"))
    outside = build(catalog=make_catalog(model))
    await outside.up()
    scope = f"docker-{'a' * 64}.scope"
    outside.remains.sockets["scout"] = {17: Holder("python3 (PID 12)", scope)}
    report = await outside.engine.check("scout")
    assert [(f.code, str(f.level)) for f in report.findings if f.code == "port-taken"] == [("port-taken", "warning")]
    assert report.ok
    outside.remains.containers["scout"] = (scope,)
    assert await checked(outside, "scout") == []
    outside.remains.sockets["scout"] = {17: Holder("nginx (PID 3)", "nginx.service")}
    assert not (await outside.engine.check("scout")).ok


async def test_models_that_share_a_port_are_no_strangers(build: Callable[..., Outside]) -> None:
    one, two = make_model("one", 60), replace(make_model("two", 60), url=make_model("one", 1).url)
    outside = build(catalog=make_catalog(one, two))
    await outside.up()
    await switched(outside, "one")
    heard = {17: Holder("engine (PID 1)", unit("one"))}
    outside.remains.sockets["two"] = heard
    assert "port-taken" not in await checked(outside, "two")
    assert (await switched(outside, "two")).outcome is Outcome.READY
    await switched(outside, None)
    outside.remains.sockets["one"] = {18: Holder("python3 (PID 12)", "notebook.service")}
    assert "port-taken" in await checked(outside, "one")


# Estimates.


async def test_an_estimate_is_admitted_by(build: Callable[..., Outside]) -> None:
    outside = build(catalog=make_catalog(MODELS["alpha"], undeclared("huge"), undeclared("fair")))
    outside.inspector.sights |= {
        "huge": weighs(40, "--gpu-memory-utilization", "0.95"),
        "fair": weighs(40, "--gpu-memory-utilization", "0.5"),
    }
    await outside.up()
    need = outside.engine.snapshot.models["fair"].footprint
    assert (need.bytes, need.basis) == (64 * GIB + 3 * GIB, Basis.ESTIMATED)
    await switched(outside, "alpha")
    outside.seen.clear()
    ended = await switched(outside, "huge")
    assert (ended.outcome, phase(outside, "alpha")) == (Outcome.FAILED, Phase.SERVING)
    assert ended.error is not None
    assert (ended.error.code, ended.error.extra["basis"]) == (Code.MEMORY_REFUSED, "estimated")
    assert ended.error.extra["needed"] == int(0.95 * 128 * GIB) + 3 * GIB
    assert outside.calls("start", "stop") == []
    assert (await switched(outside, "fair")).outcome is Outcome.READY


async def test_declared_and_measured_go_before_it(build: Callable[..., Outside]) -> None:
    outside = build(catalog=make_catalog(MODELS["alpha"]))
    outside.inspector.sights["alpha"] = weighs(40, "--gpu-memory-utilization", "0.5")
    await outside.up()
    assert outside.engine.snapshot.models["alpha"].footprint.basis is Basis.DECLARED


async def test_flags_that_are_not_seen_decide_nothing(build: Callable[..., Outside]) -> None:
    """A script may set a fraction: the engine's default is no estimate of it."""
    outside = build(catalog=make_catalog(undeclared("scripted")))
    outside.inspector.sights["scripted"] = replace(
        weighs(40), flags=parse_flags(EngineKind.VLLM, ("/home/x/serve.sh", "--fast"))
    )
    await outside.up()
    state = outside.engine.snapshot.models["scripted"]
    assert (state.footprint.basis, state.large, state.findings) == (Basis.UNKNOWN, True, ())
    assert (await switched(outside, "scripted")).outcome is Outcome.READY


async def test_one_that_is_alive_keeps_the_estimate_it_was_started_with(build: Callable[..., Outside]) -> None:
    sglang = undeclared("sglang", EngineKind.SGLANG)
    outside = build(catalog=make_catalog(sglang))
    outside.inspector.sights["sglang"] = weighs(40, "--mem-fraction-static", "0.5", engine=EngineKind.SGLANG)
    await outside.up()
    before = outside.engine.snapshot.models["sglang"].footprint
    await switched(outside, "sglang")
    outside.gauge.available = 50 * GIB
    report = await outside.engine.check("sglang")
    assert (report.need, report.fits) == (before, True)


async def test_a_changed_model_is_estimated_anew(build: Callable[..., Outside]) -> None:
    outside = build(catalog=make_catalog(undeclared("model")))
    outside.inspector.sights["model"] = weighs(40, "--gpu-memory-utilization", "0.5")
    await outside.up()
    changed = replace(undeclared("model"), context=4096)
    outside.source.good = make_catalog(changed)
    outside.inspector.hang = asyncio.Event()
    await outside.engine.reload()
    await outside.rest()
    assert outside.engine.snapshot.models["model"].footprint.basis is Basis.UNKNOWN
    outside.inspector.hang.set()
    await outside.until(lambda: outside.engine.snapshot.models["model"].footprint.basis is Basis.ESTIMATED)


# Asked for.


async def test_a_report_has_everything(build: Callable[..., Outside]) -> None:
    outside = build(catalog=make_catalog(MODELS["alpha"], undeclared("model")))
    outside.inspector.sights["model"] = replace(weighs(40, "--gpu-memory-utilization", "0.97"), fingerprint="f")
    await outside.up()
    report = await outside.engine.check("model")
    assert (report.ok, report.fits, report.fits_ever, report.large) == (False, False, False, True)
    assert {f.code for f in report.findings} == {"memory-never"}
    shown = report.members()
    assert (shown["weights"], shown["overhead"], shown["fingerprint"]) == (40 * GIB, 3 * GIB, "f")
    assert shown["kv_cache"] == int(0.97 * 128 * GIB) - 40 * GIB
    assert {part["name"]: part["source"] for part in shown["parts"]}["weights"] == "sizes"
    with pytest.raises(SparkError, match="no model"):
        await outside.engine.check("nobody")


async def test_a_report_without_a_reading_says_nothing_of_memory(outside: Outside) -> None:
    outside.gauge.failure = Problem(Code.INTERNAL, "The gauge cannot be read.")
    report = await outside.engine.check("alpha")
    assert (report.fits, report.fits_ever, [f.code for f in report.findings]) == (None, None, ["no-path"])


async def test_what_does_not_fit_beside_what_runs(outside: Outside) -> None:
    await switched(outside, "alpha")
    assert await checked(outside, "beta") == ["memory-beside"]
    assert await checked(outside, "alpha") == []
    outside.gauge.available = 8 * GIB
    assert await checked(outside, "side") == ["memory-now"]


async def test_the_catalog_is_looked_at_after_the_daemon_is_ready(build: Callable[..., Outside]) -> None:
    outside = build()
    await outside.engine.boot()
    await outside.rest()
    assert outside.inspector.asked == []
    outside.engine.open()
    await outside.rest()
    assert sorted(outside.inspector.asked) == sorted(MODELS)
