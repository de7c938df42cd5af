"""What this process sees otherwise than everybody else: the folders its own unit gave it in place of the machine's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PRIVATE = "systemd-private-"


def hidden(path: str) -> bool:
    """Whether this path lies in a folder (``PrivateTmp=``) of which only this unit sees what is in it."""
    return any(path == point or path.startswith(f"{point}/") for point in _private_points())


@cache
def _private_points() -> tuple[str, ...]:
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ()
    fields = [line.split() for line in lines]
    return tuple(each[4] for each in fields if len(each) > 4 and _PRIVATE in each[3])
