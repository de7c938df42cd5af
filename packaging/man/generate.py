#!/usr/bin/python3
"""Writes the manual pages into a folder: ``generate.py DIRECTORY``.

A page is its ``.in`` file, in man(7), with the lines ``@name@`` replaced by what the program knows itself.
SOURCE_DATE_EPOCH fixes the date.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "daemon"), str(HERE)]

import roff  # noqa: E402
import sources  # noqa: E402

from spark_modeld import __version__  # noqa: E402

_PARTS: Mapping[str, Callable[[], list[str]]] = {
    part.__name__: part
    for part in (
        sources.daemon_options,
        sources.commands,
        sources.common_options,
        sources.exit_status,
        sources.problem_codes,
        sources.json_shapes,
        sources.settings_keys,
        sources.model_keys,
        sources.metrics,
    )
}
_PART = re.compile(r"@([a-z_]+)(?: ([^@\s]+))?@")


def pages() -> Iterator[tuple[str, str]]:
    """Each page's file name and its text."""
    for source in sorted(HERE.glob("*.in")):
        yield source.stem, "\n".join(_filled(source.read_text(encoding="utf-8"))) + "\n"


def _filled(template: str) -> Iterator[str]:
    for line in template.splitlines():
        match = _PART.fullmatch(line)
        if match is None:
            yield line.replace("@version@", __version__).replace("@date@", _date())
        elif match[1] == "example":
            yield from roff.example((ROOT / match[2]).read_text(encoding="utf-8"))
        else:
            yield from _PARTS[match[1]]()


def _date() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))


def main(arguments: list[str]) -> int:
    """Writes them all."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
