"""What people see: each screen is a list of lines made from the API's JSON."""

from __future__ import annotations

from typing import Any

from spark_modeld.cli.check_screen import found_of
from spark_modeld.cli.memory_bar import memory_bar, strange_models
from spark_modeld.cli.status_screen import LABEL, available, labelled
from spark_modeld.cli.text import about, clean, size, span, table, unit_name


def models(shown: dict[str, Any]) -> list[str]:
    """The catalog."""
    if not shown["models"]:
        return ["The catalog is empty. `spark-modelctl add` makes a model of a checkpoint, a container or a unit."]
    rows = [
        (
            m["id"] + ("*" if m["default"] else ""),
            m["state"],
            m["role"],
            m["engine"],
            size(m["footprint"]["bytes"]) if m["footprint"]["basis"] != "unknown" else "unknown",
            {True: "yes", False: "no", None: "?"}[m["fits"]],
            about(m["load"]["seconds"]) if m.get("load") else "-",
            ", ".join(m["aliases"]) or "-",
            m["url"],
        )
        for m in shown["models"]
    ]
    header = ("MODEL", "STATE", "ROLE", "ENGINE", "NEEDS", "FITS", "LOADS IN", "ALIASES", "URL")
    lines = table(header, rows, spare=("ALIASES", "LOADS IN", "ROLE", "ENGINE"))
    return [*lines, *found_of(shown["models"])]


def memory(shown: dict[str, Any]) -> list[str]:
    """The reading and who holds it."""
    lines = [
        labelled("memory", available(shown)),
        *memory_bar(shown, LABEL),
        labelled("source", f"{shown['source']}{', ' + shown['gpu'] if shown['gpu'] else ''}"),
    ]
    lines += [labelled("note", clean(note)) for note in shown["notes"]]
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


def _footprint(footprint: dict[str, Any]) -> str:
    return "unknown" if footprint["basis"] == "unknown" else f"{size(footprint['bytes'])} {footprint['basis']}"
