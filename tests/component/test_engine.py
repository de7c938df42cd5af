"""The engine with a made-up outside: switches, waiters, admissions, the record, and its own end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from spark_modeld import postmortem, saver
from spark_modeld.core.errors import Code, Problem, SparkError
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import OwnUnit
from spark_modeld.core.reading import GpuProcess
from spark_modeld.core.record import Record
from spark_modeld.core.switch import Outcome, Requester, Switch, SwitchPhase
from spark_modeld.core.unit import ActiveState, Phase
from spark_modeld.face import Event, Face
from spark_modeld.ports import CallFailure, HostStopping, JobQueued, JobRemoved, LadderRefused
from support.fakes import GIB, MODELS, Hang, Order, Outside, make_catalog, make_model, unit

pytestmark = pytest.mark.component

ACTOR = "uid 0"
NO_GAUGE = Problem(Code.INTERNAL, "The gauge cannot be read.")


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what hangs for good: the engine soon gives up waiting for it."""
    monkeypatch.setattr(saver, "SAVE_SECONDS", 0.02)
    monkeypatch.setattr(postmortem, "LOG_SECONDS", 0.02)


@pytest.fixture
async def outside(build: Callable[..., Outside]) -> Outside:
    """A booted engine over an empty slot."""
    made = build()
    await made.up()
    return made


async def ask(face: Face, model: str | None, *, force: bool = False) -> Switch:
    async with asyncio.timeout(20):
        return await face.switch(model, requested_by=Requester.CONTROL, actor=ACTOR, force=force)


async def switched(face: Face, model: str | None) -> Switch:
    """Switches and waits for the end."""
    return await end_of(face, await ask(face, model))


async def end_of(face: Face, switch: Switch) -> Switch:
    async with asyncio.timeout(20):
        return await face.wait(switch.id, None)


def phase(outside: Outside, model: str) -> Phase:
    return outside.engine.snapshot.models[model].phase


def fell(outside: Outside, model: str) -> dict[str, Any]:
    """What is known of why this model went down last."""
    problem = outside.engine.snapshot.models[model].fell
    return dict(problem.extra) if problem else {}


class Listener:
    """Reads the event stream."""

    def __init__(self, face: Face, last_id: int | None = None) -> None:
        self.events: list[Event] = []
        self.ended = False
        self._task = asyncio.create_task(self._read(face.events(last_id)))

    async def _read(self, stream: AsyncIterator[Event]) -> None:
        async for event in stream:
            self.events.append(event)
        self.ended = True

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def told(self, kind: str, key: str) -> list[object]:
        return [e.data[key] for e in self.events if e.kind == kind]


# A switch.


@pytest.mark.parametrize("order", Order)
async def test_a_switch_goes_through_its_phases_in_order_and_tells_each(outside: Outside, order: Order) -> None:
    face: Face = outside.engine
    assert (await switched(face, "alpha")).outcome is Outcome.READY
    lease = outside.engine.lease("alpha")
    assert lease is not None
    outside.systemd.order = order
    outside.seen.clear()
    listener = Listener(face)
    switch = await ask(face, "beta-alias")
    assert (switch.model, switch.from_model, switch.outcome) == ("beta", "alpha", None)
    await outside.until(lambda: phase(outside, "alpha") is Phase.DRAINING)
    assert outside.calls("start", "stop") == []
    assert outside.engine.lease("alpha") is None
    outside.engine.release(lease)
    ended = await end_of(face, switch)
    await outside.rest()
    await listener.stop()
    assert (ended.outcome, ended.phase, ended.error) == (Outcome.READY, SwitchPhase.READY, None)
    phases = [p for p in SwitchPhase if p is not SwitchPhase.QUEUED]
    assert listener.told("switch", "phase") == [str(p) for p in phases]
    assert set(ended.timings) == {str(p) for p in SwitchPhase if p is not SwitchPhase.READY}
    assert listener.told("switch", "outcome") == [None] * 6 + ["ready"]
    assert listener.told("slot", "model")[-1] == "beta"
    ids = [e.id for e in listener.events]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert outside.calls("start", "stop", "mark", "climb") == [
        f"stop {unit('alpha')}",
        "mark beta",
        f"start {unit('beta')}",
        "climb beta",
    ]
    snapshot = face.snapshot
    assert (snapshot.slot_phase, snapshot.slot_model, snapshot.switch) == (Phase.SERVING, "beta", None)
    assert outside.systemd.running() == {unit("beta")}


async def test_what_is_meant_is_on_disk_before_the_first_stop(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.seen.clear()
    asked = await outside.up_to_save("beta")
    await outside.rest()
    assert (outside.seen, asked.done()) == (["save"], False)
    assert outside.store.hang is not None
    outside.store.hang.set()
    switch = await asked
    await outside.until(lambda: outside.calls("stop"))
    assert outside.store.record.switch is not None
    assert outside.store.record.switch.id == switch.id
    assert outside.store.record.desired == "alpha"
    await end_of(outside.engine, switch)
    assert (outside.store.record.switch, outside.store.record.desired) == (None, "beta")
    assert outside.store.record.history[-1].id == switch.id


async def test_both_fit_so_the_new_one_serves_before_the_old_one_is_stopped(outside: Outside) -> None:
    await switched(outside.engine, "small")
    outside.seen.clear()
    await switched(outside.engine, "beta")
    await outside.until(lambda: outside.systemd.running() == {unit("beta")})
    assert outside.calls("start", "stop") == [f"start {unit('beta')}", f"stop {unit('small')}"]


async def test_a_switch_back_to_a_model_that_still_stops_is_admitted_like_any_other(outside: Outside) -> None:
    await switched(outside.engine, "small")
    outside.systemd.will("stop", unit("small"), Hang.JOB)
    await switched(outside.engine, "beta")
    assert phase(outside, "small") is Phase.STOPPING
    outside.gauge.available = 5 * GIB
    outside.gauge.processes = tuple(GpuProcess(pid=n, bytes=GIB, model=m) for n, m in enumerate(("beta", "small")))
    refused = await switched(outside.engine, "small")
    assert refused.error is not None
    assert (refused.outcome, refused.error.code) == (Outcome.FAILED, Code.MEMORY_REFUSED)
    assert phase(outside, "beta") is Phase.SERVING
    assert outside.calls("stop") == [f"stop {unit('small')}"]


async def test_what_serves_already_is_no_switch(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.seen.clear()
    again = await ask(outside.engine, "alpha-alias")
    assert (again.noop, again.outcome) == (True, Outcome.READY)
    await outside.rest()
    assert outside.calls("start", "stop", "mark") == []
    assert all(s.id != again.id for s in outside.engine.switches())


async def test_a_second_request_for_the_same_model_joins_the_first(outside: Outside) -> None:
    first, second = await asyncio.gather(ask(outside.engine, "alpha"), ask(outside.engine, "alpha"))
    assert first.id == second.id


@pytest.mark.parametrize("name", ["nobody", "side"])
async def test_what_cannot_be_switched_to_is_refused_at_once(outside: Outside, name: str) -> None:
    with pytest.raises(SparkError) as refusal:
        await ask(outside.engine, name)
    assert refusal.value.problem.code is (Code.UNKNOWN_MODEL if name == "nobody" else Code.INVALID_REQUEST)
    assert outside.engine.snapshot.switch is None


async def test_the_slot_is_emptied(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    ended = await switched(outside.engine, None)
    assert (ended.outcome, ended.model) == (Outcome.READY, None)
    assert outside.systemd.running() == set()
    assert outside.store.record.desired == ""


# Who waits.


async def test_every_waiter_is_answered_once(outside: Outside) -> None:
    ready = outside.prober.hold("alpha")
    switch = await ask(outside.engine, "alpha")
    waiters = [asyncio.create_task(outside.engine.wait(switch.id, None)) for _ in range(5)]
    await outside.rest()
    assert not any(w.done() for w in waiters)
    ready.set()
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*waiters)
    assert {(a.id, a.outcome) for a in answers} == {(switch.id, Outcome.READY)}
    assert await end_of(outside.engine, switch) == answers[0]


async def test_a_wait_that_times_out_tells_how_far_it_is(outside: Outside) -> None:
    outside.prober.hold("alpha")
    switch = await ask(outside.engine, "alpha")
    await outside.until(lambda: phase(outside, "alpha") is Phase.WARMING)
    for timeout in (0, 0.01):
        now = await outside.engine.wait(switch.id, timeout)
        assert (now.id, now.phase, now.outcome) == (switch.id, SwitchPhase.WARMING, None)


@pytest.mark.parametrize("timeout", [None, 0, 1.0])
async def test_nobody_waits_for_a_switch_that_never_was(outside: Outside, timeout: float | None) -> None:
    with pytest.raises(SparkError) as refusal:
        await outside.engine.wait("sw-99", timeout)
    assert refusal.value.problem.code is Code.NOT_FOUND


async def test_a_caller_who_hangs_up_before_its_turn_has_asked_nothing(outside: Outside) -> None:
    asked = await outside.up_to_save("alpha")
    gone = asyncio.create_task(ask(outside.engine, "beta"))
    asking = asyncio.create_task(outside.engine.start("side", actor=None))
    await outside.rest()
    for task in (gone, asking):
        task.cancel()
    await asyncio.gather(gone, asking, return_exceptions=True)
    assert outside.store.hang is not None
    outside.store.hang.set()
    await end_of(outside.engine, await asked)
    await outside.rest()
    assert [s.model for s in outside.engine.switches()] == ["alpha"]
    assert phase(outside, "side") is Phase.STOPPED


async def test_a_waiter_who_hangs_up_leaves_the_switch_and_the_others_alone(outside: Outside) -> None:
    ready = outside.prober.hold("alpha")
    switch = await ask(outside.engine, "alpha")
    stays, goes = (asyncio.create_task(outside.engine.wait(switch.id, None)) for _ in range(2))
    await outside.rest()
    goes.cancel()
    await asyncio.gather(goes, return_exceptions=True)
    ready.set()
    assert (await stays).outcome is Outcome.READY


# How a switch fails.


async def test_a_failed_switch_carries_the_units_last_lines(outside: Outside) -> None:
    outside.systemd.will("start", unit("alpha"), "failed")
    ended = await switched(outside.engine, "alpha")
    assert ended.outcome is Outcome.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.extra["unit"]) == (Code.MODEL_FAILED, unit("alpha"))
    assert ended.error.extra["log"] == ["CUDA out of memory", "exiting"]
    assert outside.journal.asked == [unit("alpha")]
    assert ended.error.extra["reading"]["code"] == "out-of-memory"
    assert outside.engine.find_switch(ended.id) == ended
    await outside.until(lambda: outside.store.record.history[-1:] == (ended,))


async def test_what_went_wrong_is_read_above_the_lines_that_are_shown(outside: Outside) -> None:
    outside.journal.lines = ("ModuleNotFoundError: No module named 'sglang'", *(f"line {n}" for n in range(100)))
    outside.systemd.will("start", unit("alpha"), "failed")
    error = (await switched(outside.engine, "alpha")).error
    assert error is not None
    assert error.extra["log"] == [f"line {n}" for n in range(80, 100)]
    assert (error.extra["reading"]["code"], error.extra["reading"]["line"]) == (
        "missing-module",
        "ModuleNotFoundError: No module named 'sglang'",
    )


async def test_what_a_unit_that_runs_on_said_before_the_switch_is_not_read(outside: Outside) -> None:
    outside.source.good = make_catalog(MODELS["alpha"], replace(MODELS["beta"], run=OwnUnit("own.service")))
    await outside.engine.reload()
    outside.systemd.will("start", unit("alpha"), "failed")
    outside.systemd.will("start", "own.service", "failed")
    await switched(outside.engine, "alpha")
    assert outside.journal.since is None
    ended = await switched(outside.engine, "beta")
    assert (outside.journal.asked[-1], outside.journal.since) == ("own.service", ended.started_at.wall)


async def test_a_side_model_that_does_not_come_up_carries_its_units_last_lines(outside: Outside) -> None:
    outside.systemd.will("start", unit("side"), "failed")
    await outside.engine.start("side", actor=None)
    await outside.until(lambda: "log" in fell(outside, "side"))
    assert fell(outside, "side")["log"] == ["CUDA out of memory", "exiting"]
    assert fell(outside, "side")["reading"]["code"] == "out-of-memory"
    assert outside.engine.snapshot.models["side"].error == outside.engine.snapshot.models["side"].fell
    await outside.engine.start("side", actor=None)
    await outside.until(lambda: phase(outside, "side") is Phase.SERVING)
    assert fell(outside, "side") != {}, "it is up again, and one can still see why it was not"
    await outside.engine.stop("side", actor=None)
    await outside.until(lambda: phase(outside, "side") is Phase.STOPPED)
    assert fell(outside, "side") == {}, "it was stopped on request"


async def test_a_crash_that_is_mended_is_explained_by_the_last_lines(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.prober.hold("alpha")
    outside.systemd.crash(unit("alpha"))
    await outside.until(lambda: phase(outside, "alpha") is Phase.WARMING)
    await outside.until(lambda: "log" in fell(outside, "alpha"))
    reason = outside.engine.snapshot.slot_reason or ""
    assert reason.startswith("alpha: The unit ")
    assert reason.endswith(fell(outside, "alpha")["reading"]["message"])
    outside.prober.held["alpha"].set()
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)
    assert fell(outside, "alpha")["log"] == ["CUDA out of memory", "exiting"]
    assert outside.journal.asked == [unit("alpha")]
    assert (await switched(outside.engine, "beta")).outcome is Outcome.READY
    await outside.until(lambda: phase(outside, "alpha") is Phase.STOPPED)
    assert fell(outside, "alpha") == {}


async def test_the_crash_of_what_was_adopted_is_explained_too(build: Callable[..., Outside]) -> None:
    """The daemon was restarted meanwhile: it never saw the model rise."""
    outside = build(record=Record(desired="alpha"))
    outside.adopt(["alpha"])
    await outside.up()
    outside.prober.hold("alpha")
    outside.systemd.crash(unit("alpha"))
    await outside.until(lambda: fell(outside, "alpha").get("log") == ["CUDA out of memory", "exiting"])
    outside.prober.held["alpha"].set()
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)


async def test_the_same_crash_again_is_read_again(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    for lines in (("first",), ("second",)):
        outside.journal.lines = lines
        outside.systemd.crash(unit("alpha"))
        await outside.until(lambda lines=lines: fell(outside, "alpha").get("log") == list(lines))
        await outside.advance(5)
        assert phase(outside, "alpha") is Phase.SERVING


async def test_a_log_that_says_nothing_well_known_is_not_read(outside: Outside) -> None:
    outside.journal.lines = ("bye",)
    outside.systemd.will("start", unit("alpha"), "failed")
    error = (await switched(outside.engine, "alpha")).error
    assert error is not None
    assert "reading" not in error.extra


async def test_the_log_of_a_models_unit(outside: Outside) -> None:
    engine = outside.engine
    assert [line.text for line in await engine.log("alpha", 1)] == ["exiting"]
    outside.journal.say(unit("beta"), 1.0, "one", "two", "three")
    following = engine.follow_log("beta", 2)
    assert [(await anext(following)).text for _ in range(2)] == ["two", "three"]
    await following.aclose()  # type: ignore[attr-defined]
    assert (outside.journal.asked, outside.journal.followed) == ([unit("alpha")], [])
    with pytest.raises(SparkError, match="no model"):
        engine.follow_log("nobody", 1)
    with pytest.raises(SparkError, match="no model"):
        await engine.log("nobody", 1)


@pytest.mark.usefixtures("short_deadlines")
async def test_it_ends_also_when_the_journal_does_not_answer(outside: Outside) -> None:
    outside.journal.hang = asyncio.Event()
    outside.systemd.will("start", unit("alpha"), "failed")
    ended = await switched(outside.engine, "alpha")
    assert ended.error is not None
    assert ended.error.extra["log"] == []


async def test_whoever_comes_while_the_last_lines_are_read_gets_them_too(outside: Outside) -> None:
    outside.journal.hang = asyncio.Event()
    outside.systemd.will("start", unit("alpha"), "failed")
    switch = await ask(outside.engine, "alpha")
    await outside.until(lambda: outside.journal.asked)
    # The writer is busy with the disk while the lines come in: the waiter's turn is before the end is told.
    outside.store.hang = asyncio.Event()
    busy = asyncio.create_task(ask(outside.engine, None))
    await outside.rest()
    waiter = asyncio.create_task(outside.engine.wait(switch.id, None))
    await asyncio.sleep(0)
    outside.journal.hang.set()
    await outside.rest()
    outside.store.hang.set()
    await busy
    error = (await waiter).error
    assert error is not None
    assert error.extra["log"] == ["CUDA out of memory", "exiting"]


async def test_a_failed_switch_rolls_back_to_what_was_there(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.prober.ends["beta"] = LadderRefused(Problem(Code.MODEL_FAILED, "It answers as somebody else."))
    outside.seen.clear()
    ended = await switched(outside.engine, "beta")
    assert ended.outcome is Outcome.ROLLED_BACK
    assert ended.error is not None
    assert "somebody else" in ended.error.detail
    assert outside.systemd.running() == {unit("alpha")}
    assert outside.store.record.desired == "alpha"
    assert outside.engine.snapshot.slot_reason is not None
    assert outside.calls("start", "stop") == [
        f"stop {unit('alpha')}",
        f"start {unit('beta')}",
        f"stop {unit('beta')}",
        f"start {unit('alpha')}",
    ]


async def test_a_probe_that_breaks_is_a_failed_model_not_a_broken_daemon(outside: Outside) -> None:
    outside.prober.ends["alpha"] = ZeroDivisionError("a bug in the ladder")
    with structlog.testing.capture_logs() as logged:
        ended = await switched(outside.engine, "alpha")
    assert ended.error is not None
    assert (ended.outcome, ended.error.code) == (Outcome.FAILED, Code.MODEL_FAILED)
    assert "a bug in the ladder" in ended.error.detail
    assert any(line.get("exc_info") for line in logged)
    await outside.engine.ping()


@pytest.mark.parametrize("failure", CallFailure)
async def test_a_call_that_fails_fails_the_switch(outside: Outside, failure: CallFailure) -> None:
    outside.systemd.will("start", unit("alpha"), failure)
    ended = await switched(outside.engine, "alpha")
    assert ended.outcome is Outcome.FAILED
    assert ended.error is not None
    assert f"systemd says {failure}" in ended.error.detail
    # Only what systemd certainly did not do needs no stop.
    certain = failure in {CallFailure.NO_SUCH_UNIT, CallFailure.ACCESS_DENIED}
    assert bool(outside.calls("stop")) is not certain


async def test_a_start_that_systemd_never_answers_ends_at_its_deadline(outside: Outside) -> None:
    outside.systemd.will("start", unit("alpha"), Hang.SILENT)
    switch = await ask(outside.engine, "alpha")
    await outside.advance(MODELS["alpha"].start_timeout - 1)
    assert outside.engine.find_switch(switch.id).outcome is None
    await outside.advance(1)
    ended = await end_of(outside.engine, switch)
    assert ended.error is not None
    assert (ended.outcome, ended.error.code) == (Outcome.FAILED, Code.START_TIMEOUT)


async def test_a_stop_without_a_polkit_rule_says_what_is_missing_and_is_asked_for_again(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.systemd.will("stop", unit("alpha"), CallFailure.ACCESS_DENIED, CallFailure.ACCESS_DENIED)
    for _ in range(2):
        denied = await switched(outside.engine, "beta")
        assert denied.error is not None
        assert (denied.outcome, denied.error.code) == (Outcome.FAILED, Code.STUCK)
        assert "`spark-modelctl doctor --polkit-rule`" in denied.error.detail
        assert phase(outside, "alpha") is Phase.STUCK
    assert "stuck" in outside.warnings()
    assert outside.calls("start", "kill") == [f"start {unit('alpha')}"], "nothing else is started, nothing killed"
    allowed = await switched(outside.engine, "beta")
    assert allowed.outcome is Outcome.READY
    assert (phase(outside, "alpha"), phase(outside, "beta")) == (Phase.STOPPED, Phase.SERVING)
    assert "stuck" not in outside.warnings()


async def test_a_side_models_denied_stop_is_asked_for_again(outside: Outside) -> None:
    await outside.engine.start("side", actor=None)
    await outside.until(lambda: phase(outside, "side") is Phase.SERVING)
    outside.systemd.will("stop", unit("side"), CallFailure.ACCESS_DENIED)
    await outside.engine.stop("side", actor=None)
    await outside.until(lambda: phase(outside, "side") is Phase.STUCK)
    await outside.engine.stop("side", actor=None)
    await outside.until(lambda: phase(outside, "side") is Phase.STOPPED)


async def test_a_stop_that_is_ignored_is_followed_by_a_kill(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.systemd.will("stop", unit("alpha"), Hang.JOB)
    outside.seen.clear()
    switch = await ask(outside.engine, "beta")
    await outside.advance(MODELS["alpha"].stop_timeout - 1)
    assert outside.calls("start", "kill") == []
    await outside.advance(1)
    assert (await end_of(outside.engine, switch)).outcome is Outcome.READY
    assert outside.calls("kill", "start") == [f"kill {unit('alpha')}", f"start {unit('beta')}"]


async def test_nothing_is_started_while_processes_of_the_old_one_are_left(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.systemd.lingering = True
    outside.seen.clear()
    switch = await ask(outside.engine, "beta")
    await outside.advance(15)
    assert outside.calls("start") == []
    outside.systemd.pids.clear()
    await outside.advance(1)
    assert (await end_of(outside.engine, switch)).outcome is Outcome.READY


async def test_what_neither_stops_nor_dies_is_stuck_until_it_is_gone(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.systemd.will("stop", unit("alpha"), Hang.JOB)
    outside.systemd.will("kill", unit("alpha"), "no use")
    switch = await ask(outside.engine, "beta")
    await outside.advance(MODELS["alpha"].stop_timeout + 60)
    ended = await end_of(outside.engine, switch)
    assert (ended.outcome, phase(outside, "alpha")) == (Outcome.FAILED, Phase.STUCK)
    assert "stuck" in outside.warnings()
    with pytest.raises(SparkError) as refusal:
        await ask(outside.engine, "beta")
    assert refusal.value.problem.code is Code.STUCK
    outside.systemd.pids.clear()
    outside.systemd.end_job(unit("alpha"))
    outside.systemd.show(unit("alpha"), ActiveState.INACTIVE)
    await outside.advance(1)
    assert "stuck" not in outside.warnings()
    assert (await switched(outside.engine, "beta")).outcome is Outcome.READY


async def test_a_model_that_crashes_is_brought_back(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.seen.clear()
    outside.systemd.crash(unit("alpha"))
    await outside.until(lambda: outside.calls("start"))
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)
    assert outside.engine.switches()[0].requested_by is Requester.RECONCILE


@pytest.mark.parametrize("first", ["state", "job"])
async def test_a_stop_by_systemctl_empties_the_slot_until_the_next_switch(outside: Outside, first: str) -> None:
    """systemd tells the state that a job left before the job's end, but which is read first is anybody's guess."""
    await switched(outside.engine, "alpha")
    outside.seen.clear()
    outside.systemd.pids.clear()
    for told in (first, "state" if first == "job" else "job"):
        if told == "job":
            outside.systemd.tell(JobRemoved("/job/foreign", unit("alpha"), "done"))
        else:
            outside.systemd.show(unit("alpha"), ActiveState.INACTIVE)
    await outside.rest()
    await outside.advance(100)
    assert outside.calls("start") == []
    assert (outside.engine.snapshot.slot_phase, outside.engine.snapshot.desired) == (None, "alpha")
    assert outside.store.record.held_boot == "boot-1"
    assert (await switched(outside.engine, "alpha")).outcome is Outcome.READY


# Cancel and supersede.


async def test_a_cancel_goes_back_to_what_was_there(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.prober.hold("beta")
    switch = await ask(outside.engine, "beta")
    waiter = asyncio.create_task(outside.engine.wait(switch.id, None))
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    with structlog.testing.capture_logs() as logged:
        assert (await outside.engine.cancel(switch.id, actor="token ops")).id == switch.id
        assert (await waiter).outcome is Outcome.CANCELLED
    assert {"switch_id": switch.id, "actor": "token ops"}.items() <= logged[0].items()
    assert outside.systemd.running() == {unit("alpha")}
    assert outside.prober.climbing == set()
    assert (await outside.engine.cancel(switch.id, actor=ACTOR)).outcome is Outcome.CANCELLED
    with pytest.raises(SparkError) as refusal:
        await outside.engine.cancel("sw-99", actor=ACTOR)
    assert refusal.value.problem.code is Code.NOT_FOUND


async def test_a_cancel_before_the_first_stop_stops_nothing(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    assert outside.engine.lease("alpha")
    outside.seen.clear()
    switch = await ask(outside.engine, "beta")
    await outside.until(lambda: phase(outside, "alpha") is Phase.DRAINING)
    assert (await outside.engine.cancel(switch.id, actor=ACTOR)).outcome is Outcome.CANCELLED
    await outside.rest()
    assert phase(outside, "alpha") is Phase.SERVING
    assert outside.calls("start", "stop") == []


async def test_a_newer_switch_takes_over(outside: Outside) -> None:
    outside.prober.hold("alpha")
    first = await ask(outside.engine, "alpha")
    waiter = asyncio.create_task(outside.engine.wait(first.id, None))
    await outside.until(lambda: phase(outside, "alpha") is Phase.WARMING)
    second = await switched(outside.engine, "beta")
    lost = await waiter
    assert lost.error is not None
    assert (lost.outcome, lost.error.extra["by"], second.outcome) == (Outcome.SUPERSEDED, second.id, Outcome.READY)
    assert outside.systemd.running() == {unit("beta")}


# Start beside, and the gate.


async def test_a_side_model_starts_beside_and_stops_alone(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    await outside.engine.start("side", actor="uid 0")
    await outside.until(lambda: phase(outside, "side") is Phase.SERVING)
    await outside.engine.start("side", actor="uid 0")
    await outside.engine.stop("side", actor="uid 0")
    await outside.until(lambda: phase(outside, "side") is Phase.STOPPED)
    assert outside.calls("start", "stop") == [f"start {unit('alpha')}", f"start {unit('side')}", f"stop {unit('side')}"]
    with pytest.raises(SparkError) as refusal:
        await outside.engine.stop("alpha", actor=None)
    assert refusal.value.problem.code is Code.INVALID_REQUEST


async def test_two_large_models_never_run_together(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.seen.clear()
    for refused in (outside.engine.start("bigside", actor=None), outside.engine.gate("bigside")):
        with pytest.raises(SparkError) as refusal:
            await refused
        assert refusal.value.problem.code is Code.LARGE_PARALLEL
    with pytest.raises(SparkError) as refusal:
        await outside.engine.gate("beta")
    assert refusal.value.problem.code is Code.LARGE_PARALLEL
    assert outside.calls("start", "stop", "mark") == []
    assert phase(outside, "alpha") is Phase.SERVING


async def test_a_start_that_passes_the_gate_is_systemds_own(outside: Outside) -> None:
    await outside.engine.gate("alpha")
    await outside.until(lambda: phase(outside, "alpha") is Phase.STARTING)
    outside.systemd.pids[unit("alpha")] = frozenset({1})
    outside.systemd.show(unit("alpha"), ActiveState.ACTIVE)
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)
    assert outside.calls("start", "mark") == []
    ended = outside.engine.switches()[0]
    assert (ended.requested_by, ended.outcome) == (Requester.SYSTEMD, Outcome.READY)
    assert outside.store.record.desired == "alpha"


async def test_our_own_start_passes_the_gate_without_a_mark(outside: Outside) -> None:
    outside.marks.failure = PermissionError("read-only")
    outside.systemd.will("start", unit("alpha"), Hang.JOB)
    await ask(outside.engine, "alpha")
    await outside.until(lambda: outside.calls("start"))
    await outside.engine.gate("alpha")
    with pytest.raises(SparkError) as refusal:
        await outside.engine.gate("beta")
    assert refusal.value.problem.code is Code.BUSY


@pytest.mark.parametrize("model", ["side", "alpha"])
@pytest.mark.parametrize("end", ["bus lost", "shut down", "host stopping"])
async def test_who_waits_for_an_admission_is_answered_whatever_happens(outside: Outside, model: str, end: str) -> None:
    outside.gauge.failure = NO_GAUGE
    asking = asyncio.create_task(outside.engine.gate(model))
    await outside.rest()
    assert not asking.done()
    match end:
        case "bus lost":
            outside.systemd.lose()
        case "shut down":
            outside.engine.refrain()
        case "host stopping":
            outside.systemd.tell(HostStopping())
    with pytest.raises(SparkError) as refusal:
        await asking
    assert refusal.value.problem.code is (Code.BUS_LOST if end == "bus lost" else Code.SHUTTING_DOWN)
    outside.gauge.failure = None
    await outside.advance(5)
    assert outside.calls("start", "mark") == []


async def test_a_switch_goes_on_without_marks(outside: Outside) -> None:
    outside.marks.failure = PermissionError("read-only")
    await switched(outside.engine, "alpha")
    assert (await switched(outside.engine, "beta")).outcome is Outcome.READY


# The disk.


async def test_a_full_disk_is_a_warning_and_nothing_else(outside: Outside) -> None:
    outside.store.failure = OSError(28, "No space left on device")
    assert (await switched(outside.engine, "alpha")).outcome is Outcome.READY
    assert "state-not-saved" in outside.warnings()
    assert any("No space left" in w.message for w in outside.engine.snapshot.warnings)
    outside.store.failure = None
    await outside.advance(11)
    assert "state-not-saved" not in outside.warnings()
    assert outside.store.record.desired == "alpha"


@pytest.mark.usefixtures("short_deadlines")
async def test_a_disk_that_hangs_is_asked_once_and_gets_the_latest_when_it_is_back(outside: Outside) -> None:
    outside.store.hang = asyncio.Event()
    saves = outside.store.saves
    assert (await switched(outside.engine, "alpha")).outcome is Outcome.READY
    assert (await switched(outside.engine, "beta")).outcome is Outcome.READY
    assert outside.store.saves == saves + 1
    assert "state-not-saved" in outside.warnings()
    outside.store.hang.set()
    await outside.rest()
    assert "state-not-saved" not in outside.warnings()
    assert outside.store.record.desired == "beta"
    assert [s.model for s in outside.store.record.history] == ["alpha", "beta"]


# Memory.


async def test_without_a_reading_nothing_starts(outside: Outside) -> None:
    outside.gauge.failure = NO_GAUGE
    switch = await ask(outside.engine, "alpha")
    await outside.advance(5)
    assert outside.engine.find_switch(switch.id).phase is SwitchPhase.ADMITTING
    assert outside.calls("start", "mark") == []
    assert "no-reading" in outside.warnings()
    with pytest.raises(SparkError):
        await outside.engine.measure()
    outside.gauge.failure = None
    await outside.advance(1)
    assert (await end_of(outside.engine, switch)).outcome is Outcome.READY
    assert "no-reading" not in outside.warnings()


async def test_what_does_not_fit_is_refused_before_anything_is_touched(outside: Outside) -> None:
    await switched(outside.engine, "small")
    outside.seen.clear()
    outside.gauge.available = 50 * GIB
    ended = await switched(outside.engine, "beta")
    assert ended.error is not None
    assert (ended.outcome, ended.error.code) == (Outcome.FAILED, Code.MEMORY_REFUSED)
    assert outside.calls("start", "stop", "mark") == []


async def test_a_model_that_eats_the_memory_while_loading_is_killed(outside: Outside) -> None:
    outside.prober.hold("alpha")
    switch = await ask(outside.engine, "alpha")
    await outside.until(lambda: phase(outside, "alpha") is Phase.WARMING)
    outside.gauge.available = 2 * GIB
    await outside.advance(0.3)
    assert f"kill {unit('alpha')}" in outside.seen
    ended = await end_of(outside.engine, switch)
    assert ended.error is not None
    assert (ended.outcome, ended.error.code) == (Outcome.FAILED, Code.MEMORY_REFUSED)


async def test_the_slow_look_at_memory_goes_on(outside: Outside) -> None:
    before = outside.engine.snapshot.reading
    assert before is not None
    outside.gauge.available = 6 * GIB
    await outside.advance(11)
    after = outside.engine.snapshot.reading
    assert after is not None
    assert (after.available, "memory-under-reserve" in outside.warnings()) == (6 * GIB, True)
    outside.gauge.available = 60 * GIB
    assert (await outside.engine.measure()).available == 60 * GIB


# The bus.


async def test_bus_lost_in_mid_switch_goes_on_from_what_is_seen_then(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.systemd.will("stop", unit("alpha"), Hang.SILENT)
    switch = await ask(outside.engine, "beta")
    await outside.until(lambda: outside.calls("stop"))
    outside.seen.clear()
    outside.systemd.lose()
    await outside.until(lambda: outside.engine.snapshot.bus == "lost")
    await outside.advance(300)
    assert outside.calls("start", "stop", "kill") == []
    with pytest.raises(SparkError) as refusal:
        await ask(outside.engine, "beta")
    assert refusal.value.problem.code is Code.BUS_LOST
    outside.systemd.regain()
    assert (await end_of(outside.engine, switch)).outcome is Outcome.READY
    assert outside.systemd.running() == {unit("beta")}


async def test_answers_from_before_the_bus_was_lost_change_nothing(outside: Outside) -> None:
    outside.systemd.will("start", unit("alpha"), Hang.SILENT)
    await ask(outside.engine, "alpha")
    await outside.until(lambda: outside.calls("start"))
    outside.systemd.lose()
    outside.systemd.tell(JobQueued(1, "/job/late"), JobRemoved("/job/late", unit("alpha"), "done"), JobQueued(99, "/x"))
    await outside.rest()
    assert phase(outside, "alpha") is Phase.UNKNOWN
    await outside.engine.ping()


# Start-up.


async def test_what_runs_is_adopted_and_not_touched(build: Callable[..., Outside]) -> None:
    outside = build(record=Record(desired="alpha"))
    outside.adopt(["alpha"])
    await outside.up()
    assert phase(outside, "alpha") is Phase.SERVING
    assert outside.calls("start", "stop", "kill", "mark") == []


async def test_nothing_is_started_before_it_is_open(build: Callable[..., Outside]) -> None:
    outside = build(record=Record(desired="alpha"))
    await outside.engine.boot()
    await outside.advance(20)
    assert outside.calls("start", "mark") == []
    outside.engine.open()
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)


@pytest.mark.parametrize(("desired", "serves"), [(None, "beta"), ("", None), ("small", "small")])
async def test_what_belongs_in_the_slot_comes_up(
    build: Callable[..., Outside], desired: str | None, serves: str | None
) -> None:
    outside = build(catalog=make_catalog(default="beta"), record=Record(desired=desired))
    await outside.up()
    assert (outside.engine.snapshot.slot_model, outside.engine.snapshot.desired) == (serves, serves)


async def test_a_recorded_switch_goes_on(build: Callable[..., Outside]) -> None:
    was = Switch(
        id="sw-old",
        model="beta",
        from_model="alpha",
        requested_by=Requester.CONTROL,
        actor=None,
        started_at=Instant(1.0, 1.0),
        phase=SwitchPhase.STOPPING,
    )
    outside = build(record=Record(desired="alpha", switch=was))
    await outside.up()
    ended = await outside.engine.wait("sw-old", None)
    assert (ended.outcome, outside.engine.snapshot.desired) == (Outcome.READY, "beta")


async def test_a_damaged_record_is_said(build: Callable[..., Outside]) -> None:
    outside = build()
    outside.store.warning = "state.toml is damaged"
    await outside.up()
    assert "state-damaged" in outside.warnings()


async def test_no_bus_at_the_start_touches_nothing(build: Callable[..., Outside]) -> None:
    outside = build(record=Record(desired="alpha"))
    outside.systemd.connects = False
    await outside.up()
    assert outside.engine.snapshot.bus == "lost"
    assert outside.calls("start") == []
    outside.systemd.regain()
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)


# Configuration.


async def test_a_reload_takes_new_models_and_leaves_what_runs(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.seen.clear()
    new = make_model("new", 5)
    changed = replace(MODELS["beta"], aliases=("b",))
    outside.source.good = make_catalog(MODELS["alpha"], changed, new)
    await outside.engine.reload()
    await outside.until(lambda: "small" not in outside.engine.snapshot.models)
    assert outside.calls("start", "stop", "kill") == []
    assert unit("new") in outside.systemd.watched
    assert (await switched(outside.engine, "new")).outcome is Outcome.READY
    assert (await switched(outside.engine, "b")).model == "beta"


async def test_a_bad_reload_is_refused_and_the_old_configuration_stays(outside: Outside) -> None:
    before = outside.engine.snapshot.catalog
    outside.source.bad = "spark-modeld.toml: slot.defualt: did you mean slot.default?"
    with pytest.raises(SparkError) as refusal:
        await outside.engine.reload()
    assert (refusal.value.problem.code, refusal.value.problem.status) == (Code.INVALID_CONFIG, 422)
    assert outside.engine.snapshot.catalog is before
    assert outside.engine.snapshot.config_problem is None
    assert (await switched(outside.engine, "alpha")).outcome is Outcome.READY


async def test_a_broken_start_touches_nothing_until_a_reload_is_good(build: Callable[..., Outside]) -> None:
    outside = build(record=Record(desired="alpha", last_good="beta"))
    outside.source.bad = "models.d/alpha.toml: memory: not a size"
    await outside.up()
    face: Face = outside.engine
    problem = face.snapshot.config_problem
    assert problem is not None
    assert problem.status == 503
    for refused in (
        ask(face, "alpha"),
        face.start("side", actor=None),
        face.gate("alpha"),
        face.stop("side", actor=None),
    ):
        with pytest.raises(SparkError) as refusal:
            await refused
        assert refusal.value.problem.code is Code.INVALID_CONFIG
    with pytest.raises(SparkError) as refusal:
        await face.reload()
    assert refusal.value.problem.status == 422
    await outside.advance(20)
    assert outside.calls("start", "stop", "mark") == []
    assert outside.systemd.sink is None
    outside.source.bad = None
    await asyncio.gather(face.reload(), face.reload())
    assert face.snapshot.config_problem is None
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)
    assert outside.store.record.last_good == "alpha"


async def test_a_good_reload_does_not_open_what_is_not_open(build: Callable[..., Outside]) -> None:
    outside = build(record=Record(desired="alpha"))
    outside.source.bad = "broken"
    await outside.engine.boot()
    outside.source.bad = None
    await outside.engine.reload()
    await outside.rest()
    assert outside.calls("start") == []
    outside.engine.open()
    await outside.until(lambda: phase(outside, "alpha") is Phase.SERVING)


# Leases.


async def test_a_lease_is_given_by_what_serves_only(outside: Outside) -> None:
    assert outside.engine.lease("alpha") is None
    with pytest.raises(SparkError, match="nobody"):
        outside.engine.lease("nobody")
    await switched(outside.engine, "alpha")
    lease = outside.engine.lease("alpha-alias")
    assert lease is not None
    assert lease.model.id == "alpha"
    assert outside.engine.snapshot.in_flight == outside.engine.snapshot.models["alpha"].in_flight == 1
    outside.engine.release(lease)
    assert outside.engine.snapshot.in_flight == outside.engine.snapshot.models["alpha"].in_flight == 0


async def test_a_drain_ends_at_its_deadline(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    assert outside.engine.lease("alpha")
    outside.seen.clear()
    switch = await ask(outside.engine, "beta")
    await outside.advance(59)
    assert outside.calls("stop") == []
    await outside.advance(1)
    assert (await end_of(outside.engine, switch)).outcome is Outcome.READY


# Events and snapshots.


async def test_a_reader_resumes_after_the_last_event_it_had(outside: Outside) -> None:
    first = Listener(outside.engine)
    await outside.rest()
    await switched(outside.engine, "alpha")
    await outside.rest()
    await first.stop()
    had = first.events[len(first.events) // 2].id
    again = Listener(outside.engine, had)
    await outside.rest()
    assert again.events == [e for e in first.events if e.id > had]
    await switched(outside.engine, "beta")
    await outside.rest()
    assert [e.id for e in again.events] == list(range(had + 1, had + 1 + len(again.events)))
    assert again.told("switch", "outcome")[-1] == "ready"
    await again.stop()
    fresh = Listener(outside.engine)
    await outside.rest()
    assert fresh.events == []
    await fresh.stop()


async def test_a_reader_that_falls_behind_is_let_go_and_can_come_back(outside: Outside) -> None:
    slow = outside.engine.events(None)
    step = asyncio.ensure_future(anext(slow))
    await outside.rest()
    for number in range(300):
        outside.gauge.available = (10 + number % 2) * GIB
        await outside.engine.measure()
        await outside.engine.ping()
    got = [await step, *[event async for event in slow]]
    assert len(got) < 300
    back = Listener(outside.engine, got[-1].id)
    await outside.rest()
    assert [e.id for e in (*got, *back.events)] == list(range(got[0].id, got[0].id + 300))
    assert back.events[0].id == got[-1].id + 1
    await back.stop()


async def test_an_event_is_told_only_of_what_changed(outside: Outside) -> None:
    listener = Listener(outside.engine)
    snapshots: list[object] = []
    outside.engine.listen(snapshots.append)
    await outside.rest()
    for _ in range(3):
        await outside.engine.measure()
        await outside.engine.ping()
    assert (listener.events, len(snapshots) >= 3) == ([], True)
    outside.gauge.available = 100 * GIB
    await outside.engine.measure()
    await outside.rest()
    assert [e.kind for e in listener.events] == ["memory"]
    outside.source.good = make_catalog(MODELS["alpha"])
    await outside.engine.reload()
    await outside.rest()
    assert listener.told("config", "models") == [["alpha"]]
    await listener.stop()


# The end.


async def test_shut_down_answers_everybody_and_touches_no_model(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.prober.hold("beta")
    switch = await ask(outside.engine, "beta")
    listener = Listener(outside.engine)
    waiters = [asyncio.create_task(outside.engine.wait(switch.id, None)) for _ in range(2)]
    await outside.until(lambda: phase(outside, "beta") is Phase.WARMING)
    outside.seen.clear()
    await outside.engine.shut_down()
    for waiter in waiters:
        with pytest.raises(SparkError) as refusal:
            await waiter
        assert refusal.value.problem.code is Code.SHUTTING_DOWN
    await outside.rest()
    assert listener.ended
    assert outside.calls("start", "stop", "kill") == []
    record = outside.store.record
    assert record.switch is not None
    assert (record.switch.id, record.desired) == (switch.id, "alpha")


async def test_nothing_is_started_after_it_was_told_to_refrain(outside: Outside) -> None:
    await switched(outside.engine, "alpha")
    outside.seen.clear()
    await ask(outside.engine, "beta")
    outside.engine.refrain()
    await outside.advance(30)
    assert outside.calls("start", "mark") == []
    assert outside.engine.snapshot.stopping
    with pytest.raises(SparkError) as refusal:
        await ask(outside.engine, "beta")
    assert refusal.value.problem.code is Code.SHUTTING_DOWN


async def test_who_comes_after_the_end_is_told_so(outside: Outside) -> None:
    await outside.engine.shut_down()
    face: Face = outside.engine
    for refused in (
        ask(face, "alpha"),
        face.wait("sw-1", None),
        face.gate("alpha"),
        face.reload(),
        outside.engine.ping(),
    ):
        with pytest.raises(SparkError) as refusal:
            await refused
        assert refusal.value.problem.code is Code.SHUTTING_DOWN
    assert [event async for event in face.events(None)] == []


async def test_ping_answers_only_when_the_writer_runs(outside: Outside) -> None:
    await outside.engine.ping()
    asked = await outside.up_to_save("alpha")
    ping = asyncio.create_task(outside.engine.ping())
    await outside.rest()
    assert not ping.done()
    assert outside.store.hang is not None
    outside.store.hang.set()
    await ping
    await asked


def _broken_listener(_snapshot: object) -> None:
    raise ZeroDivisionError("a bug")


async def test_a_bug_in_a_handler_ends_the_engine_and_leaves_nobody_waiting(outside: Outside) -> None:
    outside.prober.hold("alpha")
    switch = await ask(outside.engine, "alpha")
    waiter = asyncio.create_task(outside.engine.wait(switch.id, None))
    await outside.until(lambda: phase(outside, "alpha") is Phase.WARMING)
    saves = outside.store.saves
    outside.engine.listen(_broken_listener)
    with structlog.testing.capture_logs() as logged:
        async with asyncio.timeout(20):
            with pytest.raises(SparkError) as refusal:
                # The first one's handler has the bug, the others are never handled.
                await asyncio.gather(outside.engine.measure(), outside.engine.ping(), outside.engine.ping())
            await outside.engine.broken()
    assert refusal.value.problem.code is Code.INTERNAL
    with pytest.raises(SparkError) as refusal:
        await waiter
    assert refusal.value.problem.code is Code.INTERNAL
    with pytest.raises(SparkError):
        await ask(outside.engine, "beta")
    fatal = [line for line in logged if line["log_level"] == "critical"]
    assert [type(line["exc_info"]) for line in fatal] == [ZeroDivisionError]
    await outside.engine.shut_down()
    assert outside.store.saves == saves


async def test_a_bug_in_a_watch_ends_the_engine_too(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*, thorough: bool = False) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(outside.gauge, "read", broken)
    with structlog.testing.capture_logs():
        with contextlib.suppress(SparkError):
            await ask(outside.engine, "alpha")
        async with asyncio.timeout(20):
            await outside.engine.broken()
    with pytest.raises(SparkError) as refusal:
        await outside.engine.ping()
    assert refusal.value.problem.code is Code.INTERNAL
    before = outside.engine.snapshot
    outside.systemd.lose()
    await outside.rest()
    assert outside.engine.snapshot is before


async def test_a_sound_engine_is_not_broken(outside: Outside) -> None:
    broken = asyncio.create_task(outside.engine.broken())
    await switched(outside.engine, "alpha")
    await outside.engine.shut_down()
    await outside.rest()
    assert not broken.done()
    broken.cancel()
    await asyncio.gather(broken, return_exceptions=True)
