"""One client's connection: requests read one after the other, each answered before the next is looked at."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import cast

from spark_modeld.gateway.access import WrongToken
from spark_modeld.gateway.answer import Answer
from spark_modeld.gateway.exchange import Exchange
from spark_modeld.gateway.familiar import Familiar
from spark_modeld.gateway.heads import HEAD_LIMIT, Malformed, Request, end_of_head
from spark_modeld.gateway.house import House, Place
from spark_modeld.gateway.intake import Intake
from spark_modeld.gateway.record import Record
from spark_modeld.gateway.refusals import Refusal, Refused

HEAD_SECONDS = 30.0
BODY_SECONDS = 30.0
IDLE_SECONDS = 75.0
LINGER_SECONDS = 2.0
# uvloop reads on from a socket as long as there is more, up to 8 MiB, before anybody else has a turn.
_TURN_BYTES = 128 * 1024
# What is written in one turn leaves together, up to this much: whoever does not keep up has to be noticed.
_TOGETHER_BYTES = 64 * 1024
HEARING_SECONDS = 1.0


class Connection(asyncio.Protocol):
    """Implements ``house.Wire``. ``deadline`` is when whoever sweeps calls ``overdue``, in the loop's time."""

    __slots__ = (
        "_advancing",
        "_buffer",
        "_clogged",
        "_exchange",
        "_familiar",
        "_gone",
        "_house",
        "_intake",
        "_lingering",
        "_loop",
        "_out",
        "_out_bytes",
        "_paused",
        "_place",
        "_quiet_since",
        "_timer",
        "_transport",
        "deadline",
    )

    def __init__(self, house: House, place: Place, gone: Callable[[Connection], None]) -> None:
        self._house = house
        self._place = place
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._exchange: Exchange | None = None
        self._familiar = Familiar()
        self._intake: Intake | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._advancing = False
        self._clogged = False
        self._lingering = False
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_since = self._loop.time()
        self.deadline = self._quiet_since + IDLE_SECONDS

    # What the loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        # A client that vanished without a word holds a lease until somebody notices.
        for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """More of a request, or of the next one already."""
        if self._lingering:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._exchange is not None and self._intake is None:
            if len(self._buffer) > HEAD_LIMIT and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            return
        self._advance()

    def eof_received(self) -> bool:
        """A client that closes its end is gone: nothing tells one that still listens from one that hung up."""
        self._send()
        self._hung_up()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name for it
        """Gone, however."""
        self._transport = None
        self._hung_up()
        self._gone(self)

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self._clogged = True
        if self._exchange is not None:
            self._exchange.may_relay(False)

    def resume_writing(self) -> None:
        """It does again."""
        self._clogged = False
        if self._exchange is not None:
            self._exchange.may_relay(True)
        elif not self._advancing:
            self._advance()

    # What the exchange asks for.

    def write(self, data: bytes) -> None:
        """See ``Wire``. At the end of the turn."""
        if not self._out:
            self._house.turn.at_end(self._send)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > _TOGETHER_BYTES:
            self._send()

    def pass_on(self, data: bytes) -> None:
        """See ``Wire``."""
        transport = self._transport
        if self._out:
            self.write(data)
        elif transport is not None and not transport.is_closing():
            transport.write(data)

    def abort(self) -> None:
        """See ``Wire``."""
        if self._transport is not None:
            self._send()
            self._transport.abort()

    def ended(self, keep: bool) -> None:
        """See ``Wire``."""
        self._exchange = None
        unread = self._intake is not None
        self._drop_intake()
        if self._transport is None or self._transport.is_closing():
            return
        if not keep or unread:
            self._linger()
            return
        self._quiet_since = self._loop.time()
        self.deadline = self._quiet_since + (HEARING_SECONDS if self._house.closing else IDLE_SECONDS)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._buffer and not self._advancing:
            self._advance()

    # What whoever sweeps and closes asks for.

    @property
    def busy(self) -> bool:
        """Whether a request is being read or answered."""
        return self._exchange is not None or bool(self._buffer)

    def overdue(self) -> None:
        """Its deadline is over."""
        self.deadline = math.inf
        if self._transport is None:
            return
        if self._exchange is not None and self._intake is not None:
            self._refuse(Refusal(status=408, code="timeout", message="The body of the request did not come in time."))
        elif self._buffer and not self._lingering:
            self._answer_malformed(Malformed("The head of the request did not come in time.", 408))
        elif self._lingering:
            self._transport.abort()
        else:
            self._close()

    def wind_up(self) -> None:
        """No more is accepted: an answer that has not begun says that it is the last, what is idle is closed.

        Whoever has just connected, or just been answered, may be asking at this moment: that is still heard.
        """
        if self._exchange is not None:
            self._exchange.answer.keep &= self._exchange.answer.started
        elif not self._buffer and self._transport is not None:
            if self._loop.time() - self._quiet_since >= HEARING_SECONDS:
                self._close()
            else:
                self.deadline = min(self.deadline, self._loop.time() + HEARING_SECONDS)

    def make_way(self, model: str) -> None:
        """Ends what this model is still working on."""
        if self._exchange is not None:
            self._exchange.make_way(model)

    def abandon(self) -> None:
        """Ends what is under way with an error."""
        if self._exchange is not None:
            self._exchange.abandon()
        elif self._transport is not None:
            self._close()

    # Reading.

    def _advance(self) -> None:
        """Takes in as much as there is; stops where a request is being answered."""
        self._advancing = True
        try:
            while self._buffer and not (self._lingering or self._clogged or self._transport is None):
                if self._intake is not None:
                    self._read_body()
                elif self._exchange is None:
                    if not self._read_head():
                        return
                else:
                    return
        except Malformed as error:
            self._answer_malformed(error)
        except Refused as error:
            self._refuse(error.refusal)
        finally:
            self._advancing = False

    def _read_head(self) -> bool:
        if self._buffer[0] in b"\r\n":
            # Some clients send an empty line after a body (RFC 9112, 2.2).
            self._buffer = self._buffer.lstrip(b"\r\n")
            return bool(self._buffer)
        end = end_of_head(self._buffer)
        if end < 0:
            if self.deadline == math.inf or self.deadline > self._loop.time() + HEAD_SECONDS:
                self.deadline = self._loop.time() + HEAD_SECONDS
            return False
        request = self._familiar.read(self._buffer[:end])
        self._buffer = self._buffer[end:]
        self._begin(request)
        return True

    def _begin(self, request: Request) -> None:
        exchange = self._exchange = Exchange(self._house, self, request, self._place)
        if request.length != 0:
            self._intake = Intake(self._house, request.length)
        self.deadline = math.inf
        try:
            exchange.admit()
            if self._intake is not None:
                if not self._buffer:
                    self.deadline = self._loop.time() + BODY_SECONDS
                self._expect(request, self._intake)
        except WrongToken as error:
            self._answer_later(error)
            return
        if self._intake is None:
            exchange.run(None)

    def _expect(self, request: Request, intake: Intake) -> None:
        intake.check()
        expected = request.get(b"expect")
        if expected is None or request.http10:
            return
        if expected.lower() != b"100-continue":
            raise Refused(Refusal(status=417, code="expectation_failed", message="Only 100-continue can be expected."))
        if not self._buffer:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self) -> None:
        intake, exchange = self._intake, self._exchange
        assert intake is not None
        assert exchange is not None
        self._buffer, data = b"", self._buffer
        self._buffer = intake.feed(data)
        if not intake.done:
            self.deadline = self._loop.time() + BODY_SECONDS
            if len(data) >= _TURN_BYTES and self._transport is not None and not self._transport.is_closing():
                self._transport.pause_reading()
                self._loop.call_soon(self._read_on)
            return
        self._intake = None
        self.deadline = math.inf
        exchange.run(intake)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # Ending.

    def _send(self) -> None:
        """What was written and has not left."""
        out, self._out = self._out, []
        self._out_bytes = 0
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _close(self) -> None:
        self._send()
        if self._transport is not None:
            self._transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Before its body was read: whatever still comes belongs to nothing."""
        assert self._exchange is not None
        if self._intake is not None:
            self._exchange.answer.keep = False
        self._exchange.refuse(refusal)

    def _answer_later(self, error: WrongToken) -> None:
        """Guesses are not answered as fast as they come; those that come too fast are not answered at all."""
        assert self._exchange is not None
        self._exchange.answer.keep = False
        if error.delay is None:
            self.abort()
        elif error.delay <= 0:
            self._exchange.refuse(error.refusal)
        else:
            self._lingering = True
            self._timer = self._loop.call_later(error.delay, self._exchange.refuse, error.refusal)

    def _answer_malformed(self, error: Malformed) -> None:
        """What is not HTTP gets one answer, and nothing after it is believed."""
        refusal = Refusal(status=error.status, code="invalid_request", message=str(error))
        if self._exchange is not None:
            self._exchange.answer.keep = False
            self._exchange.refuse(refusal)
            return
        Answer(self, method="", http10=False, keep=False).refuse(refusal)
        self._house.record(Record(method="-", path="-", status=error.status))
        self._linger()

    def _linger(self) -> None:
        """Closes, after what the client still sends has had a moment: or a reset would take the answer from it."""
        if self._transport is None:
            return
        self._send()
        self._lingering = True
        self._buffer = b""
        self.deadline = self._loop.time() + LINGER_SECONDS
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._close()

    def _hung_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        exchange = self._exchange
        if exchange is not None:
            exchange.client_gone()
        self._drop_intake()

    def _drop_intake(self) -> None:
        if self._intake is not None:
            self._intake.close()
            self._intake = None
