from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spark_modeld.systemd import notify
from spark_modeld.systemd.notify import Notify

pytestmark = pytest.mark.unit


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens as systemd does, and its address as in $NOTIFY_SOCKET."""
    folder = Path(tempfile.mkdtemp(prefix="n-"))
    name = str(folder / "notify") if request.param == "path" else f"@{folder.name}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind("\0" + name[1:] if name[0] == "@" else name)
        sock.settimeout(5)
        yield sock, name
    shutil.rmtree(folder)


def test_every_message(systemd: tuple[socket.socket, str]) -> None:
    sock, address = systemd
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    told = Notify(environ)
    assert environ == {"HOME": "/"}

    def heard() -> str:
        return sock.recv(4096).decode()

    told.ready()
    assert heard() == "READY=1"
    told.status("qwen: serving\nREADY=0")
    assert heard() == "STATUS=qwen: serving READY=0"
    told.status("qwen: serving READY=0")
    told.status("empty")
    assert heard() == "STATUS=empty"
    before = time.monotonic_ns() // 1000
    told.reloading()
    first, second = heard().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    told.stopping()
    assert heard() == "STOPPING=1"
    told.extend_timeout(5_000_000)
    assert heard() == "EXTEND_TIMEOUT_USEC=5000000"
    told.watchdog()
    assert heard() == "WATCHDOG=1"
    assert told.watchdog_interval() == 3.0


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
def test_not_watched(environ: dict[str, str]) -> None:
    assert Notify(environ).watchdog_interval() is None


def test_watched_whoever_we_are() -> None:
    assert Notify({"WATCHDOG_USEC": "500000"}).watchdog_interval() == 0.5


@pytest.mark.parametrize("address", ["", "vsock:2:1", "/nowhere/notify", "@nobody-listens", "/" + "x" * 200])
def test_nobody_to_tell(address: str) -> None:
    told = Notify({"NOTIFY_SOCKET": address})
    told.ready()
    told.status("empty")
    told.watchdog()


def test_a_full_queue_does_not_block(systemd: tuple[socket.socket, str]) -> None:
    sock, address = systemd
    told = Notify({"NOTIFY_SOCKET": address})
    for _ in range(5000):
        told.watchdog()
    assert sock.recv(100) == b"WATCHDOG=1"


def test_the_process_speaks_for_itself(systemd: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch) -> None:
    sock, address = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    notify._process.cache_clear()
    try:
        notify.ready()
        notify.status("empty")
        notify.reloading()
        notify.stopping()
        notify.extend_timeout(1)
        notify.watchdog()
        heard = [sock.recv(4096).decode().partition("=")[0] for _ in range(6)]
        assert heard == ["READY", "STATUS", "RELOADING", "STOPPING", "EXTEND_TIMEOUT_USEC", "WATCHDOG"]
        assert notify.watchdog_interval() == 2.0
        assert "NOTIFY_SOCKET" not in os.environ
    finally:
        notify._process.cache_clear()
