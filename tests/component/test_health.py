"""Engines that serve, looked at: the real looks at small servers, and what the engine makes of what it is told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spark_modeld.backends.vitals import EngineVitals
from spark_modeld.core.model import EngineKind, Launch, Model
from spark_modeld.core.pulse import Look, Proof, Proven, Reach
from spark_modeld.core.switch import Requester
from spark_modeld.core.unit import Phase
from support.engines import RunningEngine, bad_engine, free_port, llama_arguments, running, wait_listening
from support.fakes import Outside, unit
from support.tiny_models import tiny_model

pytestmark = pytest.mark.component

SICK = Path(__file__).parents[1] / "support" / "sick_engine.py"


def no_key(path: str) -> str:
    raise AssertionError(f"{path} was read")


VITALS = EngineVitals(no_key)


@contextmanager
def sick(style: str, ills: Path) -> Iterator[RunningEngine]:
    port = free_port()
    command = [sys.executable, "-I", "-S", str(SICK), f"--port={port}", "--name=sick", f"--style={style}"]
    with running([*command, f"--ills={ills}"], port) as engine:
        wait_listening(port)
        yield engine


def a_model(engine: RunningEngine, kind: EngineKind) -> Model:
    return Model(id="sick", engine=kind, url=engine.url, run=Launch(("true",)), served_model_name="sick")


@contextmanager
def streaming(engine: RunningEngine) -> Iterator[None]:
    """A client that has read the first words of a long answer, and does not read on."""
    body = {"model": "sick", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 100000}
    request = urllib.request.Request(
        f"{engine.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.readline()
        yield


async def test_vllms_counters_move_while_it_generates_and_stand_still_in_a_deadlock(tmp_path: Path) -> None:
    with sick("vllm", tmp_path) as engine:
        model = a_model(engine, EngineKind.VLLM)
        first = await VITALS.look(model, 5, others=True)
        assert (first.reach, await VITALS.ask(model, 5)) == (Reach.WELL, Proven(Proof.GIVEN))
        second = await VITALS.look(model, 5, others=True)
        assert first.mark != second.mark
        (tmp_path / "freeze").touch()
        assert (await VITALS.ask(model, 0.2)).proof is Proof.HUNG
        third, fourth = await VITALS.look(model, 5, others=True), await VITALS.look(model, 5, others=True)
        assert (third.reach, third.mark) == (Reach.WELL, fourth.mark)


async def test_a_generation_that_fails_is_told(tmp_path: Path) -> None:
    with sick("plain", tmp_path) as engine:
        (tmp_path / "fail").touch()
        assert await VITALS.ask(a_model(engine, EngineKind.SGLANG), 5) == Proven(Proof.FAILED, "HTTP 500")


async def test_another_client_is_seen_where_nothing_else_is(tmp_path: Path) -> None:
    with sick("plain", tmp_path) as engine:
        model = a_model(engine, EngineKind.OPENAI)
        assert await VITALS.look(model, 5, others=True) == Look(Reach.WELL)
        assert (await VITALS.look(model, 5, others=False)).others is None
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        assert not (await VITALS.look(model, 5, others=True)).others, "our own connections are no client's"
        writer.close()
        await writer.wait_closed()
        assert reader.at_eof
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c"),
            f"import socket; s = socket.create_connection(('127.0.0.1', {engine.port})); print(flush=True); s.recv(1)",
            stdout=asyncio.subprocess.PIPE,
        )
        assert client.stdout is not None
        await client.stdout.readline()
        assert await VITALS.look(model, 5, others=True) == Look(Reach.WELL, others=True)
        client.kill()
        await client.wait()


async def test_nothing_that_listens_is_refused_at_once(tmp_path: Path) -> None:
    with sick("vllm", tmp_path) as engine:
        (tmp_path / "deaf").touch()
        model = a_model(engine, EngineKind.VLLM)
        async with asyncio.timeout(10):
            while (await VITALS.look(model, 5, others=True)).reach is not Reach.REFUSED:
                pass
        assert engine.process.poll() is None


async def test_a_key_that_is_wanted_is_a_sign_of_life() -> None:
    with bad_engine("--require-key=sesame") as engine:
        wait_listening(engine.port)
        model = a_model(engine, EngineKind.SGLANG)
        async with asyncio.timeout(10):  # it listens a moment before it is loaded
            while (await VITALS.look(model, 5, others=True)).reach is not Reach.WELL:
                pass
        assert (await VITALS.ask(model, 5)).proof is Proof.NOT_OFFERED


async def test_the_real_llama_server_shows_a_long_generation_in_its_slots() -> None:
    port = free_port()
    arguments = llama_arguments(gguf=tiny_model("tiny-loop", loop=True), name="sick", port=port)
    with running(arguments, port) as engine:
        model = a_model(engine, EngineKind.LLAMA_SERVER)
        async with asyncio.timeout(20):
            while (await VITALS.look(model, 5, others=True)).reach is not Reach.WELL:
                pass
        idle = (await VITALS.look(model, 5, others=True)).mark
        assert idle is not None
        assert (await VITALS.look(model, 5, others=True)).mark == idle
        with streaming(engine):
            async with asyncio.timeout(20):
                before = (await VITALS.look(model, 5, others=True)).mark
                while (await VITALS.look(model, 5, others=True)).mark == before:
                    pass


async def switched(outside: Outside, model: str) -> None:
    switch = await outside.engine.switch(model, requested_by=Requester.CONTROL, actor=None)
    await outside.engine.wait(switch.id, None)
    outside.seen.clear()


async def test_an_engine_nobody_listens_in_any_more_is_stopped_and_started_again(outside: Outside) -> None:
    await switched(outside, "alpha")
    outside.vitals.looks["alpha"] = Look(Reach.REFUSED)
    await outside.advance(11.9)
    assert outside.calls("stop", "start") == []
    await outside.advance(0.2)
    assert outside.calls("stop", "start") == [f"stop {unit('alpha')}", f"start {unit('alpha')}"]
    del outside.vitals.looks["alpha"]
    await outside.advance(300)
    assert outside.calls("stop", "start") == [f"stop {unit('alpha')}", f"start {unit('alpha')}"]
    snapshot = outside.engine.snapshot
    assert (snapshot.slot_model, snapshot.slot_phase) == ("alpha", Phase.SERVING)
    assert outside.engine.switches()[0].requested_by is Requester.RECONCILE


async def test_one_that_stalls_again_and_again_is_given_up_after_the_bounded_number_of_tries(outside: Outside) -> None:
    await switched(outside, "alpha")
    outside.vitals.looks["alpha"] = Look(Reach.WELL, mark="frozen")
    await outside.advance(119)
    assert outside.vitals.asked == ["alpha"]
    assert outside.calls("stop") == []
    await outside.advance(3600)
    # It stood there for two minutes each time, but served for none of them.
    assert outside.calls("stop", "start") == [f"stop {unit('alpha')}", f"start {unit('alpha')}"] * 2 + [
        f"stop {unit('alpha')}"
    ]
    snapshot = outside.engine.snapshot
    assert snapshot.slot_phase is None
    assert "alpha failed 3 times in a row" in str(snapshot.slot_reason)
    assert "generated nothing for 120 s" in str(snapshot.slot_reason)


async def test_an_answer_that_flows_is_no_stall_however_long_it_is(outside: Outside) -> None:
    await switched(outside, "alpha")
    outside.vitals.looks["alpha"] = Look(Reach.WELL)
    lease = outside.engine.lease("alpha")
    assert lease is not None
    for _ in range(360):
        outside.engine.flows(lease)
        await outside.advance(10)
    assert outside.calls("stop") == []
    await outside.advance(120 * 5 + 10)
    assert outside.calls("stop") == [f"stop {unit('alpha')}"]


async def test_processes_at_work_for_clients_are_given_much_longer_but_not_for_ever(outside: Outside) -> None:
    await switched(outside, "alpha")
    outside.vitals.looks["alpha"], outside.vitals.working = Look(Reach.WELL, others=True), 0.8
    await outside.advance(120 * 25)
    assert outside.calls("stop") == []
    await outside.advance(120 * 11)
    assert outside.calls("stop") == [f"stop {unit('alpha')}"]


async def test_processes_that_do_nothing_for_clients_are_given_five_times_as_long(outside: Outside) -> None:
    await switched(outside, "alpha")
    outside.vitals.looks["alpha"] = Look(Reach.WELL, others=True)
    await outside.advance(120 * 5 - 1)
    assert outside.calls("stop") == []
    await outside.advance(12)
    assert outside.calls("stop") == [f"stop {unit('alpha')}"]


def test_the_processor_time_of_a_process_is_read() -> None:
    before = VITALS.cpu_seconds([os.getpid()])
    while VITALS.cpu_seconds([os.getpid()]) < before + 0.05:
        pass
    assert VITALS.cpu_seconds([1 << 22]) == 0.0


async def test_a_look_that_goes_wrong_ends_neither_model_nor_daemon(outside: Outside) -> None:
    await switched(outside, "alpha")

    async def broken(*_: object, **__: object) -> Look:
        raise ValueError("odd")

    outside.vitals.look = broken  # type: ignore[method-assign]
    await outside.advance(3600)
    assert outside.calls("stop") == []
    await outside.engine.ping()
