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
    result = {}
    for kind in ("nothing", "image", "numbers", "form"):
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
