"""README as a test sees it: its fenced commands with what they print, and the files it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|//) (/etc/\S+)$")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# What differs from run to run: times, PIDs, moments, ids, tokens, and the spaces that align them.
_VARYING = (
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|s|min|h)\b"), "TIME"),
    (re.compile(r"\bPID \d+"), "PID N"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?(?:\.\d+)?Z?"), "MOMENT"),
    (re.compile(r"\bsw-[0-9a-f]+"), "SWITCH"),
    (re.compile(r"\bsmd_\w+"), "TOKEN"),
    (re.compile(r"[ \t]+"), " "),
)


@dataclass(frozen=True)
class Command:
    """One command of a fenced block, and the lines that README shows as its output (none after a plain ``sh``)."""

    text: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class File:
    """A file that README shows with its place in the first line."""

    place: str
    content: str


def blocks(text: str, *languages: str) -> Iterator[str]:
    """The fenced blocks in these languages, in order."""
    for match in _FENCE.finditer(text):
        if match[1] in languages:
            yield match[2]


def commands(text: str) -> list[Command]:
    """Every command of README, in order."""
    found: list[Command] = []
    for match in _FENCE.finditer(text):
        if match[1] == "sh":
            found += [Command(line) for line in _lines(match[2])]
        elif match[1] == "console":
            found += _dialogue(match[2])
    return found


def files(text: str) -> list[File]:
    """Every file of README; a block may hold several."""
    found: list[File] = []
    for block in blocks(text, "toml", "ini", "js", "yaml"):
        for line in block.splitlines(keepends=True):
            if match := _FILE.match(line.strip()):
                found.append(File(match[1], ""))
            if found:
                found[-1] = File(found[-1].place, found[-1].content + line)
    return found


def inline(text: str) -> list[str]:
    """What stands between backquotes outside of fenced blocks."""
    return _INLINE.findall(_FENCE.sub("", text))


def normal(line: str) -> str:
    """The line without what differs from run to run."""
    for varying, name in _VARYING:
        line = varying.sub(name, line)
    return line.strip()


def missing(shown: tuple[str, ...], said: str) -> list[str]:
    """Those of the shown lines that the output does not have, in this order; ``...`` stands for any lines."""
    rest = [normal(line) for line in said.splitlines()]
    lacking = []
    for line in shown:
        wanted = normal(line)
        if wanted in {"", "..."}:
            continue
        if wanted in rest:
            rest = rest[rest.index(wanted) + 1 :]
        else:
            lacking.append(line)
    return lacking


def _lines(block: str) -> Iterator[str]:
    """Whole commands: without comments, continued lines joined."""
    for line in block.replace("\\\n", " ").splitlines():
        command = " ".join(re.sub(r"(^|\s+)#.*$", "", line).split())
        if command:
            yield command


def _dialogue(block: str) -> Iterator[Command]:
    text, shown = "", list[str]()
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            if text:
                yield Command(text, tuple(shown))
            text, shown = " ".join(line[2:].split()), []
        else:
            shown.append(line)
    if text:
        yield Command(text, tuple(shown))
