"""The daemon's command line, as a process: options, the first lines of failure, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spark_modeld import __version__

pytestmark = pytest.mark.unit

DAEMON = Path(__file__).resolve().parents[2] / "daemon"
SECONDS = 30

BUG = """
import sys
from spark_modeld import app, engine
open_ = engine.Engine.open
def broken(self):
    open_(self)
    self._post(lambda: 1 / 0)
engine.Engine.open = broken
sys.exit(app.main(sys.argv[1:]))
"""


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing of this machine is touched: no bus, no sockets passed, no user's files."""
    for name in ("run", "state", "config"):
        (tmp_path / name).mkdir()
    (tmp_path / "config" / "spark-modeld.toml").write_text(
        '[control]\nlisten = ["127.0.0.1:0"]\n[gateway]\nlisten = ["127.0.0.1:0"]\n'
    )
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(DAEMON),
        "HOME": str(tmp_path),
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/no-bus",
        "CONFIGURATION_DIRECTORY": str(tmp_path / "config"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
    }


@pytest.fixture
def manager(tmp_path: Path, place: dict[str, str]) -> Iterator[socket.socket]:
    """Hears what the daemon tells systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(SECONDS)
        place["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        yield sock


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spark_modeld.app", *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(DAEMON), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)


def heard(manager: socket.socket, wanted: str) -> None:
    """Returns when systemd has been told this."""
    while wanted not in manager.recv(4096).decode():
        pass


def test_it_says_its_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"spark-modeld {__version__}\n", "")


def test_it_says_what_it_can_be_told() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--user", "--config DIR", "--version"))


@pytest.mark.parametrize("arguments", [["--no-such"], ["--config"], ["extra"]])
def test_a_wrong_command_line_is_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: spark-modeld")
    assert "Traceback" not in done.stderr


def test_a_user_without_a_session_is_told_in_one_line() -> None:
    done = run("--user", HOME="/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("spark-modeld: XDG_RUNTIME_DIR is not set")
    assert done.stderr.count("\n") == 1


def test_an_address_in_use_is_told_without_a_traceback(place: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = tmp_path / "config" / "spark-modeld.toml"
        settings.write_text(f'[control]\nlisten = ["127.0.0.1:{port}"]\n')
        done = run("--user", **place)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("spark-modeld: ")
    assert "in use" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(place: dict[str, str], manager: socket.socket, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "spark_modeld.app", "--user"]
    with subprocess.Popen(command, env=place, stderr=subprocess.PIPE, text=True) as daemon:
        heard(manager, "READY=1")
        daemon.send_signal(number)
        heard(manager, "STOPPING=1")
        _, said = daemon.communicate(timeout=SECONDS)
    assert daemon.returncode == 0, said
    assert "models are left as they are" in said
    assert "Traceback" not in said


def test_a_broken_configuration_does_not_keep_it_down(
    place: dict[str, str], manager: socket.socket, tmp_path: Path
) -> None:
    (tmp_path / "config" / "spark-modeld.toml").write_text('[slot]\ndefualt = "x"\n')
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(tmp_path / "run" / "control.sock"))
        passed.listen()
        # As systemd passes one: the first descriptor after stderr, and the process's own id.
        script = f'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=control exec "$0" "$@" 3<&{passed.fileno()}'
        command = ["bash", "-c", script, sys.executable, "-m", "spark_modeld.app", "--user"]
        with subprocess.Popen(
            command, env=place, stderr=subprocess.PIPE, text=True, pass_fds=[passed.fileno()]
        ) as daemon:
            heard(manager, "configuration is not valid")
            daemon.terminate()
            _, said = daemon.communicate(timeout=SECONDS)
    assert daemon.returncode == 0, said


def test_a_bug_in_the_engine_ends_it_with_a_failure_so_that_systemd_starts_it_anew(
    place: dict[str, str], manager: socket.socket
) -> None:
    command = [sys.executable, "-c", BUG, "--user"]
    with subprocess.Popen(command, env=place, stderr=subprocess.PIPE, text=True) as daemon:
        heard(manager, "READY=1")
        heard(manager, "STOPPING=1")
        _, said = daemon.communicate(timeout=SECONDS)
    assert daemon.returncode == 1
    assert "a bug has ended the engine" in said
    assert "ZeroDivisionError" in said
