"""The half of the benchmarks that runs inside the throwaway host, so that nothing of the way in is measured.

``inside.py overhead|switches|status SPEC``: SPEC is JSON; the result is one line of JSON on standard output.
Standard library only: the host's own Python runs it.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from typing import Any

CONTROL_SOCKET = "/run/spark-modeld/control.sock"
LOOK_SECONDS = 0.0005
DEADLINE = 60.0

Spec = dict[str, Any]


class Daemon(http.client.HTTPConnection):
    """One kept connection to the control socket."""

    def __init__(self) -> None:
        super().__init__("localhost", timeout=DEADLINE)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(CONTROL_SOCKET)

    def call(self, method: str, path: str, body: object = None) -> Any:
        self.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        response = self.getresponse()
        content = response.read()
        if response.status >= 300:
            raise SystemExit(f"{method} {path}: {response.status} {content.decode()}")
        return json.loads(content)

    def switch(self, model: str) -> tuple[float, dict[str, float]]:
        """Seconds from the POST until the switch is reported ready, and those in each of its phases."""
        began = time.perf_counter()
        switch = self.call("POST", "/api/switch?wait=true", {"model": model})
        took = time.perf_counter() - began
        if switch["outcome"] != "ready" or switch.get("noop"):
            raise SystemExit(f"the switch to {model} was none: {switch}")
        return took, switch["timings"]


class Bare:
    """The same engines without us: stopped with SIGTERM, started at once, asked until they answer."""

    def __init__(self, commands: list[list[str]], port: int, models: list[str]) -> None:
        self._pairs = itertools.cycle(zip(commands, models, strict=True))
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def switch(self) -> float:
        """Seconds from the SIGTERM to the first answer of the other one."""
        command, model = next(self._pairs)
        began = time.perf_counter()
        self.stop()
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=-3)
        while not first_answer(self._port, model):
            if time.perf_counter() - began > DEADLINE or self._process.poll() is not None:
                raise SystemExit(f"no answer from {' '.join(command)}")
            time.sleep(LOOK_SECONDS)
        return time.perf_counter() - began

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def first_answer(port: int, model: str) -> bool:
    """Whether the engine generates one token now."""
    with socket.socket() as sock:
        if sock.connect_ex(("127.0.0.1", port)):
            return False
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def overhead(spec: Spec) -> Spec:
    """Bare switches and the daemon's, alternating; one of each first, which is not counted."""
    daemon, bare = Daemon(), Bare(spec["commands"], spec["port"], spec["models"])
    result: Spec = {"bare": [], "daemon": [], "phases": []}
    try:
        for index in range(-2, spec["rounds"]):
            bare_took = bare.switch()
            took, phases = daemon.switch(spec["models"][index % 2])
            if index >= 0:
                result["bare"].append(bare_took)
                result["daemon"].append(took)
                result["phases"].append(phases)
    finally:
        bare.stop()
    return result


def switches(spec: Spec) -> Spec:
    """Many switches in a row, by the daemon."""
    daemon = Daemon()
    took = [daemon.switch(spec["models"][index % 2])[0] for index in range(spec["rounds"])]
    return {"daemon": took}


def status(spec: Spec) -> Spec:
    """How long GET /api/status takes while a switch is under way."""
    result: list[float] = []
    watcher, switcher = Daemon(), Daemon()
    for index in range(spec["rounds"]):
        switching = threading.Thread(target=switcher.switch, args=(spec["models"][index % 2],))
        switching.start()
        while switching.is_alive():
            began = time.perf_counter()
            watcher.call("GET", "/api/status")
            result.append(time.perf_counter() - began)
            time.sleep(0.001)
        switching.join()
    return {"status": result}


if __name__ == "__main__":
    measure = {"overhead": overhead, "switches": switches, "status": status}[sys.argv[1]]
    print(json.dumps(measure(json.loads(sys.argv[2]))))
