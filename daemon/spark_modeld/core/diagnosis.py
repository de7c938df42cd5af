"""A plain reading of an engine's last log lines: what they mean, and what to do about it.

Engines say a few well-known things in many words; ``well_known`` lists them.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict

from spark_modeld.core.well_known import WELL_KNOWN

LOOKED_AT = 1000
"""Characters of each line: what an engine says is at its beginning."""


class Diagnosis(Struct, frozen=True):
    """What went wrong (``code`` is stable, ``message`` one sentence), what to do, and the log line that says so."""

    code: str
    message: str
    hint: str
    line: str

    def as_dict(self) -> dict[str, str]:
        """The member ``reading`` of a problem."""
        return asdict(self)


# Hundreds of lines are read while others wait: of most it is enough to know that they say nothing.
_FIRST_PARTS = tuple(parts[0] for known in WELL_KNOWN for parts in known.texts)


def _says(line: str, parts: tuple[str, ...]) -> bool:
    """Whether the parts are in the line, one after the other."""
    position = 0
    for part in parts:
        if (found := line.find(part, position)) < 0:
            return False
        position = found + len(part)
    return True


def diagnose(lines: Sequence[str], *, result: str = "") -> Diagnosis | None:
    """The reading of a unit's log, oldest line first; None where nothing in it is well known.

    The last line that says something well known counts: what comes before it did not end the engine. ``result`` is
    systemd's own word for how the unit ended; "oom-kill" needs no line.
    """
    said = _last(lines)
    if result == "oom-kill" and (said is None or said.code != "oom-killed"):
        known = WELL_KNOWN[0]
        return Diagnosis(known.code, known.message, known.hint, "")
    return said


def _last(lines: Sequence[str]) -> Diagnosis | None:
    for line in reversed(lines):
        small = line[:LOOKED_AT].lower()
        if not any(part in small for part in _FIRST_PARTS):
            continue
        for known in WELL_KNOWN:
            if any(_says(small, parts) for parts in known.texts):
                return Diagnosis(known.code, known.message, known.hint, line)
    return None
