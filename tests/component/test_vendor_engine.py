"""The stand-ins for SGLang, vLLM, TRT-LLM and NIM go through the steps that other layers rely on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from support.engines import free_port
from support.vendor_engine import HEALTH, STEPS

pytestmark = pytest.mark.component
SCRIPT = Path(__file__).parents[1] / "support" / "vendor_engine.py"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


class Running:
    """One engine as a child, and what it says."""

    def __init__(self, folder: Path, kind: str, *switches: str) -> None:
        self.port, self.holds = free_port(), folder
        command = [sys.executable, "-I", "-S", str(SCRIPT), f"--as={kind}", "--name=e", f"--port={self.port}"]
        self.process = subprocess.Popen(
            [*command, f"--holds={folder}", *switches], stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def until(self, words: str) -> list[str]:
        """What it says up to this; it is told nothing meanwhile."""
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line.strip())
            if words in line:
                return said
        raise AssertionError(f"it never said {words!r}, but {said}")

    def release(self, step: str) -> None:
        (self.holds / step).unlink()

    def ask(self, path: str, body: object = None, **headers: str) -> int:
        """The status, 0 where nothing listens."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            method, sent = ("GET", None) if body is None else ("POST", json.dumps(body))
            try:
                connection.request(method, path, sent, headers)
                return connection.getresponse().status
            except ConnectionRefusedError:
                return 0

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def running(folder: Path, kind: str, *switches: str, hold: tuple[str, ...] = ()) -> Iterator[Running]:
    for step in hold:
        (folder / step).touch()
    engine = Running(folder, kind, *switches)
    try:
        yield engine
    finally:
        with suppress(ProcessLookupError):
            os.killpg(engine.process.pid, signal.SIGKILL)
        engine.process.wait()
        assert engine.process.stdout is not None
        engine.process.stdout.close()


@pytest.mark.parametrize(
    ("kind", "waiting", "end"),
    [
        # health, model list and generation in each step before it is up; how it ends after a SIGTERM
        ("sglang", {"refused": (0, 0, 0), "starting": (503, 200, 200)}, -signal.SIGKILL),
        ("vllm", {"refused": (0, 0, 0)}, 0),
        ("trtllm", {"refused": (0, 0, 0)}, 0),
        ("nim", {"starting": (503, 503, 503)}, 143),
    ],
)
def test_from_refused_to_ready_to_gone(
    tmp_path: Path, kind: str, waiting: dict[str, tuple[int, int, int]], end: int
) -> None:
    assert tuple(waiting) == STEPS[kind]
    with running(tmp_path, kind, hold=tuple(waiting)) as engine:
        for step, statuses in waiting.items():
            engine.until(f"step {step}")
            asked = (HEALTH[kind], None), ("/v1/models", None), ("/v1/chat/completions", CHAT)
            assert tuple(engine.ask(path, body) for path, body in asked) == statuses
            engine.release(step)
        engine.until("ready")
        assert engine.ask(HEALTH[kind]) == 200
        assert engine.ask("/v1/models") == 200
        assert engine.ask("/v1/chat/completions", CHAT) == 200
        assert engine.ask("/v1/chat/completions", {**CHAT, "model": "other"}) == 404
        assert engine.ask("/health") == (404 if kind == "nim" else 200)
        assert engine.end() == end


def test_nim_is_live_before_it_is_ready(tmp_path: Path) -> None:
    with running(tmp_path, "nim", hold=("starting",)) as engine:
        engine.until("step starting")
        assert (engine.ask("/v1/health/live"), engine.ask("/v1/health/ready")) == (200, 503)


def test_health_early(tmp_path: Path) -> None:
    with running(tmp_path, "vllm", "--fault=early", hold=("early",)) as engine:
        engine.until("step early")
        assert (engine.ask("/health"), engine.ask("/v1/chat/completions", CHAT)) == (200, 503)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_the_key_guards_what_the_vendors_guard(tmp_path: Path, key: str | None) -> None:
    with running(tmp_path, "sglang", "--api-key=right") as engine:
        engine.until("ready")
        sent = {} if key is None else {"Authorization": f"Bearer {key}"}
        assert (engine.ask("/health", **sent), engine.ask("/v1/models", **sent)) == (200, 401)
        assert engine.ask("/v1/models", Authorization="Bearer right") == 200


def test_a_sigterm_while_it_loads_can_be_lost(tmp_path: Path) -> None:
    with running(tmp_path, "vllm", "--fault=lost-sigterm", hold=("refused",)) as engine:
        engine.until("step refused")
        engine.process.send_signal(signal.SIGTERM)
        engine.until("lost a SIGTERM")
        engine.release("refused")
        engine.until("ready")
        assert engine.end() == 0


def test_an_engine_core_outlives_its_killed_server(tmp_path: Path) -> None:
    with running(tmp_path, "vllm", "--fault=core-survives") as engine:
        engine.until("ready")
        children = Path(f"/proc/{engine.process.pid}/task/{engine.process.pid}/children").read_text().split()
        assert engine.end(signal.SIGKILL) == -signal.SIGKILL
        (core,) = children
        os.kill(int(core), signal.SIGTERM)
        assert "Z" not in Path(f"/proc/{core}/stat").read_text().rpartition(")")[2].split()[0]
        assert engine.ask("/health") == 0


def test_a_core_that_dies_leaves_its_server_hanging(tmp_path: Path) -> None:
    with running(tmp_path, "vllm", "--fault=core-dies") as engine:
        engine.until("EngineCore failed to start.")
        assert engine.process.poll() is None
        assert engine.ask("/health") == 0
        assert engine.end() == 0


@pytest.mark.parametrize(
    ("kind", "words", "status"), [("sglang", "scheme", -9), ("vllm", "share", 1), ("nim", "denied", 1)]
)
def test_last_words(tmp_path: Path, kind: str, words: str, status: int) -> None:
    with running(tmp_path, kind, f"--dies={words}") as engine:
        said, _ = engine.process.communicate(timeout=30)
        assert engine.process.returncode == status
        assert "Error: " in said
