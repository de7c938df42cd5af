"""Several models on one server: what the engine makes of them, with systemd, the server and time made up."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from spark_modeld.core.errors import Code, SparkError
from spark_modeld.core.model import EngineKind, Model, OwnUnit, Role
from spark_modeld.core.switch import Outcome, Requester, Switch
from spark_modeld.core.unit import ActiveState, Phase
from spark_modeld.ports import CallFailure, JobRemoved
from support.fakes import GIB, Outside, make_catalog, make_model, unit

pytestmark = pytest.mark.component

SERVER = "ollama.service"


def tenant(name: str, gib: int, tag: str, *, role: Role = Role.SLOT) -> Model:
    model = make_model(name, gib, role=role)
    return replace(
        model,
        engine=EngineKind.OLLAMA,
        url="http://127.0.0.1:11434",
        run=OwnUnit(SERVER),
        served_model_name=tag,
    )


LLAMA = tenant("llama", 50, "llama3.2:3b")
QWEN = tenant("qwen", 40, "qwen3")
TINY = tenant("tiny", 2, "tiny:1b", role=Role.SIDE)
BETA = make_model("beta", 60)


class Ollama(Outside):
    """The server answers while its unit is up, and does what the ladder asks of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        climb = self.prober.climb

        async def load(model: Model, rung: object) -> object:
            if model.tenant:
                self.server.holds.setdefault(SERVER, {})[self.listed(model)] = 30 * GIB
            return await climb(model, rung)  # type: ignore[arg-type]

        self.prober.climb = load  # type: ignore[method-assign, assignment]
        kill = self.systemd.kill

        def killed(name: str, token: int) -> None:
            if name == SERVER:
                self.server.holds.pop(SERVER, None)
            kill(name, token)

        self.systemd.kill = killed  # type: ignore[method-assign]

    @staticmethod
    def listed(model: Model) -> str:
        return model.served_model_name if ":" in model.served_model_name else f"{model.served_model_name}:latest"

    def holds(self, *models: Model) -> None:
        """The server runs and holds these."""
        self.server.holds[SERVER] = {self.listed(m): 30 * GIB for m in models}
        self.systemd.show(SERVER, ActiveState.ACTIVE, sub="running", main_pid=7)

    def stops(self, job: str = "/job/theirs") -> None:
        """systemctl stop of the server."""
        self.server.holds.pop(SERVER, None)
        self.systemd.show(SERVER, ActiveState.DEACTIVATING, job=job)
        self.systemd.show(SERVER, ActiveState.INACTIVE, sub="dead")
        self.systemd.tell(JobRemoved(job, SERVER, "done"))

    def slot(self) -> tuple[str | None, Phase | None]:
        return self.engine.snapshot.slot_model, self.engine.snapshot.slot_phase


@pytest.fixture
async def outside() -> AsyncIterator[Ollama]:
    made = Ollama(catalog=make_catalog(LLAMA, QWEN, TINY, BETA))
    yield made
    await made.engine.shut_down()
    assert made.clock.armed == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def empty(outside: Ollama) -> Ollama:
    """Booted, with a server that holds nothing."""
    outside.server.holds[SERVER] = {}
    outside.systemd.units[SERVER] = replace(outside.systemd.status(SERVER), active=ActiveState.ACTIVE, main_pid=7)
    await outside.up()
    outside.seen.clear()
    return outside


async def switched(outside: Ollama, model: str | None) -> Switch:
    switch = await outside.engine.switch(model, requested_by=Requester.CONTROL, actor=None)
    if switch.noop:
        return switch
    while outside.engine.find_switch(switch.id).outcome is None:
        await outside.advance(0.5)
    await outside.rest()
    return outside.engine.find_switch(switch.id)


async def test_a_server_that_holds_nothing_is_nobody(empty: Ollama) -> None:
    assert empty.slot() == (None, None)
    assert {m: s.phase for m, s in empty.engine.snapshot.models.items() if m != "beta"} == dict.fromkeys(
        ("llama", "qwen", "tiny"), Phase.STOPPED
    )
    assert (await switched(empty, "beta")).outcome is Outcome.READY
    assert empty.warnings() == set()
    assert empty.calls("stop", "unload") == []


async def test_a_switch_on_one_server_unloads_one_and_loads_the_other_and_never_touches_the_unit(empty: Ollama) -> None:
    assert (await switched(empty, "llama")).outcome is Outcome.READY
    assert empty.slot() == ("llama", Phase.SERVING)
    assert set(empty.server.holds[SERVER]) == {"llama3.2:3b"}
    empty.seen.clear()
    assert (await switched(empty, "qwen")).outcome is Outcome.READY
    assert empty.calls("start", "stop", "kill", "unload", "climb") == ["unload llama3.2:3b", "climb qwen"]
    assert set(empty.server.holds[SERVER]) == {"qwen3:latest"}
    assert (await switched(empty, None)).outcome is Outcome.READY
    assert empty.server.holds[SERVER] == {}
    assert empty.slot() == (None, None)
    assert SERVER in empty.systemd.running()


async def test_a_server_that_is_down_is_started_first(outside: Ollama) -> None:
    await outside.up()
    assert (await switched(outside, "llama")).outcome is Outcome.READY
    assert outside.calls("start", "stop") == [f"start {SERVER}"]
    assert (await switched(outside, "beta")).outcome is Outcome.READY
    assert outside.calls("start", "stop", "unload") == [
        f"start {SERVER}",
        "unload llama3.2:3b",
        f"start {unit('beta')}",
    ]
    assert outside.systemd.running() == {SERVER, unit("beta")}


@pytest.mark.parametrize("failure", [CallFailure.NO_SUCH_UNIT, CallFailure.ACCESS_DENIED, "failed"])
async def test_a_server_that_cannot_be_started_fails_the_switch(outside: Ollama, failure: CallFailure | str) -> None:
    await outside.up()
    outside.systemd.will("start", SERVER, failure)
    switch = await switched(outside, "llama")
    assert switch.outcome is Outcome.FAILED
    assert switch.error is not None
    words = "job result: failed" if failure == "failed" else f"systemd says {failure}"
    assert words in switch.error.detail
    assert (await switched(outside, "llama")).outcome is Outcome.READY


async def test_two_models_of_a_server_are_never_there_together_unless_one_is_a_side_model(empty: Ollama) -> None:
    await switched(empty, "llama")
    with pytest.raises(SparkError) as refusal:
        await empty.engine.start("qwen", actor=None)
    assert refusal.value.problem.code in {Code.LARGE_PARALLEL, Code.BUSY}
    await empty.engine.start("tiny", actor=None)
    await empty.rest()
    assert set(empty.server.holds[SERVER]) == {"llama3.2:3b", "tiny:1b"}
    await empty.engine.stop("tiny", actor=None)
    await empty.advance(1)
    assert set(empty.server.holds[SERVER]) == {"llama3.2:3b"}
    assert empty.slot() == ("llama", Phase.SERVING)


async def test_what_a_server_holds_when_the_daemon_starts_is_adopted(outside: Ollama) -> None:
    outside.systemd.units[SERVER] = replace(outside.systemd.status(SERVER), active=ActiveState.ACTIVE, main_pid=7)
    outside.server.holds[SERVER] = {"qwen3:latest": 30 * GIB}
    await outside.up()
    assert outside.slot() == ("qwen", Phase.SERVING)
    assert outside.calls("start", "stop", "unload") == []


async def test_what_another_client_has_loaded_into_an_empty_slot_is_taken_in(empty: Ollama) -> None:
    empty.server.holds[SERVER] = {"qwen3:latest": 30 * GIB}
    empty.server.ending = {"qwen3:latest": 300.0}
    await empty.advance(3)
    assert empty.slot() == ("qwen", Phase.SERVING)
    assert empty.engine.switches()[0].requested_by is Requester.SYSTEMD
    await empty.advance(3)
    assert "pin qwen3" in empty.seen, "it would be gone after some idle minutes"


async def test_what_another_client_has_loaded_beside_the_occupant_is_reported_and_left_to_its_end(
    empty: Ollama,
) -> None:
    await switched(empty, "beta")
    empty.server.holds[SERVER] = {"qwen3:latest": 30 * GIB}
    empty.server.ending = {"qwen3:latest": 300.0}
    await empty.advance(200)
    assert "large-parallel" in empty.warnings()
    assert empty.slot() == ("beta", Phase.SERVING)
    assert empty.calls("pin") == []
    assert empty.vitals.asked == []
    assert empty.calls("stop", "unload") == []
    empty.server.holds[SERVER] = {}
    await empty.advance(20)
    assert empty.warnings() == set()
    assert empty.slot() == ("beta", Phase.SERVING)


async def test_a_model_nobody_knows_is_named_and_counts_as_a_holder(empty: Ollama) -> None:
    empty.server.holds[SERVER] = {"mystery:70b": 50 * GIB}
    await empty.advance(3)
    warning = next(w for w in empty.engine.snapshot.warnings if w.code == "stranger-loaded")
    assert "mystery:70b on ollama.service holds 50.0 GiB" in warning.message
    switch = await switched(empty, "beta")
    assert switch.error is not None
    assert switch.error.code is Code.LARGE_PARALLEL
    assert switch.error.extra["holders"] == [{"model": "mystery:70b on ollama.service", "bytes": 50 * GIB}]
    assert "`ollama stop mystery:70b` unloads it" in switch.error.detail
    empty.server.holds[SERVER] = {}
    await empty.advance(3)
    assert "stranger-loaded" not in empty.warnings()
    assert (await switched(empty, "beta")).outcome is Outcome.READY


async def test_what_another_client_unloads_comes_back_and_a_short_absence_is_none(empty: Ollama) -> None:
    await switched(empty, "llama")
    empty.seen.clear()
    held = empty.server.holds[SERVER].pop("llama3.2:3b")
    await empty.advance(5)
    empty.server.holds[SERVER]["llama3.2:3b"] = held
    await empty.advance(30)
    assert empty.calls("climb") == []
    empty.server.holds[SERVER].clear()
    await empty.advance(12)
    assert empty.calls("climb", "start", "stop") == ["climb llama"]
    assert empty.slot() == ("llama", Phase.SERVING)


async def test_an_end_that_another_client_sets_is_taken_back_but_not_the_end_itself(empty: Ollama) -> None:
    await switched(empty, "llama")
    empty.seen.clear()
    empty.server.ending = {"llama3.2:3b": 2.0}
    await empty.advance(30)
    assert empty.calls("pin") == []
    empty.server.ending = {"llama3.2:3b": 300.0}
    await empty.advance(3)
    assert empty.calls("pin") == ["pin llama3.2:3b"]


async def test_a_pin_under_way_is_over_before_the_model_is_unloaded(empty: Ollama) -> None:
    await switched(empty, "llama")
    empty.seen.clear()
    empty.server.ending, empty.server.pinning = {"llama3.2:3b": 300.0}, asyncio.Event()
    await empty.advance(3)
    switch = await empty.engine.switch(None, requested_by=Requester.CONTROL, actor=None)
    await empty.advance(1)
    assert empty.calls("pin", "unload") == ["pin llama3.2:3b"]
    empty.server.pinning.set()
    await empty.until(lambda: empty.engine.find_switch(switch.id).outcome)
    assert empty.calls("pin", "unload") == ["pin llama3.2:3b", "unload llama3.2:3b"]
    assert empty.server.holds[SERVER] == {}


async def test_what_is_unloaded_before_it_was_ever_seen_listed_is_missed_too(empty: Ollama) -> None:
    await empty.advance(1.9)
    switch = await empty.engine.switch("llama", requested_by=Requester.CONTROL, actor=None)
    await empty.until(lambda: empty.engine.find_switch(switch.id).outcome)
    empty.server.holds[SERVER].clear()
    empty.seen.clear()
    await empty.advance(12)
    assert empty.calls("climb") == ["climb llama"]


async def test_systemctl_stop_of_the_server_empties_the_slot(empty: Ollama) -> None:
    await switched(empty, "llama")
    empty.seen.clear()
    empty.stops()
    await empty.advance(30)
    assert empty.slot() == (None, None)
    assert "stopped with systemctl" in str(empty.engine.snapshot.slot_reason)
    assert empty.calls("start") == []
    empty.server.holds[SERVER] = {}
    empty.systemd.show(SERVER, ActiveState.ACTIVE, main_pid=8)
    await empty.advance(30)
    assert empty.slot() == (None, None), "the server is there again, and holds nothing"
    assert (await switched(empty, "qwen")).outcome is Outcome.READY


async def test_systemctl_restart_of_the_server_brings_its_model_back(empty: Ollama) -> None:
    await switched(empty, "llama")
    empty.seen.clear()
    empty.server.holds[SERVER] = {}
    for state in (ActiveState.DEACTIVATING, ActiveState.INACTIVE, ActiveState.ACTIVATING, ActiveState.ACTIVE):
        empty.systemd.show(SERVER, state, job="/job/restart" if state is not ActiveState.ACTIVE else None, main_pid=9)
    empty.systemd.tell(JobRemoved("/job/restart", SERVER, "done"))
    await empty.advance(10)
    assert empty.slot() == ("llama", Phase.SERVING)
    assert empty.calls("start", "stop", "unload") == []
    assert set(empty.server.holds[SERVER]) == {"llama3.2:3b"}


async def test_a_server_that_dies_takes_its_model_along_and_both_come_back(empty: Ollama) -> None:
    await switched(empty, "llama")
    empty.seen.clear()
    empty.server.holds.pop(SERVER)
    empty.systemd.crash(SERVER)
    await empty.advance(1)
    assert empty.calls("start", "climb") == [f"start {SERVER}", "climb llama"]
    assert empty.slot() == ("llama", Phase.SERVING)


async def test_a_model_that_will_not_go_takes_its_server_along(empty: Ollama) -> None:
    await switched(empty, "llama")
    empty.server.keeps = True
    empty.seen.clear()
    switch = await switched(empty, "beta")
    assert switch.outcome is Outcome.READY
    calls = empty.calls("unload", "kill", "start", "stop")
    assert calls[:2] == ["unload llama3.2:3b"] * 2, "asked for again after a while"
    assert calls[-2:] == [f"kill {SERVER}", f"start {unit('beta')}"]
    assert switch.timings["stopping"] >= LLAMA.stop_timeout


async def test_a_bus_that_was_away_changes_nothing(empty: Ollama) -> None:
    await switched(empty, "llama")
    empty.seen.clear()
    empty.systemd.lose()
    await empty.rest()
    empty.systemd.regain()
    await empty.advance(5)
    assert empty.slot() == ("llama", Phase.SERVING)
    assert empty.calls("start", "stop", "unload") == []


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_it_comes_to_rest_with_one_model_and_goes_on(outside: Ollama, seed: int) -> None:
    """Operators, other clients, systemd, the server's own deaths and a bus that comes and goes, in any order."""
    fate = random.Random(seed)
    outside.server.holds[SERVER] = {}
    outside.systemd.units[SERVER] = replace(outside.systemd.status(SERVER), active=ActiveState.ACTIVE, main_pid=7)
    await outside.up()
    lost = False

    def server_up() -> bool:
        return outside.systemd.status(SERVER).active is ActiveState.ACTIVE

    for _ in range(12):
        move = fate.choice(("switch", "switch", "load", "unload", "stop", "start", "crash", "bus", "wait"))
        model = fate.choice((LLAMA, QWEN))
        held = outside.server.holds.get(SERVER)
        if move == "switch":
            name = fate.choice(("llama", "qwen", "beta", None))
            with contextlib.suppress(SparkError):
                await outside.engine.switch(name, requested_by=Requester.CONTROL, actor=None)
        elif move == "load" and held is not None:
            held[outside.listed(model)] = 30 * GIB
        elif move == "unload" and held:
            held.pop(fate.choice(sorted(held)))
        elif move == "stop" and server_up() and not lost:
            outside.stops()
        elif move == "start" and not server_up() and not lost:
            outside.holds()
        elif move == "crash" and server_up() and not lost:
            outside.server.holds.pop(SERVER, None)
            outside.systemd.crash(SERVER)
        elif move == "bus":
            lost = not lost
            (outside.systemd.lose if lost else outside.systemd.regain)()
        await outside.advance(fate.choice((0.0, 0.1, 1.0, 5.0, 20.0)))
    if lost:
        outside.systemd.regain()
    await outside.advance(200)
    for name, tag in (("llama", "llama3.2:3b"), ("qwen", "qwen3:latest"), ("beta", None), (None, None)):
        assert (await switched(outside, name)).outcome is Outcome.READY, outside.engine.snapshot
        await outside.advance(30)
        assert outside.slot() == (name, Phase.SERVING if name else None)
        assert set(outside.server.holds.get(SERVER, {})) == ({tag} if tag else set())
        assert outside.warnings().isdisjoint({"large-parallel", "stranger-loaded", "stuck"})
    await outside.engine.ping()
