"""Requests that need another model than the one that serves, as their clients live through it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import openai
import pytest

from support.front import GATEWAY, PORT, QUESTION, Caller, Reply, add_token, ask, await_nothing_held, scripted_model
from support.network import connections, network_of
from support.scene import HOLDS, SETTINGS, Scene
from support.spark import SOCKETS, SparkHost
from support.tiny_models import sentence_of
from support.witness import DAEMON, Guard, engines, unit, until

pytestmark = pytest.mark.host

ALPHA, BETA, LOOP, SLOW, THIRD = range(8311, 8316)
LARGE = frozenset({"alpha", "beta", "loop", "slow", "third"})


def settings(gateway: str = "", **slot: str) -> str:
    """Quick ones; ``slot`` are durations."""
    quick = {"min_residency": "50ms", "idle_return": "never", "max_wait": "60s", "drain_timeout": "10s", **slot}
    lines = "".join(f'{name} = "{value}"\n' for name, value in quick.items())
    return SETTINGS.replace("[slot]\n", f"[slot]\n{lines}") + f'[gateway]\nloading_keepalive = "50ms"\n{gateway}'


@pytest.fixture(scope="module")
def booted(installed_host: SparkHost) -> Iterator[Scene]:
    host = installed_host
    host.settings(settings())
    host.tiny("alpha", port=ALPHA)
    host.tiny("beta", port=BETA)
    host.tiny("loop", port=LOOP, loop=True)
    host.model("slow", scripted_model("slow", port=SLOW))
    host.model("third", scripted_model("third", port=THIRD))
    host.enable()
    with network_of(host):
        scene = Scene(host)
        yield scene
        await_nothing_held(scene, ALPHA, BETA, LOOP, SLOW, THIRD)


@pytest.fixture(scope="module")
def token(booted: Scene) -> str:
    return add_token(booted.host, "all")


@pytest.fixture
def scene(booted: Scene) -> Iterator[Scene]:
    configure(booted)
    booted.reset()
    with Guard(booted.host, LARGE):
        yield booted
        booted.release()
        await_nothing_held(booted)


def configure(scene: Scene, gateway: str = "", **slot: str) -> None:
    scene.host.settings(settings(gateway, **slot))
    scene.reload()


async def aside(call: Any, *arguments: Any) -> Any:
    """Something that blocks, while the clients go on."""
    return await asyncio.to_thread(call, *arguments)


async def see(what: str, look: Any) -> Any:
    """``until``, while the clients go on."""
    return await asyncio.to_thread(until, what, look)


def queue(scene: Scene) -> dict[str, int]:
    return {each["model"]: each["waiters"] for each in scene.status()["queue"]}


def newest(scene: Scene) -> dict[str, Any]:
    return dict(scene.host.api("GET", "/api/switches")[1]["switches"][0])


def switches(scene: Scene) -> list[tuple[str | None, str]]:
    """Target and outcome, oldest first."""
    found = scene.host.api("GET", "/api/switches")[1]["switches"]
    return [(each["model"], each["outcome"]) for each in reversed(found)]


@contextlib.asynccontextmanager
async def streaming(token: str, model: str) -> AsyncIterator[tuple[Caller, Reply, AsyncIterator[bytes]]]:
    """A stream whose first piece has come."""
    async with Caller(token) as caller:
        await caller.send(model, stream=True, max_tokens=100_000)
        reply = await caller.head()
        parts = caller.parts(reply)
        reply.body += await anext(parts)
        yield caller, reply, parts


async def rest_of(reply: Reply, parts: AsyncIterator[bytes]) -> Reply:
    async for part in parts:
        reply.body += part
    reply.ended = True
    return reply


# Waiting.


async def test_a_stream_is_told_that_it_waits_and_then_goes_through(scene: Scene, token: str) -> None:
    scene.switch("alpha")
    scene.hold("slow-load")
    async with Caller(token) as caller:
        await caller.send("slow", stream=True)
        reply = await caller.head()
        parts = caller.parts(reply)
        assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
        while reply.comments < 3:
            reply.body += await anext(parts)
        assert reply.events == []
        assert await aside(queue, scene) == {"slow": 1}
        assert await aside(scene.slot) in {("slow", "starting"), ("slow", "warming")}
        scene.release("slow-load")
        await rest_of(reply, parts)
    assert (reply.events[-1], reply.text) == ("[DONE]", "I am slow.")
    assert newest(scene)["requested_by"] == "gateway"
    assert newest(scene)["actor"] == "token all"


async def test_other_requests_wait_in_silence_and_join_one_start(scene: Scene, token: str) -> None:
    scene.switch("alpha")
    scene.hold("slow-load")
    begun = len(switches(scene))
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(token)) for _ in range(5)]
        for caller in callers:
            await caller.send("slow")
        await see("all of them wait", lambda: queue(scene) == {"slow": 5})
        assert all(not caller.reader._buffer for caller in callers), "not a byte before the answer"
        scene.release("slow-load")
        replies = await asyncio.gather(*(caller.reply() for caller in callers))
    assert [(reply.status, reply.text) for reply in replies] == [(200, "I am slow")] * 5
    assert switches(scene)[begun:] == [("slow", "ready")]


async def test_fault_22_the_slot_goes_back_to_desired_and_looking_does_not_keep_it(scene: Scene, token: str) -> None:
    """Lists, health checks and idle connections neither start a model nor keep one."""
    configure(scene, idle_return="700ms")
    scene.switch("alpha")
    assert (await ask(token, "beta")).text == sentence_of("beta")
    assert scene.status()["desired"] == "alpha"
    async with Caller(token) as idle:
        await idle.send("beta")
        assert (await idle.reply()).status == 200
        looks = 0
        while newest(scene)["requested_by"] != "reconcile" or not newest(scene)["outcome"]:
            for path in ("/health", "/v1/models", "/models", "/v1/models/slow", "/props"):
                auth = f"Authorization: Bearer {token}"
                await aside(scene.host.run, "curl", "-s", "-H", auth, f"{GATEWAY}{path}")
            looks += 1
            assert looks < 100, "the slot was never given back"
    assert scene.slot() == ("alpha", "serving")
    assert set(engines(scene.host)) == {"alpha"}


async def test_an_occupant_stays_for_min_residency(scene: Scene, token: str) -> None:
    configure(scene, min_residency="1s")
    scene.switch("alpha")
    since = datetime.fromisoformat(scene.status()["slot"]["since"])
    assert (await ask(token, "beta")).text == sentence_of("beta")
    begun = newest(scene)
    stopped = datetime.fromisoformat(begun["started_at"])
    assert (begun["model"], (stopped - since).total_seconds() >= 0.99) == ("beta", True)


async def test_nobody_waits_longer_than_max_wait_for_others(scene: Scene, token: str) -> None:
    configure(scene, max_wait="500ms", drain_timeout="300ms")
    scene.switch("loop")
    async with streaming(token, "loop") as (_, reply, parts):
        assert (await ask(token, "alpha")).text == sentence_of("alpha")
        await rest_of(reply, parts)
    # Whoever has had the model for all that time is told so, and the engine need not wait for it either.
    assert reply.events[-1]["error"]["code"] == "busy"
    assert reply.events[-1]["error"]["message"].startswith("The model loop had to make way")
    assert scene.slot() == ("alpha", "serving")


async def test_faults_5_and_18_a_stream_is_never_cut_while_another_model_is_wanted(scene: Scene, token: str) -> None:
    """Neither a busy model's stream nor its engine is touched, however much it is wanted away."""
    scene.switch("slow")
    slow = scene.pid("slow")
    scene.hold("piece")
    async with Caller(token) as streamer, Caller(token) as wanter:
        await streamer.send("slow", stream=True, script={"pieces": 5, "hold": f"{HOLDS}/piece"})
        reply = await streamer.head()
        parts = streamer.parts(reply)
        # The engine has said one piece and stays silent: it is here at once, not when there is more.
        reply.body += await anext(parts)
        assert reply.text == "0"
        await wanter.send("alpha")
        await see("somebody wants the slot", lambda: queue(scene) == {"alpha": 1})
        assert (await ask(token, "slow")).text == "I am slow"
        assert scene.pid("slow") == slow
        scene.release("piece")
        await rest_of(reply, parts)
        assert (reply.text, reply.events[-1]) == ("0 1 2 3 4", "[DONE]")
        assert (await wanter.reply()).text == sentence_of("alpha")


async def test_fault_18_a_long_silent_first_token_has_no_deadline(scene: Scene, token: str) -> None:
    """Nothing on the way may give up earlier than client and engine do."""
    scene.switch("slow")
    reply = await ask(token, "slow", stream=True, script={"silence": 6, "pieces": 2})
    assert (reply.text, reply.events[-1]) == ("0 1", "[DONE]")


# Hanging up, and being sent away.


async def test_who_hangs_up_leaves_the_queue_and_ends_a_start_for_nobody(scene: Scene, token: str) -> None:
    scene.switch("alpha")
    scene.hold("slow-load")
    async with Caller(token) as streamer, Caller(token) as other:
        await streamer.send("slow", stream=True)
        await other.send("slow")
        await see("both wait", lambda: queue(scene) == {"slow": 2})
        under_way = await see("it has begun", lambda: (scene.status()["switch"] or {}).get("id"))
        other.hang_up()
        await see("one is gone", lambda: queue(scene) == {"slow": 1})
        streamer.hang_up()
        await see("nobody waits", lambda: queue(scene) == {})
    switch = await aside(scene.ended, under_way)
    assert (switch["model"], switch["outcome"]) == ("slow", "cancelled")
    await see("alpha is back", lambda: scene.slot() == ("alpha", "serving"))
    assert set(engines(scene.host)) == {"alpha"}


async def test_too_many_who_wait_are_sent_away(scene: Scene, token: str) -> None:
    configure(scene, "max_waiting = 2\n")
    scene.switch("alpha")
    scene.hold("slow-load")
    async with Caller(token) as one, Caller(token) as two:
        await one.send("slow")
        await two.send("slow")
        await see("the queue is full", lambda: queue(scene) == {"slow": 2})
        with openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=token, max_retries=0) as client:
            messages: Any = QUESTION
            with pytest.raises(openai.RateLimitError) as raised:
                await aside(lambda: client.chat.completions.create(model="slow", messages=messages))
        assert int(raised.value.response.headers["retry-after"]) > 0
        scene.release("slow-load")
        assert {(await caller.reply()).status for caller in (one, two)} == {200}


async def test_who_may_not_switch_is_told_who_holds_the_slot_and_since_when(scene: Scene) -> None:
    still = add_token(scene.host, "still", "--no-switch")
    scene.switch("alpha")
    before = switches(scene)
    reply = await ask(still, "beta")
    assert (reply.status, reply.json["error"]["code"]) == (503, "busy")
    assert reply.json["error"]["message"].startswith("alpha holds the slot, for ")
    assert re.search(r"\(alpha is there since 2[0-9-]{9}T[0-9:]{8}Z\)\.$", reply.json["error"]["message"])
    assert int(reply.headers["retry-after"]) > 0
    assert (await ask(still, "alpha")).text == sentence_of("alpha")
    assert switches(scene) == before


# What went wrong in other projects.


async def test_fault_1_a_request_during_a_stop_does_not_wedge_the_slot(scene: Scene, token: str) -> None:
    scene.switch("slow")
    scene.hold("slow-stop")
    emptying = scene.begin(None)
    await see("it is stopping", lambda: scene.slot() == ("slow", "stopping"))
    async with Caller(token) as caller:
        await caller.send("slow")
        await see("it waits", lambda: queue(scene) == {"slow": 1})
        scene.release("slow-stop")
        assert (await caller.reply()).text == "I am slow"
    assert (await aside(scene.ended, emptying))["outcome"] == "ready"
    assert (await ask(token, "alpha")).text == sentence_of("alpha")


async def test_fault_2_no_request_falls_between_the_look_and_the_engine(scene: Scene, token: str) -> None:
    scene.switch("alpha")
    over = asyncio.Event()
    answers: list[tuple[int, str]] = []

    async def client() -> None:
        async with Caller(token) as caller:
            while not over.is_set():
                await caller.send("alpha", max_tokens=6)
                reply = await caller.reply()
                answers.append((reply.status, reply.text if reply.status == 200 else reply.body.decode()))

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(client())
        for model in ("beta", "alpha", "beta"):
            await aside(scene.switch, model)
        over.set()
    assert len(answers) > 6
    assert set(answers) == {(200, sentence_of("alpha"))}


async def test_fault_3_what_was_just_started_answers_before_it_goes(scene: Scene, token: str) -> None:
    scene.switch("alpha")
    begun = len(switches(scene))
    scene.hold("slow-load")
    async with Caller(token) as first, Caller(token) as second:
        await first.send("slow")
        await see("it loads", lambda: engines(scene.host).keys() == {"slow"})
        await second.send("third")
        await see("another is wanted already", lambda: queue(scene) == {"slow": 1, "third": 1})
        scene.release("slow-load")
        assert (await first.reply()).text == "I am slow"
        assert (await second.reply()).text == "I am third"
    assert switches(scene)[begun:] == [("slow", "ready"), ("third", "ready")]


async def test_fault_4_of_two_that_wait_for_one_to_go_both_are_served(scene: Scene, token: str) -> None:
    scene.switch("loop")
    async with streaming(token, "loop") as (streamer, _, _), Caller(token) as one, Caller(token) as two:
        await one.send("alpha")
        await two.send("slow")
        await see("both wait", lambda: queue(scene) == {"alpha": 1, "slow": 1})
        streamer.hang_up()
        replies = await asyncio.gather(one.reply(), two.reply())
    assert [reply.text for reply in replies] == [sentence_of("alpha"), "I am slow"]


async def test_fault_5_a_loading_model_is_not_killed_for_another(scene: Scene, token: str) -> None:
    scene.hold("slow-load")
    async with Caller(token) as first, Caller(token) as second:
        await first.send("slow")
        await see("it loads", lambda: engines(scene.host).keys() == {"slow"})
        slow = engines(scene.host)
        await second.send("alpha")
        await see("both wait", lambda: queue(scene) == {"slow": 1, "alpha": 1})
        assert engines(scene.host) == slow
        scene.release("slow-load")
        assert (await first.reply()).text == "I am slow"
        assert (await second.reply()).text == sentence_of("alpha")


async def test_fault_6_two_who_alternate_neither_thrash_nor_starve(scene: Scene, token: str) -> None:
    configure(scene, min_residency="1s")
    begun = len(switches(scene))

    async def client(model: str, expected: str) -> int:
        async with Caller(token) as caller:
            for number in range(1000):
                await caller.send(model, max_tokens=6)
                assert (await caller.reply()).text == expected
                if len(await aside(switches, scene)) - begun > 4:
                    return number + 1
        return 0

    served = await asyncio.gather(client("alpha", sentence_of("alpha")), client("beta", sentence_of("beta")))
    assert min(served) >= 2, "each had its turns"
    found = scene.host.api("GET", "/api/switches")[1]["switches"]
    ends = [datetime.fromisoformat(each["finished_at"]) for each in reversed(found[: len(found) - begun])]
    starts = [datetime.fromisoformat(each["started_at"]) for each in reversed(found[: len(found) - begun])]
    stays = [(start - end).total_seconds() for end, start in zip(ends, starts[1:], strict=False)]
    assert min(stays) >= 0.9, "a model that came stays for a while"


async def test_the_sdk_does_not_notice_a_restart_while_it_waits(scene: Scene, token: str) -> None:
    scene.switch("alpha")
    scene.hold("slow-load")
    messages: Any = QUESTION
    with openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=token) as client:
        asked = asyncio.create_task(aside(lambda: client.chat.completions.create(model="slow", messages=messages)))
        await see("it waits", lambda: queue(scene) == {"slow": 1})
        before = scene.daemon_pid()
        await aside(scene.host.run, "systemctl", "restart", DAEMON)
        assert scene.daemon_pid() != before
        scene.release("slow-load")
        answer = await asked
    assert answer.choices[0].message.content == "I am slow"


async def test_fault_25_nothing_starts_while_the_daemon_ends(scene: Scene, token: str) -> None:
    scene.switch("slow")
    scene.hold("slow-stop")
    async with Caller(token) as caller, Caller(token) as streamer:
        await caller.send("alpha")
        await see("slow is stopping", lambda: scene.slot() == ("slow", "stopping"))
        await streamer.send("alpha", stream=True)
        reply = await streamer.head()
        stop = scene.host.popen("systemctl", "stop", DAEMON)
        told = await caller.reply()
        assert (told.status, told.json["error"]["code"]) == (503, "shutting_down")
        assert int(told.headers["retry-after"]) > 0
        await rest_of(reply, streamer.parts(reply))
        assert reply.events[-1]["error"]["code"] == "shutting_down"
        scene.release("slow-stop")
        assert await aside(stop.wait, 30) == 0
    assert scene.host.show(DAEMON, "ActiveState") == "inactive"
    until("slow has stopped", lambda: engines(scene.host) == {})
    assert scene.host.show(unit("alpha"), "ActiveState") == "inactive"
    # The sockets are systemd's: the next request brings the daemon, and the daemon the model.
    assert all(scene.host.show(socket, "ActiveState") == "active" for socket in SOCKETS)
    assert (await ask(token, "alpha")).text == sentence_of("alpha")
    assert connections(PORT) == 0
