"""The one screen: what serves, what is happening, how much memory is left, what went wrong last, what waits.

It fits 24 lines of 80 columns. Each part has its most lines; warnings get what the others leave.
"""

from __future__ import annotations

from typing import Any

from spark_modeld.cli.outlook import how_far, how_long, how_much_longer
from spark_modeld.cli.problems import next_step
from spark_modeld.cli.text import age, arrow, bar, clean, fit, paint, phase, size, span, visible, width, wrapped

LABEL = 10
_LINES = 23
_MOST_LISTED = 3
_BAR_COLUMNS = 20

Shown = dict[str, Any]


def status(shown: Shown) -> list[str]:
    """The lines, from the answer of /api/status."""
    lines = [*_slot(shown), *_wanted(shown), *_under_way(shown["switch"]), *_waiting(shown["queue"])]
    lines += _side(shown["side"])
    if shown["memory"] is not None:
        lines.append(labelled("memory", _memory(shown["memory"])))
    if shown["bus"] != "connected":
        lines.append(labelled("systemd", paint("not connected; nothing starts or stops until it is back", "red")))
    if shown["stopping"]:
        lines.append(labelled("daemon", paint("stopping; models keep serving", "yellow")))
    lines += _failure(shown["last_failure"])
    return [*lines, *_warnings(shown["warnings"], max(2, _LINES - len(lines)))]


def labelled(label: str, text: str) -> str:
    """A line with its label."""
    return f"{paint(label.ljust(LABEL), 'dim')}{text}"


def available(memory: Shown) -> str:
    """How much memory there is, and what is wrong with that number."""
    text = f"{size(memory['available'])} of {size(memory['total'])} available"
    if memory["stale"]:
        text += paint(" (the GPU's driver does not answer)", "red")
    elif memory["available"] < memory["reserve"]:
        text += paint(" (under the reserve)", "yellow")
    return text


def _block(label: str, text: str, most: int, colour: str | None = None) -> list[str]:
    """A text over several lines, beside its label."""
    lines = wrapped(clean(text), width() - LABEL, most)
    return [
        labelled(label if number == 0 else "", paint(line, colour) if colour else line)
        for number, line in enumerate(lines)
    ]


def _slot(shown: Shown) -> list[str]:
    slot = shown["slot"]
    if slot["model"] is None:
        lines = [labelled("slot", phase(slot["phase"]))]
    else:
        held = f", {slot['in_flight']} in flight" if slot["in_flight"] else ""
        since = f" for {span(age(slot['since']))}" if slot["since"] else ""
        lines = [labelled("slot", f"{paint(slot['model'], 'bold')} {phase(slot['phase'])}{since}{held}")]
        where = "  ".join(text for text in (slot["url"], slot["unit"]) if text)
        if where:
            lines.append(labelled("", paint(fit(where, width() - LABEL), "dim")))
    failure = shown["last_failure"]
    told_below = slot["reason"] is None or (failure is not None and slot["reason"] == _why(failure))
    return lines if told_below else [*lines, *_block("", slot["reason"], 2)]


def _wanted(shown: Shown) -> list[str]:
    """What belongs in the slot, where that is not what is in it."""
    desired, default = shown["desired"], shown["default"]
    if desired == shown["slot"]["model"] and default in {None, desired}:
        return []
    return [
        labelled("desired", (desired or "empty") + (f" (default {default})" if default not in {None, desired} else ""))
    ]


def _under_way(switch: Shown | None) -> list[str]:
    if switch is None:
        return []
    way = f"{switch['from'] or 'empty'} {arrow()} {switch['model'] or 'empty'}"
    back = switch["rollback"]
    step = f"back to {back['model']}: {back['phase']}" if back is not None else switch["phase"]
    spent = span(age(switch["started_at"]))
    lines = [labelled("switch", f"{way}  {phase(step)} for {spent}, asked by {_who(switch)}  [{switch['id']}]")]
    takes = how_long(switch)
    outlook = [how_far(switch, _BAR_COLUMNS), how_much_longer(switch["eta_s"]), f"takes {takes}" if takes else ""]
    if told := [text for text in outlook if text]:
        # What does not fit is how long it took before: the least of the three.
        while len(told) > 1 and sum(map(len, told)) + 2 * (len(told) - 1) > width() - LABEL:
            told.pop()
        lines.append(labelled("", ", ".join(told)))
    return lines


def _who(switch: Shown) -> str:
    return str(switch["actor"] or switch["requested_by"])


def _waiting(queue: list[Shown]) -> list[str]:
    lines = [f"{w['waiters']} for {w['model']}, for {span(age(w['since']))}" for w in queue]
    return _listed("waiting", lines)


def _side(side: list[Shown]) -> list[str]:
    return _listed("side", [f"{s['model']} {phase(s['phase'])}  {paint(s['url'], 'dim')}" for s in side])


def _listed(label: str, lines: list[str]) -> list[str]:
    if len(lines) > _MOST_LISTED:
        kept = _MOST_LISTED - 1
        lines = [*lines[:kept], f"and {len(lines) - kept} more"]
    return [labelled(label if number == 0 else "", line) for number, line in enumerate(lines)]


def _memory(memory: Shown) -> str:
    total, free, reserve = memory["total"], memory["available"], memory["reserve"]
    text = f"{available(memory)}, {size(max(0, free - reserve))} for models"
    columns = min(30, width() - LABEL - 3 - visible(text))
    return f"[{bar(total - free, total, reserve, columns)}] {text}" if columns >= 8 else text


def _failure(switch: Shown | None) -> list[str]:
    if switch is None:
        return []
    when = f"{span(age(switch['finished_at']))} ago" if switch["finished_at"] else "?"
    model = switch["model"] or "empty"
    why = _why(switch).removeprefix(f"{model}: ")
    error = switch["error"] or {}
    hint = error.get("reading", {}).get("hint") or next_step({"model": switch["model"], **error})
    lines = _block("failure", f"{when}, {model} {switch['outcome']}: {why}", 3)
    return [*lines, *(_block("", f"{arrow()} {hint}", 2, "cyan") if hint else [])]


def _why(switch: Shown) -> str:
    """What went wrong, and what the unit's log says of it, in the words of the slot's reason."""
    error = switch["error"] or {"detail": switch["outcome"]}
    return " ".join([error["detail"], *([error["reading"]["message"]] if "reading" in error else [])])


def _warnings(warnings: list[Shown], most: int) -> list[str]:
    """As many as there is room for, each in two lines at most."""
    each = 2 if most >= 2 * len(warnings) or most > 4 else 1
    lines: list[str] = []
    for number, warning in enumerate(warnings):
        block = _block("warning", warning["message"], each, "yellow")
        last = number == len(warnings) - 1
        if len(lines) + len(block) + (not last) > most:
            left = len(warnings) - number
            return [*lines, labelled("warning", paint(f"and {left} more: spark-modelctl status --json", "yellow"))]
        lines += block
    return lines
