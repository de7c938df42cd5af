"""The last words of a unit, through journalctl: the journal's own reader, which knows what its caller may see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process

from spark_modeld.core.redact import redact

DEADLINE_SECONDS = 5.0
OUTPUT_LIMIT = 4 << 20
LINES_LIMIT = 1000
LINE_LIMIT = 2000
"""Characters; a line that an engine fills with a tensor helps nobody."""


class Journalctl:
    """ports.Journal. Secrets are taken out of what it returns; it never raises."""

    def __init__(self, *, user: bool = False, program: str = "journalctl") -> None:
        self._command = (program, "--quiet", "--no-pager", "--output=json", *(("--user",) if user else ()))
        self._unit = "--user-unit" if user else "--unit"

    async def tail(self, unit: str, lines: int) -> tuple[str, ...]:
        """See ports.Journal. Lines of an earlier run are left out."""
        count = min(max(lines, 0), LINES_LIMIT)
        if count == 0:
            return ()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                output = await self._run(f"{self._unit}={unit}", f"--lines={count}")
        except (OSError, ValueError, TimeoutError):
            return ()
        return _latest_run(output)

    async def _run(self, *arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *self._command, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, start_new_session=True
        )
        assert process.stdout is not None
        output = bytearray()
        try:
            while len(output) < OUTPUT_LIMIT and (piece := await process.stdout.read(1 << 16)):
                output += piece
        finally:
            await asyncio.shield(_end(process, finished=process.stdout.at_eof()))
        return bytes(output)


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
    return tuple(text for run, text in entries[first:] if run in {latest, ""})


def _entry(line: bytes) -> tuple[str, str] | None:
    """One line of ``--output=json`` as invocation id ("" if none) and text; None if it is no entry."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    run = next((v for name in _RUN_FIELDS if isinstance(v := fields.get(name), str)), "")
    return run, redact(_CONTROL.sub("", _text(fields.get("MESSAGE"))))[:LINE_LIMIT]


# What the unit's processes wrote; what systemd wrote about a system unit, and about a user's.
_RUN_FIELDS = ("_SYSTEMD_INVOCATION_ID", "INVOCATION_ID", "USER_INVOCATION_ID")


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
