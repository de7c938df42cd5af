"""The per-user systemd: the same units, without root, polkit or users to drop to."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Iterator

import pytest

from support.serving import bad_model
from support.spark import SOCKETS, SparkHost, llama_model
from support.tiny_models import sentence_of, tiny_model
from support.witness import until

pytestmark = pytest.mark.host

PORTS = {"alpha": 8001, "beta": 8002, "runaway": 8003}
OWN_PORT, OWN_GATEWAY = 30177, 30178
SETTINGS = f"""\
[memory]
reserve = "256MiB"
large = "16MiB"
floor = "128MiB"
[control]
listen = ["127.0.0.1:{OWN_PORT}"]
"""


class User:
    """Somebody with a user manager of their own."""

    def __init__(self, host: SparkHost, name: str) -> None:
        self.host, self.name = host, name
        host.run("useradd", "--create-home", name)
        self.uid = host.run("id", "-u", name).stdout.strip()
        host.run("loginctl", "enable-linger", name)
        host.run("systemctl", "start", f"user@{self.uid}.service")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.host.run("env", f"XDG_RUNTIME_DIR=/run/user/{self.uid}", *argv, user=self.name, check=check)

    def configure(self) -> None:
        """Tiny models, each of which says its own name; one is put into a scope of its own."""
        folder = f"/home/{self.name}/.config/spark-modeld"
        for model, port in PORTS.items():
            entry = llama_model(model, port=port, gguf=f"/srv/models/{tiny_model(model).name}", memory="64MiB")
            if model == "runaway":
                shell = (
                    'command = ["/bin/sh", "-c", "systemd-run --user --scope --quiet -- \\"$@\\" & wait", "serve.sh", '
                )
                entry = entry.replace("command = [", shell)
            self.host.write(f"{folder}/models.d/{model}.toml", entry)
        self.host.write(f"{folder}/spark-modeld.toml", SETTINGS)
        self.host.run("chown", "-R", f"{self.name}:", f"/home/{self.name}/.config")

    def systemctl(self, *words: str, check: bool = True) -> str:
        return self.run("systemctl", "--user", *words, check=check).stdout.strip()

    def show(self, unit: str, prop: str) -> str:
        return self.systemctl("show", "--value", "--property", prop, unit)

    def switch(self, model: str) -> None:
        self.run("spark-modelctl", "--user", "switch", "--wait", model)

    def serves(self, model: str) -> None:
        """Only this model runs, as its user, and answers."""
        assert self.host.ask(PORTS[model]) == sentence_of(model)
        pid = self.show(f"spark-model@{model}", "MainPID")
        assert self.host.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == self.name
        for other in PORTS.keys() - {model}:
            assert self.show(f"spark-model@{other}", "ActiveState") == "inactive"


@pytest.fixture(scope="module")
def user(installed_host: SparkHost) -> User:
    user = User(installed_host, "ursula")
    user.configure()
    user.systemctl("enable", "--now", *SOCKETS)
    return user


def test_switches(user: User) -> None:
    for model in ("alpha", "beta", "alpha"):
        user.switch(model)
        user.serves(model)
    assert user.show("spark-modeld", "StatusText") == "alpha: serving"
    state = user.host.path(f"/home/{user.name}/.local/state/spark-modeld/state.toml")
    assert tomllib.loads(state.read_text())["desired"] == "alpha"


def test_the_model_outlives_the_daemon(user: User) -> None:
    user.switch("alpha")
    daemon, model = user.show("spark-modeld", "MainPID"), user.show("spark-model@alpha", "MainPID")
    user.systemctl("kill", "--signal", "KILL", "spark-modeld")
    until("it is back", lambda: user.show("spark-modeld", "MainPID") not in {daemon, "0"})
    user.switch("alpha")
    user.serves("alpha")
    assert user.show("spark-model@alpha", "MainPID") == model


def test_a_start_behind_the_daemons_back_is_asked_about(user: User) -> None:
    user.switch("alpha")
    assert user.run("systemctl", "--user", "start", "spark-model@beta", check=False).returncode != 0
    user.systemctl("reset-failed", "spark-model@beta")
    user.serves("alpha")
    user.systemctl("stop", "spark-model@alpha")
    user.systemctl("start", "spark-model@alpha")
    user.host.await_engine(PORTS["alpha"])
    user.serves("alpha")


def test_what_escapes_is_ended_before_the_next_one_starts(user: User) -> None:
    user.switch("runaway")
    user.serves("runaway")
    scopes = user.systemctl("list-units", "--no-legend", "--plain", "--type=scope", "run-*")
    assert scopes
    user.switch("alpha")
    user.serves("alpha")
    said = user.host.journal("-o", "cat", "--identifier=spark-model-sweep")
    assert "llama-server (PID " in said
    assert "outlived spark-model@runaway.service: SIGTERM" in said
    assert not user.systemctl("list-units", "--no-legend", "--plain", "--type=scope", "run-*")


def test_daemon_and_engine_are_read_in_one_story(user: User) -> None:
    user.switch("beta")
    user.switch("alpha")
    told = user.run("spark-modelctl", "--user", "logs", "alpha").stdout
    assert "processing task" in told
    newest = json.loads(user.run("spark-modelctl", "--user", "history", "--json").stdout)["switches"][0]
    shown = user.run("spark-modelctl", "--user", "history", newest["id"]).stdout
    command = shown.splitlines()[-1].removeprefix("the whole story: ").split()
    whole = user.run(*command, "--output=cat").stdout
    assert "stopping spark-model@beta.service" in whole
    assert "processing task" in whole


def test_the_socket_is_the_users_own(user: User) -> None:
    shown = user.run("stat", "-c", "%U %a", f"/run/user/{user.uid}/spark-modeld/control.sock").stdout.strip()
    assert shown == "ursula 600"


@pytest.fixture
def by_hand(user: User) -> Iterator[subprocess.Popen[str]]:
    """``spark-modeld --user`` in the foreground, while systemd has none."""
    user.systemctl("stop", *SOCKETS, "spark-modeld.service")
    script = 'echo $$ >"$XDG_RUNTIME_DIR/by-hand.pid"; exec spark-modeld --user'
    environment = ("env", f"XDG_RUNTIME_DIR=/run/user/{user.uid}", "sh", "-c", script)
    daemon = user.host.popen(*environment, user=user.name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    yield daemon
    end_by_hand(user)
    daemon.communicate(timeout=30)
    user.systemctl("start", *SOCKETS)


def end_by_hand(user: User) -> None:
    user.run("sh", "-c", 'kill -TERM "$(cat "$XDG_RUNTIME_DIR/by-hand.pid")"', check=False)


def test_started_by_hand_it_binds_for_itself(user: User, by_hand: subprocess.Popen[str]) -> None:
    runs = ("spark-modelctl", "--user", "status", "--json")
    until("it answers", lambda: user.run(*runs, check=False).returncode == 0)
    for model in ("beta", "alpha"):
        user.switch(model)
        user.serves(model)
    shown = user.run("stat", "-c", "%U", f"/run/user/{user.uid}/spark-modeld/control.sock").stdout.strip()
    assert shown == user.name
    url = f"http://127.0.0.1:{OWN_PORT}"
    assert user.host.run("curl", "-sS", f"{url}/health").stdout == '{"status":"ok"}'
    assert user.host.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/api/status").stdout == "401"
    made = user.run("spark-modelctl", "--user", "token", "add", "--json", "--scope", "observe", "mine").stdout
    assert '"token"' in made
    end_by_hand(user)
    said, _ = by_hand.communicate(timeout=30)
    assert by_hand.returncode == 0, said
    assert "is ready" in said
    user.serves("alpha")
    assert user.run(*runs, check=False).returncode == 3


@pytest.fixture
def beside(user: User) -> Iterator[None]:
    """The machine's own daemon has its ports, and the user's is set up as README says."""
    settings, tcp = f"/home/{user.name}/.config/spark-modeld/spark-modeld.toml", SOCKETS[1:]
    user.systemctl("stop", *SOCKETS, "spark-modeld.service")
    user.host.enable()
    user.host.path(settings).write_text(f'{SETTINGS}[gateway]\nlisten = ["127.0.0.1:{OWN_GATEWAY}"]\n')
    user.systemctl("disable", *tcp)
    user.systemctl("mask", *tcp)
    user.systemctl("enable", "--now", SOCKETS[0])
    yield
    user.host.run("systemctl", "disable", "--now", *SOCKETS, "spark-modeld.service")
    user.systemctl("stop", SOCKETS[0], "spark-modeld.service")
    user.systemctl("unmask", *tcp)
    user.host.path(settings).write_text(SETTINGS)
    user.systemctl("enable", "--now", *SOCKETS)


@pytest.mark.usefixtures("beside")
def test_beside_the_machines_own_it_has_ports_of_its_own(user: User) -> None:
    user.switch("alpha")
    user.serves("alpha")
    for port in (30101, OWN_GATEWAY):
        assert user.host.run("curl", "-sS", f"http://127.0.0.1:{port}/health").returncode == 0
    told = json.loads(user.run("spark-modelctl", "--user", "doctor", "--json", check=False).stdout)
    assert [each for each in told["findings"] if each["level"] == "error"] == []
    assert user.systemctl("--failed", "--plain", "--no-legend") == ""


def test_a_logout_holds_the_model_to_its_stop_time(user: User) -> None:
    entry = bad_model("stubborn", 8004, "--ignore-sigterm", memory="64MiB", extra='stop_timeout = "1s"')
    user.host.write(f"/home/{user.name}/.config/spark-modeld/models.d/stubborn.toml", entry)
    user.host.run("chown", "-R", f"{user.name}:", f"/home/{user.name}/.config")
    user.run("spark-modelctl", "--user", "reload")
    user.switch("stubborn")
    user.host.run("systemctl", "stop", f"user@{user.uid}.service")
    assert "spark-model@stubborn.service has not stopped within 1 s: killed" in user.host.journal("-o", "cat")
