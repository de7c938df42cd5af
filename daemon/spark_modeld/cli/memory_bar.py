"""Memory as a bar with who holds what: one letter for each holder, so that it reads the same without colours."""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_lowercase
from typing import Any, NamedTuple

from spark_modeld.cli.text import clean, fit, is_unicode, paint, size, unit_name, width

_HOLDERS = 8
_LEAST_COLUMNS, _MOST_COLUMNS = 10, 100
_COLOURS = ("cyan", "green")


class _Part(NamedTuple):
    """One stretch of the bar and its line below it, in bytes."""

    mark: str
    colour: str
    bytes: int
    text: str


def memory_bar(shown: dict[str, Any], indent: int) -> list[str]:
    """The bar and its legend, from the answer of /api/memory, each line ``indent`` columns in."""
    other, free, reserve, floor = "█░▒▓" if is_unicode() else "#.:!"
    total, available = shown["total"], shown["available"]
    parts = [
        _Part(letter, _COLOURS[number % len(_COLOURS)], held, text)
        for number, (letter, (held, text)) in enumerate(zip(ascii_lowercase, _holders(shown), strict=False))
    ]
    rest = total - available - sum(part.bytes for part in parts)
    parts.append(_Part(other, "dim", max(0, rest), "everything else: the system, and what no list shows"))
    levels = [
        _Part(free, "dim", max(0, available - shown["reserve"]), "for models"),
        _Part(reserve, "yellow", shown["reserve"], "reserve: no model is admitted into it"),
        _Part(floor, "red", shown["floor"], "floor, in the reserve: a load that comes down to it is killed"),
    ]
    margin = " " * indent
    columns = min(_MOST_COLUMNS, width() - indent - 2)
    lines = [f"{margin}[{_bar(parts, levels, total, total - available, columns)}]"] if columns >= _LEAST_COLUMNS else []
    for part in (*parts, *levels):
        text = fit(clean(part.text), max(8, width() - indent - 14))
        lines.append(f"{margin}{paint(part.mark, part.colour)} {size(part.bytes):>10}  {text}")
    return lines


def _holders(shown: dict[str, Any]) -> list[tuple[int, str]]:
    """Bytes and words for whoever is seen to hold memory, the largest first; a model is one holder."""
    models = [((m["bytes"] or 0) + m["host_bytes"], f"{m['model']}, {m['state']}") for m in shown["models"]]
    found = [model for model in models if model[0]]
    found += [(e["bytes"], f"{e['name']} on {e['unit']}, no model of the catalog") for e in strange_models(shown)]
    # What a server says that it holds is what its processes hold.
    servers = {e["unit"] for e in shown["loaded"]}
    nobodys = [p for p in shown["processes"] if p["model"] is None and p["bytes"] and p["unit"] not in servers]
    found += [(p["bytes"], _who(p)) for p in nobodys]
    found += [(p["bytes"], f"{_who(p)}, host memory") for p in shown["strangers"] if p["unit"] not in servers]
    return sorted(found, key=lambda holder: -holder[0])[:_HOLDERS]


def strange_models(shown: dict[str, Any]) -> list[dict[str, Any]]:
    """What other clients had a server load that is no model of the catalog."""
    return [entry for entry in shown["loaded"] if entry["model"] is None]


def _who(process: dict[str, Any]) -> str:
    user = f" of {process['user']}" if process["user"] else ""
    unit = f", {unit_name(process['unit'])}" if process["unit"] else ""
    return f"{process['command'] or 'a process'}, PID {process['pid']}{user}{unit}"


def _bar(parts: list[_Part], levels: list[_Part], total: int, used: int, columns: int) -> str:
    """What is used from the left, the levels from the right; where they meet, what is used is shown."""
    free, reserve, floor = levels
    cells = [free] * columns
    for level in (reserve, floor):
        for position in range(max(0, columns - round(columns * level.bytes / total)), columns):
            cells[position] = level
    # Lists of holders can be older than the kernel's number, and overlap: they never fill more than what is used.
    scale = min(1.0, used / max(1, sum(part.bytes for part in parts)))
    begin = end = 0.0
    for part in parts:
        begin, end = end, end + part.bytes * scale
        for position in range(round(columns * begin / total), min(columns, round(columns * end / total))):
            cells[position] = part
    return "".join(_painted(cells))


def _painted(cells: list[_Part]) -> Iterator[str]:
    """The cells, each run of the same part painted once."""
    start = 0
    for position in range(1, len(cells) + 1):
        if position == len(cells) or cells[position] is not cells[start]:
            yield paint(cells[start].mark * (position - start), cells[start].colour)
            start = position
