"""The chunked coding, taken apart strictly as it comes."""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache

from spark_modeld.gateway.heads import FIELD_LINE, Malformed

_LINE_LIMIT = 4 * 1024
_TRAILERS_LIMIT = 16 * 1024
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{0,15}(?:(?<=[0-9A-Fa-f]);[\t\x20-\x7e\x80-\xff]*+)?(?:(?<!^)\r)?")
_PLAIN = re.compile(rb"[0-9A-Fa-f]{1,15}")
_PLAIN_LIMIT = 17
_CRLF = b"\r\n"
EVENT_END = b"\n\n"
_EVENT_CHUNK_END = EVENT_END + _CRLF
_BAD = "The chunks of the body are not as HTTP wants them."


class _At(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()


@lru_cache(maxsize=4096)
def _plain_size(line: bytes) -> int:
    """The size that a line without extensions says; 0 where it says something else. Lines come again and again."""
    return int(line, 16) if _PLAIN.fullmatch(line) is not None else 0


class Chunks:
    """Takes what arrives, gives what was in the chunks. Extensions and trailers are read and dropped.

    After the end ``done`` is set and ``rest`` has what came after it.
    """

    __slots__ = ("_at", "_between", "_held", "_left", "_trailers", "done", "rest")

    def __init__(self) -> None:
        self._at = _At.SIZE
        self._between = True
        self._left = 0
        self._held = b""
        self._trailers = 0
        self.done = False
        self.rest = b""

    def events(self, data: bytes) -> int:
        """How many bytes of the body ``data`` has, if it is nothing but whole chunks that each end an event; else 0.

        Nothing is taken in by it: such chunks may pass as they are, or be fed.
        """
        if not self._between:
            return 0
        total = at = 0
        while at < len(data):
            line_end = data.find(_CRLF, at, at + _PLAIN_LIMIT)
            size = _plain_size(data[at:line_end]) if line_end > 0 else 0
            at = line_end + size + 4
            if not size or data[at - 4 : at] != _EVENT_CHUNK_END:
                return 0
            total += size
        return total

    def feed(self, data: bytes) -> list[bytes]:
        """The body's bytes in ``data``, in pieces. ``Malformed``; nothing may be fed after that, or after the end."""
        if self._held:
            data, self._held = self._held + data, b""
        parts: list[bytes] = []
        at = 0
        while at < len(data):
            if self._at is _At.SIZE and (whole := self._whole(data, at, parts)):
                at = whole
                continue
            after = self._step(data, at, parts)
            if self.done:
                self._between = False
                self.rest = data[after:]
                return parts
            if after == at:
                self._held = data[at:]
                break
            at = after
        self._between = self._at is _At.SIZE and not self._held
        return parts

    def _whole(self, data: bytes, at: int, parts: list[bytes]) -> int:
        """A chunk that is there from its size to its end, as almost every one is; where it ended, 0 if it is not."""
        match = _SIZE.match(data, at, at + _LINE_LIMIT)
        size = int(match[1], 16) if match is not None else 0
        if match is None or not size:
            return 0
        begin = match.end()
        end = begin + size
        if data[end : end + 2] != _CRLF:
            return 0
        parts.append(data[begin:end])
        return end + 2

    def _step(self, data: bytes, at: int, parts: list[bytes]) -> int:
        """One step; where it ended, ``at`` itself if it needs more."""
        if self._at is _At.SIZE:
            return self._size(data, at)
        if self._at is _At.DATA:
            end = at + self._left
            piece = data[at:end]
            parts.append(piece)
            self._left -= len(piece)
            if not self._left:
                self._at = _At.DATA_END
            return at + len(piece)
        if self._at is _At.DATA_END:
            if not _CRLF.startswith(data[at : at + 2]):
                raise Malformed(_BAD)
            if len(data) - at < 2:
                return at
            self._at = _At.SIZE
            return at + 2
        return self._trailer(data, at)

    def _size(self, data: bytes, at: int) -> int:
        match = _SIZE.match(data, at, at + _LINE_LIMIT)
        if match is None:
            if len(data) - at >= _LINE_LIMIT or _SIZE_BEGUN.fullmatch(data[at:]) is None:
                raise Malformed(_BAD)
            return at
        self._left = int(match[1], 16)
        self._at = _At.DATA if self._left else _At.TRAILERS
        return match.end()

    def _trailer(self, data: bytes, at: int) -> int:
        end = data.find(_CRLF, at)
        if end == at:
            self.done = True
            return at + 2
        if end < 0:
            if self._trailers + len(data) - at > _TRAILERS_LIMIT:
                raise Malformed("The trailers are too long.")
            return at
        self._trailers += end + 2 - at
        if self._trailers > _TRAILERS_LIMIT or FIELD_LINE.fullmatch(data, at, end + 2) is None:
            raise Malformed(_BAD)
        return end + 2
