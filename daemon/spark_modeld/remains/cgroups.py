"""Control groups and their processes, by what /sys/fs/cgroup and /proc tell everybody."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_NAMED = 3
_MANAGER = re.compile(r"user@[0-9]+\.service")


def places(scope: str, uid: int, root: Path = ROOT) -> tuple[Path, ...]:
    """Where a container can be: under systemd, under docker alone, or under this user's own systemd (rootless)."""
    own = root / f"user.slice/user-{uid}.slice/user@{uid}.service"
    container = scope.removeprefix("docker-").removesuffix(".scope")
    return (
        root / "system.slice" / scope,
        root / "docker" / container,
        own / "user.slice" / scope,
        own / "app.slice" / scope,
    )


def find(number: int, root: Path = ROOT) -> Path | None:
    """The control group with this id, which is its folder's inode; None if it is gone."""
    for folder, _, _ in os.walk(root):
        with suppress(OSError):
            if os.stat(folder).st_ino == number:
                return Path(folder)
    return None


def processes(folder: Path) -> list[int]:
    """The PIDs in a control group, empty if it is gone."""
    with suppress(OSError):
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split() if pid != "0"]
    return []


def of(pid: int) -> tuple[str, ...] | None:
    """The names on the way to a process's control group, the root's left out; None if it is gone."""
    with suppress(OSError, UnicodeDecodeError):
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
        # Version 2's line, the last one where version 1 is there too.
        return tuple(name for name in lines[-1].split(":", 2)[2].split("/") if name) if lines else None
    return None


def in_service(names: Iterable[str]) -> bool:
    """Whether a control group with these names on its way is a service's; a user's whole systemd is none."""
    return any(name.endswith(".service") and not _MANAGER.fullmatch(name) for name in names)


def named(pids: Iterable[int]) -> str:
    """Processes for people: ``python3 (PID 12 of ann), sh (PID 13 of ann) and 4 more``; never arguments."""
    ordered = sorted(pids)
    told = [f"{_command(pid)} (PID {pid}{_of(pid)})" for pid in ordered[:_NAMED]]
    return ", ".join(told) + (f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else "")


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return "a process"


def _of(pid: int) -> str:
    uid = owner(pid)
    return f" of {user(uid)}" if uid is not None else ""


def owner(pid: int) -> int | None:
    """The uid a process runs as; None if it is gone."""
    with suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid
    return None


def user(uid: int) -> str:
    """A user's name, or number."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
