"""Whether a user may read or execute a file, by mode bits: nobody has to become that user to say it.

Access control lists say more than mode bits do; where a file has one, it counts as allowed.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path

from msgspec import Struct

READ, EXECUTE = 4, 1


class Account(Struct, frozen=True):
    """A user. ``gids`` gives every group that counts: the name service is asked, and the whole process waits for it."""

    name: str
    uid: int
    gids: Callable[[], frozenset[int]]


class Outcome(StrEnum):
    """What came of a walk down to a file."""

    ALLOWED = "allowed"
    ABSENT = "absent"
    DENIED = "denied"
    UNSEEN = "unseen"


class Walk(Struct, frozen=True):
    """``where`` is the folder or file at which it ended; ``why`` says its owner and mode."""

    outcome: Outcome
    where: Path
    why: str = ""


def account(name: str) -> Account | None:
    """The user of this name, None if there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name, entry.pw_uid, cache(lambda: frozenset(os.getgrouplist(name, entry.pw_gid))))


def own_account() -> Account:
    """The user this process runs as."""
    uid = os.geteuid()
    return Account(_name_of(uid), uid, lambda: frozenset({os.getegid(), *os.getgroups()}))


def walk(who: Account, path: str | Path, want: int) -> Walk:
    """From / down to ``path``: every folder has to let ``who`` through, and the end has to allow ``want``.

    ABSENT where there is nothing, UNSEEN where this process itself may not look any further.
    """
    target = Path(path)
    for step, needed in _steps(target, want):
        try:
            entry = step.stat()
        except (FileNotFoundError, NotADirectoryError):
            return Walk(Outcome.ABSENT, step)
        except (OSError, ValueError) as failure:
            return Walk(Outcome.UNSEEN, step, str(failure))
        if step != target and not stat.S_ISDIR(entry.st_mode):
            return Walk(Outcome.ABSENT, step)
        if not allows(who, step, entry, needed):
            return Walk(Outcome.DENIED, step, _told(entry))
    return Walk(Outcome.ALLOWED, target)


def allows(who: Account, path: str | Path, entry: os.stat_result, want: int) -> bool:
    """Whether the mode bits let this user do it; root may read everything, and execute what anybody may."""
    if who.uid == 0:
        return want == READ or stat.S_ISDIR(entry.st_mode) or bool(entry.st_mode & 0o111)
    if entry.st_uid == who.uid:
        allowed = entry.st_mode >> 6 & want == want
    else:
        allowed, in_group = (entry.st_mode >> shift & want == want for shift in (0, 3))
        if allowed != in_group and entry.st_gid in who.gids():
            allowed = in_group
    return allowed or _has_list(path)


def writers(path: Path, allowed: frozenset[int]) -> Walk | None:
    """Where somebody else than these uids could exchange this file or a folder above it; None where nobody could."""
    for step, _ in _steps(path, 0):
        try:
            entry = step.stat()
        except (OSError, ValueError):
            return None
        # In a sticky folder everybody may write, and nobody may rename what is another's.
        sticky = stat.S_ISDIR(entry.st_mode) and bool(entry.st_mode & stat.S_ISVTX)
        loose = entry.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky
        if entry.st_uid not in allowed or loose:
            return Walk(Outcome.DENIED, step, _told(entry))
    return None


def _steps(path: Path, want: int) -> Iterator[tuple[Path, int]]:
    """The folders on the way and the end, with what each has to allow; also those that links lead through."""
    seen: set[Path] = set()
    for way in (path, Path(os.path.realpath(path))):
        for folder in reversed(way.parents):
            if folder not in seen:
                seen.add(folder)
                yield folder, EXECUTE
    yield path, want


def _has_list(path: str | Path) -> bool:
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except OSError:
        return False


def _told(entry: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(entry.st_mode):04o}, owner {_name_of(entry.st_uid)}:{_group_of(entry.st_gid)}"


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"
