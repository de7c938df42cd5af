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


def head(request: Request, target: str, authority: bytes, key: str | None, pieces: Sequence[Piece]) -> bytes:
    """The head to be sent, for ``target``; ``key`` is the bearer that the engine itself wants."""
    nominated = request.options
    lines = [f"{request.method} {target} HTTP/1.1\r\nhost: ".encode("ascii"), authority, b"\r\n"]
    for name, value in request.fields:
        if name in _NOT_FOR_ENGINES or name in nominated or name.startswith(_NOT_FOR_ENGINES_EITHER):
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    if key is not None:
        lines.append(b"authorization: Bearer " + key.encode("latin-1") + b"\r\n")
    if pieces or request.method not in {"GET", "HEAD", "DELETE", "OPTIONS"}:
        lines.append(b"content-length: %d\r\n" % sum(map(len, pieces)))
    lines.append(b"\r\n")
    return b"".join(lines)
