"""What doctor says: one line on each thing, with the command that mends it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """``unseen`` is what this user may not look at: neither good nor bad."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNSEEN = "unseen"


class Area(StrEnum):
    """What it is about, in the order in which it is shown."""

    SYSTEMD = "systemd"
    BUS = "bus"
    POLKIT = "polkit"
    DAEMON = "daemon"
    CONFIGURATION = "configuration"
    UNITS = "units"
    SOCKETS = "sockets"
    PORTS = "ports"
    TOKENS = "tokens"
    PERMISSIONS = "permissions"
    NVML = "nvml"
    DOCKER = "docker"
    MEMORY = "memory"
    TAILSCALE = "tailscale"


_THE_MACHINES = frozenset({Area.PORTS, Area.NVML, Area.DOCKER, Area.MEMORY, Area.TAILSCALE})
"""Root's business also where the daemon is the user's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing. ``fix`` is a shell command, run by root unless ``by_user``; ``note`` is what to know of it before."""

    area: Area
    code: str
    level: Level
    message: str
    fix: str = ""
    note: str = ""
    by_user: bool = False

    def command(self, *, root: bool, per_user: bool = False) -> str:
        """The fix as whoever asks can paste it; "" for none. ``per_user``: the daemon is the user's own."""
        fix = self.fix
        if per_user and self.area not in _THE_MACHINES:
            return re.sub(r"\bspark-modelctl ", "spark-modelctl --user ", fix)
        if not fix or self.by_user or root:
            return fix
        if any(mark in fix for mark in "|&;<>"):
            return f"sudo sh -c {shlex.quote(fix)}"
        return f"sudo {fix}"


def ok(area: Area, message: str, note: str = "") -> Finding:
    """Nothing to do."""
    return Finding(area=area, code="ok", level=Level.OK, message=message, note=note)


def warning(area: Area, code: str, message: str, fix: str = "", note: str = "", *, by_user: bool = False) -> Finding:
    """Something that will hurt some day."""
    return Finding(area=area, code=code, level=Level.WARNING, message=message, fix=fix, note=note, by_user=by_user)


def error(area: Area, code: str, message: str, fix: str = "", note: str = "", *, by_user: bool = False) -> Finding:
    """Something that does not work, or that nobody can want."""
    return Finding(area=area, code=code, level=Level.ERROR, message=message, fix=fix, note=note, by_user=by_user)


def unseen(area: Area, message: str, fix: str = "spark-modelctl doctor") -> Finding:
    """What could not be looked at, and how it can."""
    return Finding(area=area, code="unseen", level=Level.UNSEEN, message=message, fix=fix)
