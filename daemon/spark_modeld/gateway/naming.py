"""The one field of a request's body that the gateway reads and writes: the model's name.

Everything else in a body stays as it is, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from spark_modeld.gateway.refusals import Refused, refused

_KEY = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*')
_END = re.compile(rb"[ \t\r\n]*\}[ \t\r\n]*")

Piece = bytes | bytearray | memoryview


class Body(Protocol):
    """A request's body, understood as far as the gateway has to."""

    @property
    def model(self) -> str | None:
        """The model it names, None if it names none."""

    @property
    def stream(self) -> bool:
        """Whether it asks for a stream of events."""

    def naming(self, name: str) -> Sequence[Piece]:
        """The body with this model's name in it."""


class Opaque(Struct, frozen=True):
    """A body that names no model, or is none of the gateway's business."""

    raw: Piece
    model: str | None = None
    stream: bool = False

    def naming(self, name: str) -> Sequence[Piece]:  # noqa: ARG002 - there is no place for it
        """As it came."""
        return [self.raw] if len(self.raw) else []


class JsonFields:
    """A JSON object that is small enough to be taken apart at once. ``raw`` must not change any more.

    ``placed``: it is clear where its model's name is, as it almost always is; else it has to be read otherwise.
    """

    __slots__ = ("_empty", "_raw", "_span", "model", "placed", "stream")

    _decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def __init__(self, raw: bytes | bytearray) -> None:
        """``Refused`` if it is no JSON object, or its model no name."""
        try:
            fields = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json() from error
        named = fields.get("model")
        self.model = None if named is None else name_in(bytes(named))
        self.stream = bytes(fields.get("stream", b"")) == b"true"
        self._raw = raw
        self._empty = not fields
        self._span = _place(raw, fields)
        self.placed = self._span is not None

    def naming(self, name: str) -> Sequence[Piece]:
        """The body with this model's name, and the same bytes around it."""
        assert self._span is not None
        start, end = self._span
        encoded = msgspec.json.encode(name)
        if start == end:
            encoded = b'"model":' + encoded + (b"" if self._empty else b",")
        view = memoryview(self._raw)
        return [b"".join((view[:start], encoded, view[end:]))]


def _place(raw: bytes | bytearray, fields: dict[str, msgspec.Raw]) -> tuple[int, int] | None:
    """Where the model's value is, or would go; None where a key is there twice, or spelled with escapes."""
    if "model" not in fields:
        front = raw.index(b"{") + 1
        return front, front
    found, at = None, 0
    for value in fields.values():
        match = _KEY.match(raw, at)
        if match is None:
            return None
        said = bytes(value)
        at, end = match.end(), match.end() + len(said)
        if raw[at:end] != said:
            return None
        if match[1] == b"model":
            found = at, end
        at = end
    # What was walked along is all there is: no key was left out, so none is there twice.
    return found if _END.fullmatch(raw, at) is not None else None


def name_in(value: bytes | bytearray) -> str | None:
    """The name in a JSON value, None for null. ``Refused`` for anything else."""
    try:
        name = msgspec.json.decode(value, type=str | None)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refused(400, "invalid_model", "The model has to be a string.", param="model") from error
    return checked(name)


def checked(name: str | None) -> str | None:
    """A name that is not longer than any name is; an empty one is none. ``Refused``."""
    if name is not None and len(name) > 256:
        raise refused(404, "model_not_found", "There is no model of so long a name.", param="model")
    return name or None


def not_json() -> Refused:
    """The body is not what it has to be."""
    return refused(400, "invalid_body", "The body has to be a JSON object.")
