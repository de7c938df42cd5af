"""What leaves at the end of the loop's turn, all of it together.

A write to a socket wakes whoever reads from it. Under load a turn has many requests in it: an engine, a client or the
journal that is woken for each of them falls asleep again in between, and waking is a good part of what a request costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Deed = Callable[[], None]


class Turn:
    """Does each deed once, when everything that came in with it has been looked at."""

    __slots__ = ("_deeds", "_last", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._deeds: list[Deed] = []
        self._last: list[Deed] = []

    def at_end(self, deed: Deed) -> None:
        """At the end of this turn, in the order in which they came."""
        if not (self._deeds or self._last):
            self._loop.call_soon(self.end)
        self._deeds.append(deed)

    def after_all(self, deed: Deed) -> None:
        """At its very end: nobody waits for it."""
        if not (self._deeds or self._last):
            self._loop.call_soon(self.end)
        self._last.append(deed)

    def end(self) -> None:
        """Does what there is to do. What comes meanwhile belongs to the next turn."""
        deeds = self._deeds + self._last
        self._deeds, self._last = [], []
        deeds.reverse()
        try:
            while deeds:
                deeds.pop()()
        finally:
            # One that fails keeps no other from its end.
            for deed in reversed(deeds):
                self.at_end(deed)
