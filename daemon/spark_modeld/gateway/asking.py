"""The engine's side of a request: its head, without what was meant for the gateway only."""

from __future__ import annotations

from collections.abc import Sequence

from spark_modeld.gateway.answer import HOP_BY_HOP
from spark_modeld.gateway.heads import Request
from spark_modeld.gateway.naming import Piece

# Credentials are the gateway's; where a client sits is its own business; what is encoded could not be read here.
_NOT_FOR_ENGINES = HOP_BY_HOP | {
    b"accept-encoding",
    b"api-key",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"origin",
    b"via",
    b"x-api-key",
    b"x-real-ip",
}
_NOT_FOR_ENGINES_EITHER = (b"x-forwarded-", b"tailscale-", b"cf-")
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


def head(request: Request, target: str, authority: bytes, key: str | None, pieces: Sequence[Piece]) -> bytes:
    """The head to be sent, for ``target``; ``key`` is the bearer that the engine itself wants."""
    forwarded = request.forwarded
    if forwarded is None:
        forwarded = request.forwarded = _forwarded(request)
    more = b""
    if key is not None:
        more = b"authorization: Bearer " + key.encode("latin-1") + b"\r\n"
    if pieces or request.method not in _BODILESS:
        more += b"content-length: %d\r\n" % sum(map(len, pieces))
    line = f"{request.method} {target} HTTP/1.1\r\nhost: ".encode("ascii")
    return b"%b%b\r\n%b%b\r\n" % (line, authority, forwarded, more)


def _forwarded(request: Request) -> bytes:
    """The lines of the fields that are meant for an engine."""
    nominated = request.options
    return b"".join(
        b"%b: %b\r\n" % (name, value)
        for name, value in request.fields
        if not (name in _NOT_FOR_ENGINES or name in nominated or name.startswith(_NOT_FOR_ENGINES_EITHER))
    )
