"""What the kernel says about memory: the lines of /proc/meminfo that the gauge needs, in bytes."""

from __future__ import annotations

import re

from msgspec import Struct

from spark_modeld.core.reading import HugePages

_LINE = re.compile(
    r"^[ \t]*(MemTotal|MemAvailable|MemFree|HugePages_Total|HugePages_Free|Hugepagesize)[ \t]*:[ \t]*(\d+)"
    r"(?:[ \t]+(kB))?[ \t]*$",
    re.M | re.A,
)


class MemInfo(Struct, frozen=True, kw_only=True):
    """All in bytes, except the two counts of huge pages."""

    total: int
    available: int
    free: int
    huge_pages: int = 0
    huge_pages_free: int = 0
    huge_page_size: int = 0

    @property
    def reserved_pages(self) -> HugePages | None:
        """The huge pages that are set aside, None if there are none."""
        if self.huge_pages == 0:
            return None
        size = self.huge_page_size
        return HugePages(self.huge_pages * size, self.huge_pages_free * size, size)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of these numbers.

        Reserved huge pages are not in MemAvailable, and NVIDIA's own samples then count them alone. So both numbers
        are said; neither is a reason to refuse everything.
        """
        pages = self.reserved_pages
        if pages is None:
            return ()
        return (
            f"{gib(pages.reserved)} are reserved as {self.huge_pages} huge pages of {pages.page >> 10} kB, "
            f"{gib(pages.free)} of them free; they are not part of the {gib(self.available)} available",
        )


def gib(size_bytes: int) -> str:
    """A size as people read it."""
    return f"{size_bytes / (1 << 30):.1f} GiB"


def parse_meminfo(text: str) -> MemInfo:
    """Parses /proc/meminfo. ValueError when MemTotal, MemAvailable or MemFree is missing or no number."""
    values = {key: int(number) * (1024 if unit else 1) for key, number, unit in _LINE.findall(text)}
    try:
        return MemInfo(
            total=values["MemTotal"],
            available=values["MemAvailable"],
            free=values["MemFree"],
            huge_pages=values.get("HugePages_Total", 0),
            huge_pages_free=values.get("HugePages_Free", 0),
            huge_page_size=values.get("Hugepagesize", 0),
        )
    except KeyError as error:
        raise ValueError(f"no {error.args[0]} in it") from error


def read_meminfo(path: str) -> MemInfo:
    """Reads and parses the file. OSError or ValueError when that cannot be done."""
    with open(path, encoding="ascii", errors="replace") as file:
        return parse_meminfo(file.read())
