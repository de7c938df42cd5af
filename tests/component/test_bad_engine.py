"""The switches of the bad engine that other layers rely on do what they say."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from support.engines import BAD_ENGINE, RunningEngine, bad_engine, free_port, wait_listening

pytestmark = pytest.mark.component


def said(*switches: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(BAD_ENGINE), f"--port={free_port()}", "--name=b", *switches]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def status_of(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def ask(engine: RunningEngine, **request: object) -> tuple[int, bytes]:
    wait_listening(engine.port)
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=20)
    with closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(request))
        with connection.getresponse() as response:
            return response.status, response.read()


def test_it_dies_while_loading_and_says_so() -> None:
    done = said("--die-after-seconds=0.05", "--exit-code=7")
    assert done.returncode == 7
    assert "out of luck" in done.stdout


def test_a_taken_port_ends_it() -> None:
    done = said("--port-taken")
    assert done.returncode == 1
    assert "Address already in use" in done.stdout


def test_sigterm_ends_it_cleanly_unless_ignored() -> None:
    with bad_engine() as engine:
        wait_listening(engine.port)
        engine.process.terminate()
        assert engine.process.wait(20) == 0
    with bad_engine("--ignore-sigterm") as engine:
        wait_listening(engine.port)
        engine.process.terminate()
        assert ask(engine)[0] == 200
        assert engine.process.poll() is None


def test_its_children_outlive_it() -> None:
    with bad_engine("--fork-children=2") as engine:
        wait_listening(engine.port)
        children = Path(f"/proc/{engine.process.pid}/task/{engine.process.pid}/children").read_text().split()
        assert len(children) == 2
        os.killpg(engine.process.pid, signal.SIGTERM)
        assert engine.process.wait(20) == 0
        assert all(status_of(int(child), "State")[0] == "S" for child in children)


def test_it_eats_memory_while_loading() -> None:
    with bad_engine("--eat-memory=64") as engine:
        wait_listening(engine.port)
        assert int(status_of(engine.process.pid, "VmRSS").split()[0]) > 64 << 10


def test_a_stream_ends_properly_or_half_way() -> None:
    with bad_engine("--tokens=8") as good, bad_engine("--tokens=8", "--drop-stream") as bad:
        assert ask(good, stream=True)[1].endswith(b"data: [DONE]\n\n")
        with pytest.raises(http.client.IncompleteRead):
            ask(bad, stream=True)
