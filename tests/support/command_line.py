"""spark-modelctl as a process, for tests of the command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAEMON = str(Path(__file__).parents[2] / "daemon")


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Ctl:
    """Runs the command line of one control API."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": DAEMON,
            "PYTHONWARNINGS": "error",
            "PYTHONIOENCODING": "utf-8",
            "SPARK_MODELD_SOCKET": str(socket),
            "COLUMNS": "120",
        }

    async def start(self, *args: str, stdout: int = asyncio.subprocess.PIPE, **env: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "spark_modeld.cli.main",
            *args,
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env={**self.env, **env},
        )

    async def __call__(self, *args: str, stdin: str = "", **env: str) -> Done:
        return await finished(await self.start(*args, **env), stdin)


async def finished(process: asyncio.subprocess.Process, stdin: str = "") -> Done:
    async with asyncio.timeout(20):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Done(process.returncode, (out or b"").decode(), err.decode())
