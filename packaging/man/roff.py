"""Text as man(7) source."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"(?<!\S)(?=\S)")
_INLINE = re.compile(r"``?([^`]+)``?")


def escaped(text: str) -> str:
    """The text on a line of its own, every character as it is: no request, no hyphen of groff's choosing."""
    plain = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    return "\\&" + plain if plain.startswith(".") else plain


def prose(text: str) -> str:
    """One paragraph of words; what stands between backquotes is bold."""
    parts = _INLINE.split(" ".join(text.split()))
    return "".join(bold(part) if number % 2 else escaped(part) for number, part in enumerate(parts))


def bold(text: str) -> str:
    """Bold inside a line."""
    return f"\\fB{_whole(text)}\\fR"


def italic(text: str) -> str:
    """Italic inside a line: what the reader puts something in the place of."""
    return f"\\fI{_whole(text)}\\fR"


def item(term: str, *paragraphs: str) -> list[str]:
    """A tagged paragraph; ``term`` is roff already, the paragraphs are words."""
    lines = [".TP", term]
    for number, paragraph in enumerate(paragraphs):
        lines += [".IP"] if number else []
        lines.append(prose(paragraph))
    return lines


def example(text: str) -> list[str]:
    """Lines as they are, indented."""
    return [
        ".PP",
        ".RS 4",
        ".EX",
        *(escaped(line) if line else "" for line in text.strip("\n").splitlines()),
        ".EE",
        ".RE",
    ]


def table(rows: Iterable[tuple[str, ...]], header: tuple[str, ...]) -> list[str]:
    """Columns by tbl(1), none of which wraps."""
    cells = ["\t".join(map(escaped, row)) for row in (header, *rows)]
    return [".TS", "lb " * len(header), "l " * len(header) + ".", *cells, ".TE"]


def _whole(text: str) -> str:
    # The mark before each word keeps names from being hyphenated.
    return _WORD.sub(r"\\%", escaped(text))
