"""Form data: finds the part that names the model, and puts another name there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spark_modeld.gateway.naming import Piece, checked
from spark_modeld.gateway.refusals import Refused, refused

_BOUNDARY_PARAMETER = re.compile(rb"boundary=(?:\"([^\"\\]+)\"|([^\s\";,]+))", re.IGNORECASE)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_DISPOSITION = re.compile(rb"^content-disposition:(.*)$", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(rb"[ \t]*form-data[ \t]*;[ \t]*name=\"([^\"\\\r\n]*)\"(?:[ \t]*;[^\r\n]*)?[ \t]*", re.IGNORECASE)
_ANOTHER_NAME = re.compile(rb";[ \t]*name\*?[ \t]*=", re.IGNORECASE)
_PARTS_LIMIT = 1000
_HEAD_LIMIT = 8 * 1024
_NAME_LIMIT = 1024


class Multipart:
    """A ``multipart/form-data`` body."""

    __slots__ = ("_boundary", "_first", "_raw", "_span", "model", "stream")

    def __init__(self, raw: bytearray, content_type: bytes) -> None:
        """``Refused`` for a form that two readers could understand in two ways."""
        self._raw = raw
        self._boundary = b"--" + _boundary_of(content_type)
        self._first = len(self._boundary) + 2
        self._span: tuple[int, int] | None = None
        self.model: str | None = None
        self.stream = False
        self._read()

    def naming(self, name: str) -> Sequence[Piece]:
        """The form with this name; a part of its own where there is none."""
        view = memoryview(self._raw)
        if self._span is not None:
            start, end = self._span
            return [view[:start], name.encode(), view[end:]]
        part = b'Content-Disposition: form-data; name="model"\r\n\r\n' + name.encode() + b"\r\n"
        return [view[: self._first], part, self._boundary, b"\r\n", view[self._first :]]

    def _read(self) -> None:
        if not self._raw.startswith(self._boundary + b"\r\n"):
            raise _bad("it does not begin with its boundary")
        delimiter = b"\r\n" + self._boundary
        at = self._first
        for _ in range(_PARTS_LIMIT):
            end = self._raw.find(delimiter, at)
            if end < 0:
                raise _bad("its last boundary is missing")
            self._part(at, end)
            at = end + len(delimiter)
            after = self._raw[at : at + 2]
            if after == b"--":
                return
            if after != b"\r\n":
                raise _bad("something follows a boundary")
            at += 2
        raise _bad(f"it has more than {_PARTS_LIMIT} parts")

    def _part(self, start: int, end: int) -> None:
        head_end = self._raw.find(b"\r\n\r\n", start, min(end, start + _HEAD_LIMIT))
        if head_end < 0:
            raise _bad("a part has no head")
        name = _name_of(bytes(self._raw[start:head_end]))
        value = head_end + 4
        if name == b"model":
            if self._span is not None:
                raise refused(400, "invalid_body", "The form names its model more than once.", param="model")
            self._span = (value, end)
            self.model = _text(bytes(self._raw[value : min(end, value + _NAME_LIMIT)]))
        elif name == b"stream":
            self.stream = bytes(self._raw[value : min(end, value + 5)]).lower() in {b"true", b"1"}


def _boundary_of(content_type: bytes) -> bytes:
    found = _BOUNDARY_PARAMETER.findall(content_type)
    boundary = (found[0][0] or found[0][1]) if len(found) == 1 else b""
    if _BOUNDARY.fullmatch(boundary) is None:
        raise _bad("its Content-Type has no boundary, or a wrong one")
    return bytes(boundary)


def _name_of(head: bytes) -> bytes:
    found = _DISPOSITION.findall(head.replace(b"\r\n", b"\n"))
    match = _NAME.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or len(_ANOTHER_NAME.findall(found[0])) != 1:
        raise _bad("a part does not say its name as it should")
    return match[1]


def _text(value: bytes) -> str | None:
    try:
        return checked(value.decode())
    except UnicodeDecodeError as error:
        raise refused(400, "invalid_model", "The model has to be text.", param="model") from error


def _bad(why: str) -> Refused:
    return refused(400, "invalid_body", f"The form is not as it should be: {why}.")
