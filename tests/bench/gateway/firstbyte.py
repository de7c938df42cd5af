"""How soon answers begin, over one kept connection each, in turn: ``firstbyte.py TOKEN ROUNDS NAME=PORT...``.

Prints the median and the 99th percentile of each in ms, as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import time

WARM_UP = 50
BODY = b'{"model":"fixed","messages":[{"role":"user","content":"hello"}]}'


def ask(sock: socket.socket, request: bytes) -> float:
    """Seconds from the request to the answer's first byte; sending may return only when the answer is there."""
    sent = time.perf_counter()
    sock.sendall(request)
    data = sock.recv(65536)
    took = time.perf_counter() - sent
    assert data.startswith(b"HTTP/1.1 200"), data
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += sock.recv(65536)
    return took


def main(token: str, rounds: int, ports: dict[str, int]) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    request = head.encode() + BODY
    socks = {name: socket.create_connection(("127.0.0.1", port)) for name, port in ports.items()}
    took: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(WARM_UP + rounds):
        for name, sock in socks.items():
            took[name].append(ask(sock, request))
    result = {}
    for name, values in took.items():
        ranked = sorted(values[WARM_UP:])
        result[name] = [ranked[len(ranked) // 2] * 1e3, ranked[len(ranked) * 99 // 100] * 1e3]
    print(json.dumps(result))


if __name__ == "__main__":
    token, rounds, *pairs = sys.argv[1:]
    main(token, int(rounds), {name: int(port) for name, port in (pair.split("=") for pair in pairs)})
