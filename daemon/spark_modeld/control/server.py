"""The control API's server: admits, finds the route, and turns every failure into a problem."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Literal

import structlog
from aiohttp import web

from spark_modeld.control import intake
from spark_modeld.control.access import Access, Caller, PeerAccess, TokenAccess, TokenVerifier
from spark_modeld.control.answers import refusal
from spark_modeld.control.call import Call, Context
from spark_modeld.control.connection import Server, gone, heard
from spark_modeld.control.openapi import document
from spark_modeld.control.routes import Route, Router
from spark_modeld.control.table import ROUTES
from spark_modeld.core.errors import Code, Problem, SparkError, refuse
from spark_modeld.face import Face, Whereabouts
from spark_modeld.metrics import Metrics

Kind = Literal["unix", "tcp"]

_LOG = structlog.get_logger(__name__)
_ROUTER = Router(ROUTES)
_HEARING_SECONDS = 1.0


class Dispatcher:
    """Answers the requests of one listener."""

    def __init__(self, context: Context, access: Access) -> None:
        self._context = context
        self._access = access

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """An answer to everything but a client that has gone."""
        heard(request)
        try:
            return await self._answer(request)
        except SparkError as error:
            return refusal(error.problem)
        except ConnectionError:
            raise
        except Exception as error:
            _LOG.exception("request failed", method=request.method, path=request.rel_url.raw_path)
            if request.writer.output_size > 0:
                raise ConnectionResetError("the answer was under way when it failed") from error
            return refusal(Problem(Code.INTERNAL, "Something went wrong in the daemon; its journal says what."))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._access.screen(request)
        found = _find(request)
        if isinstance(found, SparkError):
            self._access.admit(request)
            raise found
        route, path = found
        caller = Caller() if route.anyone else self._access.admit(request)
        if route.gate and caller.uid != self._context.gate_uid:
            raise refuse(
                Code.NOT_AUTHORIZED,
                "Only a unit that is about to start may ask the gate: as root, on the unix socket.",
                http_status=403,
            )
        intake.check_size(request)
        query = intake.query(request, route)
        body = await intake.body(request, route)
        return await route.handler(Call(request, self._context, caller, path, query, body, gone(request)))


def _find(request: web.BaseRequest) -> tuple[Route, dict[str, str]] | SparkError:
    try:
        return _ROUTER.find(request.method, request.rel_url.raw_path)
    except SparkError as error:
        return error


def build(context: Context, *, access: Access) -> Server:
    """A server with one access policy, for the listeners that have it. On the running loop."""
    return Server(Dispatcher(context, access))


class Runner:
    """The servers while they run."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runners: dict[Kind, web.ServerRunner] = {}
        self._sockets: list[socket.socket] = []

    async def listen(self, sock: socket.socket, kind: Kind, access: Access) -> None:
        """Serves one bound socket, which the runner owns from now on."""
        if kind not in self._runners:
            runner = web.ServerRunner(build(self._context, access=access), shutdown_timeout=1.0)
            await runner.setup()
            self._runners[kind] = runner
        await web.SockSite(self._runners[kind], sock).start()
        self._sockets.append(sock)

    @property
    def connections(self) -> int:
        """Clients connected now."""
        return sum(len(runner.server.connections) for runner in self._runners.values() if runner.server is not None)

    async def close(self) -> None:
        """Stops listening, ends streams and waits for switches with an answer, and lets other requests finish (1 s).

        Whoever has been accepted and has not asked yet is heard (1 s): a restart refuses no connection.
        """
        self._context.closing.set()
        # Not by closing the listeners: asyncio drops what it has accepted from one that is closed in the same turn.
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
        self._sockets.clear()
        await asyncio.gather(*(self._hear_out(runner) for runner in self._runners.values()))
        await asyncio.gather(*(runner.cleanup() for runner in self._runners.values()))
        self._runners.clear()

    async def _hear_out(self, runner: web.ServerRunner) -> None:
        if isinstance(runner.server, Server):
            await runner.server.hear_out(_HEARING_SECONDS)


async def serve(
    face: Face,
    sockets: Iterable[tuple[socket.socket, Kind]],
    *,
    tokens: TokenVerifier,
    version: str,
    gate_uid: int = 0,
    metrics: Metrics | None = None,
    whereabouts: Whereabouts | None = None,
) -> Runner:
    """Serves the control API on bound sockets. The kind decides about trust: peers of ``unix``, tokens for ``tcp``.

    ``gate_uid`` is the user whose units ask the gate: root, but the user's own id under a per-user systemd.
    """
    spec = document(ROUTES, version)
    context = Context(face, version, spec, asyncio.Event(), gate_uid, metrics or Metrics(), whereabouts)
    access: dict[Kind, Access] = {"unix": PeerAccess(), "tcp": TokenAccess(tokens)}
    runner = Runner(context)
    for sock, kind in sockets:
        sock.setblocking(False)
        await runner.listen(sock, kind, access[kind])
    return runner
