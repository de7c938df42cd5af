"""What systemd said of units, good for as long as the files it said that from are the same.

An admission asks for a unit's facts while a switch waits, and a unit that is down costs systemd some 10 ms then: it is
loaded, read in 200 properties and unloaded again. Looking at its files instead takes 50 us.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from spark_modeld.core.appraisal import UnitFacts

FILE_PROPERTIES = ("Names", "FragmentPath", "DropInPaths", "NeedDaemonReload")

_SETTLED_NS = 1_000_000_000
"""What changed so shortly before systemd was asked may have changed after it read: times of files are coarse."""

_Mark = tuple[int, ...] | None


class Unsure(Exception):
    """The files of a unit cannot be followed; systemd is asked each time."""


class Question(Struct, frozen=True):
    """What systemd is asked, in which era and when (wall clock). ``folders``: where it looks for units."""

    unit: str
    era: object
    folders: Sequence[str]
    asked_ns: int


class _Entry(Struct, frozen=True):
    facts: UnitFacts
    era: object
    marks: Mapping[str, _Mark]


class FactBook:
    """Facts by unit. An ``era`` is a systemd and its last reading of all unit files; it ends what was said before."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def find(self, unit: str, era: object) -> UnitFacts | None:
        """The facts of this unit, None when systemd has to be asked. Some twenty stats."""
        entry = self._entries.get(unit)
        if entry is None or entry.era != era:
            return None
        try:
            same = all(_mark(path) == mark for path, mark in entry.marks.items())
        except Unsure:
            same = False
        return entry.facts if same else None

    def keep(self, question: Question, facts: UnitFacts, said: Mapping[str, Any]) -> None:
        """Keeps an answer where that can be done; ``said`` has FILE_PROPERTIES."""
        self._entries.pop(question.unit, None)
        if (
            facts.load != "loaded"
            or not question.folders
            or said.get("NeedDaemonReload", True)
            or len(said.get("Names", ())) != 1
        ):
            return
        try:
            marks = {path: _mark(path) for path in _places(question.unit, said, question.folders)}
        except Unsure:
            return
        if all(mark is None or max(mark[-2:]) < question.asked_ns - _SETTLED_NS for mark in marks.values()):
            self._entries[question.unit] = _Entry(facts, question.era, marks)


def _places(unit: str, said: Mapping[str, Any], folders: Sequence[str]) -> Iterator[str]:
    """Every file of the unit, and every folder where another one of its files would appear."""
    for file in (said.get("FragmentPath", ""), *said.get("DropInPaths", ())):
        if not stat.S_ISREG(_lstat(file).st_mode):
            raise Unsure  # a link's end may be anywhere, also where looking hangs
        yield file
    names = tuple(_names(unit))
    for folder in folders:
        # Containers come and go as transient units: there, only what would be this unit's own is looked at.
        if folder.endswith("/transient"):
            yield from (f"{folder}/{name}" for name in names)
            continue
        yield folder
        yield from (place for name in names if name.endswith(".d") and os.path.isdir(place := f"{folder}/{name}"))


def _names(unit: str) -> Iterator[str]:
    """What a file or a folder of drop-ins of this unit may be called (systemd.unit(5))."""
    stem, dot, kind = unit.rpartition(".")
    prefix, at, _ = stem.partition("@")
    for name in {unit, f"{prefix}{at}{dot}{kind}"}:
        yield name
        yield f"{name}.d"
    words = prefix.split("-")
    for count in range(1, len(words)):
        yield f"{'-'.join(words[:count])}-{dot}{kind}.d"
    yield f"{kind}.d"


def _mark(path: str) -> _Mark:
    try:
        entry = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise Unsure from error
    return entry.st_dev, entry.st_ino, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns


def _lstat(path: str) -> os.stat_result:
    try:
        return os.lstat(path)
    except (OSError, ValueError) as error:
        raise Unsure from error
