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
# One step: so much is looked through, and so many parts are read, before others have their turn.
STEP_BYTES = 1 << 20
_STEP_PARTS = 32


class Multipart:
    """A ``multipart/form-data`` body. Call ``advance`` until it is true; only then is the rest of any use."""

    __slots__ = (
        "_at",
        "_boundary",
        "_delimiter",
        "_first",
        "_parts",
        "_raw",
        "_span",
        "_start",
        "model",
        "stream",
    )

    def __init__(self, raw: bytearray, content_type: bytes) -> None:
        """``raw`` must not change any more. ``Refused`` for a form that two readers could take for two things."""
        self._raw = raw
        self._boundary = b"--" + _boundary_of(content_type)
        self._first = len(self._boundary) + 2
        self._span: tuple[int, int] | None = None
        self.model: str | None = None
        self.stream = False
        self._delimiter = b"\r\n" + self._boundary
        self._start = self._at = self._first
        self._parts = 0
        if not raw.startswith(self._boundary + b"\r\n"):
            raise _bad("it does not begin with its boundary")

    def advance(self) -> bool:
        """Goes on for ``STEP_BYTES`` or ``_STEP_PARTS``; true when the form is at its end. ``Refused``."""
        limit = self._at + STEP_BYTES
        for _ in range(_STEP_PARTS):
            end = self._raw.find(self._delimiter, self._at, limit)
            if end < 0:
                if limit >= len(self._raw):
                    raise _bad("its last boundary is missing")
                # Half of a boundary may be there already.
                self._at = max(self._at, limit - len(self._delimiter) + 1)
                return False
            if self._part_ends(end):
                return True
        return False

    def naming(self, name: str) -> Sequence[Piece]:
        """The form with this name; a part of its own where there is none."""
        view = memoryview(self._raw)
        if self._span is not None:
            start, end = self._span
            return [view[:start], name.encode(), view[end:]]
        part = b'Content-Disposition: form-data; name="model"\r\n\r\n' + name.encode() + b"\r\n"
        return [view[: self._first], part, self._boundary, b"\r\n", view[self._first :]]

    def _part_ends(self, end: int) -> bool:
        """A part from ``_start`` to ``end``; true if it was the last one."""
        self._parts += 1
        if self._parts > _PARTS_LIMIT:
            raise _bad(f"it has more than {_PARTS_LIMIT} parts")
        self._part(self._start, end)
        at = end + len(self._delimiter)
        after = self._raw[at : at + 2]
        if after == b"--":
            return True
        if after != b"\r\n":
            raise _bad("something follows a boundary")
        self._start = self._at = at + 2
        return False

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
