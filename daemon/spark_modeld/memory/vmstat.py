"""How much the machine has read from its disks, by /proc/vmstat."""

from __future__ import annotations

import re

_LINE = re.compile(r"^pgpgin (\d+)$", re.M | re.A)


def read_paged_in(path: str) -> int | None:
    """Bytes since the machine was started, the page cache's doing or past it; None where the kernel does not say.

    ``pgpgin`` counts KiB, once for each request of a file system, however many layers of devices lie below it.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            found = _LINE.search(file.read())
    except OSError:
        return None
    return int(found[1]) << 10 if found else None
