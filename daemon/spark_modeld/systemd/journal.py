"""What a unit said, through journalctl: the journal's own reader, which knows what its caller may see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator

from spark_modeld.core.errors import Code, refuse
from spark_modeld.core.redact import redact
from spark_modeld.core.unit import LogLine

DEADLINE_SECONDS = 5.0
OUTPUT_LIMIT = 4 << 20
LINES_LIMIT = 1000
LINE_LIMIT = 2000
"""Characters; a line that an engine fills with a tensor helps nobody."""
FOLLOWERS = 16
"""At once, each of them a process."""

# What the unit's processes wrote; what systemd wrote about a system unit, and about a user's.
_RUN_FIELDS = ("_SYSTEMD_INVOCATION_ID", "INVOCATION_ID", "USER_INVOCATION_ID")


class Journalctl:
    """ports.Journal."""

    def __init__(self, *, user: bool = False, program: str = "journalctl") -> None:
        self._command = (program, "--quiet", "--no-pager", "--output=json", *(("--user",) if user else ()))
        self._unit = "--user-unit" if user else "--unit"
        self._followers = 0

    async def tail(self, unit: str, lines: int, *, since: float | None = None) -> tuple[str, ...]:
        """See ports.Journal. It never raises."""
        try:
            output = await self._last(unit, lines, *([] if since is None else [f"--since=@{math.floor(since)}"]))
        except (OSError, ValueError, TimeoutError):
            return ()
        return _latest_run(output)

    async def read(self, unit: str, lines: int) -> tuple[LogLine, ...]:
        """See ports.Journal."""
        try:
            output = await self._last(unit, lines)
        except (OSError, ValueError, TimeoutError) as error:
            raise refuse(Code.INTERNAL, f"The journal cannot be read: {error or 'journalctl hangs'}.") from error
        return tuple(entry[1] for line in output.splitlines() if (entry := _entry(line)) is not None)

    def follow(self, unit: str, lines: int) -> AsyncGenerator[LogLine, None]:
        """See ports.Journal."""
        if self._followers >= FOLLOWERS:
            detail = f"{FOLLOWERS} logs are being followed already, which is as many as there may be."
            raise refuse(Code.BUSY, detail, retry_after=30)
        return self._follow(unit, lines)

    async def _follow(self, unit: str, lines: int) -> AsyncGenerator[LogLine, None]:
        self._followers += 1
        try:
            # Told to show the last lines, journalctl (252) that finds none at all shows no later one either.
            everything = () if await self._has_spoken(unit) else ("--no-tail",)
            process = await self._start(unit, lines, "--follow", *everything)
            assert process.stdout is not None
            try:
                while line := await _next_line(process.stdout):
                    if (entry := _entry(line)) is not None:
                        yield entry[1]
            finally:
                await asyncio.shield(_end(process, finished=process.stdout.at_eof()))
        finally:
            self._followers -= 1

    async def _has_spoken(self, unit: str) -> bool:
        """Whether there is any line of the unit's; where that cannot be read, following says what is wrong."""
        try:
            return bool(await self._last(unit, 1))
        except (OSError, TimeoutError):
            return True

    async def _last(self, unit: str, lines: int, *more: str) -> bytes:
        if lines < 1:
            return b""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self._output(unit, lines, *more)

    async def _output(self, unit: str, lines: int, *more: str) -> bytes:
        process = await self._start(unit, lines, *more)
        assert process.stdout is not None
        output = bytearray()
        try:
            while len(output) < OUTPUT_LIMIT and (piece := await process.stdout.read(1 << 16)):
                output += piece
        finally:
            await asyncio.shield(_end(process, finished=process.stdout.at_eof()))
        return bytes(output)

    async def _start(self, unit: str, lines: int, *more: str) -> Process:
        count = min(max(lines, 0), LINES_LIMIT)
        return await asyncio.create_subprocess_exec(
            *self._command,
            *(f"{self._unit}={unit}", f"--lines={count}", *more),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,
        )


async def _next_line(stream: asyncio.StreamReader) -> bytes:
    """The next line, empty at the end; of one that is longer than the stream's limit nothing is kept."""
    while True:
        try:
            return await stream.readline()
        except ValueError:
            continue


async def _end(process: Process, *, finished: bool) -> None:
    """The process is gone when this returns; its pipe is drained so that the transport closes."""
    if not finished and process.returncode is None:
        # Not process.kill(): it polls first, and so takes the exit status from under asyncio's own wait.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await process.communicate()


def _latest_run(output: bytes) -> tuple[str, ...]:
    """The messages that belong to the newest invocation of the unit, and those after its first that name none."""
    entries = [entry for line in output.splitlines() if (entry := _entry(line)) is not None]
    latest = next((run for run, _ in reversed(entries) if run), "")
    first = next((i for i, (run, _) in enumerate(entries) if run == latest), 0)
    return tuple(said.text for run, said in entries[first:] if run in {latest, ""})


def _entry(line: bytes) -> tuple[str, LogLine] | None:
    """One line of ``--output=json`` as invocation id ("" if none) and what was said; None if it is no entry."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    run = next((v for name in _RUN_FIELDS if isinstance(v := fields.get(name), str)), "")
    text = redact(_CONTROL.sub("", _text(fields.get("MESSAGE"))))[:LINE_LIMIT]
    return run, LogLine(_time(fields.get("__REALTIME_TIMESTAMP")), text)


def _time(microseconds: object) -> float:
    if isinstance(microseconds, str) and microseconds.isascii() and microseconds.isdigit() and len(microseconds) < 18:
        return int(microseconds) / 1e6
    return 0.0


# Colours and other terminal commands, and then every control character but the tab: the text ends on terminals.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _text(message: object) -> str:
    if isinstance(message, str):
        return message
    if isinstance(message, list):  # bytes that are not UTF-8 or not printable come as numbers
        with contextlib.suppress(TypeError, ValueError):
            return bytes(message).decode(errors="replace")
    if message is None:  # journalctl leaves out what is longer than 4096 bytes
        return "[a line too long to show]"
    return str(message)
