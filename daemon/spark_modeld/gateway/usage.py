"""The tokens an engine reports, picked out of what passes by."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARK = b'"usage"'
_SHORT = len(_MARK) - 1
_REACH = 1024
_PROMPT = re.compile(rb'"(?:prompt_tokens|input_tokens)"\s*:\s*([0-9]{1,12})')
_COMPLETION = re.compile(rb'"(?:completion_tokens|output_tokens)"\s*:\s*([0-9]{1,12})')


class Usage:
    """Sees a body go by. What it finds last counts."""

    __slots__ = ("_found", "_tail")

    def __init__(self) -> None:
        self._found = b""
        self._tail = b""

    def see(self, parts: Sequence[bytes]) -> None:
        """More of the body."""
        for part in parts:
            if self._found and len(self._found) < _REACH:
                self._found += part[: _REACH - len(self._found)]
            # The mark may lie across the border of two parts.
            seen = self._tail + part
            at = seen.rfind(_MARK)
            if at >= 0:
                self._found = seen[at : at + _REACH]
            self._tail = seen[-_SHORT:]

    def see_events(self, events: bytes) -> None:
        """More of the body, where an event begins and one ends: nothing of it lies across its borders."""
        at = events.rfind(_MARK)
        if at >= 0:
            self._found = events[at : at + _REACH]

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """Of the prompt, and of what was generated; None where nothing was said."""
        if not self._found:
            return None, None
        prompt, completion = _PROMPT.search(self._found), _COMPLETION.search(self._found)
        return (int(prompt[1]) if prompt else None, int(completion[1]) if completion else None)
