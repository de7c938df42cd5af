"""kill -9 of the daemon: in every phase of a switch, and again and again."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.scene import HOLDS, MEMINFO, SETTINGS, Scene, bad_model
from support.spark import SparkHost
from support.witness import DAEMON, Events, Guard, engines, kill_daemon, unit, until

pytestmark = pytest.mark.host

ALPHA, BETA, BROKEN = 8001, 8002, 8003
LARGE = frozenset({"alpha", "beta", "broken"})
WAIT = f"/bin/sh -c 'while test -e {HOLDS}/%i-{{}}; do sleep 0.02; done'"
ROOM, NO_ROOM = 1 << 30, 80 << 20


@pytest.fixture(scope="module")
def booted(installed_host: SparkHost) -> Scene:
    """alpha and beta, which can be held up anywhere, and broken, which dies while it loads."""
    host = installed_host
    host.settings(SETTINGS)
    host.model("alpha", bad_model("alpha", port=ALPHA))
    host.model("beta", bad_model("beta", port=BETA))
    host.model("broken", bad_model("broken", "--die-after-seconds", "0.05", port=BROKEN))
    slow = f"[Service]\nExecStartPre={WAIT.format('pre')}\nExecStartPost={WAIT.format('post')}\n"
    host.write("/etc/systemd/system/spark-model@.service.d/held.conf", slow)
    seam = f"[Service]\nEnvironment=SPARK_MODELD_MEMINFO={MEMINFO}\n"
    host.write(f"/etc/systemd/system/{DAEMON}.d/meminfo.conf", seam)
    host.run("systemctl", "daemon-reload")
    memory(host, ROOM)
    host.enable()
    return Scene(host)


@pytest.fixture
def scene(booted: Scene) -> Iterator[Scene]:
    """With alpha serving, and a guard over the rest of the test."""
    memory(booted.host, ROOM)
    booted.reset()
    booted.switch("alpha")
    with Guard(booted.host, LARGE):
        yield booted
        booted.release()
        memory(booted.host, ROOM)


def memory(host: SparkHost, available: int) -> None:
    """What the daemon takes for the kernel's numbers."""
    lines = {"MemTotal": 8 << 30, "MemFree": available, "MemAvailable": available}
    host.write(f"{MEMINFO}.new", "".join(f"{name}: {size >> 10} kB\n" for name, size in lines.items()))
    host.path(f"{MEMINFO}.new").replace(host.path(MEMINFO))


def kill_in(scene: Scene, model: str | None, wanted: Any) -> str:
    """Requests a switch, kills the daemon at the event that is wanted, and returns the switch's id."""
    before = scene.daemon_pid()
    with Events(scene.host) as events:
        switch_id = scene.begin(model)
        events.first("switch", lambda data: data["id"] == switch_id and wanted(data))
        kill_daemon(scene.host)
    until("systemd has seen it", lambda: scene.daemon_pid() not in {before})
    return switch_id


@pytest.mark.parametrize(
    ("phase", "held"),
    [
        ("admitting", []),
        ("stopping", []),
        ("stopping", ["alpha-stop"]),
        ("reclaiming", ["memory"]),
        ("starting", ["beta-pre"]),
        ("starting", ["beta-post"]),
        ("warming", []),
        ("warming", ["beta-load"]),
    ],
)
def test_the_same_switch_goes_on_and_ends(scene: Scene, phase: str, held: list[str]) -> None:
    for name in held:
        if name == "memory":
            memory(scene.host, NO_ROOM)  # it fits with what alpha gives back, and then alpha gives nothing back
        else:
            scene.hold(name)
    switch_id = kill_in(scene, "beta", lambda data: data["phase"] == phase)
    found = scene.find(switch_id)
    assert (found["model"], found["from"], found["requested_by"], found["actor"]) == (
        *("beta", "alpha"),
        *("control", "uid 0"),
    )
    if held:
        assert found["outcome"] is None
        assert scene.status()["switch"]["id"] == switch_id
    memory(scene.host, ROOM)
    scene.release()
    ended = scene.ended(switch_id)
    assert (ended["outcome"], ended["error"]) == ("ready", None)
    scene.serves("beta", BETA)
    assert scene.status()["desired"] == "beta"
    assert scene.record()["desired"] == "beta"


@pytest.mark.parametrize("held", ["beta-pre", "beta-post", "beta-load"])
def test_a_start_under_way_is_not_started_again(scene: Scene, held: str) -> None:
    scene.hold(held)
    starts = starts_of(scene.host, "beta")
    phase = "warming" if held == "beta-load" else "starting"
    with Events(scene.host) as events:
        switch_id = scene.begin("beta")
        events.first("switch", lambda data: data["id"] == switch_id and data["phase"] == phase)
        if held != "beta-pre":
            until("the engine runs", lambda: "beta" in engines(scene.host))
        before = engines(scene.host)
        kill_daemon(scene.host)
    assert scene.find(switch_id)["outcome"] is None
    scene.release()
    assert scene.ended(switch_id)["outcome"] == "ready"
    if held != "beta-pre":
        assert engines(scene.host) == before
    assert starts_of(scene.host, "beta") == starts + 1


def starts_of(host: SparkHost, model: str) -> int:
    """How often its engine has been started, by its own words."""
    return host.journal("-o", "cat", "-u", unit(model)).count(f"{model}: pid ")


@pytest.mark.parametrize("phase", ["stopping", "starting", "warming"])
def test_the_way_back_goes_on(scene: Scene, phase: str) -> None:
    held = {"stopping": "broken-stop", "starting": "alpha-pre", "warming": "alpha-load"}[phase]
    scene.hold(held)
    if phase == "stopping":
        # Something to stop on the way back: a model that does not die by itself, and is given up on.
        scene.hold("beta-load")
        scene.hold("beta-stop")
        before = scene.daemon_pid()
        with Events(scene.host) as events:
            switch_id = scene.begin("beta")
            events.first("switch", lambda data: data["id"] == switch_id and data["phase"] == "warming")
            assert scene.host.api("DELETE", f"/api/switches/{switch_id}")[0] == 202
            events.first("switch", lambda data: bool(data["rollback"]))
            kill_daemon(scene.host)
        until("systemd has seen it", lambda: scene.daemon_pid() != before)
        outcome, error = "cancelled", "cancelled"
    else:
        switch_id = kill_in(scene, "broken", lambda data: (data["rollback"] or {}).get("phase") == phase)
        outcome, error = "rolled-back", "model-failed"
    found = scene.find(switch_id)
    assert found["outcome"] is None
    assert found["rollback"]["model"] == "alpha"
    scene.release()
    ended = scene.ended(switch_id)
    assert (ended["outcome"], ended["error"]["code"]) == (outcome, error)
    scene.serves("alpha", ALPHA)
    assert scene.status()["desired"] == "alpha"


def test_emptying_the_slot_goes_on(scene: Scene) -> None:
    scene.hold("alpha-stop")
    switch_id = kill_in(scene, None, lambda data: data["phase"] == "stopping")
    assert scene.find(switch_id)["outcome"] is None
    scene.release()
    assert scene.ended(switch_id)["outcome"] == "ready"
    assert scene.slot() == (None, "empty")
    assert engines(scene.host) == {}
    kill_daemon(scene.host)
    assert scene.slot() == (None, "empty")


def test_once_answered_a_switch_is_not_forgotten(scene: Scene) -> None:
    """Whoever has read the 202 has a promise, however soon after it the daemon is killed."""
    for model in ("beta", "alpha", "beta", "alpha"):
        before = scene.daemon_pid()
        switch_id = scene.begin(model)
        kill_daemon(scene.host)
        until("systemd has seen it", lambda before=before: scene.daemon_pid() != before)
        assert scene.ended(switch_id)["outcome"] == "ready"
    scene.serves("alpha", ALPHA)


def test_a_serving_model_is_left_alone(scene: Scene) -> None:
    model = scene.pid("alpha")
    for _ in range(3):
        before = scene.daemon_pid()
        kill_daemon(scene.host)
        scene.serves("alpha", ALPHA)
        assert scene.daemon_pid() not in {before, "0"}
    assert scene.pid("alpha") == model
    assert scene.switch("alpha")["noop"]
    assert scene.pid("alpha") == model


def test_a_storm_leaves_a_valid_record_and_the_last_wish(scene: Scene) -> None:
    def storm() -> None:
        for pause in (0.3, 0.9, 0.5, 1.2, 0.7, 1.0, 0.4, 0.8):  # at any moment: while it starts, switches, saves
            time.sleep(pause)
            with contextlib.suppress(ValueError, ProcessLookupError):  # there is none just now
                kill_daemon(scene.host)

    thread = threading.Thread(target=storm)
    thread.start()
    answered = []
    while thread.is_alive():
        with contextlib.suppress(OSError, http.client.HTTPException):
            answered.append(scene.begin(("beta", "alpha")[len(answered) % 2]))
        scene.record()
    thread.join()
    known = {switch["id"]: switch for switch in scene.host.api("GET", "/api/switches")[1]["switches"]}
    assert answered
    answered = answered[-100:]  # a fast machine answers more than the 200 that are remembered
    assert set(answered) <= known.keys()
    # One that was never answered may have been taken as well, and is then the last wish.
    last = max(known.values(), key=lambda switch: str(switch["started_at"]))
    assert scene.ended(last["id"])["outcome"] == "ready"
    scene.serves(last["model"], {"alpha": ALPHA, "beta": BETA}[last["model"]])
    assert {scene.find(each)["outcome"] for each in answered} <= {"ready", "superseded"}
    assert scene.record()["desired"] == last["model"]
    assert "state-damaged" not in scene.warnings()
