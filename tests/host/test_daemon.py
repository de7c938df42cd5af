"""The real daemon in its own unit: how it is started, stopped, reloaded and watched, and that no model ever notices."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import tomllib
from collections.abc import Callable, Iterator

import pytest

from support.scene import SETTINGS, STATE, Scene, bad_model
from support.spark import CONTROL_SOCKET, SOURCE, SparkHost
from support.tiny_models import sentence_of
from support.witness import DAEMON, Guard, engines, kill_daemon, until

pytestmark = pytest.mark.host

ALPHA, BETA, TINY = 8001, 8002, 8003
STATE_FOLDER = "/var/lib/spark-modeld"


def configure(host: SparkHost, *, settings: str = SETTINGS) -> None:
    """The catalog that every test starts with."""
    host.settings(settings)
    host.model("alpha", bad_model("alpha", port=ALPHA))
    host.model("beta", bad_model("beta", port=BETA))
    host.tiny("tiny", port=TINY)
    host.path("/etc/spark-modeld/models.d/gamma.toml").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def booted(installed_host: SparkHost) -> Scene:
    configure(installed_host)
    installed_host.enable()
    return Scene(installed_host)


@pytest.fixture
def scene(booted: Scene) -> Iterator[Scene]:
    """With an empty slot, the known configuration, and a guard over the test."""
    configure(booted.host)
    booted.host.run("systemctl", "start", DAEMON)
    booted.reload()
    booted.reset()
    with Guard(booted.host, frozenset({"alpha", "beta", "tiny", "gamma"})):
        yield booted
        booted.release()


def owner(host: SparkHost) -> str:
    return host.run("stat", "-c", "%U:%G %a", CONTROL_SOCKET).stdout.strip()


def unix(scene: Scene) -> str:
    return str(scene.host.api("GET", "/health")[1]["status"])


def tcp(scene: Scene) -> str:
    return str(json.loads(scene.host.run("curl", "-sS", "http://127.0.0.1:30100/health").stdout)["status"])


@pytest.mark.parametrize("connect", [unix, tcp])
def test_the_first_connection_starts_it_also_after_a_stop(scene: Scene, connect: Callable[[Scene], str]) -> None:
    host = scene.host
    for _ in range(2):
        host.run("systemctl", "stop", DAEMON)
        assert (host.show(DAEMON, "ActiveState"), owner(host)) == ("inactive", "root:spark-modeld 660")
        assert connect(scene) == "ok"
        assert (host.show(DAEMON, "ActiveState"), owner(host)) == ("active", "root:spark-modeld 660")


def test_it_runs_without_any_privilege(scene: Scene) -> None:
    status = scene.host.path(f"/proc/{scene.daemon_pid()}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    assert set(lines["Uid"].split()) == {scene.host.run("id", "-u", "spark-modeld").stdout.strip()}
    assert all(int(lines[kind], 16) == 0 for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert (lines["NoNewPrivs"].strip(), lines["Seccomp"].strip()) == ("1", "2")


def test_a_switch_from_the_operators_command_to_the_models_words(scene: Scene) -> None:
    scene.host.run("spark-modelctl", "switch", "--wait", "tiny")
    assert scene.host.ask(TINY) == sentence_of("tiny")
    scene.host.run("spark-modelctl", "switch", "--wait", "alpha")
    scene.serves("alpha", ALPHA)


def test_a_start_behind_its_back_fails_with_the_reason(scene: Scene) -> None:
    scene.switch("alpha")
    assert scene.host.run("systemctl", "start", "spark-model@beta.service", check=False).returncode != 0
    said = scene.host.journal("-o", "cat", "-u", "spark-model@beta.service")
    assert "refused: beta" in said
    assert "alpha" in said


def test_a_restart_refuses_no_connection(scene: Scene) -> None:
    scene.switch("alpha")
    over = threading.Event()
    answers: list[int] = []
    failures: list[BaseException] = []

    def call() -> None:
        while not over.is_set():
            try:
                answers.append(scene.host.api("GET", "/health")[0])
            except (OSError, ValueError, http.client.HTTPException) as error:
                failures.append(error)

    clients = [threading.Thread(target=call) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for _ in range(3):
            before = len(answers)
            scene.host.run("systemctl", "restart", DAEMON)
            until("clients are answered", lambda before=before: len(answers) > before + 10)  # type: ignore[misc]
    finally:
        over.set()
        for client in clients:
            client.join()
    assert not failures, f"{len(failures)} of {len(answers) + len(failures)}: {failures[0]!r}"
    assert set(answers) <= {200, 503}


@pytest.mark.parametrize("wish", ["alpha", None])
def test_a_start_brings_up_what_belongs_in_the_slot(scene: Scene, wish: str | None) -> None:
    """After a boot, when no model runs: the recorded wish, and an emptied slot stays empty."""
    configure(scene.host, settings=SETTINGS.replace("[slot]", '[slot]\ndefault = "beta"'))
    scene.switch(wish or "alpha")
    scene.switch(wish)
    scene.host.run("systemctl", "stop", DAEMON)
    scene.host.run("systemctl", "stop", "spark-model@alpha.service")
    scene.host.run("systemctl", "start", DAEMON)
    if wish:
        until("alpha is on its way", lambda: scene.slot()[0] == "alpha")
        scene.serves("alpha", ALPHA)
    else:
        assert scene.slot() == (None, "empty")
        assert scene.status()["switch"] is None
        assert engines(scene.host) == {}


def test_a_first_start_brings_up_the_default_once_it_is_ready(scene: Scene) -> None:
    configure(scene.host, settings=SETTINGS.replace("[slot]", '[slot]\ndefault = "beta"'))
    scene.host.run("systemctl", "stop", DAEMON)
    scene.host.path(STATE).unlink()
    scene.hold("beta-load")
    scene.host.run("systemctl", "start", DAEMON)  # returns at READY=1, while beta has not even loaded
    assert scene.host.show(DAEMON, "ActiveState") == "active"
    until("beta is on its way", lambda: scene.slot() == ("beta", "warming"))
    scene.release()
    scene.serves("beta", BETA)
    (switch,) = scene.host.api("GET", "/api/switches")[1]["switches"]
    assert (switch["requested_by"], switch["outcome"]) == ("reconcile", "ready")


@pytest.mark.parametrize("end", ["stop", "restart", "term", "upgrade"])
def test_the_model_outlives_the_daemon(scene: Scene, end: str) -> None:
    scene.switch("alpha")
    daemon, model = scene.daemon_pid(), scene.pid("alpha")
    match end:
        case "stop":
            scene.host.run("systemctl", "stop", DAEMON)
            assert scene.daemon_pid() == "0"
            assert scene.host.ask(ALPHA) == "I am alpha"
        case "restart":
            scene.host.run("systemctl", "restart", DAEMON)
        case "term":
            kill_daemon(scene.host, signal.SIGTERM)
            until("systemd has seen it", lambda: scene.daemon_pid() != daemon)
        case "upgrade":
            scene.host.run("make", "-C", SOURCE, "install")
            assert scene.daemon_pid() == daemon
            scene.host.run("systemctl", "restart", DAEMON)
    scene.serves("alpha", ALPHA)
    assert scene.daemon_pid() != daemon
    assert scene.pid("alpha") == model
    assert scene.switch("alpha")["noop"]


def test_a_restart_in_mid_switch_goes_on(scene: Scene) -> None:
    scene.switch("alpha")
    scene.hold("alpha-stop")
    switch_id = scene.begin("beta")
    scene.host.run("systemctl", "restart", DAEMON)
    assert scene.find(switch_id)["outcome"] is None
    scene.release()
    assert scene.ended(switch_id)["outcome"] == "ready"
    scene.serves("beta", BETA)


def test_the_watchdog_replaces_a_daemon_that_hangs(scene: Scene) -> None:
    drop_in = f"/run/systemd/system/{DAEMON}.d/watchdog.conf"
    scene.host.write(drop_in, "[Service]\nWatchdogSec=2s\n")
    scene.host.run("systemctl", "daemon-reload")
    scene.host.run("systemctl", "restart", DAEMON)
    try:
        scene.switch("alpha")
        daemon, model = scene.daemon_pid(), scene.pid("alpha")
        kill_daemon(scene.host, signal.SIGSTOP)
        until("systemd has replaced it", lambda: scene.daemon_pid() not in {daemon, "0"})
        scene.serves("alpha", ALPHA)
        assert scene.pid("alpha") == model
        assert "Watchdog timeout" in scene.host.journal("-o", "cat", "-u", DAEMON)
    finally:
        scene.host.path(drop_in).unlink()
        scene.host.run("systemctl", "daemon-reload")
        scene.host.run("systemctl", "restart", DAEMON)


def by_signal(scene: Scene) -> None:
    kill_daemon(scene.host, signal.SIGHUP)


def by_systemctl(scene: Scene) -> None:
    scene.host.run("systemctl", "reload", DAEMON)


@pytest.mark.parametrize("reload", [by_signal, by_systemctl, Scene.reload])
def test_a_reload_leaves_the_unchanged_alone(scene: Scene, reload: Callable[[Scene], None]) -> None:
    scene.switch("alpha")
    daemon, model = scene.daemon_pid(), scene.pid("alpha")
    scene.host.model("gamma", bad_model("gamma", port=8004))
    reload(scene)
    until("gamma is known", lambda: scene.host.api("GET", "/api/models/gamma")[0] == 200)
    assert (scene.daemon_pid(), scene.pid("alpha")) == (daemon, model)
    scene.serves("alpha", ALPHA)
    scene.switch("gamma")
    scene.serves("gamma", 8004)


@pytest.mark.parametrize("reload", [by_signal, by_systemctl])
def test_a_reload_that_is_wrong_keeps_the_old(scene: Scene, reload: Callable[[Scene], None]) -> None:
    scene.switch("alpha")
    model = scene.pid("alpha")
    scene.host.settings(SETTINGS.replace("start_timeout", "start_timeuot"))
    code, problem = scene.host.api("POST", "/api/reload")
    assert (code, problem["code"]) == (422, "invalid-config")
    assert "start_timeuot" in json.dumps(problem["findings"])
    reload(scene)
    assert unix(scene) == "ok"
    until("it is said", lambda: "the configuration was not taken" in scene.host.journal("-o", "cat", "-u", DAEMON))
    scene.serves("alpha", ALPHA)
    assert scene.pid("alpha") == model
    scene.switch("beta")


def test_a_broken_configuration_keeps_the_daemon_up_and_the_model_untouched(scene: Scene) -> None:
    scene.switch("alpha")
    model = scene.pid("alpha")
    scene.host.settings(SETTINGS + "nonsense = 1\n")
    scene.host.run("systemctl", "restart", DAEMON)
    for path in ("/health", "/api/status"):
        code, problem = scene.host.api("GET", path)
        assert (code, problem["code"]) == (503, "invalid-config")
        assert any("nonsense" in json.dumps(finding) for finding in problem["findings"])
    assert scene.host.api("POST", "/api/switch", {"model": "beta"})[1]["code"] == "invalid-config"
    assert scene.host.run("spark-modelctl", "status", check=False).returncode == 1
    assert "configuration" in scene.host.show(DAEMON, "StatusText")
    assert scene.host.ask(ALPHA) == "I am alpha"
    configure(scene.host)
    scene.reload()
    scene.serves("alpha", ALPHA)
    assert scene.pid("alpha") == model
    scene.switch("beta")
    scene.serves("beta", BETA)


@pytest.fixture
def small_disk(scene: Scene) -> Iterator[Scene]:
    """The state on a file system of its own, with room for little."""
    host = scene.host
    host.run("systemctl", "stop", DAEMON)
    options = "size=256k,mode=0750,uid=spark-modeld,gid=spark-modeld-secrets"
    host.run("mount", "-t", "tmpfs", "-o", options, "tmpfs", STATE_FOLDER)
    host.run("systemctl", "start", DAEMON)
    yield scene
    host.run("systemctl", "stop", DAEMON)
    host.run("umount", STATE_FOLDER)
    host.run("systemctl", "start", DAEMON)


def test_a_full_disk_stops_no_switch(small_disk: Scene) -> None:
    scene = small_disk
    scene.switch("alpha")
    assert scene.record()["desired"] == "alpha"
    scene.host.run("dd", "if=/dev/zero", f"of={STATE_FOLDER}/filler", "bs=4k", check=False)
    scene.switch("beta")
    scene.serves("beta", BETA)
    assert "state-not-saved" in scene.warnings()
    assert scene.record()["desired"] == "alpha"  # the last one that could be saved, in one piece
    scene.host.path(f"{STATE_FOLDER}/filler").unlink()
    scene.switch("alpha")
    until("it is saved", lambda: "state-not-saved" not in scene.warnings())
    assert scene.record()["desired"] == "alpha"
    assert [path.name for path in scene.host.path(STATE_FOLDER).iterdir()] == ["state.toml"]


@pytest.mark.parametrize("content", [b"\0" * 512, b'desired = "al', b"\xff\xfe"])
def test_a_damaged_record_is_set_aside(scene: Scene, content: bytes) -> None:
    scene.switch("alpha")
    model = scene.pid("alpha")
    scene.host.run("systemctl", "stop", DAEMON)
    scene.host.path(STATE).write_bytes(content)
    scene.host.run("systemctl", "start", DAEMON)
    try:
        scene.serves("alpha", ALPHA)
        assert scene.pid("alpha") == model
        (warning,) = [each for each in scene.status()["warnings"] if each["code"] == "state-damaged"]
        (aside,) = list(scene.host.path(STATE_FOLDER).glob("state.toml.damaged-*"))
        assert aside.name in warning["message"]
        assert aside.read_bytes() == content
        scene.switch("beta")
        assert tomllib.loads(scene.host.path(STATE).read_text())["desired"] == "beta"
    finally:
        for aside in scene.host.path(STATE_FOLDER).glob("state.toml.damaged-*"):
            aside.unlink()
