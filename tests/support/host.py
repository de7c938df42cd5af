"""The throwaway host: a real systemd as PID 1 of new namespaces, over a copy-on-write view of this machine's root.

It has its own system bus, journal, polkit, devices, /tmp and (unless asked otherwise) network; nothing it writes
reaches this machine. It boots in about half a second, and several run side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

STATES = Path("/run/spark-modeld-hosts")
INIT = Path(__file__).with_name("host-init")
BOOT_SECONDS = 60.0
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "hostname", "dbus-daemon")

_numbers = itertools.count(1)


def why_not() -> str | None:
    """Why this machine cannot run a throwaway host; None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)}"
    if not Path("/lib/systemd/systemd").exists():
        return "needs systemd to be installed"
    if _cgroup2() is None:
        return "needs a cgroup v2 mount"
    tried = subprocess.run(
        ["unshare", "-m", "-p", "-f", "-C", "-u", "-i", "-n", "true"], check=False, capture_output=True, text=True
    )
    return f"needs namespaces: {tried.stderr.strip()}" if tried.returncode else None


def _cgroup2() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(target)
    return None


class Host:
    """One throwaway host; use it as a context manager.

    ``binds`` maps folders inside to folders of this machine that appear there read-only. With ``share_net`` it has
    this machine's network, so that ports inside are ports here. ``root`` is what it is a view of. With a ``disk`` what
    it writes outlasts its power, for ``power_cycle``.
    """

    def __init__(
        self,
        *,
        binds: Mapping[str, Path] | None = None,
        share_net: bool = False,
        root: Path = Path("/"),
        disk: bool = False,
    ) -> None:
        # The last part: a dead process that left a host behind may have had our PID.
        self.name = f"spark-{os.getpid()}-{next(_numbers)}-{secrets.token_hex(2)}"
        self.pid = 0
        self._binds = dict(binds or {})
        self._share_net = share_net
        self._root = root
        self._disk = disk
        self._state = STATES / self.name
        cgroup2 = _cgroup2()
        assert cgroup2 is not None
        self.cgroup = cgroup2 / self.name
        self._launcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def boot(self) -> None:
        """Returns when systemd has started everything. RuntimeError with the console's words if it does not."""
        _sweep()
        for folder in ("root", "rw", *(["disk"] if self._disk else [])):
            (self._state / folder).mkdir(parents=True, exist_ok=True)
        # Its own cgroup, entered before the cgroup namespace is made: two PID 1 must not share a tree.
        self.cgroup.mkdir()
        enter = 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"'
        pairs = [word for target, source in self._binds.items() for word in (str(source), target)]
        command = [
            *("setpriv", "--pdeathsig", "KILL", "bash", "-c", enter, "_", str(self.cgroup)),
            *("unshare", "-m", "-p", "-f", "-C", "-u", "-i", *([] if self._share_net else ["-n"])),
            *("--kill-child", "--mount-proc", str(INIT), str(self._state)),
            *("shared" if self._share_net else "private", str(self._root), *pairs),
        ]
        with (self._state / "console").open("wb") as console:
            self._launcher = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        self._await_systemd()
        self.run("systemctl", "is-system-running", "--wait", check=False)

    def _await_systemd(self) -> None:
        assert self._launcher is not None
        children = Path(f"/proc/{self._launcher.pid}/task/{self._launcher.pid}/children")
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self._launcher.poll() is None:
            if (found := children.read_text().split()) and Path(f"/proc/{found[0]}/comm").read_text() == "systemd\n":
                self.pid = int(found[0])
                if self.path("/run/systemd/private").exists():
                    return
            time.sleep(0.01)  # nothing tells a machine from outside that PID 1 is listening
        raise RuntimeError(f"the throwaway host did not boot: {(self._state / 'console').read_text()}")

    def path(self, inside: str) -> Path:
        """Where a file of the host is seen from this machine."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str, content: str, *, mode: int = 0o644) -> None:
        """Writes a file inside, root's own, with its folders."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        target.chmod(mode)

    def command(self, *argv: str, user: str | None = None) -> list[str]:
        """The command line that runs ``argv`` inside, as root or as ``user``."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-u", "-i", "-n", "-r", "-w", "--"]
        drop = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--reset-env", "--"] if user else []
        return [*enter, *drop, *argv]

    def run(
        self, *argv: str, user: str | None = None, check: bool = True, timeout: float = 120, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside and returns when it has ended; its words are in the error if it fails."""
        done = subprocess.run(
            self.command(*argv, user=user),
            check=False,
            input=input or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def popen(self, *argv: str, user: str | None = None, **options: Any) -> subprocess.Popen[str]:
        """Starts a command inside."""
        return subprocess.Popen(self.command(*argv, user=user), text=True, **options)

    def show(self, unit: str, prop: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", prop, unit).stdout.strip()

    def journal(self, *arguments: str) -> str:
        """The host's journal up to now; ``-o cat`` for the bare messages."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "--boot", *arguments, check=False).stdout

    def await_program(self, unit: str, name: str) -> int:
        """The unit's main PID inside, once it executes the program of this name. TimeoutError."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            pid = int(self.show(unit, "MainPID"))
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end while we look
                if pid and self.path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return pid
        raise TimeoutError(f"{unit} does not run {name}:\n{self.journal('-u', unit)}")

    def await_end(self) -> None:
        """Returns when the host has gone down by itself. TimeoutExpired after two minutes."""
        assert self._launcher is not None
        self._launcher.wait(120)

    def power_cycle(self) -> None:
        """Shuts it down the way an administrator would, and boots it again from its disk."""
        assert self._disk
        self.run("systemctl", "poweroff", check=False)
        self.await_end()
        self._launcher, self.pid = None, 0
        _remove_cgroup(self.cgroup)
        self.boot()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops every process inside, PID 1 too, as if the machine were suspended; only its clocks go on."""
        freezer, events = self.cgroup / "cgroup.freeze", self.cgroup / "cgroup.events"
        freezer.write_text("1")
        try:
            while "frozen 1" not in events.read_text():
                time.sleep(0.001)  # until each of them has stopped
            yield
        finally:
            freezer.write_text("0")

    def stop(self) -> None:
        """Ends every process inside; its mounts go with it."""
        if self._launcher is not None:
            if self.pid and self._launcher.poll() is None:
                os.kill(self.pid, signal.SIGKILL)
            try:
                self._launcher.wait(10)
            except subprocess.TimeoutExpired:
                self._launcher.kill()
                self._launcher.wait()
            self._launcher = None
        _remove(self._state, self.cgroup)


def _remove(state: Path, cgroup: Path) -> None:
    _remove_cgroup(cgroup)
    shutil.rmtree(state, ignore_errors=True)


def _remove_cgroup(cgroup: Path) -> None:
    deadline = time.monotonic() + 10
    while cgroup.exists() and "populated 1" in (cgroup / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    for folder, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(folder)


def _sweep() -> None:
    """Removes what hosts of processes that are gone have left behind."""
    cgroup2 = _cgroup2()
    assert cgroup2 is not None
    STATES.mkdir(parents=True, exist_ok=True)
    with (STATES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes begin at once, and would remove the same
        for state in STATES.glob("spark-*-*"):
            if not Path(f"/proc/{state.name.split('-')[1]}").exists():
                _remove(state, cgroup2 / state.name)
