"""What becomes of an engine's response on its way to the client, also when the client has an answer begun already.

A stream that had to wait for its model has its head and comments sent before the engine has said anything; whatever
the engine says then, and whatever goes wrong, has to become events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Protocol

from spark_modeld.gateway.answer import Answer
from spark_modeld.gateway.chunks import EVENT_END
from spark_modeld.gateway.heads import Response
from spark_modeld.gateway.refusals import Refusal
from spark_modeld.gateway.usage import Usage

COMMENT = b": waiting for the model\n\n"
_EVENTS = b"text/event-stream"
_COLLECT_LIMIT = 64 * 1024
_TELL_SECONDS = 1.0


class Outcome(Enum):
    """How an answer ended."""

    COMPLETE = auto()
    REFUSED = auto()
    BROKEN = auto()
    GONE = auto()


class _Mode(Enum):
    PASS = auto()
    COLLECT = auto()


class Owner(Protocol):
    """Whose answer it is."""

    def begun(self) -> None:
        """The engine answers."""

    def flows(self) -> None:
        """A good answer is coming; said now and then."""

    def ended(self, outcome: Outcome) -> None:
        """Said once."""

    def abort(self) -> None:
        """Breaks the client's connection."""


class Delivery:
    """Implements ``relay.Owner``. ``first`` is when the engine's answer began, by ``clock``."""

    __slots__ = (
        "_answer",
        "_clock",
        "_collected",
        "_events",
        "_last",
        "_mode",
        "_owner",
        "_path",
        "_tell_at",
        "first",
        "usage",
    )

    def __init__(self, owner: Owner, answer: Answer, path: str, *, clock: Callable[[], float]) -> None:
        self._owner = owner
        self._clock = clock
        self._tell_at = math.inf
        self._answer = answer
        self._path = path
        self._mode = _Mode.PASS
        self._events = False
        self._last = b""
        self._collected: list[bytes] = []
        self.usage = Usage()
        self.first: float | None = None

    def comment(self) -> None:
        """Tells a client that waits for its stream that it is not forgotten."""
        if not self._answer.started:
            self._answer.begin(200, [(b"content-type", _EVENTS), (b"cache-control", b"no-cache")], None)
            self._events = True
        self._answer.data([COMMENT])
        self._answer.flush()

    def refuse(self, refusal: Refusal) -> None:
        """An error of ours, in whatever shape is still possible."""
        if not self._answer.started:
            self._answer.refuse(refusal)
            self._owner.ended(Outcome.REFUSED)
        elif self._events:
            # What the engine had begun to say must not run into it.
            gap = b"" if self._last in {b"", b"\n\n"} else b"\n\n"
            self._answer.data([gap, refusal.event(self._path)])
            self._answer.end()
            self._answer.flush()
            self._owner.ended(Outcome.BROKEN)
        else:
            # There is no way to say it; a connection that breaks is at least not taken for the end.
            self._answer.keep = False
            self._answer.flush()
            self._owner.abort()
            self._owner.ended(Outcome.BROKEN)

    # What the relay tells.

    def head(self, response: Response) -> None:
        """See ``relay.Owner``."""
        self.first = self._clock()
        if response.status < 400:
            self._tell_at = self.first
        self._owner.begun()
        single = response.single
        events = response.status == 200 and (single.get(b"content-type") or b"").lower().startswith(_EVENTS)
        if self._answer.started:
            self._mode = _Mode.PASS if events else _Mode.COLLECT
            return
        self._events = events and b"content-encoding" not in single
        self._answer.relay(response)

    def body(self, parts: Sequence[bytes]) -> None:
        """See ``relay.Owner``."""
        if (now := self._clock()) >= self._tell_at:
            self._tell_at = now + _TELL_SECONDS
            self._owner.flows()
        self.usage.see(parts)
        if self._mode is _Mode.COLLECT:
            if sum(map(len, self._collected)) < _COLLECT_LIMIT:
                self._collected += parts
            return
        if self._events and parts:
            last = parts[-1]
            self._last = last[-2:] if len(last) > 1 else (self._last + last)[-2:]
        self._answer.data(parts)

    def chunks(self, chunks: bytes, size: int) -> bool:
        """See ``relay.Owner``. Whole events after whole events pass as they are: it is how almost all tokens come."""
        if self._last != EVENT_END or not self._answer.chunked:
            return False
        if (now := self._clock()) >= self._tell_at:
            self._tell_at = now + _TELL_SECONDS
            self._owner.flows()
        self.usage.see_events(chunks)
        self._answer.pass_on(chunks, size)
        return True

    def flush(self) -> None:
        """See ``relay.Owner``."""
        self._answer.flush()

    def complete(self) -> None:
        """See ``relay.Owner``."""
        if self._mode is _Mode.COLLECT:
            self._answer.data([_as_event(b"".join(self._collected))])
        self._answer.end()
        self._answer.flush()
        self._owner.ended(Outcome.COMPLETE)

    def failed(self, why: str) -> None:
        """See ``relay.Owner``."""
        self.refuse(Refusal(status=502, code="model_failed", message=f"The model {why}."))


def _as_event(body: bytes) -> bytes:
    """A response that is no stream, as an event; line breaks in JSON mean nothing."""
    return b"data: " + b" ".join(body.splitlines()) + b"\n\n"
