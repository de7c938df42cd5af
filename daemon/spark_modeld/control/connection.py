"""aiohttp's low-level server with two habits of ours: broken HTTP gets a problem, and handlers learn of a hang-up."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from spark_modeld.control.answers import refusal
from spark_modeld.core.errors import Code, Problem

_LOG = structlog.get_logger(__name__)

_OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": 75.0,
    "lingering_time": 2.0,
}

_TURNS = 10


class Connection(web.RequestHandler):
    """One client's connection. ``gone`` is set when it is lost, ``heard`` with its first request, or then too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone = asyncio.Event()
        self.heard = asyncio.Event()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tells whoever waits on behalf of this client."""
        self.gone.set()
        self.heard.set()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what the parser refused (400), or a failure outside every handler (500), and closes."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer was already under way")
        if isinstance(exc, HttpProcessingError):
            problem = Problem(Code.INVALID_REQUEST, f"This is not HTTP as it should be: {_first_line(message)}")
        else:
            _LOG.error("request failed outside its handler", exc_info=exc)
            problem = Problem(
                Code.INTERNAL, "Something went wrong in the daemon; its journal says what.", http_status=status
            )
        response = refusal(problem)
        response.force_close()
        return response


class Server(web.Server):
    """Makes our connections. To be created on the running loop."""

    def __init__(self, handler: Any) -> None:
        super().__init__(handler, **_OPTIONS)
        self._handler_loop = asyncio.get_running_loop()

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        return Connection(self, loop=self._handler_loop, **_OPTIONS)

    async def hear_out(self, seconds: float) -> None:
        """Returns when every connection has asked something, or after so many seconds. For when none is accepted."""
        # What was accepted just now becomes a connection a few turns of the loop later.
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        waits = [asyncio.ensure_future(each.heard.wait()) for each in self.connections if isinstance(each, Connection)]
        if waits:
            _, silent = await asyncio.wait(waits, timeout=seconds)
            for wait in silent:
                wait.cancel()
            await asyncio.gather(*silent, return_exceptions=True)


def gone(request: web.BaseRequest) -> asyncio.Event:
    """Set when the client of this request hangs up."""
    return _connection(request).gone


def heard(request: web.BaseRequest) -> None:
    """Notes that this client has asked something."""
    _connection(request).heard.set()


def _connection(request: web.BaseRequest) -> Connection:
    protocol = request.protocol
    assert isinstance(protocol, Connection)
    return protocol


def _first_line(message: str | None) -> str:
    lines = (message or "").strip().splitlines()
    return lines[0].rstrip(":")[:200] if lines else "malformed request"
