"""The only place that opens a checkpoint's files: regular files, bounded reads, nothing that waits.

A folder anybody may have filled can hold FIFOs, devices, links in a circle and files that lie about their size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_ENTRIES = 20_000


class Unreadable(Exception):
    """A file that is not there, not regular, too large or not what it should be; the text says which."""


@contextmanager
def regular(path: Path) -> Iterator[tuple[int, int]]:
    """The file's descriptor and size in bytes. Unreadable when it cannot be opened or is no regular file.

    Links are followed: the Hugging Face cache is made of them.
    """
    try:
        # Opening a FIFO without O_NONBLOCK would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as failure:
        raise Unreadable(_why(failure)) from failure
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("is no regular file")
        yield descriptor, found.st_size
    except OSError as failure:
        raise Unreadable(_why(failure)) from failure
    finally:
        os.close(descriptor)


def content(path: Path, limit: int) -> bytes:
    """The whole file. Unreadable when it is larger than ``limit`` bytes."""
    with regular(path) as (descriptor, size):
        if size > limit:
            raise Unreadable(f"has {size} bytes; no such file needs more than {limit}")
        return piece(descriptor, 0, size)


def piece(descriptor: int, offset: int, size: int) -> bytes:
    """At most ``size`` bytes from ``offset``; fewer where the file ends."""
    found = os.pread(descriptor, size, offset)
    while len(found) < size:
        more = os.pread(descriptor, size - len(found), offset + len(found))
        if not more:
            break
        found += more
    return found


def size_of(path: Path) -> int | None:
    """The size of a regular file in bytes, None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted. Unreadable when that cannot be done or there are absurdly many."""
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) > MOST_ENTRIES:
                    raise Unreadable(f"holds more than {MOST_ENTRIES} files")
    except (OSError, ValueError) as failure:
        raise Unreadable(_why(failure)) from failure
    return sorted(found)


def _why(failure: OSError | ValueError) -> str:
    return (failure.strerror or str(failure)) if isinstance(failure, OSError) else str(failure)
