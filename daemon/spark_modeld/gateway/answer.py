"""The client's side of an exchange: heads without what concerns one hop only, and bodies framed for this client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Protocol

from spark_modeld.gateway.heads import Fields, Response
from spark_modeld.gateway.refusals import Refusal

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OURS = HOP_BY_HOP | {b"content-length"}
_BODILESS = frozenset({204, 304})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Wire(Protocol):
    """Where an answer goes."""

    def write(self, data: bytes) -> None:
        """Sends, sooner or later."""

    def pass_on(self, data: bytes) -> None:
        """Sends at once, after what was written."""


class Answer:
    """One response to one request. What is given to it leaves with ``flush``, so that it leaves in one piece.

    ``keep``: whether the connection may be used again after it; ``chunked``: its body goes out in chunks.
    """

    __slots__ = (
        "_bodiless",
        "_head_only",
        "_http10",
        "_out",
        "_wire",
        "chunked",
        "keep",
        "length",
        "started",
        "status",
    )

    def __init__(self, wire: Wire, *, method: str, http10: bool, keep: bool) -> None:
        self._wire = wire
        self._head_only = method == "HEAD"
        self._http10 = http10
        self._bodiless = False
        self.chunked = False
        self._out: list[bytes] = []
        self.keep = keep
        self.started = False
        self.status = 0
        self.length = 0

    def begin(self, status: int, fields: Iterable[tuple[bytes, bytes]], length: int | None) -> None:
        """The head. ``length`` of the body in bytes, None where only its end will tell."""
        self._begin(status, _lines(status, b"", fields), length)

    def relay(self, response: Response) -> None:
        """The head of an engine's response, without what concerned its connection only."""
        lines = response.relayed
        if lines is None:
            lines = response.relayed = _lines(response.status, response.reason, _for_clients(response))
        self._begin(response.status, lines, response.length)

    def _begin(self, status: int, lines: bytes, length: int | None) -> None:
        assert not self.started
        self.started = True
        self.status = status
        self._bodiless = self._head_only or status in _BODILESS
        framing = b""
        if length is not None:
            if status != 204:
                framing = b"content-length: %d\r\n" % length
        elif not self._bodiless:
            if self._http10:
                self.keep = False
            else:
                self.chunked = True
                framing = b"transfer-encoding: chunked\r\n"
        self._out += (lines, framing, b"\r\n" if self.keep else b"connection: close\r\n\r\n")

    def data(self, parts: Sequence[bytes]) -> None:
        """More of the body."""
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        if not size or self._bodiless:
            return
        self.length += size
        if self.chunked:
            self._out.append(b"%x\r\n" % size)
        self._out += parts
        if self.chunked:
            self._out.append(b"\r\n")

    def pass_on(self, chunks: bytes, size: int) -> None:
        """More of a body in chunks, ``size`` bytes of it: leaves at once. What was given before has been flushed."""
        self.length += size
        self._wire.pass_on(chunks)

    def end(self) -> None:
        """The body is complete."""
        if self.chunked:
            self._out.append(b"0\r\n\r\n")

    def flush(self) -> None:
        """Sends what there is."""
        if self._out:
            out, self._out = self._out, []
            self._wire.write(out[0] if len(out) == 1 else b"".join(out))

    def whole(self, status: int, body: bytes, *fields: tuple[bytes, bytes]) -> None:
        """An answer of our own, in JSON."""
        self.begin(status, [(b"content-type", b"application/json"), *fields], len(body))
        self.data([body])
        self.flush()

    def refuse(self, refusal: Refusal) -> None:
        """An answer of our own that is an error."""
        fields: list[tuple[bytes, bytes]] = []
        if refusal.retry_after is not None:
            fields.append((b"retry-after", b"%d" % refusal.retry_after))
        if refusal.allow is not None:
            fields.append((b"allow", refusal.allow.encode()))
        if refusal.status == 401:
            fields.append((b"www-authenticate", b"Bearer"))
        self.whole(refusal.status, refusal.body, *fields)


def _lines(status: int, reason: bytes, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    first = b"HTTP/1.1 %d %b\r\n" % (status, reason or _REASONS.get(status, b""))
    return first + b"".join([b"%b: %b\r\n" % field for field in fields])


def _for_clients(response: Response) -> Fields:
    """What of an engine's head is meant for the client."""
    nominated = response.options
    return [field for field in response.fields if field[0] not in _OURS and field[0] not in nominated]
