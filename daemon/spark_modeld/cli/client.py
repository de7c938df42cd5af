"""A very small HTTP client for the control socket: the standard one takes longer to import than a status takes."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from spark_modeld.cli.failures import FAILED, TIMED_OUT, UNREACHABLE, Failure, local, refused

_ANSWER_SECONDS = 30.0
_AWAY_SECONDS = 30.0
_RETRY_SECONDS = 0.2


class Event(NamedTuple):
    """One server-sent event; ``kind`` is empty for a heartbeat."""

    id: int
    kind: str
    data: Any


class StreamEnded(Exception):
    """The daemon has closed the event stream."""


class Client:
    """Calls the API on one unix socket."""

    def __init__(self, path: str, *, user: bool = False, seconds: float = _ANSWER_SECONDS) -> None:
        self._path = path
        self._user = user
        self._seconds = seconds

    def call(self, method: str, path: str, body: Any = None, *, seconds: float | None = None) -> Any:
        """The answer's JSON. Failure with the problem of a refusal, or when the daemon cannot be reached."""
        payload = json.dumps(body).encode() if body is not None else b""
        with self._connect(self._seconds if seconds is None else seconds) as sock:
            try:
                sock.sendall(_request(method, path, payload, version="1.1"))
                with sock.makefile("rb") as answer:
                    status, headers = _read_head(answer)
                    document = _read_json(answer, headers)
            except TimeoutError as error:
                raise local("timed-out", "No answer", "The daemon does not answer in time.", TIMED_OUT) from error
            except (OSError, ValueError) as error:
                raise self._unreachable(f"The daemon hung up without an answer ({error or 'end of file'}).") from error
        if status >= 400:
            raise refused(document)
        return document

    def lines(self, path: str) -> Iterator[Any]:
        """The JSON of each line of a stream, until it ends. Failure with the problem of a refusal."""
        with self._connect(self._seconds) as sock:
            try:
                sock.sendall(_request("GET", path, b"", version="1.0"))
                with sock.makefile("rb") as answer:
                    status, headers = _read_head(answer)
                    if status >= 400:
                        raise refused(_read_json(answer, headers))
                    sock.settimeout(None)
                    with contextlib.suppress(ConnectionError):
                        while line := answer.readline():
                            if line.strip():
                                yield json.loads(line)
            except (OSError, ValueError) as error:
                raise self._unreachable(f"The daemon hung up ({error or 'end of file'}).") from error

    def events(self, last_id: int | None = None) -> Stream:
        """The event stream, from now on or after ``last_id``. It is subscribed when this returns."""
        sock = self._connect(self._seconds)
        header = f"Last-Event-ID: {last_id}\r\n" if last_id is not None else ""
        try:
            sock.sendall(_request("GET", "/api/events", b"", version="1.0", header=header))
            return Stream(sock)
        except Failure:
            sock.close()
            raise
        except (OSError, StreamEnded) as error:
            sock.close()
            raise self._unreachable("The daemon hung up on the event stream.") from error

    def events_again(self, last_id: int | None) -> Stream:
        """The event stream of a daemon that is being restarted: tries for a while."""
        deadline = time.monotonic() + _AWAY_SECONDS
        while True:
            try:
                return self.events(last_id)
            except Failure:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)

    def _connect(self, seconds: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(seconds)
        try:
            sock.connect(self._path)
        except PermissionError as error:
            sock.close()
            raise local(
                "no-access",
                "No access to the daemon",
                f"You may not open {self._path}. Its users are the group spark-modeld: "
                "`sudo adduser $USER spark-modeld`, then log in again; or use sudo.",
                UNREACHABLE,
            ) from error
        except OSError as error:
            sock.close()
            raise self._unreachable(f"Nothing answers on {self._path} ({error.strerror or error}).") from error
        return sock

    def _unreachable(self, what: str) -> Failure:
        start = "systemctl --user start" if self._user else "systemctl start"
        return local(
            "unreachable",
            "The daemon is not reachable",
            f"{what} Start it with `{start} spark-modeld.socket`.",
            UNREACHABLE,
        )


class Stream:
    """An open event stream. ``last_id`` is where to resume."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.last_id: int | None = None
        head = self._until(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise local("failed", "No events", "The daemon gives no events; `spark-modelctl status` says why.", FAILED)
        self._until(b"\n\n")  # the preamble, which is no event

    def next(self, seconds: float | None) -> Event | None:
        """The next event or heartbeat, None when there was none for so many seconds. StreamEnded."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n\n" not in self._buffer:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                return None
            self._fill()
        return self._event(self._until(b"\n\n").decode())

    def close(self) -> None:
        """Hangs up."""
        self._sock.close()

    def _event(self, block: str) -> Event:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" not in fields:
            return Event(0, "", None)
        self.last_id = int(fields["id"])
        return Event(self.last_id, fields.get("event", ""), json.loads(fields["data"]))

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._fill()
        head, self._buffer = self._buffer.split(end, 1)
        return head

    def _fill(self) -> None:
        got = b""
        with contextlib.suppress(ConnectionError):
            got = self._sock.recv(65536)
        if not got:
            raise StreamEnded
        self._buffer += got


def _request(method: str, path: str, payload: bytes, *, version: str, header: str = "") -> bytes:
    head = f"{method} {path} HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n{header}"
    if payload:
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    return f"{head}\r\n".encode() + payload


def _read_head(answer: Any) -> tuple[int, dict[str, str]]:
    parts = answer.readline(8192).split()
    if len(parts) < 2:
        raise ValueError("no answer")
    headers = {}
    while line := answer.readline(8192).strip():
        name, _, value = line.partition(b":")
        headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    return int(parts[1]), headers


def _read_json(answer: Any, headers: dict[str, str]) -> Any:
    length = int(headers.get("content-length", "0"))
    body = answer.read(length)
    if len(body) < length:
        raise ValueError("half an answer")
    return json.loads(body) if body else None
