"""Who may use the gateway, and for what.

Every tunnel and proxy of this machine arrives from 127.0.0.1, so an address proves nothing and no caller is slowed by
the failures of another: only the answers to wrong tokens are bounded in rate.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Protocol

from msgspec import Struct, field

from spark_modeld.core.loopback import names_loopback
from spark_modeld.core.model import Model
from spark_modeld.gateway.heads import Request
from spark_modeld.gateway.refusals import Refused, refused
from spark_modeld.gateway.routes import Kind, Route

_WRONG_A_SECOND = 10.0
_BURST_SECONDS = 1.0
_LONGEST_WAIT = 5.0
_KNOWN_SECONDS = 0.05
_KNOWN_LIMIT = 1000
_FORWARDED = (b"x-forwarded-", b"tailscale-", b"cf-")
_FORWARDING = frozenset({b"forwarded", b"x-real-ip", b"via", b"true-client-ip"})


class Token(Protocol):
    """A token that was found good."""

    @property
    def name(self) -> str:
        """What the operator called it."""

    @property
    def scopes(self) -> Set[str]:
        """``inference``, ``engine-admin`` and others."""

    @property
    def models(self) -> Set[str] | None:
        """Names of the models it may use, None for all."""

    @property
    def may_switch(self) -> bool:
        """Whether its requests may bring a model into the slot."""


class TokenVerifier(Protocol):
    """Knows the tokens."""

    def verify(self, token: str, /) -> Token | None:
        """The token's entry, None for one that is unknown, wrong or expired. Does not block."""


class WrongToken(Refused):
    """A token that is none; its answer waits for ``delay`` seconds, None: it gets none."""

    def __init__(self, delay: float | None) -> None:
        super().__init__(_unauthorized("The token is unknown, wrong or expired.").refusal)
        self.delay = delay


class Visitor(Struct, frozen=True):
    """Who asks: ``actor`` for history and log, ``models`` None for every one."""

    actor: str | None = None
    scopes: Set[str] = field(default_factory=frozenset)
    models: Set[str] | None = None
    may_switch: bool = True

    def may_use(self, model: Model) -> bool:
        """Whether this model is among those that the token is for, by any of its names."""
        return self.models is None or not self.models.isdisjoint(model.names)


_ANYBODY = Visitor(scopes=frozenset({"inference"}))


class Access:
    """The policy of the gateway's listeners. ``failures`` counts the wrong tokens."""

    def __init__(self, tokens: TokenVerifier, clock: Callable[[], float]) -> None:
        """``clock``: monotonic seconds."""
        self._tokens = tokens
        self._clock = clock
        self._next_answer = 0.0
        self._known: dict[str, tuple[float, Visitor]] = {}
        self.failures = 0

    def admit(self, request: Request, route: Route, *, auth: str, loopback: bool) -> Visitor:
        """Who asks. ``Refused``, 401 or 403; ``auth`` is the setting, ``loopback`` whether the listener is."""
        visitor = self._anybody(request, loopback=loopback) if auth == "none" else self._bearer(request)
        wanted = "engine-admin" if route.kind is Kind.ADMIN else "inference"
        if wanted in visitor.scopes or (route.kind in {Kind.MODELS, Kind.MODEL} and "engine-admin" in visitor.scopes):
            return visitor
        who = f"Token {visitor.actor.removeprefix('token ')!r}" if visitor.actor else "A caller without a token"
        raise refused(403, "not_authorized", f"{who} lacks the scope {wanted} for this path.")

    def _bearer(self, request: Request) -> Visitor:
        """A good token is not looked up again for a moment: under load that is a tenth of a request's cost."""
        secret = request.secret
        if secret is None:
            secret = request.secret = _secret(request)
        now = self._clock()
        until, known = self._known.get(secret, (0.0, None))
        if known is not None and now < until:
            return known
        token = self._tokens.verify(secret)
        if token is None:
            self._known.pop(secret, None)
            raise WrongToken(self._pace())
        if len(self._known) >= _KNOWN_LIMIT:
            self._known.clear()
        visitor = Visitor(f"token {token.name}", token.scopes, token.models, token.may_switch)
        self._known[secret] = now + _KNOWN_SECONDS, visitor
        return visitor

    def forget(self) -> None:
        """Keeps no token longer than it is of use."""
        now = self._clock()
        self._known = {secret: each for secret, each in self._known.items() if each[0] > now}

    def _pace(self) -> float | None:
        """How long the answer to one more wrong token has to wait; None if that were too long."""
        self.failures += 1
        now = self._clock()
        at = max(now - _BURST_SECONDS, self._next_answer)
        if at - now > _LONGEST_WAIT:
            return None
        self._next_answer = at + 1 / _WRONG_A_SECOND
        return max(0.0, at - now)

    def _anybody(self, request: Request, *, loopback: bool) -> Visitor:
        """Without tokens, only what certainly comes from this machine, and from no foreign page."""
        host = request.get(b"host")
        origin = request.get(b"origin")
        forwarded = any(name in _FORWARDING or name.startswith(_FORWARDED) for name, _ in request.fields)
        foreign = origin is not None and not _is_loopback(origin.partition(b"://")[2])
        if not loopback or host is None or not _is_loopback(host) or forwarded or foreign:
            raise refused(
                403, "not_authorized", "This gateway is open to this machine only; give it tokens to let others in."
            )
        return _ANYBODY


def _secret(request: Request) -> str:
    """The token that was sent; some clients know no bearer and send ``x-api-key``."""
    sent = request.get(b"authorization")
    if sent is None:
        key = request.get(b"x-api-key")
        if key is None:
            raise _unauthorized("A token is needed, as `Authorization: Bearer`.")
        return key.decode("latin-1")
    scheme, _, secret = sent.partition(b" ")
    if scheme.lower() != b"bearer":
        raise _unauthorized("A token is needed, as `Authorization: Bearer`.")
    return secret.strip().decode("latin-1")


def _unauthorized(message: str) -> Refused:
    return refused(401, "invalid_api_key", message)


def _is_loopback(host: bytes) -> bool:
    return names_loopback(host.decode("latin-1"))
