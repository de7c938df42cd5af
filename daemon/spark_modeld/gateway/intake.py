"""A request's body as it comes in, within what one request and all of them together may hold."""

from __future__ import annotations

from spark_modeld.gateway.chunks import Chunks
from spark_modeld.gateway.house import BODY_LIMIT, House
from spark_modeld.gateway.refusals import Refused, refused


class Intake:
    """Collects one body. ``length`` in bytes, None for chunks. The house's room is held until ``close``."""

    __slots__ = ("_chunks", "_held", "_house", "_length", "body", "done")

    def __init__(self, house: House, length: int | None) -> None:
        self._house = house
        self._length = length
        self._chunks = Chunks() if length is None else None
        self._held = 0
        self.body = bytearray()
        self.done = False

    def check(self) -> None:
        """Before the first byte: a body that is known to be too long, or to find no room, is not waited for."""
        if self._length is not None:
            self._hold(self._length)

    def feed(self, data: bytes) -> bytes:
        """Takes what belongs to the body and returns what comes after it. ``Refused``: 413, 503; ``Malformed``."""
        if self._chunks is None:
            assert self._length is not None
            missing = self._length - len(self.body)
            self.body += data if len(data) <= missing else data[:missing]
            self.done = len(self.body) == self._length
            return data[missing:]
        for part in self._chunks.feed(data):
            self._hold(len(self.body) + len(part))
            self.body += part
        self.done = self._chunks.done
        return self._chunks.rest

    def close(self) -> None:
        """Gives the room back."""
        self._house.let_go(self._held)
        self._held = 0
        self.body = bytearray()

    def _hold(self, size: int) -> None:
        if size > BODY_LIMIT:
            raise _too_large()
        if not self._house.hold(size - self._held):
            raise refused(503, "busy", "Too many large requests are under way; ask again.", retry_after=1)
        self._held = size


def _too_large() -> Refused:
    return refused(413, "too_large", f"A request's body may have {BODY_LIMIT >> 20} MiB at most.")
