"""How long others wait while large bodies pass: ``stall.py PORT PID TOKEN MODEL MIB ROUNDS``, as JSON.

Somebody asks for /health again and again; the longest answer is the longest time the daemon's loop had for nobody else.
On a machine with other work in it that is mostly time in which the kernel had no processor for it. So whoever asks goes
before all other work (SCHED_FIFO), and for the loop the kernel says how long it was ready to run and did not
(schedstat's run delay): that is taken off, and what is left is the stall that the daemon itself makes. Given in ms for
each kind of body: the longest stall, the median, and the longest answer by the clock.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass


class Thread:
    """A thread as the scheduler keeps account of it."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the process

    def waited(self) -> float:
        """Seconds for which it was ready and had no processor."""
        self._file.seek(0)
        return int(self._file.read().split()[1]) / 1e9


@dataclass(frozen=True)
class Look:
    """One answer, in seconds."""

    wall: float
    stall: float


def probe(port: int, pid: int, stop: threading.Event, looks: list[Look]) -> None:
    # The loop is the main thread's.
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    loop, own = Thread(f"/proc/{pid}/task/{pid}/schedstat"), Thread("/proc/thread-self/schedstat")
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not stop.is_set():
        before, own_before = loop.waited(), own.waited()
        begun = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        wall = time.perf_counter() - begun
        after, own_after = loop.waited(), own.waited()
        # Both may have waited at once: never more than one of the two is taken off.
        looks.append(Look(wall, wall - max(after - before, own_after - own_before)))


def made(kind: str, model: str, size: int) -> tuple[bytes, str]:
    """A body, and what it is. The form is full of what is almost its boundary."""
    if kind == "form":
        boundary = "-" * 24 + "0123456789abcdef"
        part = f"--{boundary}\r\nContent-Disposition: form-data; name="
        almost = f"\r\n--{boundary[:-1]}"
        file = almost * (size // len(almost))
        body = f'{part}"file"; filename="a"\r\n\r\n{file}\r\n{part}"model"\r\n\r\n{model}\r\n--{boundary}--\r\n'
        return body.encode(), f"multipart/form-data; boundary={boundary}"
    value = {
        "nothing": "0",
        "image": '"' + "A" * size + '"',
        "numbers": "[" + ",".join(["12345"] * (size >> 3)) + "]",
    }[kind]
    return f'{{"messages":[],"input":{value},"model":"{model}"}}'.encode(), "application/json"


def send(port: int, token: str, model: str, kind: str, mib: int, rounds: int) -> None:
    """In a process of its own: what makes the body must not hold up who looks."""
    body, content_type = made(kind, model, mib << 20)
    for _ in range(rounds):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        connection.close()


def main(arguments: list[str]) -> None:
    port, pid, *rest = arguments
    result = {}
    for kind in ("nothing", "image", "numbers", "form"):
        stop, looks = threading.Event(), list[Look]()
        thread = threading.Thread(target=probe, args=(int(port), int(pid), stop, looks))
        thread.start()
        try:
            subprocess.run([sys.executable, __file__, "send", kind, port, *rest], check=True)
        finally:
            stop.set()
            thread.join()
        stalls = [look.stall for look in looks]
        seconds = {
            "stall": max(stalls),
            "median": statistics.median(stalls),
            "wall": max(look.wall for look in looks),
        }
        result[kind] = {name: value * 1e3 for name, value in seconds.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "send":
        kind, port, token, model, mib, rounds = sys.argv[2:]
        send(int(port), token, model, kind, int(mib), int(rounds))
    else:
        main(sys.argv[1:])
