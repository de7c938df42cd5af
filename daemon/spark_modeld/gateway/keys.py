"""The keys that engines themselves want, read again when their files change."""

from __future__ import annotations

import os
from pathlib import Path

_LIMIT = 4096


class Keys:
    """Reads small files once, as long as they stay the same."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int, int], str]] = {}

    def read(self, path: str) -> str:
        """The key in a file. OSError; ValueError for what cannot be a key."""
        status = os.stat(path)
        signature = (status.st_mtime_ns, status.st_ino, status.st_size)
        known = self._known.get(path)
        if known is not None and known[0] == signature:
            return known[1]
        if status.st_size > _LIMIT:
            raise ValueError(f"{path} is too long for a key")
        key = Path(path).read_text(encoding="ascii").strip()
        if not key or not key.isprintable() or " " in key:
            raise ValueError(f"{path} holds no key")
        self._known[path] = (signature, key)
        return key
