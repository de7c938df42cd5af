"""The wheel, put by pipx into the home of somebody who is not root, on a machine where nothing of ours is installed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clean import ENGINES, REPOSITORY, engine, script
from support.host import Host
from support.witness import until

pytestmark = pytest.mark.package

WHEELS = "/opt/wheels"
USER = "paula"
PORTS = {"alpha": 8001, "beta": 8002}
SETTINGS = '[memory]\nreserve = "64MiB"\nlarge = "16MiB"\nfloor = "32MiB"\n'
SOCKETS = ("spark-modeld.socket", "spark-modeld-http.socket", "spark-modeld-gateway.socket")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and all that it asks for."""
    folder = tmp_path_factory.mktemp("wheels")
    built = REPOSITORY / script("packaging/wheel")
    lock = ("--no-deps", "--require-hashes", "-r", "packaging/requirements.txt")
    pip = ("build/setuptools/bin/python3", "-m", "pip")
    script(*pip, "download", "-q", "--only-binary", ":all:", *lock, "-d", str(folder))
    (folder / built.name).write_bytes(built.read_bytes())
    return folder


class Home:
    """The user, with a systemd of their own and no network."""

    def __init__(self, host: Host) -> None:
        self.host = host
        host.run("useradd", "--create-home", USER)
        self.uid = host.run("id", "-u", USER).stdout.strip()
        host.run("loginctl", "enable-linger", USER)
        host.run("systemctl", "start", f"user@{self.uid}.service")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        path = f"PATH=/home/{USER}/.local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        pip = ("PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}")
        return self.host.run("env", f"XDG_RUNTIME_DIR=/run/user/{self.uid}", path, *pip, *argv, user=USER, check=check)

    def show(self, unit: str, prop: str) -> str:
        return self.run("systemctl", "--user", "show", "--value", "--property", prop, unit).stdout.strip()

    def configure(self) -> None:
        folder = f"/home/{USER}/.config/spark-modeld"
        self.host.write(f"{folder}/spark-modeld.toml", SETTINGS)
        for model, port in PORTS.items():
            self.host.write(f"{folder}/models.d/{model}.toml", engine(model, port=port))
        self.host.run("chown", "-R", f"{USER}:", f"/home/{USER}/.config")


@pytest.fixture(scope="module")
def home(wheels: Path) -> Iterator[Home]:
    wheels.chmod(0o755)
    with Host(binds={WHEELS: wheels, ENGINES: REPOSITORY / "tests" / "support"}) as host:
        home = Home(host)
        home.run("pipx", "install", "--python", "/usr/bin/python3", "--system-site-packages", "spark-modeld")
        home.configure()
        yield home


def test_pipx_gives_both_programs(home: Home) -> None:
    assert home.run("spark-modeld", "--version").stdout.startswith("spark-modeld ")
    assert home.run("spark-modelctl", "--version").stdout.startswith("spark-modelctl")
    assert not home.host.path("/usr/lib/spark-modeld").exists()


def test_its_units_switch_models(home: Home) -> None:
    said = home.run("spark-modelctl", "install-units").stdout
    assert "systemctl --user enable --now" in said
    home.run("systemctl", "--user", "enable", "--now", *SOCKETS)
    for model in ("alpha", "beta"):
        home.run("spark-modelctl", "--user", "switch", model)
        pid = home.show(f"spark-model@{model}", "MainPID")
        assert home.host.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == USER
    assert home.show("spark-model@alpha", "ActiveState") == "inactive"
    # The gate of this installation is asked too.
    assert home.run("systemctl", "--user", "start", "spark-model@alpha", check=False).returncode != 0
    assert home.show("spark-model@beta", "ActiveState") == "active"


def test_all_of_it_goes_again(home: Home) -> None:
    home.run("spark-modelctl", "--user", "switch", "--empty")
    home.run("systemctl", "--user", "disable", "--now", *SOCKETS, "spark-modeld.service")
    home.run("spark-modelctl", "install-units", "--remove")
    home.run("pipx", "uninstall", "spark-modeld")
    until("it has ended", lambda: home.show("spark-modeld.service", "ActiveState") == "inactive")
    left = home.run("find", f"/home/{USER}", "-name", "*spark-model*", "!", "-path", "*/.config/spark-modeld*").stdout
    assert [path for path in left.split() if "/.local/state/" not in path and "/logs/" not in path] == []
