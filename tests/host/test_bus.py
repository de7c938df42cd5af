"""The system bus goes away, and systemd re-executes itself: idle and in the middle of a switch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from support.scene import SETTINGS, Scene, bad_model
from support.spark import SparkHost
from support.witness import Events, Guard, engines, until

pytestmark = pytest.mark.host

ALPHA, BETA = 8001, 8002


@pytest.fixture(scope="module")
def booted(installed_host: SparkHost) -> Scene:
    host = installed_host
    host.settings(SETTINGS)
    host.model("alpha", bad_model("alpha", port=ALPHA))
    host.model("beta", bad_model("beta", port=BETA))
    # They come and go more often here than systemd would put up with (newer ones count a socket's starts, too).
    for bus in ("dbus.service", "dbus.socket"):
        host.write(f"/run/systemd/system/{bus}.d/often.conf", "[Unit]\nStartLimitIntervalSec=0\n")
    host.run("systemctl", "daemon-reload")
    host.enable()
    return Scene(host)


@pytest.fixture
def scene(booted: Scene) -> Iterator[Scene]:
    """With alpha serving, and a guard over the rest of the test."""
    booted.host.run("systemctl", "start", "dbus.socket")
    until("the bus is there", lambda: booted.host.api("GET", "/health")[0] == 200)
    booted.reset()
    booted.switch("alpha")
    with Guard(booted.host, frozenset({"alpha", "beta"})):
        yield booted
        booted.release()


def kill_bus(scene: Scene) -> None:
    """dbus-daemon dies; its socket starts another one for whoever comes first."""
    scene.host.run("systemctl", "kill", "--signal", "KILL", "dbus.service")


def take_bus_away(scene: Scene) -> None:
    """The bus dies and does not come back by itself."""
    scene.host.run("systemctl", "stop", "dbus.socket", "dbus.service")
    until("the daemon has noticed", lambda: scene.host.api("GET", "/health")[0] == 503)


def give_bus_back(scene: Scene) -> None:
    scene.host.run("systemctl", "start", "dbus.socket")
    until("the daemon is connected again", lambda: scene.host.api("GET", "/health")[0] == 200)


def test_killed_it_comes_back_and_the_model_never_knows(scene: Scene) -> None:
    daemon, model = scene.daemon_pid(), scene.pid("alpha")
    for _ in range(2):
        with Events(scene.host) as events:
            kill_bus(scene)
            events.first("slot", lambda data: data["phase"] == "unknown")
            events.first("slot", lambda data: data["phase"] == "serving")
        scene.serves("alpha", ALPHA)
    assert (scene.daemon_pid(), scene.pid("alpha")) == (daemon, model)
    assert scene.switch("beta")["from"] == "alpha"
    scene.serves("beta", BETA)
    assert scene.daemon_pid() == daemon


def test_while_it_is_away_the_daemon_says_so_and_touches_nothing(scene: Scene) -> None:
    model = scene.pid("alpha")
    take_bus_away(scene)
    code, problem = scene.host.api("GET", "/health")
    assert (code, problem["code"]) == (503, "bus-lost")
    status = scene.status()
    assert status["bus"] == "lost"
    assert (status["slot"]["model"], status["slot"]["phase"]) == ("alpha", "unknown")
    code, problem = scene.host.api("POST", "/api/switch", {"model": "beta"})
    assert (code, problem["code"]) == (503, "bus-lost")
    assert "bus" in scene.host.show("spark-modeld.service", "StatusText")
    assert scene.host.ask(ALPHA) == "I am alpha"
    give_bus_back(scene)
    scene.serves("alpha", ALPHA)
    assert scene.pid("alpha") == model
    scene.switch("beta")


def test_a_start_of_the_daemon_brings_it_back(scene: Scene) -> None:
    model = scene.pid("alpha")
    take_bus_away(scene)
    scene.host.run("systemctl", "restart", "spark-modeld.service")
    scene.serves("alpha", ALPHA)
    assert scene.pid("alpha") == model


@pytest.mark.parametrize(("phase", "held"), [("stopping", "alpha-stop"), ("warming", "beta-load")])
def test_killed_in_mid_switch_the_switch_goes_on(scene: Scene, phase: str, held: str) -> None:
    scene.hold(held)
    with Events(scene.host) as events:
        switch_id = scene.begin("beta")
        events.first("switch", lambda data: data["id"] == switch_id and data["phase"] == phase)
        if phase == "warming":
            until("the engine runs", lambda: "beta" in engines(scene.host))
        before = engines(scene.host)
        kill_bus(scene)
        events.first("slot", lambda data: data["phase"] == "unknown")
        events.first("slot", lambda data: data["phase"] == phase)
    assert engines(scene.host) == before
    assert scene.find(switch_id)["outcome"] is None
    scene.release()
    assert scene.ended(switch_id)["outcome"] == "ready"
    scene.serves("beta", BETA)
    if phase == "warming":
        assert engines(scene.host) == before


@pytest.mark.parametrize(("phase", "held"), [("stopping", "alpha-stop"), ("warming", "beta-load")])
def test_what_ends_while_it_is_away_is_seen_afterwards(scene: Scene, phase: str, held: str) -> None:
    scene.hold(held)
    with Events(scene.host) as events:
        switch_id = scene.begin("beta")
        events.first("switch", lambda data: data["id"] == switch_id and data["phase"] == phase)
    if phase == "stopping":  # it is told when systemd is asked, and without the bus nobody can be
        shown = partial(scene.host.show, "spark-model@alpha.service", "ActiveState")
        until("systemd stops alpha", lambda: shown() == "deactivating")
    take_bus_away(scene)
    scene.release()
    if phase == "stopping":
        until("alpha is gone", lambda: not engines(scene.host))
    assert scene.find(switch_id)["outcome"] is None
    assert "beta" not in engines(scene.host) or phase == "warming"
    give_bus_back(scene)
    assert scene.ended(switch_id)["outcome"] == "ready"
    scene.serves("beta", BETA)


def test_daemon_reexec_while_idle(scene: Scene) -> None:
    daemon, model = scene.daemon_pid(), scene.pid("alpha")
    for _ in range(2):
        scene.host.run("systemctl", "daemon-reexec")
        scene.serves("alpha", ALPHA)
    assert (scene.daemon_pid(), scene.pid("alpha")) == (daemon, model)
    scene.switch("beta")
    scene.serves("beta", BETA)


@pytest.mark.parametrize(("phase", "held"), [("stopping", "alpha-stop"), ("warming", "beta-load")])
def test_daemon_reexec_in_mid_switch(scene: Scene, phase: str, held: str) -> None:
    scene.hold(held)
    daemon = scene.daemon_pid()
    with Events(scene.host) as events:
        switch_id = scene.begin("beta")
        events.first("switch", lambda data: data["id"] == switch_id and data["phase"] == phase)
    scene.host.run("systemctl", "daemon-reexec")
    assert scene.find(switch_id)["outcome"] is None
    scene.release()
    assert scene.ended(switch_id)["outcome"] == "ready"
    scene.serves("beta", BETA)
    assert scene.daemon_pid() == daemon


def test_a_model_that_dies_while_it_is_away_is_raised_again(scene: Scene) -> None:
    take_bus_away(scene)
    scene.host.run("systemctl", "kill", "--signal", "KILL", "spark-model@alpha.service")
    until("it is dead", lambda: not engines(scene.host))
    give_bus_back(scene)
    until("alpha is back", lambda: scene.slot() == ("alpha", "serving"))
    scene.serves("alpha", ALPHA)
