"""How soon an engine knows that a client is gone: ``gone.py PORT TOKEN MODEL ROUNDS``; median and longest in ms.

The engine (``paced.py``) tells when its connection ends, by the machine's monotonic clock; so what is measured is the
way of the hang-up through the gateway and nothing else.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import time


def hang_up(port: int, token: str, model: str, ears: socket.socket) -> float:
    """Seconds from a client's close, in the middle of a stream, until the engine's connection is closed."""
    tell = ears.getsockname()[1]
    body = json.dumps({"model": model, "stream": True, "max_tokens": 100000, "messages": [], "tell": tell}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(head.encode() + body)
        said = b""
        while b"data: {" not in said:
            said += (more := sock.recv(65536))
            assert more, said
        closed = time.monotonic()
    return float(ears.recv(100)) - closed


def main(port: int, token: str, model: str, rounds: int) -> None:
    # Before all other work: what is to be measured is the gateway.
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ears:
        ears.bind(("127.0.0.1", 0))
        ears.settimeout(30)
        took = [hang_up(port, token, model, ears) * 1e3 for _ in range(rounds)]
    print(json.dumps({"median": statistics.median(took), "longest": max(took)}))


if __name__ == "__main__":
    port, token, model, rounds = sys.argv[1:]
    main(int(port), token, model, int(rounds))
