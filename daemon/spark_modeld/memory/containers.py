"""Which container runs which model: what the launchers report in /run/spark-models/<id>/container."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

_REMEMBERED = 64
_CONTAINER = re.compile(r"([0-9a-f]{64})\n")


class _Seen(Struct, frozen=True):
    version: tuple[int, int, int]
    container: str | None


class Containers:
    """Reads the reports, each again only when it has changed. ``owner`` is the uid that alone may write them."""

    def __init__(self, folder: Path, *, owner: int) -> None:
        self._folder = folder
        self._owner = owner
        self._seen: dict[str, _Seen] = {}
        self._owners: dict[str, str] = {}

    def of(self, models: Iterable[str]) -> dict[str, str]:
        """Container id -> model id, for those of these models that have or had a container. What is no report is none.

        A report may be gone before the container's last process is; its id is nobody else's ever after. Cheap enough
        for every reading: one stat for each model.
        """
        seen = {model: self._look(model) for model in models}
        self._seen = {model: look for model, look in seen.items() if look is not None}
        for model, look in self._seen.items():
            if look.container is not None:
                self._owners.pop(look.container, None)
                self._owners[look.container] = model
        while len(self._owners) > _REMEMBERED:
            del self._owners[next(iter(self._owners))]
        return {container: model for container, model in self._owners.items() if model in seen}

    def _look(self, model: str) -> _Seen | None:
        path = self._folder / model / "container"
        try:
            status = os.lstat(path)
            version = (status.st_mtime_ns, status.st_ino, status.st_size)
            before = self._seen.get(model)
            if before is not None and before.version == version:
                return before
            trusted = status.st_uid == self._owner
            return _Seen(version, _read(path) if trusted else None)
        except OSError:
            return None


def _read(path: Path) -> str | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        match = _CONTAINER.fullmatch(os.read(descriptor, 128).decode("ascii", "replace"))
    finally:
        os.close(descriptor)
    return match[1] if match else None
