"""The gateway under load: many clients who alternate, hang-ups at every moment, and things that die meanwhile.

``make soak`` runs the same with 200 clients and for minutes (SOAK_CLIENTS, SOAK_SECONDS).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from support.front import Caller, add_token, await_nothing_held, descriptors, scripted_model
from support.network import network_of
from support.scene import SETTINGS, Scene
from support.spark import SparkHost
from support.tiny_models import sentence_of
from support.witness import DAEMON, Guard, until

pytestmark = pytest.mark.host

ALPHA, BETA, LOOP, SCRIPTED = range(8321, 8325)
LARGE = frozenset({"alpha", "beta", "loop", "scripted"})
CLIENTS = int(os.environ.get("SOAK_CLIENTS", "40"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "10"))
OURS = SETTINGS.replace("[slot]\n", '[slot]\nmin_residency = "1s"\nidle_return = "never"\nmax_wait = "5s"\n')
FAST = OURS.replace('"1s"', '"20ms"')


@pytest.fixture(scope="module")
def booted(installed_host: SparkHost) -> Iterator[Scene]:
    host = installed_host
    host.settings(OURS)
    host.tiny("alpha", port=ALPHA)
    host.tiny("beta", port=BETA)
    host.tiny("loop", port=LOOP, loop=True)
    host.model("scripted", scripted_model("scripted", port=SCRIPTED))
    host.enable()
    with network_of(host):
        yield Scene(host)


@pytest.fixture(scope="module")
def token(booted: Scene) -> str:
    return add_token(booted.host, "all")


@pytest.fixture
def scene(booted: Scene) -> Iterator[Scene]:
    booted.host.settings(OURS)
    booted.reset()
    booted.reload()
    with Guard(booted.host, LARGE):
        yield booted
        await_nothing_held(booted, ALPHA, BETA, LOOP, SCRIPTED)


class Tally:
    """What clients were told, and how long they took."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.seconds: list[float] = []

    @property
    def good(self) -> int:
        return self.answers["good"]

    @property
    def bad(self) -> dict[str, int]:
        return {what: number for what, number in self.answers.items() if what != "good"}

    def tell(self, scene: Scene, seconds: float) -> None:
        """For who runs it by hand: pytest -s."""
        times = sorted(self.seconds)
        middle, late, latest = times[len(times) // 2], times[int(len(times) * 0.99)], times[-1]
        switches = len(scene.host.api("GET", "/api/switches")[1]["switches"])
        memory = scene.host.run("ps", "-o", "rss=", "-p", scene.daemon_pid()).stdout.strip()
        print(f"\n{CLIENTS} clients, {seconds:.0f} s: {dict(self.answers)}; {switches} switches, daemon {memory} KiB")
        print(f"  seconds for an answer: median {middle:.3f}, p99 {late:.3f}, longest {latest:.3f}")


async def alternating(token: str, first: int, ends_at: float, tally: Tally) -> None:
    """One client: A, B, A, B, half of it streamed, over one connection as long as that lasts."""
    number = first
    while time.monotonic() < ends_at:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            async with Caller(token) as caller:
                while time.monotonic() < ends_at:
                    number += 1
                    if not await one(caller, ("alpha", "beta")[number % 2], number % 4 < 2, tally):
                        break
                else:
                    return
            continue
        tally.answers["connection lost or refused"] += 1


async def one(caller: Caller, model: str, stream: bool, tally: Tally) -> bool:
    """One request; whether the connection may be used again."""
    begun = time.monotonic()
    await caller.send(model, stream=stream)
    reply = await caller.reply()
    tally.seconds.append(time.monotonic() - begun)
    good = reply.ended and reply.status == 200 and reply.text == sentence_of(model)
    tally.answers["good" if good else fault(reply.status, reply.body, reply.ended)] += 1
    # As the SDK does: who is told when to ask again does not ask before.
    await asyncio.sleep(min(float(reply.headers.get("retry-after", 0)), 5.0))
    return reply.ended and reply.headers.get("connection") != "close"


def fault(status: int, body: bytes, ended: bool) -> str:
    """A short name for what went wrong."""
    if not ended:
        return f"{status} cut"
    last = body.decode().strip().rpartition("data: ")[2]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f"{status} {json.loads(last)['error']['code']}"
    return f"{status} {last[:80]}"


async def load(token: str, seconds: float, tally: Tally) -> None:
    ends_at = time.monotonic() + seconds
    await asyncio.gather(*(alternating(token, number, ends_at, tally) for number in range(CLIENTS)))


async def test_many_who_alternate_between_two_models_see_no_error_of_ours(scene: Scene, token: str) -> None:
    """Also fault 6: all of them, all the time, get their turns."""
    tally = Tally()
    await load(token, SECONDS, tally)
    tally.tell(scene, SECONDS)
    assert tally.bad == {}
    assert tally.good >= 2 * CLIENTS, "each had both models"


PHASES = ("connected", "half a head", "half a body", "asked", "first byte", "some pieces", "the next one sent")


async def hang_up_in(phase: str, token: str, model: str, chance: random.Random) -> None:
    async with Caller(token) as caller:
        whole = caller.request(model, stream=chance.random() < 0.7, max_tokens=2000 if model == "loop" else 12)
        if phase == "connected":
            await asyncio.sleep(0)
        elif phase == "half a head":
            caller.writer.write(whole[: chance.randrange(1, 60)])
        elif phase == "half a body":
            caller.writer.write(whole[: -chance.randrange(1, 40)])
        else:
            caller.writer.write(whole)
        if phase in {"first byte", "some pieces"}:
            # What waits for a model that does not come now may never have a first byte.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.3, 0.8)):
                    for _ in range(1 if phase == "first byte" else 20):
                        await caller.reader.read(64)
        elif phase == "the next one sent":
            caller.writer.write(whole)
        await asyncio.sleep(chance.choice([0, 0.001, 0.02, 0.2]))  # any moment, not one that is waited for
        if chance.random() < 0.5:
            caller.hang_up()


async def test_fault_19_a_hundred_who_hang_up_at_any_moment_leave_nothing_behind(scene: Scene, token: str) -> None:
    """Counters, leases, waiting requests, connections to engines, descriptors."""
    scene.host.settings(FAST)
    scene.reload()
    scene.switch("loop")
    await_nothing_held(scene, ALPHA, BETA, LOOP, SCRIPTED)
    before = descriptors(scene)
    chance = random.Random(19)
    cases = [(PHASES[number % len(PHASES)], ("loop", "alpha", "loop", "beta")[number % 4]) for number in range(112)]
    chance.shuffle(cases)
    for at in range(0, len(cases), 16):
        await asyncio.gather(*(hang_up_in(phase, token, model, chance) for phase, model in cases[at : at + 16]))
    await asyncio.to_thread(await_nothing_held, scene, ALPHA, BETA, LOOP, SCRIPTED)
    await asyncio.to_thread(until, "no descriptor is left", lambda: descriptors(scene) <= before)
    async with Caller(token) as caller:
        await caller.send("alpha")
        assert (await caller.reply()).text == sentence_of("alpha")


async def test_kills_reloads_and_restarts_under_load_cost_only_what_was_under_way(scene: Scene, token: str) -> None:
    """An engine that is killed, a configuration read again, a daemon that is restarted: nobody is refused for it."""
    tally = Tally()
    seconds = max(SECONDS, 10.0)
    pressure = asyncio.create_task(load(token, seconds, tally))
    kills, pause, ends_at = 0, max(1.0, seconds / 60), time.monotonic() + seconds - 4
    try:
        while time.monotonic() < ends_at:
            await asyncio.sleep(pause)
            model, phase = await asyncio.to_thread(scene.slot)
            if phase == "serving":
                await asyncio.to_thread(kill, scene, str(model))
                kills += 1
            await asyncio.sleep(pause)
            await asyncio.to_thread(scene.host.run, "systemctl", "reload", DAEMON)
            await asyncio.to_thread(scene.reload)
            await asyncio.to_thread(scene.host.run, "systemctl", "restart", DAEMON)
    finally:
        await pressure
    tally.tell(scene, seconds)
    allowed = {"200 model_failed", "502 model_failed", "503 shutting_down", "200 shutting_down"}
    assert kills > 0
    assert tally.good >= CLIENTS
    assert tally.bad.keys() <= allowed
    assert not scene.host.run("systemctl", "list-units", "--failed", "--no-legend", "--plain", "spark-modeld*").stdout


def kill(scene: Scene, model: str) -> None:
    scene.host.run("systemctl", "kill", "-s", "KILL", f"spark-model@{model}.service", check=False)
