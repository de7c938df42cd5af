"""How long to wait between two looks at an engine that is not ready yet."""

from __future__ import annotations

FIRST_SECONDS = 0.002
SHARE = 0.005
LONGEST_SECONDS = 1.0
WORK_FIRST_SECONDS = 0.05
WORK_SHARE = 0.025


def pause(elapsed: float, *, works: bool = False) -> float:
    """Seconds until the next look, ``elapsed`` seconds after the first one.

    A fixed share of what has passed: an engine that takes 1.5 s is seen some 4 ms late, one that takes ten minutes half
    a second late, and ten minutes cost about 1,850 looks of 60 to 200 microseconds each, most of them in the first one.

    ``works``: looking makes the engine work, so that it is done more gently.
    """
    if works:
        return min(LONGEST_SECONDS, max(WORK_FIRST_SECONDS, elapsed * WORK_SHARE))
    return min(LONGEST_SECONDS, max(FIRST_SECONDS, elapsed * SHARE))
