"""How long others wait while large bodies pass: ``stall.py PORT TOKEN MODEL MIB ROUNDS``; the longest turn in ms."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import threading
import time


def probe(port: int, stop: threading.Event, worst: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not stop.is_set():
        begun = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        worst.append(time.perf_counter() - begun)


def send(port: int, token: str, model: str, kind: str, mib: int, rounds: int) -> None:
    """In a process of its own: what makes the body must not hold up who looks."""
    value = {
        "nothing": "0",
        "image": '"' + "A" * (mib << 20) + '"',
        "numbers": "[" + ",".join(["12345"] * (mib << 20 >> 3)) + "]",
    }[kind]
    body = f'{{"messages":[],"input":{value},"model":"{model}"}}'.encode()
    for _ in range(rounds):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        connection.close()


def main(arguments: list[str]) -> None:
    result = {}
    for kind in ("nothing", "image", "numbers"):
        stop, took = threading.Event(), list[float]()
        thread = threading.Thread(target=probe, args=(int(arguments[0]), stop, took))
        thread.start()
        try:
            subprocess.run([sys.executable, __file__, "send", kind, *arguments], check=True)
        finally:
            stop.set()
            thread.join()
        result[kind] = [max(took) * 1e3, statistics.median(took) * 1e3]
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "send":
        kind, port, token, model, mib, rounds = sys.argv[2:]
        send(int(port), token, model, kind, int(mib), int(rounds))
    else:
        main(sys.argv[1:])
