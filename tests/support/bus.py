"""A private dbus-daemon with a scripted systemd on it, and a sink that remembers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from spark_modeld.ports import BusReport

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <limit name="max_replies_per_connection">50000</limit>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"""
FAKE = Path(__file__).with_name("fake_systemd.py")

R = TypeVar("R", bound=BusReport)


class Recorder:
    """A BusSink; ``until`` waits for a report."""

    def __init__(self) -> None:
        self.reports: list[BusReport] = []
        self._more = asyncio.Event()

    def __call__(self, report: BusReport) -> None:
        self.reports.append(report)
        self._more.set()

    def of(self, kind: type[R]) -> list[R]:
        return [report for report in self.reports if isinstance(report, kind)]

    async def until(self, kind: type[R], match: Callable[[R], bool] = lambda _: True, *, since: int = 0) -> R:
        """The first report of this kind that matches, at or after position ``since``."""
        async with asyncio.timeout(20):
            while True:
                for report in self.reports[since:]:
                    if isinstance(report, kind) and match(report):
                        return report
                self._more.clear()
                await self._more.wait()


class Bus:
    """The dbus-daemon and the scripted systemd; both can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = f"unix:path={folder}/bus"
        self._daemon: asyncio.subprocess.Process | None = None
        self._systemd: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """The dbus-daemon, without any systemd."""
        socket = self._folder / "bus"
        socket.unlink(missing_ok=True)
        config = self._folder / "bus.conf"
        config.write_text(CONFIG.format(socket=socket))
        self._daemon = await asyncio.create_subprocess_exec(
            "dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._daemon.stdout is not None
        assert await self._daemon.stdout.readline()

    async def start_systemd(self, *, own: bool = True) -> None:
        """The scripted systemd; ``own`` its name."""
        self._systemd = await asyncio.create_subprocess_exec(
            sys.executable, str(FAKE), self.address, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert self._systemd.stdout is not None
        assert await self._systemd.stdout.readline()
        if own:
            await self.do("own")

    async def do(self, command: str, **values: Any) -> Any:
        """Runs one command of the script; returns when its signals are on the bus."""
        assert self._systemd is not None
        assert self._systemd.stdin is not None
        assert self._systemd.stdout is not None
        self._systemd.stdin.write(json.dumps({"do": command, **values}).encode() + b"\n")
        return json.loads(await self._systemd.stdout.readline())

    async def plan(self, method: str, *plans: dict[str, Any]) -> None:
        """What the next calls of ``method`` do, one plan each."""
        await self.do("plan", method=method, plans=list(plans))

    async def unit(self, name: str, *, emit: bool = False, **values: Any) -> None:
        """Creates or changes a unit."""
        await self.do("set", unit=name, values=values, emit=emit)

    async def called(self, *methods: str) -> None:
        """Returns once each of these was called since the calls were last taken."""
        missing = set(methods)
        async with asyncio.timeout(20):
            while missing:
                missing -= {call[0] for call in await self.do("calls")}

    def pause(self) -> None:
        """The dbus-daemon stays, and answers nothing."""
        import signal

        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        """Kills the dbus-daemon; the scripted systemd ends with it."""
        for process in (self._daemon, self._systemd):
            if process is None:
                continue
            if process.returncode is None:
                process.kill()
            if process.stdin is not None:
                process.stdin.close()
            await process.communicate()
        self._daemon = self._systemd = None
