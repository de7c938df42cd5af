"""Looks at a SparkHost from outside: its events as they come, its processes, and that two large models never live.

Nothing here asks the daemon what is true, but for the events; systemd's control groups and /proc are read directly.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from support.spark import CONTROL_SOCKET, SparkHost

DAEMON = "spark-modeld.service"
MODELS_SLICE = "/sys/fs/cgroup/spark.slice/spark-models.slice"
ENGINES = (b"bad_engine.py", b"scripted_engine.py", b"llama-server")
DEADLINE_SECONDS = 30.0

T = TypeVar("T")


def unit(model: str) -> str:
    """The model's unit."""
    return f"spark-model@{model}.service"


def until(what: str, look: Callable[[], T | None], *, seconds: float = DEADLINE_SECONDS) -> T:
    """What ``look`` returns once it is true: for states that announce themselves to nobody. AssertionError."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)


def processes(host: SparkHost, cgroup: str) -> list[int]:
    """The processes of a control group of the host, as this machine numbers them."""
    found: list[int] = []
    for folder, _, _ in os.walk(host.path(cgroup)):
        with contextlib.suppress(OSError):
            found += map(int, Path(folder, "cgroup.procs").read_text().split())
    return found


def kill_daemon(host: SparkHost, number: signal.Signals = signal.SIGKILL) -> int:
    """Sends a signal to the daemon's main process, at once and past systemd; its PID on this machine."""
    (daemon,) = [
        pid for pid in processes(host, f"/sys/fs/cgroup/system.slice/{DAEMON}") if b"spark-modeld" in _command_line(pid)
    ]
    os.kill(daemon, number)
    return daemon


def engines(host: SparkHost) -> dict[str, set[int]]:
    """The live engine processes of each model, by what the kernel knows; gates and launchers are none."""
    alive: dict[str, set[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(host.path(MODELS_SLICE)):
            model = entry.name.removeprefix("spark-model@").removesuffix(".service")
            if model != entry.name and (found := {pid for pid in _procs(entry.path) if _is_engine(pid)}):
                alive[model] = found
    return alive


def _procs(cgroup: str) -> list[int]:
    try:
        return list(map(int, Path(cgroup, "cgroup.procs").read_text().split()))
    except OSError:  # it has just ended
        return []


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _is_engine(pid: int) -> bool:
    line = _command_line(pid)
    return any(name in line for name in ENGINES) and not line.startswith((b"/bin/sh", b"/usr/bin/setpriv"))


class Guard:
    """Watches all the time, in its own thread: when it ends, it fails if two of ``large`` were ever alive at once."""

    def __init__(self, host: SparkHost, large: frozenset[str]) -> None:
        self._host, self._large = host, large
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="guard")
        self.looks = 0
        self.seen: set[str] = set()
        self.together: list[dict[str, set[int]]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.looks > 0
        assert not self.together, f"two large models were alive at once: {self.together[0]}"

    def _look(self) -> None:
        while not self._over.wait(0.004):
            alive = engines(self._host)
            self.looks += 1
            self.seen |= alive.keys()
            if len(alive.keys() & self._large) > 1:
                self.together.append(alive)


@dataclass(frozen=True)
class Told:
    """One server-sent event."""

    id: int
    kind: str
    data: dict[str, Any]


class Events:
    """The daemon's event stream on the control socket, subscribed when entered."""

    def __init__(self, host: SparkHost) -> None:
        self._path = host.path(CONTROL_SOCKET)
        self._sock = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        self._sock.settimeout(DEADLINE_SECONDS)
        self._sock.connect(str(self._path))
        self._sock.sendall(b"GET /api/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        self._lines = self._sock.makefile("r", encoding="utf-8", newline="\n")
        while not next(self._lines).startswith("retry:"):
            pass
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._sock.close()

    def __iter__(self) -> Iterator[Told]:
        """Ends when the daemon does, or at the deadline: heartbeats alone would keep it up for ever."""
        fields: dict[str, str] = {}
        deadline = time.monotonic() + DEADLINE_SECONDS
        with contextlib.suppress(ConnectionError, TimeoutError):
            for line in self._lines:
                if time.monotonic() > deadline:
                    return
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    yield Told(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                    fields = {}

    def first(self, kind: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The data of the first event of this kind that is wanted. AssertionError if the stream ends before it."""
        seen = []
        for told in self:
            if told.kind == kind and wanted(told.data):
                return told.data
            seen.append(told)
        raise AssertionError(f"that never came, but {seen}")

    until = first

    def phase(self, model: str, phase: str) -> dict[str, Any]:
        """The data of the first event that says that this model's life is in this phase."""
        return self.first("model", lambda data: (data["id"], data["state"]) == (model, phase))
