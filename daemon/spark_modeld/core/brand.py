"""The brand of a model's runs: a resource limit that the unit's launcher sets before anything of the model runs.

Children inherit it wherever they go, and nobody but root can put it on somebody else's process; libexec/brand.sh says
more. Everybody may read it, in /proc/PID/limits.

A unit of the user's own has no launcher. Its brand comes from its name, and is there where root has put it into the
unit as ``LimitRTTIME=``.
"""

from __future__ import annotations

import hashlib
import re

_LIMIT = re.compile(rb"^Max realtime timeout +\S+ +([0-9]+) ", re.MULTILINE)


def brand_of(unit: str) -> int:
    """The brand of a unit of the user's own. None that a launcher makes begins with these bits (libexec/brand.sh)."""
    return 0x6 << 60 | int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8]) >> 4


def brand_in(limits: bytes) -> int | None:
    """What may be a brand, from the content of a /proc/PID/limits file; None where there is no such limit."""
    match = _LIMIT.search(limits)
    return int(match[1]) if match else None
