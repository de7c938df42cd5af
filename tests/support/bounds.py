"""Who tries to get around the launcher, and what an engine sees of itself."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who runs models as somebody else")
USER = pwd.getpwnam("nobody")
STRANGER = 54321
"""The uid of somebody else on the machine."""
REPORT = """\
import ctypes, json, os
prctl = ctypes.CDLL(None).prctl
files = "/proc/self/fd"
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "status": {key: status[key].split() for key in status},
    "files": {fd: os.readlink(f"{files}/{fd}") for fd in os.listdir(files) if os.path.lexists(f"{files}/{fd}")},
    "folder": os.getcwd(), "umask": os.umask(0), "dumpable": prctl(3),
    "terminal": open("/proc/self/stat").read().rpartition(")")[2].split()[4],
    "environment": dict(os.environ),
}))
"""
"""A program that tells all that it was given."""


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that all can enter, below folders of root's own; pytest's are in a sticky one."""
    folder = Path("/run") / f"bounds-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def capabilities(seen: dict[str, Any]) -> set[int]:
    """Of a report: all that it has, may have or passes on."""
    return {int(seen["status"][f"Cap{kind}"][0], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


def files(seen: dict[str, Any]) -> dict[int, str]:
    """Of a report: its open files, pipes without their numbers."""
    targets = {int(fd): str(target).split(":")[0] for fd, target in seen["files"].items()}
    return {fd: target for fd, target in targets.items() if not target.startswith("/proc/")}


def own(path: Path) -> None:
    """Makes it a stranger's."""
    os.chown(path, STRANGER, -1)
