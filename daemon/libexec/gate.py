"""Asks the daemon whether a model's unit may start now: ``gate.py ID SOCKET``.

Exit 0: it may. Exit 1: it may not, and standard error says why. The connection starts the daemon where it is not
running. Runs as root with the distribution's Python, and imports little: somebody waits for it.
"""

import json
import socket
import sys

TIMEOUT_SECONDS = 60.0
ANSWER_LIMIT = 1 << 20


def ask(model: str, path: str) -> tuple[int, bytes]:
    """The HTTP status and body of the daemon's answer.

    OSError when it cannot be reached or is silent for too long, ValueError when it does not speak HTTP.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(path)
        head = f"POST /api/gate/{model} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode("ascii"))
        answer = bytearray()
        while len(answer) < ANSWER_LIMIT and (chunk := connection.recv(65536)):
            answer += chunk
    head_bytes, _, body = bytes(answer).partition(b"\r\n\r\n")
    words = head_bytes.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ValueError("not an HTTP answer")
    return int(words[1]), body


def reason(status: int, body: bytes) -> str:
    """Why the daemon refused, in its own words where it gave any."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = None
    return detail if isinstance(detail, str) else f"the daemon answered {status} and gave no reason"


def main(model: str, path: str) -> int:
    """The exit status."""
    try:
        status, body = ask(model, path)
    except (OSError, ValueError) as error:
        print(
            f"spark-modeld did not answer on {path} ({error}), and without it nothing is admitted: "
            "systemctl start spark-modeld.socket",
            file=sys.stderr,
        )
        return 1
    if status == 204:
        return 0
    print(f"refused: {reason(status, body)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
