"""What people see: each screen is a list of lines made from the API's JSON."""

from __future__ import annotations

from typing import Any

from spark_modeld.cli.check_screen import found_of
from spark_modeld.cli.memory_bar import memory_bar, strange_models
from spark_modeld.cli.text import age, arrow, bar, between, clean, paint, phase, size, span, table, unit_name, width

_LABEL = 10


def status(shown: dict[str, Any]) -> list[str]:
    """One screen: what serves, what is happening, memory left, the last failure, warnings."""
    lines = _slot(shown["slot"])
    desired, default = shown["desired"], shown["default"]
    if desired != shown["slot"]["model"] or default not in {None, desired}:
        wanted = desired or "empty"
        lines.append(_labelled("desired", wanted + (f" (default {default})" if default not in {None, desired} else "")))
    if shown["switch"] is not None:
        lines.append(_labelled("switch", _under_way(shown["switch"])))
    for demand in shown["queue"]:
        lines.append(_labelled("waiting", f"{demand['waiters']} for {demand['model']}, {span(age(demand['since']))}"))
    for side in shown["side"]:
        lines.append(_labelled("side", f"{side['model']} {phase(side['phase'])}  {paint(side['url'], 'dim')}"))
    if shown["memory"] is not None:
        lines.append(_labelled("memory", _memory_line(shown["memory"])))
    if shown["bus"] != "connected":
        lines.append(_labelled("systemd", paint("not connected; nothing starts or stops until it is back", "red")))
    if shown["stopping"]:
        lines.append(_labelled("daemon", paint("stopping; models keep serving", "yellow")))
    if shown["last_failure"] is not None:
        lines.append(_labelled("failure", _failure(shown["last_failure"])))
    lines += [_labelled("warning", paint(clean(w["message"]), "yellow")) for w in shown["warnings"]]
    return lines


def models(shown: dict[str, Any]) -> list[str]:
    """The catalog."""
    if not shown["models"]:
        return ["The catalog is empty. Put a file into models.d/ and run `spark-modelctl reload`."]
    rows = [
        (
            m["id"] + ("*" if m["default"] else ""),
            m["state"],
            m["role"],
            m["engine"],
            size(m["footprint"]["bytes"]) if m["footprint"]["basis"] != "unknown" else "unknown",
            {True: "yes", False: "no", None: "?"}[m["fits"]],
            ", ".join(m["aliases"]) or "-",
            m["url"],
        )
        for m in shown["models"]
    ]
    lines = table(("MODEL", "STATE", "ROLE", "ENGINE", "NEEDS", "FITS", "ALIASES", "URL"), rows)
    return [*lines, *found_of(shown["models"])]


def memory(shown: dict[str, Any]) -> list[str]:
    """The reading and who holds it."""
    lines = [
        _labelled("memory", _available(shown)),
        *memory_bar(shown, _LABEL),
        _labelled("source", f"{shown['source']}{', ' + shown['gpu'] if shown['gpu'] else ''}"),
    ]
    lines += [_labelled("note", clean(note)) for note in shown["notes"]]
    if shown["models"]:
        held = [
            (
                m["model"],
                m["state"],
                size(m["bytes"]),
                size(m["host_bytes"]) if m["host_bytes"] else "-",
                _footprint(m["footprint"]),
            )
            for m in shown["models"]
        ]
        lines += ["", *table(("MODEL", "STATE", "GPU MEMORY", "HOST MEMORY", "FOOTPRINT"), held)]
    if strange := strange_models(shown):
        unasked = [
            (e["name"], unit_name(e["unit"]), size(e["bytes"]), "never" if e["ends_in"] is None else span(e["ends_in"]))
            for e in strange
        ]
        lines += ["", *table(("LOADED PAST US", "UNIT", "MEMORY", "ENDS IN"), unasked)]
    if shown["processes"]:
        rows = [
            (
                str(p["pid"]),
                size(p["bytes"]),
                p["model"] or "-",
                p["user"] or "?",
                p["command"] or "?",
                unit_name(p["unit"]),
            )
            for p in shown["processes"]
        ]
        lines += ["", *table(("PID", "GPU MEMORY", "MODEL", "USER", "COMMAND", "UNIT"), rows)]
    if shown["strangers"]:
        strays = [
            (str(p["pid"]), size(p["bytes"]), p["user"] or "?", p["command"] or "?", unit_name(p["unit"]))
            for p in shown["strangers"]
        ]
        lines += ["", *table(("PID", "HOST MEMORY", "USER", "COMMAND", "UNIT"), strays)]
    return lines


def history(shown: dict[str, Any]) -> list[str]:
    """Switches, newest first."""
    if not shown["switches"]:
        return ["No switch yet."]
    rows = [
        (
            s["started_at"][:19].replace("T", " ") + "Z",
            s["id"],
            f"{s['from'] or 'empty'} {arrow()} {s['model'] or 'empty'}",
            s["outcome"] or s["phase"],
            span(between(s["started_at"], s["finished_at"])) if s["finished_at"] else span(age(s["started_at"])),
            s["actor"] or s["requested_by"],
            s["error"]["detail"] if s["error"] is not None else "",
        )
        for s in shown["switches"]
    ]
    return table(("STARTED", "ID", "SWITCH", "OUTCOME", "TOOK", "BY", "WHY"), rows)


def _slot(slot: dict[str, Any]) -> list[str]:
    if slot["model"] is None:
        lines = [_labelled("slot", phase(slot["phase"]))]
    else:
        held = f", {slot['in_flight']} in flight" if slot["in_flight"] else ""
        since = f" for {span(age(slot['since']))}" if slot["since"] else ""
        lines = [_labelled("slot", f"{paint(slot['model'], 'bold')} {phase(slot['phase'])}{since}{held}")]
        where = "  ".join(text for text in (slot["url"], slot["unit"]) if text)
        if where:
            lines.append(_labelled("", paint(where, "dim")))
    if slot["reason"]:
        lines.append(_labelled("", clean(slot["reason"])))
    return lines


def _under_way(switch: dict[str, Any]) -> str:
    way = f"{switch['from'] or 'empty'} {arrow()} {switch['model'] or 'empty'}"
    back = switch["rollback"]
    step = f"back to {back['model']}: {back['phase']}" if back is not None else switch["phase"]
    asked = switch["actor"] or switch["requested_by"]
    return f"{way}  {phase(step)} for {span(age(switch['started_at']))}, asked by {asked}  [{switch['id']}]"


def _memory_line(memory: dict[str, Any]) -> str:
    total, available, text = memory["total"], memory["available"], _available(memory)
    columns = min(30, width() - _LABEL - 40)
    return f"[{bar(total - available, total, memory['reserve'], columns)}] {text}" if columns >= 8 else text


def _available(memory: dict[str, Any]) -> str:
    total, available = memory["total"], memory["available"]
    text = f"{size(available)} of {size(total)} available"
    if memory["stale"]:
        text += paint(" (the GPU's driver does not answer)", "red")
    elif available < memory["reserve"]:
        text += paint(" (under the reserve)", "yellow")
    return text


def _failure(switch: dict[str, Any]) -> str:
    when = span(age(switch["finished_at"])) if switch["finished_at"] else "?"
    error = switch["error"] or {"detail": switch["outcome"]}
    why = " ".join([error["detail"], *([error["reading"]["message"]] if "reading" in error else [])])
    return f"{when} ago, {switch['model'] or 'empty'} {switch['outcome']}: {clean(why)}"


def _footprint(footprint: dict[str, Any]) -> str:
    return "unknown" if footprint["basis"] == "unknown" else f"{size(footprint['bytes'])} {footprint['basis']}"


def _labelled(label: str, text: str) -> str:
    return f"{paint(label.ljust(_LABEL), 'dim')}{text}"
