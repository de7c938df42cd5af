"""A control API on real sockets, and a bare client that sends any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spark_modeld.control.server import Runner, serve
from spark_modeld.face import Whereabouts
from support.fake_face import FakeFace


@dataclass(frozen=True)
class Token:
    name: str
    scopes: frozenset[str]


class Tokens:
    """Knows three tokens, named like their scopes."""

    def __init__(self) -> None:
        self.known = {f"smd_{s}": Token(s, frozenset({s})) for s in ("control", "observe", "inference")}

    def verify(self, token: str) -> Token | None:
        return self.known.get(token)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Control:
    """A running API: ``path`` of its unix socket, ``port`` on 127.0.0.1."""

    face: FakeFace
    runner: Runner
    path: Path
    port: int
    auth: dict[str, str] = field(default_factory=lambda: {"Authorization": "Bearer smd_control"})

    async def open(self, *, tcp: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if tcp:
            return await asyncio.open_connection("127.0.0.1", self.port)
        return await asyncio.open_unix_connection(str(self.path))

    async def send(self, sent: bytes, *, tcp: bool = False) -> Answer:
        """Sends bytes as they are and reads one answer."""
        reader, writer = await self.open(tcp=tcp)
        try:
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            return await read_answer(reader, head_only=sent.startswith(b"HEAD "))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        tcp: bool = False,
        raw: bytes | None = None,
    ) -> Answer:
        """One request with a JSON body (or ``raw`` bytes) over a connection of its own."""
        payload = raw if raw is not None else (json.dumps(body).encode() if body is not None else b"")
        lines = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        if payload:
            lines["Content-Length"] = str(len(payload))
        lines |= headers or {}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        return await self.send(head.encode() + payload, tcp=tcp)


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), {k.lower(): v for k, v in headers.items()}


async def read_answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> Answer:
    status, headers = await read_head(reader)
    if status == 100:
        status, headers = await read_head(reader)
    length = 0 if head_only else int(headers.get("content-length", "0"))
    return Answer(status, headers, await reader.readexactly(length))


async def read_event(reader: asyncio.StreamReader) -> dict[str, str]:
    """The next event of a chunked stream; comments and settings are skipped."""
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        chunk = (await reader.readexactly(size + 2)).decode()
        if size == 0:
            raise EOFError
        fields = dict(line.split(": ", 1) for line in chunk.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            return fields


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


async def assert_no_tasks_but(before: set[asyncio.Task[Any]]) -> None:
    """Everything that was started since has ended, or does so at once."""
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, pending = await asyncio.wait(left, timeout=20)
        assert not pending, pending


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *, whereabouts: Whereabouts | None = None) -> AsyncIterator[Control]:
    """The API over a fake face, on a unix socket and a TCP port; nothing may be left over."""
    path = tmp_path / "control.sock"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(path))
    unix.listen()
    tcp = socket.socket()
    tcp.bind(("127.0.0.1", 0))
    tcp.listen()
    port = tcp.getsockname()[1]
    before = asyncio.all_tasks()
    face = FakeFace()
    runner = await serve(
        face,
        [(unix, "unix"), (tcp, "tcp")],
        tokens=Tokens(),
        version="0.0.test",
        gate_uid=os.getuid(),
        whereabouts=whereabouts,
    )
    try:
        yield Control(face, runner, path, port)
    finally:
        await runner.close()
        await assert_no_tasks_but(before)
        assert face.readers == 0
