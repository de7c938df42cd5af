"""What is written down of each request: never what was said in it, never a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

_LOG = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Record:
    """One request. Times are seconds since it was complete; ``outcome`` says how a relayed answer ended."""

    method: str
    path: str
    model: str | None = None
    actor: str | None = None
    status: int = 0
    first_byte: float | None = None
    total: float = 0.0
    length: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    outcome: str = "complete"


Recorder = Callable[[Record], None]


def write(record: Record) -> None:
    """One line of the log."""
    fields: dict[str, object] = {
        "model": record.model,
        "actor": record.actor,
        "status": record.status,
        "total_seconds": f"{record.total:.4f}",
        "bytes": record.length,
    }
    if record.first_byte is not None:
        fields["first_byte_seconds"] = f"{record.first_byte:.4f}"
    if record.completion_tokens is not None or record.prompt_tokens is not None:
        fields["prompt_tokens"] = record.prompt_tokens
        fields["completion_tokens"] = record.completion_tokens
    if record.outcome != "complete":
        fields["outcome"] = record.outcome
    _LOG.info(f"{record.method} {record.path} {record.status}", **fields)
