"""Which files make up a checkpoint, and a text that changes when any of them does: cheap enough for every switch."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from spark_modeld.checkpoint.files import Unreadable, names
from spark_modeld.checkpoint.weights import siblings


class Stamp(Struct, frozen=True):
    """``text`` follows names, sizes, inodes and times of ``files``: those of the folder itself, each by its path."""

    text: str
    files: Mapping[str, os.stat_result]


def stamp(path: str | Path) -> Stamp:
    """The stamp of a folder or .gguf; its text is "" where there is nothing to see. Blocking, raises nothing."""
    where = Path(path)
    try:
        found = [file.name for file in siblings(where)] if where.suffix == ".gguf" else names(where)
    except (Unreadable, ValueError):
        return Stamp("", {})
    folder = str(where.parent if where.suffix == ".gguf" else where)
    files: dict[str, os.stat_result] = {}
    told: list[str] = []
    for name in found:
        file = os.path.join(folder, name)
        try:
            entry = os.stat(file)
        except (OSError, ValueError):
            told.append(f"{name}\0absent")
            continue
        if stat.S_ISREG(entry.st_mode):
            files[file] = entry
            told.append(f"{name}\0{entry.st_size} {entry.st_mtime_ns} {entry.st_dev} {entry.st_ino}")
    digest = hashlib.sha256("\0".join(told).encode("utf-8", "surrogateescape")).hexdigest()
    return Stamp(digest[:32] if files else "", files)
