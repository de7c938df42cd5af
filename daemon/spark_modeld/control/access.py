"""Who may call what. One policy per listener: a unix socket trusts its peers, a TCP port asks for a token.

Being on loopback proves nothing: proxies and tunnels arrive from 127.0.0.1 too, and so does a browser that was
talked into it. So the port also wants a loopback Host and no foreign Origin.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Set
from typing import Protocol

from aiohttp import web
from msgspec import Struct

from spark_modeld.core.errors import Code, SparkError, refuse
from spark_modeld.core.loopback import names_loopback

_UCRED = struct.Struct("3i")
_SAFE_METHODS = frozenset({"GET", "HEAD"})


class Token(Protocol):
    """A token that was found good: it exists, its secret matches and it has not expired."""

    @property
    def name(self) -> str:
        """What the operator called it."""

    @property
    def scopes(self) -> Set[str]:
        """``inference``, ``control``, ``observe``, ``engine-admin``."""


class TokenVerifier(Protocol):
    """Knows the tokens."""

    def verify(self, token: str, /) -> Token | None:
        """The token's entry, None for one that is unknown, wrong or expired. Does not block."""


class Caller(Struct, frozen=True):
    """Who is calling: ``actor`` for the history, ``uid`` when the kernel vouches for it."""

    actor: str | None = None
    uid: int | None = None


class Access(Protocol):
    """One listener's policy."""

    def screen(self, request: web.BaseRequest) -> None:
        """Refuses what must not be looked at any further. SparkError ``not-authorized``, 403."""

    def admit(self, request: web.BaseRequest) -> Caller:
        """The caller. SparkError ``not-authorized``, 401 or 403."""


class PeerAccess:
    """A unix socket: who may open it is decided by its mode; the kernel says who it was."""

    def screen(self, request: web.BaseRequest) -> None:
        """Refuses a foreign page: through a tunnel to the socket (``ssh -L``) a browser may get here after all."""
        if origins := request.headers.getall("Origin", []):
            _refuse_foreign(request.headers.getall("Host", [])[:1], origins)

    def admit(self, request: web.BaseRequest) -> Caller:
        """The peer's user id, as it was when it connected."""
        transport = request.transport
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is None:
            raise refuse(Code.NOT_AUTHORIZED, "The caller has hung up.", http_status=403)
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Caller(f"uid {uid}", uid)


class TokenAccess:
    """A TCP port: a bearer token with scope ``control``, or ``observe`` for reading."""

    def __init__(self, tokens: TokenVerifier) -> None:
        self._tokens = tokens

    def screen(self, request: web.BaseRequest) -> None:
        """Refuses another Host than loopback (DNS rebinding) and another Origin than ours (a foreign page)."""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not names_loopback(hosts[0]):
            raise refuse(
                Code.NOT_AUTHORIZED,
                "This port answers only to a loopback Host, such as 127.0.0.1 or localhost.",
                http_status=403,
            )
        _refuse_foreign(hosts, request.headers.getall("Origin", []))

    def admit(self, request: web.BaseRequest) -> Caller:
        """The token's name, once its scope covers the request's method."""
        sent = request.headers.getall("Authorization", [])
        if len(sent) != 1:
            raise _unauthorized("This port wants exactly one `Authorization: Bearer` header.")
        scheme, _, secret = sent[0].partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized("This port wants `Authorization: Bearer` with a token.")
        token = self._tokens.verify(secret.strip())
        if token is None:
            raise _unauthorized("The token is unknown, wrong or expired.")
        wanted = {"control", "observe"} if request.method in _SAFE_METHODS else {"control"}
        if not wanted & token.scopes:
            raise refuse(
                Code.NOT_AUTHORIZED,
                f"Token {token.name!r} lacks the scope for this call: {' or '.join(sorted(wanted))}.",
                http_status=403,
            )
        return Caller(f"token {token.name}")


def _unauthorized(what: str) -> SparkError:
    return refuse(
        Code.NOT_AUTHORIZED,
        f"{what} Make one with `spark-modelctl token add --scope control NAME`, or use the unix socket.",
    )


def _refuse_foreign(hosts: list[str], origins: list[str]) -> None:
    """Refuses pages of other origins, and those of ours under a name that is not loopback's."""
    ours = {f"http://{host}".lower() for host in hosts if names_loopback(host)}
    if not ours.issuperset(origin.lower() for origin in origins):
        raise refuse(Code.NOT_AUTHORIZED, "A page of another origin may not call this port.", http_status=403)
