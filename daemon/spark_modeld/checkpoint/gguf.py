"""The header of a GGUF file, read by hand.

The ``gguf`` package maps the whole file and builds objects for every one of a vocabulary's 250,000 words: seconds, and
hundreds of MiB, before it has said how many layers there are; a file that shrinks under its map kills the process; and
it needs numpy. This reader skips what is not wanted, counts its steps, and treats every length in the file as a lie
until the file's size allows it. The tests write with the package and read with this.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from msgspec import Struct

from spark_modeld.checkpoint.files import Unreadable, piece, regular

MOST_HEADER = 96 << 20
MOST_STEPS = 1_200_000
MOST_KEYS = 8192
MOST_TENSORS = 100_000
_LONGEST_TEXT = 256
_LONGEST_LIST = 4096
_MOST_KEPT = 1 << 20
_WINDOW = 1 << 20
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_LENGTH = struct.Struct("<Q")


class Header(Struct, frozen=True):
    """What was kept of a header: scalars, short lists of numbers, and the keys of what was skipped.

    ``reaches`` is where in the file the last tensor begins, in bytes.
    """

    values: dict[str, Any]
    skipped: frozenset[str]
    tensors: int
    reaches: int
    size: int


def header(path: Path) -> Header:
    """Reads a GGUF header. Unreadable when it is none, cut short or implausible."""
    with regular(path) as (descriptor, size):
        try:
            return _Reader(descriptor, size).header()
        except struct.error as failure:
            raise Unreadable("is cut short in its header") from failure


class _Reader:
    """A window over the file that moves on as it is read."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._base = 0
        self._window = b""
        self._at = 0
        self._steps = 0
        self._kept = 0

    def header(self) -> Header:
        if self._take(4) != b"GGUF":
            raise Unreadable("is no GGUF file")
        version = self._number("<I")
        if version not in {2, 3}:
            raise Unreadable(f"has GGUF version {version}; 2 and 3 are known")
        tensors, keys = self._number("<Q"), self._number("<Q")
        if tensors > MOST_TENSORS or keys > MOST_KEYS:
            raise Unreadable(f"claims {tensors} tensors and {keys} keys")
        values: dict[str, Any] = {}
        skipped: set[str] = set()
        for _ in range(keys):
            name = self._text()
            found = self._value(self._number("<I"))
            if found is None:
                skipped.add(name)
            else:
                values[name] = found
        last = self._last_offset(tensors)
        alignment = values.get("general.alignment", 32)
        start = self._position()
        if isinstance(alignment, int) and 0 < alignment <= 1 << 20:
            start += -start % alignment
        return Header(values, frozenset(skipped), tensors, start + last, self._size)

    def _last_offset(self, tensors: int) -> int:
        last = 0
        for _ in range(tensors):
            self._text()
            dimensions = self._number("<I")
            if dimensions > 8:
                raise Unreadable(f"claims a tensor of {dimensions} dimensions")
            self._skip(8 * dimensions + 4)
            last = max(last, self._number("<Q"))
        return last

    def _value(self, kind: int) -> Any:
        """A scalar or a short list of numbers; None for what is skipped."""
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._list(self._number("<I"), self._number("<Q"))
        if kind not in _SCALARS:
            raise Unreadable(f"has a value of unknown type {kind}")
        found = self._number(_SCALARS[kind])
        return bool(found) if kind == _BOOL else found

    def _list(self, kind: int, count: int) -> list[Any] | None:
        if kind == _STRING:
            self._skip_texts(count)
            return None
        if kind not in _SCALARS:
            raise Unreadable("has a list of lists")
        width = struct.calcsize(_SCALARS[kind])
        self._kept += count * width
        if count > _LONGEST_LIST or self._kept > _MOST_KEPT:
            self._skip(count * width)
            return None
        data = self._take(count * width)
        found = list(struct.unpack(f"<{count}{_SCALARS[kind][1]}", data))
        return [bool(item) for item in found] if kind == _BOOL else found

    def _skip_texts(self, count: int) -> None:
        self._steps += count
        if self._steps > MOST_STEPS:
            raise Unreadable(f"claims lists of more than {MOST_STEPS} words")
        unpack = _LENGTH.unpack_from
        for _ in range(count):
            if len(self._window) - self._at < 8:
                self._fill(8)
            at = self._at + 8 + unpack(self._window, self._at)[0]
            if at <= len(self._window):
                self._at = at
            else:
                self._skip(at - self._at)

    def _text(self) -> str:
        length = self._number("<Q")
        if length > _LONGEST_TEXT:
            # A chat template or a licence: nothing that is needed here.
            self._skip(length)
            return ""
        return self._take(length).decode("utf-8", "replace")

    def _number(self, form: str) -> Any:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise Unreadable("has absurdly many values")
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        if len(self._window) - self._at < size:
            self._fill(size)
        found = self._window[self._at : self._at + size]
        self._at += size
        return found

    def _skip(self, size: int) -> None:
        if self._position() + size > self._size:
            raise Unreadable("is cut short in its header")
        if self._position() + size > MOST_HEADER:
            raise Unreadable(f"has a header of more than {MOST_HEADER >> 20} MiB")
        self._at += size
        if self._at > len(self._window):
            self._base, self._window, self._at = self._position(), b"", 0

    def _fill(self, size: int) -> None:
        """Makes ``size`` bytes available at the position; ``size`` is small, whatever the file says."""
        self._base, self._at = self._position(), 0
        self._window = piece(self._descriptor, self._base, _WINDOW)
        if len(self._window) < size:
            raise Unreadable("is cut short in its header")

    def _position(self) -> int:
        return self._base + self._at
