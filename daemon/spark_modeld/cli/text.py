"""Text for terminals: colours where they are wanted, sizes and times for people, tables that fit."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

_GIB = 1 << 30
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_PHASE_COLOURS = {"serving": "green", "ready": "green", "failed": "red", "stuck": "red", "rolled-back": "red"}
_AT_REST = frozenset({"stopped", "empty", "unknown", "cancelled", "superseded"})


def colourful(stream: TextIO) -> bool:
    """Whether colours belong on this stream: a terminal that knows them, and nobody asked for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, stream: TextIO | None = None) -> str:
    """Coloured, where colours belong."""
    if not colourful(stream if stream is not None else sys.stdout):
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def phase(name: str) -> str:
    """A phase or outcome in its colour."""
    return paint(name, _PHASE_COLOURS.get(name, "dim" if name in _AT_REST else "yellow"))


def visible(text: str) -> int:
    """How many columns a text takes, its colours aside."""
    return len(re.sub(r"\x1b\[[0-9;]*m", "", text))


def clean(text: str) -> str:
    """Without control characters: what a model wrote into its log must not drive the terminal."""
    return "".join(c if c == "\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def width(stream: TextIO | None = None) -> int:
    """Columns of the terminal; 100 where there is none."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or 100
    except (OSError, ValueError):
        return 100


def size(amount: int | None) -> str:
    """Bytes as GiB, or MiB where that says more."""
    if amount is None:
        return "?"
    if abs(amount) < _GIB:
        return f"{amount / (1 << 20):.0f} MiB"
    return f"{amount / _GIB:.1f} GiB"


def span(seconds: float) -> str:
    """A duration: ``3.2 s``, ``4 min 10 s``, ``2 h 5 min``, ``3 days``."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        rest = int(seconds % 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if minutes < 48 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{minutes // (24 * 60)} days"


def counted(count: int, noun: str) -> str:
    """``1 model``, ``2 models``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def about(seconds: float) -> str:
    """A duration that is an estimate: ``3 s``, ``45 s``, ``2 min 10 s``, ``25 min``."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 20 * 60:
        return span(round(seconds / 5) * 5).replace(".0 s", " s")
    return span(round(seconds / 60) * 60)


def age(time: str) -> float:
    """Seconds since a time of the API."""
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def between(start: str, end: str) -> float:
    """Seconds between two times of the API."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def bar(used: int, total: int, reserve: int, columns: int) -> str:
    """How much of ``total`` is used, with the reserve marked at the far end."""
    full, empty, mark = ("█", "░", "▒") if is_unicode() else ("#", ".", ":")
    cells = [empty] * columns
    for position in range(max(0, columns - round(columns * reserve / total)), columns):
        cells[position] = mark
    for position in range(min(columns, round(columns * used / total))):
        cells[position] = full
    return "".join(cells)


def share_bar(share: float, columns: int) -> str:
    """How much of something is done."""
    full, empty = ("█", "░") if is_unicode() else ("#", ".")
    done = round(columns * min(1.0, max(0.0, share)))
    return full * done + empty * (columns - done)


def wrapped(text: str, columns: int, most: int) -> list[str]:
    """The text in lines of so many columns, at most ``most`` of them; what is left out leaves a mark."""
    import textwrap

    more = " …" if is_unicode() else " ..."
    return textwrap.wrap(text, max(8, columns), max_lines=most, placeholder=more) or [""]


def arrow() -> str:
    """From here to there."""
    return "→" if is_unicode() else "->"


def unit_name(unit: str | None) -> str:
    """A unit as people know it: a container's scope by the short form of its id, as docker shows it."""
    container = re.fullmatch(r"([a-z-]+)-([0-9a-f]{64})\.scope", unit or "")
    return f"{container[1]} {container[2][:12]}" if container else unit or "-"


def fit(text: str, columns: int) -> str:
    """Cut to so many columns."""
    if len(text) <= columns:
        return text
    return text[: max(0, columns - 1)] + ("…" if is_unicode() else ".")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, spare: Sequence[str] = ()) -> list[str]:
    """Aligned lines no wider than the terminal. Cells are plain text.

    Where there is no room for all columns, those in ``spare`` are left out, the first of them first; after that the
    last column is cut.
    """
    columns = list(range(len(header)))
    widths = [max(len(row[i]) for row in (header, *rows)) for i in columns]
    for name in spare:
        if sum(widths[i] for i in columns) + 2 * (len(columns) - 1) <= width():
            break
        columns = [i for i in columns if header[i] != name]
    kept = [widths[i] for i in columns]
    kept[-1] = max(4, min(kept[-1], width() - sum(kept[:-1]) - 2 * (len(kept) - 1)))
    lines = [[row[i] for i in columns] for row in (header, *rows)]
    return [paint(_line(lines[0], kept), "dim"), *(_line(row, kept) for row in lines[1:])]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [fit(clean(cell), columns).ljust(columns) for cell, columns in zip(row, widths, strict=True)]
    return "  ".join(cells).rstrip()


def is_unicode() -> bool:
    """Whether standard output takes more than ASCII."""
    return (sys.stdout.encoding or "").lower().startswith("utf")
