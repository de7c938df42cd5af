"""Reads a file, and a parsed TOML table against the field table. Whatever the bytes, the answer is findings."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spark_modeld.config.findings import Finding, dotted, quoted, type_of
from spark_modeld.config.kinds import Table, Wrong

LARGEST_FILE = 1 << 20
# Suggestions cost a comparison with every key; a file of nothing but unknown keys must not take minutes.
_UNKNOWN_TOLD = 50
_TOML_PLACE = re.compile(r"(.*) \((?:at line (\d+), column (\d+)|at end of document)\)", re.DOTALL)


class Reader:
    """Collects the findings of one file. ``file`` is its name as people should see it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []

    def add(self, key: str, message: str) -> None:
        """Notes one finding."""
        self.findings.append(Finding(self.file, key, message))

    def load(self, path: Path) -> dict[str, Any] | None:
        """The file's TOML; None if it is missing, or if it cannot be read or parsed (then there is a finding)."""
        try:
            data = read_bounded(path)
        except FileNotFoundError:
            if path.is_symlink():
                self.add("", "is a link to nothing")
            return None
        except OSError as error:
            self.add("", f"cannot be read: {error.strerror or error}")
            return None
        return self.parse(data)

    def parse(self, data: bytes) -> dict[str, Any] | None:
        """The TOML in ``data``; None if it is none (then there is a finding with line and column)."""
        try:
            source = data.decode()
        except UnicodeDecodeError as error:
            line, column = _place(data[: error.start].decode())
            self.add("", f"is not UTF-8 text (line {line}, column {column})")
            return None
        try:
            return tomllib.loads(source)
        except RecursionError:
            self.add("", "nests too deeply")
        except ValueError as error:  # TOMLDecodeError is one; an integer of 5,000 digits is a bare one
            self.add("", _syntax_message(error, source))
        return None

    def read(self, table: Table, raw: Mapping[str, Any], prefix: str = "", root: Table | None = None) -> dict[str, Any]:
        """The values of one table, by key, nested tables as dicts. Absent and wrong keys are left out."""
        root = root or table
        values: dict[str, Any] = {}
        for field in table.fields:
            place = dotted(prefix, field.key)
            if field.key not in raw:
                if field.required:
                    self.add(place, f"is missing: must be {field.kind.allowed}")
                continue
            try:
                values[field.key] = field.kind.read(raw[field.key])
            except Wrong as wrong:
                for where, message in wrong.faults:
                    self.add(place + where, message)
        for inner in table.tables:
            if inner.key not in raw:
                continue
            entry, place = raw[inner.key], dotted(prefix, inner.key)
            if isinstance(entry, dict):
                values[inner.key] = self.read(inner, entry, place, root)
            else:
                self.add(place, f"must be a table, written as [{place}]; is {type_of(entry)}")
        self._tell_unknown(table, raw, prefix, root)
        return values

    def _tell_unknown(self, table: Table, raw: Mapping[str, Any], prefix: str, root: Table) -> None:
        known = set(table.keys)
        unknown = [key for key in raw if key not in known]
        for key in unknown[:_UNKNOWN_TOLD]:
            nearest = nearest_key(key, table, prefix, root)
            self.add(dotted(prefix, key), f"is no known key; the nearest known key is {quoted(nearest)}")
        if len(unknown) > _UNKNOWN_TOLD:
            self.add(prefix, f"has {len(unknown) - _UNKNOWN_TOLD} more unknown keys")


def nearest_key(key: str, table: Table, prefix: str, root: Table) -> str:
    """The dotted key that was probably meant: of this table, else the same key elsewhere, else whatever is nearest."""
    key = key[:100]
    here = {known: dotted(prefix, known) for known in table.keys}
    everywhere = keys_of(root)
    same = [known for known in everywhere if known.rpartition(".")[2] == key]
    if same:
        return same[0]
    close = difflib.get_close_matches(key, here, n=1, cutoff=0.6)
    if close:
        return here[close[0]]
    wanted = dotted(prefix, key)
    return difflib.get_close_matches(wanted, everywhere, n=1, cutoff=0.0)[0]


def keys_of(table: Table, prefix: str = "") -> list[str]:
    """Every dotted key of a table and the tables in it."""
    keys = [dotted(prefix, field.key) for field in table.fields]
    for inner in table.tables:
        keys.append(dotted(prefix, inner.key))
        keys += keys_of(inner, dotted(prefix, inner.key))
    return keys


def read_bounded(path: Path, limit: int = LARGEST_FILE) -> bytes:
    """A regular file's content. OSError, also for what is no file or larger than ``limit`` bytes.

    Opened without blocking: a FIFO in the configuration must not hang the daemon.
    """
    with open(path, "rb", opener=_open) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"it is larger than {limit >> 10} KiB")
    return data


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError("it is not a regular file")


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _syntax_message(error: ValueError, source: str) -> str:
    match = _TOML_PLACE.fullmatch(str(error))
    if match is None:
        return f"is not valid TOML: {error}"
    line, column = (match[2], match[3]) if match[2] else _place(source)
    return f"is not valid TOML: {match[1]} (line {line}, column {column})"
