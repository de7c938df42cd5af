"""Stands in for spark-modeld in tests of what surrounds it: takes its sockets, says READY, answers the gate.

Models whose id begins with "refused" are refused, "mute" gets no answer, "garbled" one that is not HTTP; all others
are admitted.
"""

import json
import os
import socket
import threading

REFUSAL = {"type": "urn:x", "title": "t", "status": 409, "code": "large-parallel", "detail": "gemma is large too"}


def answer_to(model: str) -> bytes:
    if model == "mute":
        return b""
    if model == "garbled":
        return b"\0\1\2 nonsense"
    if model.startswith("refused"):
        body = json.dumps(REFUSAL).encode()
        head = f"HTTP/1.1 409 Conflict\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body
    return b"HTTP/1.1 204 No Content\r\n\r\n"


def serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            request = connection.recv(65536).decode()
            method, path, _ = request.split(" ", 2)
            assert method == "POST"
            connection.sendall(answer_to(path.removeprefix("/api/gate/")))


def main() -> None:
    names = os.environ["LISTEN_FDNAMES"].split(":")
    print("passed:", *names, flush=True)
    for number, name in enumerate(names):
        if name == "control":
            listener = socket.socket(fileno=3 + number)
            if listener.family == socket.AF_NETLINK:  # to ask who listens
                continue
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        notify.send(b"READY=1\nWATCHDOG_USEC=0")
    threading.Event().wait()


if __name__ == "__main__":
    main()
