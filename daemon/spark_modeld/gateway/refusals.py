"""What the gateway says no with: OpenAI's envelope, one sentence, no log lines."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from spark_modeld.core.errors import Code, Problem

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_CODES = {Code.UNKNOWN_MODEL: "model_not_found"}


class Refusal(Struct, frozen=True, kw_only=True):
    """An answer of our own that is an error. ``retry_after`` is in seconds; ``allow`` are the methods of a 405."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None
    allow: str | None = None

    @property
    def body(self) -> bytes:
        """The envelope."""
        return msgspec.json.encode({"error": self._error()})

    def event(self, path: str) -> bytes:
        """The same as the last event of a stream, in the shape that the path's clients know."""
        if path.endswith("/messages"):
            return _event({"type": "error", "error": self._error()}, name=b"error")
        if path.endswith("/responses"):
            return _event({**self._error(), "type": "error", "error": self._error()}, name=b"error")
        return _event({"error": self._error()})

    def _error(self) -> dict[str, str | None]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"message": self.message, "type": kind, "code": self.code, "param": self.param}


class Refused(Exception):
    """Raised where a request is found to be refused."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refused(
    status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
) -> Refused:
    """A refusal, ready to be raised."""
    return Refused(Refusal(status=status, code=code, message=message, param=param, retry_after=retry_after))


def from_problem(problem: Problem) -> Refusal:
    """A problem as clients of the gateway see it: its first sentence, and since when somebody has the slot."""
    retry_after = problem.extra.get("retry_after")
    message = _SENTENCE_END.split(problem.detail.splitlines()[0] if problem.detail else problem.title, 1)[0]
    holder, since = problem.extra.get("holder"), problem.extra.get("since")
    if holder is not None and since is not None:
        moment = datetime.fromtimestamp(float(since), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = f"{message.removesuffix('.')} ({holder} is there since {moment})."
    code = _CODES.get(problem.code, str(problem.code).replace("-", "_"))
    return Refusal(
        status=problem.status,
        code=code,
        message=message,
        param="model" if problem.code is Code.UNKNOWN_MODEL else None,
        retry_after=None if retry_after is None else max(1, round(float(retry_after))),
    )


def _event(data: dict[str, object], *, name: bytes = b"") -> bytes:
    line = b"data: " + msgspec.json.encode(data) + b"\n\n"
    return b"event: " + name + b"\n" + line if name else line
