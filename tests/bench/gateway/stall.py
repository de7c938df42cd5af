"""How long others wait while large bodies pass: ``stall.py PORT TOKEN MODEL MIB ROUNDS``; the longest turn in ms."""

from __future__ import annotations

import http.client
import json
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


def main(port: int, token: str, model: str, mib: int, rounds: int) -> None:
    parts = {"image": '"' + "A" * (mib << 20) + '"', "numbers": "[" + ",".join(["12345"] * (mib << 20 >> 3)) + "]"}
    result = {}
    for name, value in {"nothing": "0", **parts}.items():
        body = f'{{"messages":[],"input":{value},"model":"{model}"}}'.encode()
        stop, took = threading.Event(), list[float]()
        thread = threading.Thread(target=probe, args=(port, stop, took))
        thread.start()
        for _ in range(rounds):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            connection.close()
        stop.set()
        thread.join()
        result[name] = [max(took) * 1e3, sorted(took)[len(took) // 2] * 1e3]
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
