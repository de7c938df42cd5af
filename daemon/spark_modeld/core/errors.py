"""One exception family. A Problem is a value (it travels in events, state and JSON); SparkError carries one."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field


class Code(StrEnum):
    """The closed list of what can go wrong, as callers see it."""

    INVALID_REQUEST = "invalid-request"
    NOT_AUTHORIZED = "not-authorized"
    UNKNOWN_MODEL = "unknown-model"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    TOO_LARGE = "too-large"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    LARGE_PARALLEL = "large-parallel"
    STUCK = "stuck"
    INVALID_CONFIG = "invalid-config"
    MEMORY_REFUSED = "memory-refused"
    CHECK_FAILED = "check-failed"
    MODEL_FAILED = "model-failed"
    START_TIMEOUT = "start-timeout"
    BUS_LOST = "bus-lost"
    SHUTTING_DOWN = "shutting-down"
    BUSY = "busy"
    TOO_MANY_WAITING = "too-many-waiting"
    INTERNAL = "internal"


BLAMED_ON_THE_UNIT = frozenset({Code.MODEL_FAILED, Code.START_TIMEOUT})
"""What the unit's own log may explain."""


class _Meaning(Struct, frozen=True):
    title: str
    status: int
    exit_code: int


_MEANINGS: Mapping[Code, _Meaning] = MappingProxyType(
    {
        Code.INVALID_REQUEST: _Meaning("The request is not valid", 400, 2),
        Code.NOT_AUTHORIZED: _Meaning("Not authorized", 401, 1),
        Code.UNKNOWN_MODEL: _Meaning("No such model", 404, 5),
        Code.NOT_FOUND: _Meaning("Not found", 404, 1),
        Code.METHOD_NOT_ALLOWED: _Meaning("Method not allowed", 405, 1),
        Code.TOO_LARGE: _Meaning("The request is too large", 413, 1),
        Code.SUPERSEDED: _Meaning("A newer switch took over", 409, 1),
        Code.CANCELLED: _Meaning("The switch was cancelled", 409, 1),
        Code.LARGE_PARALLEL: _Meaning("Two large models may not run together", 409, 4),
        Code.STUCK: _Meaning("A unit will not stop", 409, 1),
        Code.INVALID_CONFIG: _Meaning("The configuration is not valid", 503, 1),
        Code.MEMORY_REFUSED: _Meaning("Not enough memory", 507, 4),
        Code.CHECK_FAILED: _Meaning("The check found errors", 422, 4),
        Code.MODEL_FAILED: _Meaning("The model did not come up", 502, 1),
        Code.START_TIMEOUT: _Meaning("The model was not ready in time", 504, 6),
        Code.BUS_LOST: _Meaning("No connection to systemd", 503, 1),
        Code.SHUTTING_DOWN: _Meaning("Shutting down", 503, 1),
        Code.BUSY: _Meaning("The slot is busy", 503, 4),
        Code.TOO_MANY_WAITING: _Meaning("Too many requests are waiting", 429, 1),
        Code.INTERNAL: _Meaning("Internal error", 500, 1),
    }
)


class Problem(Struct, frozen=True):
    """What went wrong, and in ``detail`` what to do next. ``extra`` are further members of the JSON.

    ``http_status`` overrides the code's own status (403 instead of 401, 422 for a refused reload).
    """

    code: Code
    detail: str
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    http_status: int | None = None

    @property
    def title(self) -> str:
        """One short line for people, the same for every problem of this code."""
        return _MEANINGS[self.code].title

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.http_status or _MEANINGS[self.code].status

    @property
    def exit_code(self) -> int:
        """The exit status of spark-modelctl."""
        return _MEANINGS[self.code].exit_code

    def as_dict(self) -> dict[str, Any]:
        """The members of ``application/problem+json``."""
        return {
            "type": f"urn:spark-modeld:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": str(self.code),
            **self.extra,
        }


class SparkError(Exception):
    """Anything the daemon refuses or fails to do, with the Problem that says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refuse(code: Code, detail: str, *, http_status: int | None = None, **extra: Any) -> SparkError:
    """A SparkError with this code and detail, ready to be raised."""
    return SparkError(Problem(code, detail, MappingProxyType(extra), http_status))
