"""Other programs, each in a session of its own: one that hangs is ended with everything it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping

_DYING_SECONDS = 0.2


def start(*command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts it with pipes for what it says, and nothing to read. ``environment`` is beside ours. OSError."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills it with its session if it still runs, and closes its pipes."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # One that waits for a driver cannot even be killed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_DYING_SECONDS)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
