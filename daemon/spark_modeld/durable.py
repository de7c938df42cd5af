"""Replaces a file so that it is always either the old one or the new one, whatever happens in between."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

_MARK = ".new-"


def replace_file(path: Path, data: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Puts ``data`` at ``path``; on disk when it returns. ``owner`` is a uid and a gid, -1 for unchanged.

    OSError if it could not be done; the old file is then as it was, and nothing is left beside it.
    """
    new = path.with_name(f"{path.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    sync_directory(path.parent)


def remove_leftovers(path: Path) -> None:
    """Removes what a kill in the middle of ``replace_file`` left beside ``path``. Never raises."""
    with suppress(OSError):
        for leftover in path.parent.glob(f"{path.name}{_MARK}*"):
            with suppress(OSError):
                leftover.unlink()


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable. OSError if that could not be done."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
