"""A gateway on a real socket, between a client that sends any bytes and an engine that answers what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import MappingProxyType

from msgspec.structs import replace

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, SparkError, refuse
from spark_modeld.core.model import Basis, EngineKind, Footprint, Launch, Model
from spark_modeld.core.settings import GatewaySettings, Settings
from spark_modeld.core.unit import Phase
from spark_modeld.face import Lease, ModelState, Snapshot
from spark_modeld.gateway.record import Record
from spark_modeld.gateway.server import Gateway
from spark_modeld.metrics import Metrics
from support.control import assert_no_tasks_but

TOKEN = "smd_any_secret"
AUTH = f"Authorization: Bearer {TOKEN}\r\n"


@dataclass(frozen=True)
class Token:
    name: str
    scopes: frozenset[str] = frozenset({"inference"})
    models: frozenset[str] | None = None
    may_switch: bool = True


class Tokens:
    def __init__(self) -> None:
        self.known = {
            TOKEN: Token("any"),
            "smd_admin": Token("admin", frozenset({"inference", "engine-admin"})),
            "smd_control": Token("control", frozenset({"control"})),
            "smd_gemma_admin": Token("gemma-admin", frozenset({"engine-admin"}), models=frozenset({"gemma"})),
            "smd_gemma": Token("gemma-only", models=frozenset({"gemma"})),
            "smd_still": Token("still", may_switch=False),
        }
        self.asked = 0

    def verify(self, token: str) -> Token | None:
        self.asked += 1
        return self.known.get(token)


@dataclass
class Asked:
    """One request as it arrived at the engine."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Call:
    """One connection to the engine, with a request on it."""

    asked: Asked
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


def plain(body: bytes, *, status: str = "200 OK", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def answer_ok(call: Call) -> None:
    await call.send(plain(b'{"ok":true}'))


@dataclass
class Engine:
    """Hears requests and answers with ``behave``; ``asked`` has what came."""

    port: int = 0
    behave: Callable[[Call], Awaitable[None]] = answer_ok
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while (asked := await self._hear(reader)) is not None:
                self.asked.append(asked)
                await self.behave(Call(asked, reader, writer))
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            self.closed.set()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _hear(self, reader: asyncio.StreamReader) -> Asked | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        headers = [(line.split(": ", 1)[0].lower(), line.split(": ", 1)[1]) for line in head[1:] if line]
        length = int(dict(headers).get("content-length", "0"))
        return Asked(head[0], headers, await reader.readexactly(length))


def model(model_id: str, port: int, **more: object) -> Model:
    fields: dict[str, object] = {
        "id": model_id,
        "engine": EngineKind.OPENAI,
        "url": f"http://127.0.0.1:{port}",
        "run": Launch(("engine",)),
        "served_model_name": f"served/{model_id}",
    }
    return Model(**(fields | more))  # type: ignore[arg-type]


class FakeLeases:
    """Leases without an engine: models in ``serving`` are had at once, others when the test says so."""

    def __init__(self, models: dict[str, Model], *, auth: str = "token", loading_keepalive: float = 0.05) -> None:
        gateway = GatewaySettings(auth=auth, loading_keepalive=loading_keepalive)
        self.catalog = Catalog(Settings(gateway=gateway), MappingProxyType(models))
        self.slot_model: str | None = next(iter(models), None)
        self.serving = {self.slot_model}
        self.held: list[Lease] = []
        self.flowed: list[str] = []
        self.granted = 0
        self.waiting: list[tuple[str | None, str | None, bool, asyncio.Future[Lease]]] = []
        self.asked = asyncio.Event()
        self.hung_up = 0
        self.listeners: list[Callable[[Snapshot], None]] = []
        self.snapshot = Snapshot()
        self.publish()

    def publish(self, **more: object) -> None:
        states = {
            each.id: ModelState(
                model=each,
                phase=Phase.SERVING if each.id in self.serving else Phase.STOPPED,
                since=0.0,
                footprint=Footprint(1, Basis.DECLARED),
                large=False,
                fits=True,
                fit_reason=None,
                default=False,
                in_flight=0,
                error=None,
            )
            for each in self.catalog.models.values()
        }
        self.snapshot = replace(
            Snapshot(
                slot_phase=Phase.SERVING if self.slot_model else None,
                slot_model=self.slot_model,
                models=MappingProxyType(states),
                bus="connected",
                catalog=self.catalog,
            ),
            **more,  # type: ignore[arg-type]
        )
        for listener in self.listeners:
            listener(self.snapshot)

    def configure(self, models: dict[str, Model]) -> None:
        """Another catalog."""
        self.catalog = Catalog(self.catalog.settings, MappingProxyType(models))
        self.publish()

    def find(self, name: str | None) -> Model:
        found = self.catalog.find(name or self.slot_model or "")
        if found is None:
            raise refuse(Code.UNKNOWN_MODEL, f"There is no model {name!r}. Ask for another.")
        return found

    def lease(self, name: str | None) -> Lease | None:
        found = self.find(name)
        if found.id not in self.serving:
            return None
        return self.give(found)

    def give(self, found: Model) -> Lease:
        lease = Lease(found)
        self.held.append(lease)
        self.granted += 1
        return lease

    async def demand(self, name: str | None, *, actor: str | None, may_switch: bool = True) -> Lease:
        if not may_switch:
            raise refuse(
                Code.BUSY,
                "The model qwen holds the slot. Ask again later.",
                holder=self.slot_model,
                since=1e9,
                retry_after=30,
            )
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self.waiting.append((name, actor, may_switch, future))
        self.asked.set()
        try:
            return await future
        except asyncio.CancelledError:
            self.hung_up += 1
            raise

    def arrive(self) -> None:
        """Every demand is met."""
        waiting, self.waiting = self.waiting, []
        for name, _, _, future in waiting:
            future.set_result(self.give(self.find(name)))

    def fail(self, error: SparkError) -> None:
        waiting, self.waiting = self.waiting, []
        for _, _, _, future in waiting:
            future.set_exception(error)

    def flows(self, lease: Lease) -> None:
        self.flowed.append(lease.model.id)

    def release(self, lease: Lease) -> None:
        found = next(each for each in self.held if each is lease)
        self.held = [each for each in self.held if each is not found]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {key.lower(): value for key, value in headers.items()}

    async def chunk(self) -> bytes:
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def reply(self, *, head_only: bool = False) -> Reply:
        status, headers = await self.head()
        body = b""
        if head_only or status in {204, 304}:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                body += piece
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = await self.reader.read()
        return Reply(status, headers, body)

    async def ended(self) -> bytes:
        """What comes until the gateway closes."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class Relaying:
    """A running gateway."""

    gateway: Gateway
    leases: FakeLeases
    engine: Engine
    tokens: Tokens
    metrics: Metrics
    records: list[Record]
    port: int
    own_port: int
    clients: list[Client] = field(default_factory=list)

    async def open(self, *, own_port: bool = False) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.own_port if own_port else self.port))
        self.clients.append(client)
        return client

    async def post(
        self,
        body: bytes,
        *,
        path: str = "/v1/chat/completions",
        extra: str = AUTH,
        content_type: str = "application/json",
        own_port: bool = False,
    ) -> Reply:
        client = await self.open(own_port=own_port)
        await client.send(request(body, path=path, extra=extra, content_type=content_type))
        return await client.reply()

    async def get(self, path: str, *, extra: str = AUTH, method: str = "GET", own_port: bool = False) -> Reply:
        client = await self.open(own_port=own_port)
        await client.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
        return await client.reply(head_only=method == "HEAD")


def request(
    body: bytes,
    *,
    path: str = "/v1/chat/completions",
    extra: str = AUTH,
    content_type: str = "application/json",
    method: str = "POST",
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{extra}Content-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    return sock


@contextlib.asynccontextmanager
async def relaying(*, auth: str = "token", drain_seconds: float = 0.2) -> AsyncIterator[Relaying]:
    """A gateway with the models qwen (which serves), gemma and other, all at one engine; nothing is left over."""
    before = asyncio.all_tasks()
    engine = Engine()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=1 << 26)
    engine.port = server.sockets[0].getsockname()[1]
    sock, own = listening(), listening()
    port, own_port = sock.getsockname()[1], own.getsockname()[1]
    leases = FakeLeases(
        {
            "qwen": model("qwen", engine.port, aliases=("q",)),
            "gemma": model("gemma", engine.port, gateway_port=own_port),
            "other": model("other", engine.port),
        },
        auth=auth,
    )
    tokens, records = Tokens(), list[Record]()
    metrics = Metrics()
    gateway = Gateway(leases, tokens, metrics, recorder=records.append)
    leases.listeners.append(gateway.follow)
    gateway.listen(sock)
    gateway.listen(own, port=own_port)
    it = Relaying(gateway, leases, engine, tokens, metrics, records, port, own_port)
    try:
        yield it
    finally:
        for client in it.clients:
            await client.close()
        await gateway.close(drain_seconds)
        server.close()
        await server.wait_closed()
        sock.close()
        own.close()
        await assert_no_tasks_but(before)
        assert (gateway.connections, gateway.upstreams, gateway.held_bytes, leases.held) == (0, 0, 0, [])


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """For what nothing tells: gives the loop its turns until it is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
