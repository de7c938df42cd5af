"""Finds a large JSON object's model without holding up the event loop: a bit at a time, and without copying.

Only the outermost object is understood; what is inside its values is skipped, and left to the engine to judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from spark_modeld.gateway.naming import Piece, name_in, not_json
from spark_modeld.gateway.refusals import refused

STEP_BYTES = 256 * 1024
# A body may be nothing but brackets, and each of them takes a turn.
_STEP_TURNS = 2000
_KEY_LIMIT = 4 * 1024

_SPACE = re.compile(rb"[ \t\r\n]*+")
# Possessive only where one character class is repeated: early releases of Python 3.11 get repeated groups wrong.
_STRING = re.compile(rb'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*"')
_REST_OF_STRING = rb'[^"\\]*+(?:\\.[^"\\]*+)*'
_IN_STRING = re.compile(_REST_OF_STRING, re.DOTALL)
_OUTSIDE = re.compile(rb'[^"{}\[\]]*+(?:"' + _REST_OF_STRING + rb'"[^"{}\[\]]*+)*', re.DOTALL)
_SCALAR = re.compile(rb'[^",:{}\[\] \t\r\n]++')
_QUOTE, _BACKSLASH, _COMMA, _OPEN, _CLOSE = b'"\\,{}'
_OPENING = frozenset(b"{[")


class JsonSpans:
    """A JSON object of any size. Call ``advance`` until it is true; only then is the rest of any use."""

    __slots__ = ("_at", "_depth", "_first", "_in_string", "_key", "_raw", "_span", "_start", "model", "stream")

    def __init__(self, raw: bytearray) -> None:
        """``raw`` must not change any more. ``Refused`` if it is no object."""
        self._raw = raw
        self.model: str | None = None
        self.stream = False
        self._span: tuple[int, int] | None = None
        self._at = self._space(0)
        if not self._is(_OPEN):
            raise not_json()
        self._at += 1
        self._first = self._at
        self._depth = 1
        self._in_string = False
        self._key: str | None = None
        self._start = 0

    def advance(self) -> bool:
        """Goes on for ``STEP_BYTES`` or ``_STEP_TURNS``; true when the object is at its end. ``Refused``."""
        limit = self._at + STEP_BYTES
        for _ in range(_STEP_TURNS):
            if not self._depth or self._at >= limit:
                break
            if self._at >= len(self._raw):
                raise not_json()
            if self._depth > 1:
                self._inside(limit)
            elif self._in_string:
                self._string(limit)
            elif self._key is None:
                self._next_key()
            else:
                self._value()
        if self._depth:
            return False
        if self._space(self._at) != len(self._raw):
            raise not_json()
        return True

    def naming(self, name: str) -> Sequence[Piece]:
        """The body with this name: the same bytes around it."""
        view = memoryview(self._raw)
        encoded = msgspec.json.encode(name)
        if self._span is not None:
            start, end = self._span
            return [view[:start], encoded, view[end:]]
        more = b"" if self._raw[self._space(self._first)] == _CLOSE else b","
        return [view[: self._first], b'"model":' + encoded + more, view[self._first :]]

    def _inside(self, limit: int) -> None:
        """Within a value that is an object or an array."""
        if self._in_string:
            self._string(limit)
            return
        self._at = _end(_OUTSIDE, self._raw, self._at, limit)
        if self._at >= len(self._raw) or self._at >= limit:
            return
        byte = self._raw[self._at]
        self._at += 1
        if byte == _QUOTE:
            self._in_string = True
        elif byte in _OPENING:
            self._depth += 1
        else:
            self._depth -= 1
            if self._depth == 1:
                self._value_ended()

    def _string(self, limit: int) -> None:
        """Within a string that the step before did not get to the end of."""
        limit = min(limit, len(self._raw))
        self._at = _end(_IN_STRING, self._raw, self._at, limit)
        if self._at == limit:
            return
        if self._is(_QUOTE):
            self._at += 1
            self._in_string = False
            if self._depth == 1:
                self._value_ended()
        else:
            # A backslash whose other half belongs to the next step.
            self._at = min(self._at + 2, len(self._raw))

    def _next_key(self) -> None:
        self._at = self._space(self._at)
        if self._is(_CLOSE) and self._at == self._space(self._first):
            self._at += 1
            self._depth = 0
            return
        match = _STRING.match(self._raw, self._at, self._at + _KEY_LIMIT)
        if match is None:
            raise not_json()
        try:
            self._key = msgspec.json.decode(match[0], type=str)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise not_json() from error
        self._at = self._space(match.end())
        if not self._is(ord(":")):
            raise not_json()
        self._at = self._start = self._space(self._at + 1)

    def _value(self) -> None:
        if self._at < len(self._raw) and self._raw[self._at] in _OPENING:
            self._depth += 1
            self._at += 1
        elif self._is(_QUOTE):
            self._in_string = True
            self._at += 1
        else:
            match = _SCALAR.match(self._raw, self._at, self._at + _KEY_LIMIT)
            if match is None:
                raise not_json()
            self._at = match.end()
            self._value_ended()

    def _value_ended(self) -> None:
        if self._key == "model":
            if self._span is not None:
                raise refused(400, "invalid_body", "The body names its model more than once.", param="model")
            self._span = (self._start, self._at)
            # No name takes as many bytes; a value that does is refused unread.
            self.model = name_in(self._raw[self._start : min(self._at, self._start + _KEY_LIMIT)])
        elif self._key == "stream":
            self.stream = self._raw[self._start : min(self._at, self._start + 5)] == b"true"
        self._key = None
        self._at = self._space(self._at)
        if self._is(_CLOSE):
            self._at += 1
            self._depth = 0
        elif self._is(_COMMA):
            self._at = self._space(self._at + 1)
            if self._is(_CLOSE):
                raise not_json()
        else:
            raise not_json()

    def _is(self, byte: int) -> bool:
        return self._at < len(self._raw) and self._raw[self._at] == byte

    def _space(self, at: int) -> int:
        return _end(_SPACE, self._raw, at, len(self._raw))


def _end(pattern: re.Pattern[bytes], raw: bytearray, at: int, limit: int) -> int:
    match = pattern.match(raw, at, limit)
    assert match is not None, "it matches nothing, too"
    return match.end()
