"""The gateway of a throwaway host as its clients meet it, and a client that can stop at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self

from support.network import connections
from support.scene import HOLDS, Scene
from support.spark import SOURCE, SparkHost
from support.witness import until

PORT = 30101
GATEWAY = f"http://127.0.0.1:{PORT}"
QUESTION = [{"role": "user", "content": "Who are you?"}]
PATIENCE_SECONDS = 60.0
_METRIC = re.compile(r'^spark_modeld_(in_flight|waiting)\{model="([^"]*)"\} ([0-9.]+)$', re.MULTILINE)


def add_token(host: SparkHost, name: str, *more: str) -> str:
    """A new token, by the operator's command."""
    answer = host.run("spark-modelctl", "token", "add", "--json", *more, name)
    return str(json.loads(answer.stdout)["token"])


def scripted_model(model: str, *switches: str, port: int, extra: str = "") -> str:
    """The catalog entry of ``scripted_engine.py``, held up by HOLDS/MODEL-load and HOLDS/MODEL-stop."""
    command = [
        *("/usr/bin/python3", "-S", f"{SOURCE}/tests/support/scripted_engine.py", "--name", model),
        *("--port", str(port), "--hold-load", f"{HOLDS}/{model}-load", "--hold-stop", f"{HOLDS}/{model}-stop"),
        *switches,
    ]
    lines = ['engine = "openai"', f'url = "http://127.0.0.1:{port}"', 'memory = "64MiB"', extra, "[launch]"]
    return "\n".join([*lines, f"command = {json.dumps(command)}", ""])


def counters(scene: Scene) -> dict[str, float]:
    """What the gateway holds, by the status and by the metrics; empty when it holds nothing."""
    status = scene.status()
    held = {"status in_flight": float(status["slot"]["in_flight"]), "status queue": float(len(status["queue"]))}
    text = scene.host.run("curl", "-s", "--unix-socket", "/run/spark-modeld/control.sock", "http://x/metrics").stdout
    shown = _METRIC.findall(text)
    assert shown, text
    held |= {f"{name} {model}": float(value) for name, model, value in shown}
    return {name: value for name, value in held.items() if value}


def descriptors(scene: Scene) -> int:
    """How many files and sockets the daemon has open."""
    return len(list(scene.host.path(f"/proc/{scene.daemon_pid()}/fd").iterdir()))


def await_nothing_held(scene: Scene, *engine_ports: int) -> None:
    """Returns when no lease, no waiting request, and no connection to these engines' ports is left."""
    until("nothing is held", lambda: not counters(scene))
    # What was kept for the next request is closed after some seconds.
    until("no engine is connected to", lambda: not any(map(connections, engine_ports)))


@dataclass
class Reply:
    """What came back. ``ended``: it was whole, not cut."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of a stream, parsed; ``[DONE]`` as it is."""
        lines = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def comments(self) -> int:
        return sum(line.startswith(":") for line in self.body.decode().splitlines())

    @property
    def text(self) -> str:
        """What the model said, streamed or not."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            choices = [c for e in self.events if isinstance(e, dict) for c in e.get("choices", [])]
            return "".join(c["delta"].get("content") or "" for c in choices).strip()
        return str(self.json["choices"][0]["message"]["content"]).strip()


class Caller:
    """One connection to the gateway, written and read by hand."""

    def __init__(self, token: str, *, port: int = PORT) -> None:
        self.token = token
        self.port = port

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def hang_up(self) -> None:
        """Ends it with a reset, as a client that is killed does."""
        self.writer.transport.abort()

    def request(self, model: str | None, **more: Any) -> bytes:
        """A chat, as it goes over the wire."""
        named = {"model": model} if model is not None else {}
        body = json.dumps({"messages": QUESTION, "max_tokens": 12, "temperature": 0, **named, **more}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def send(self, model: str | None, **more: Any) -> None:
        self.writer.write(self.request(model, **more))
        await self.writer.drain()

    async def reply(self) -> Reply:
        """The whole answer, or what there is of it when the connection breaks."""
        reply = await self.head()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            async for part in self.parts(reply):
                reply.body += part
            reply.ended = True
        return reply

    async def head(self) -> Reply:
        """The status and the headers. IncompleteReadError, ConnectionError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines[1:] if line)
        return Reply(int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs})

    async def parts(self, reply: Reply) -> AsyncIterator[bytes]:
        """The body as it comes. IncompleteReadError where it is cut."""
        if "content-length" in reply.headers:
            yield await self._exactly(int(reply.headers["content-length"]))
            return
        while size := int(await self._line(), 16):
            yield await self._exactly(size)
            await self._exactly(2)
        await self._exactly(2)

    async def _exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.readexactly(size)

    async def _line(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.readuntil(b"\r\n")


async def ask(token: str, model: str | None, *, port: int = PORT, **more: Any) -> Reply:
    """One request over a connection of its own."""
    async with Caller(token, port=port) as caller:
        await caller.send(model, **more)
        return await caller.reply()
