"""The per-user systemd: the same units, without root, polkit or users to drop to."""

from __future__ import annotations

import subprocess

import pytest

from support.spark import SparkHost, llama_model
from support.tiny_models import sentence_of, tiny_model

pytestmark = pytest.mark.host

PORT = 8001


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
        folder = f"/home/{self.name}/.config/spark-modeld"
        entry = llama_model("alpha", port=PORT, gguf=f"/srv/models/{tiny_model('alpha').name}", memory="64MiB")
        self.host.write(f"{folder}/models.d/alpha.toml", entry)
        self.host.write(f"{folder}/spark-modeld.toml", '[memory]\nreserve = "256MiB"\nfloor = "128MiB"\n')
        self.host.run("chown", "-R", f"{self.name}:", f"/home/{self.name}/.config")


@pytest.fixture(scope="module")
def user(installed_host: SparkHost) -> User:
    user = User(installed_host, "ursula")
    user.configure()
    user.run("systemctl", "--user", "enable", "--now", "spark-modeld.socket", "spark-modeld-http.socket")
    return user


def test_a_switch(user: User) -> None:
    user.run("spark-modelctl", "--user", "switch", "--wait", "alpha")
    assert user.host.ask(PORT) == sentence_of("alpha")
    pid = user.run(
        "systemctl", "--user", "show", "--value", "--property", "MainPID", "spark-model@alpha"
    ).stdout.strip()
    assert user.host.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == "ursula"


def test_a_start_behind_the_daemons_back_is_asked_about(user: User) -> None:
    user.run("systemctl", "--user", "stop", "spark-model@alpha")
    user.run("systemctl", "--user", "start", "spark-model@alpha")
    user.host.await_engine(PORT)
    assert user.host.ask(PORT) == sentence_of("alpha")


def test_the_socket_is_the_users_own(user: User) -> None:
    shown = user.run("stat", "-c", "%U %a", f"/run/user/{user.uid}/spark-modeld/control.sock").stdout.strip()
    assert shown == "ursula 600"
