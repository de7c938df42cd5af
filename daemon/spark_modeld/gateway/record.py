"""What is written down of each request: never what was said in it, never a token."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Record(Struct, kw_only=True):
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


def line(record: Record) -> tuple[str, dict[str, str]]:
    """The line of the log for a request: what it says, and its fields."""
    fields = {"status": str(record.status), "total_seconds": f"{record.total:.4f}", "bytes": str(record.length)}
    if record.model is not None:
        fields["model"] = record.model
    if record.actor is not None:
        fields["actor"] = record.actor
    if record.first_byte is not None:
        fields["first_byte_seconds"] = f"{record.first_byte:.4f}"
    if record.prompt_tokens is not None:
        fields["prompt_tokens"] = str(record.prompt_tokens)
    if record.completion_tokens is not None:
        fields["completion_tokens"] = str(record.completion_tokens)
    if record.outcome != "complete":
        fields["outcome"] = record.outcome
    return f"{record.method} {record.path} {record.status}", fields
