"""The switches that were: a table with the time each phase took, and one of them in full."""

from __future__ import annotations

from typing import Any

from spark_modeld.cli.problems import told
from spark_modeld.cli.text import (
    age,
    arrow,
    between,
    clean,
    is_unicode,
    paint,
    phase,
    share_bar,
    span,
    table,
    width,
    wrapped,
)

_PHASES = {
    "queued": "QUEUED",
    "admitting": "ADMIT",
    "draining": "DRAIN",
    "stopping": "STOP",
    "reclaiming": "RECLAIM",
    "starting": "START",
    "warming": "WARM",
}
_WORTH_SHOWING_SECONDS = 0.05
_BAR_COLUMNS = 30

Shown = dict[str, Any]


def history(shown: Shown) -> list[str]:
    """Switches, newest first, and below each that did not go well why."""
    switches = shown["switches"]
    if not switches:
        return ["No switch yet."]
    phases = [p for p in _PHASES if any(s["timings"].get(p, 0) >= _WORTH_SHOWING_SECONDS for s in switches)]
    titles = [_PHASES[phase] for phase in phases]
    rows = [
        (
            _when(s["started_at"]),
            _way(s),
            s["outcome"] or s["phase"],
            span(_took(s)),
            *(span(s["timings"][p]) if s["timings"].get(p, 0) >= _WORTH_SHOWING_SECONDS else "-" for p in phases),
            str(s["actor"] or s["requested_by"]),
            s["id"],
        )
        for s in switches
    ]
    spare = ("BY", *(t for t in ("QUEUED", "ADMIT", "RECLAIM", "DRAIN", "START", "STOP", "WARM") if t in titles))
    lines = table(("STARTED", "SWITCH", "OUTCOME", "TOOK", *titles, "BY", "ID"), rows, spare=spare)
    told_of = [lines[0]]
    for line, switch in zip(lines[1:], switches, strict=True):
        told_of.append(line)
        if switch["error"] is not None:
            told_of += [f"  {paint(text, 'dim')}" for text in wrapped(clean(switch["error"]["detail"]), width() - 2, 2)]
    return told_of


def one(switch: Shown, *, user: bool) -> list[str]:
    """One switch in full; ``user``: of the per-user daemon."""
    asked = switch["actor"] or switch["requested_by"]
    lines = [
        f"{paint(switch['id'], 'bold')}  {_way(switch)}  {phase(switch['outcome'] or switch['phase'])}",
        f"started {_when(switch['started_at'])} by {asked}, took {span(_took(switch))}",
    ]
    if switch["reason"]:
        lines.append(clean(switch["reason"]))
    longest = max(switch["timings"].values(), default=0.0)
    for name in (p for p in _PHASES if p in switch["timings"]):
        seconds = switch["timings"][name]
        drawn = share_bar(seconds / longest, _BAR_COLUMNS).rstrip("░." if is_unicode() else ".") if longest else ""
        lines.append(f"  {name.ljust(10)} {span(seconds):>12}  {paint(drawn, 'cyan') if drawn else ''}".rstrip())
    if switch["rollback"] is not None:
        lines.append(f"went back to {switch['rollback']['model']}: {switch['rollback']['phase']}")
    lines += [] if switch["error"] is None else told(switch["error"])
    return [*lines, f"the whole story: {_story(switch, user=user)}"]


def _story(switch: Shown, *, user: bool) -> str:
    """The command that shows what daemon, systemd and engine said meanwhile."""
    from datetime import datetime

    # In the local time that journalctl reads, and a little longer on either side.
    began = datetime.fromisoformat(switch["started_at"]).timestamp() - 1
    end = switch["finished_at"]
    until = f" --until=@{datetime.fromisoformat(end).timestamp() + 2:.0f}" if end else ""
    of_model = f" + MODEL={switch['model']}" if switch["model"] else ""
    if of_model and user:  # what an engine says has the field MODEL only where the system's own systemd runs it
        of_model += f" + _SYSTEMD_USER_UNIT=spark-model@{switch['model']}.service"
    return f"journalctl --since=@{began:.0f}{until} SWITCH_ID={switch['id']}{of_model}"


def _way(switch: Shown) -> str:
    return f"{switch['from'] or 'empty'} {arrow()} {switch['model'] or 'empty'}"


def _when(time: str) -> str:
    return time[:19].replace("T", " ") + "Z"


def _took(switch: Shown) -> float:
    end = switch["finished_at"]
    return between(switch["started_at"], end) if end else age(switch["started_at"])
