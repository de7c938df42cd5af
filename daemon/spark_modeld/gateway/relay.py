"""One request's way to the engine and its response's way back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from spark_modeld.gateway.chunks import Chunks
from spark_modeld.gateway.heads import Malformed, Response, end_of_head, parse_response
from spark_modeld.gateway.naming import Piece
from spark_modeld.gateway.upstream import Origin, Pool, Upstream

_AT_ONCE = 64 * 1024
_SLICE = 256 * 1024
_TURN_BYTES = 512 * 1024


class Owner(Protocol):
    """Who is told about the response. After ``complete`` or ``failed`` nothing more is told."""

    def head(self, response: Response) -> None:
        """Its head."""

    def body(self, parts: Sequence[bytes]) -> None:
        """More of its body, without the framing."""

    def chunks(self, chunks: bytes, size: int) -> bool:
        """All that arrived together: chunks with their framing that each end an event, ``size`` bytes of the body.

        False, and nothing was done, if it has to come as ``body``.
        """

    def flush(self) -> None:
        """That was what arrived together."""

    def complete(self) -> None:
        """It is complete."""

    def failed(self, why: str) -> None:
        """The engine did not answer, or not to the end; ``why`` goes on after "the model"."""


class Relay:
    """Sends a request, once; a second time only when a reused connection died before any byte of an answer."""

    __slots__ = (
        "_again",
        "_body",
        "_buffer",
        "_clogged",
        "_connecting",
        "_halted",
        "_left",
        "_loop",
        "_origin",
        "_over",
        "_owner",
        "_pool",
        "_request",
        "_response",
        "_unsent",
        "_upstream",
        "head_only",
    )

    def __init__(self, owner: Owner, pool: Pool, origin: Origin, request: Sequence[Piece], *, head_only: bool) -> None:
        self._owner = owner
        self._pool = pool
        self._origin = origin
        self._request = request
        self.head_only = head_only
        self._loop = asyncio.get_running_loop()
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[Upstream] | None = None
        self._again = False
        self._over = False
        self._buffer = b""
        self._response: Response | None = None
        self._body: Chunks | None = None
        self._left = 0
        self._unsent: list[Piece] = []
        self._clogged = False
        self._halted = False

    def start(self) -> None:
        """Sends the request, over a connection that is there or a new one."""
        upstream = self._pool.take(self._origin, self._loop.time())
        if upstream is not None:
            self._send(upstream)
        else:
            self._connect()

    def cancel(self) -> None:
        """Ends it at once: nobody wants the answer any more."""
        self._over = True
        if self._connecting is not None:
            self._connecting.cancel()
        self._drop()

    def may_relay(self, relaying: bool) -> None:
        """The client takes more, or no more for now."""
        transport = self._upstream.transport if self._upstream is not None else None
        if transport is None or transport.is_closing():
            return
        self._halted = not relaying
        if relaying:
            transport.resume_reading()
        else:
            transport.pause_reading()

    # Sending.

    def _connect(self) -> None:
        self._connecting = self._loop.create_task(self._pool.connect(self._origin), name="connect to an engine")
        self._connecting.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[Upstream]) -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            if self._over:
                task.result().close()
            else:
                self._send(task.result())
        elif not self._over:
            if not isinstance(error, OSError):
                self._loop.call_exception_handler({"message": "connecting to an engine", "exception": error})
            slow = isinstance(error, TimeoutError)
            self._fail("does not take connections in time" if slow else "does not take connections")

    def _send(self, upstream: Upstream) -> None:
        upstream.receiver = self
        self._upstream = upstream
        self._clogged = False
        if sum(map(len, self._request)) <= _AT_ONCE:
            upstream.send(b"".join(self._request))
            return
        self._unsent = list(reversed(self._request))
        self._pump()

    def _pump(self) -> None:
        """As much as the engine takes; a large piece in slices, because a transport copies what it cannot send."""
        left = _TURN_BYTES
        while self._unsent and not self._clogged and self._upstream is not None:
            if left <= 0:
                # An engine that reads as fast as this writes would leave nobody else a turn.
                self._loop.call_soon(self._pump)
                return
            piece = memoryview(self._unsent.pop())
            if len(piece) > _SLICE:
                self._unsent.append(piece[_SLICE:])
                piece = piece[:_SLICE]
            left -= len(piece)
            assert self._upstream.transport is not None
            self._upstream.transport.write(piece)

    def may_send(self, sending: bool) -> None:
        """See ``Receiver``."""
        self._clogged = not sending
        if sending:
            self._pump()

    # Receiving.

    def received(self, data: bytes) -> None:
        """See ``Receiver``."""
        chunks = self._body
        if chunks is not None and (size := chunks.events(data)) and self._owner.chunks(data, size):
            return
        try:
            if self._response is None:
                data = self._read_head(data)
            if self._response is not None:
                self._read_body(self._response, data)
        except Malformed as error:
            self._fail(f"gave an answer that is no HTTP ({error})")
            return
        if not self._over:
            self._owner.flush()

    def lost(self) -> None:
        """See ``Receiver``."""
        upstream, self._upstream = self._upstream, None
        if self._over or upstream is None:
            return
        response = self._response
        if response is not None and response.length is None and not response.chunked:
            self._complete(upstream, b"", reusable=False)
        elif upstream.used and not self._again and response is None and not self._buffer:
            self._again = True
            self._connect()
        else:
            self._fail("broke off its answer" if response is not None else "hung up without an answer")

    def _read_head(self, data: bytes) -> bytes:
        """Takes heads off the front; what is left belongs to the body."""
        self._buffer += data
        while (end := end_of_head(self._buffer)) >= 0:
            response = parse_response(self._buffer[:end])
            self._buffer = self._buffer[end:]
            if response.status == 101:
                raise Malformed("it switches protocols unasked")
            if response.status >= 200:
                self._begin(response)
                data, self._buffer = self._buffer, b""
                return data
        return b""

    def _begin(self, response: Response) -> None:
        self._response = response
        self._request = ()
        if response.chunked and not (self.head_only or response.bodiless):
            self._body = Chunks()
        self._left = response.length or 0
        self._owner.head(response)

    def _read_body(self, response: Response, data: bytes) -> None:
        assert self._upstream is not None
        chunks = self._body
        if chunks is not None:
            if data:
                self._owner.body(chunks.feed(data))
                if chunks.done:
                    self._complete(self._upstream, chunks.rest)
        elif self.head_only or response.bodiless:
            self._complete(self._upstream, data)
        elif response.length is None:
            self._owner.body([data])
        else:
            body, rest = data[: self._left], data[self._left :]
            self._left -= len(body)
            self._owner.body([body])
            if not self._left:
                self._complete(self._upstream, rest)

    def _complete(self, upstream: Upstream, rest: bytes, *, reusable: bool = True) -> None:
        """Bytes after the response are nobody's: they never reach a client, and the connection is not used again."""
        self._over = True
        response, self._upstream = self._response, None
        clean = reusable and not (rest or self._unsent or self._clogged or self._halted)
        if clean and response is not None and response.keep:
            self._pool.put(upstream, self._loop.time())
        else:
            upstream.close()
        self._owner.complete()

    def _fail(self, why: str) -> None:
        self._over = True
        self._drop()
        self._owner.failed(why)

    def _drop(self) -> None:
        self._unsent = []
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
