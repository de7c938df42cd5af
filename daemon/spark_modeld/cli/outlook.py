"""What is to be expected of a switch, in words: how far its engine says it is, and how long the same took before."""

from __future__ import annotations

from typing import Any

from spark_modeld.cli.text import about, share_bar


def how_far(switch: dict[str, Any], columns: int = 0) -> str:
    """``loading weights 45 %``, with a bar of so many columns; empty where the engine says nothing."""
    step, share = switch.get("step"), switch.get("progress")
    if step is None:
        return ""
    if share is None:
        return str(step)
    bar = f"[{share_bar(share, columns)}] " if columns else ""
    return f"{step} {bar}{share:.0%}".replace("%", " %")


def how_long(switch: dict[str, Any]) -> str:
    """``about 2 min 10 s, as the last 3 times``; empty for what was never seen to go well."""
    estimate = switch.get("estimate")
    if estimate is None:
        return ""
    times = "the last time" if estimate["times"] == 1 else f"the last {estimate['times']} times"
    return f"about {about(estimate['seconds'])}, as {times}"


def how_much_longer(eta_seconds: float | None) -> str:
    """``about 45 s left``; empty where nobody can say."""
    if eta_seconds is None:
        return ""
    return f"about {about(eta_seconds)} left" if eta_seconds >= 1 else "any moment now"
