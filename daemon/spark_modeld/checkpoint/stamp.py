"""Which files make up a checkpoint, and a text that changes when any of them does: cheap enough for every switch."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from spark_modeld.checkpoint.files import Unreadable, names
from spark_modeld.checkpoint.weights import siblings


@dataclass(frozen=True, slots=True)
class Stamp:
    """``text`` follows names, sizes, inodes and times of ``files``, which are those of the folder itself."""

    text: str
    files: tuple[Path, ...]


def stamp(path: str | Path) -> Stamp:
    """The stamp of a folder or .gguf; its text is "" where there is nothing to see. Blocking, raises nothing."""
    where = Path(path)
    try:
        found = siblings(where) if where.suffix == ".gguf" else [where / name for name in names(where)]
    except (Unreadable, ValueError):
        return Stamp("", ())
    digest = hashlib.sha256()
    files: list[Path] = []
    for file in found:
        try:
            entry = file.stat()
        except (OSError, ValueError):
            digest.update(f"{file.name}\0absent\0".encode("utf-8", "surrogateescape"))
            continue
        if stat.S_ISREG(entry.st_mode):
            files.append(file)
            told = f"{file.name}\0{entry.st_size} {entry.st_mtime_ns} {entry.st_dev} {entry.st_ino}\0"
            digest.update(told.encode("utf-8", "surrogateescape"))
    return Stamp(digest.hexdigest()[:32] if files else "", tuple(files))
