"""What /proc tells of a process: since when it runs, who it is, what it holds of the machine's own memory.

``started`` is for the event loop. The others may wait on a process whose memory is locked, or on a directory of users
in the network: they are for a thread that can be abandoned.
"""

from __future__ import annotations

import os
import pwd
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from spark_modeld.core.brand import brand_in

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Identity(Struct, frozen=True):
    """The program's name and the user's, both empty for a process that is gone or hidden; the brand it may carry."""

    command: str = ""
    user: str = ""
    brand: int | None = None


def started(pid: int) -> int | None:
    """When it was started, in the kernel's ticks: it tells a PID from its next use. None if it is gone or hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # The name, in brackets, may have anything in it; the start time is the 20th field after it.
            return int(file.read(1024).rpartition(b")")[2].split(None, 20)[19])
    except (OSError, ValueError, IndexError):
        return None


def identify(pid: int) -> Identity:
    """Who it is: the program's name, never its arguments, and the user's name, or number where it has no name."""
    import psutil  # noqa: PLC0415 - a fifteenth of the daemon's start, and most readings have no process to name

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            limits = Path(f"/proc/{pid}/limits").read_bytes()
            return Identity(process.name(), user_name(process.uids().real), brand_in(limits))
    except (psutil.Error, OSError):
        return Identity()


@lru_cache(maxsize=256)
def user_name(uid: int) -> str:
    """A user's name, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def big_processes(least_bytes: int, folder: str = "/proc") -> dict[int, int]:
    """PID -> bytes of every process that holds so much of the machine's memory.

    Counted is what the kernel cannot take back: anonymous, shared and locked memory. The pages of a model's file that
    are merely mapped are part of MemAvailable.
    """
    found = {}
    with os.scandir(folder) as entries:
        pids = [entry.name for entry in entries if entry.name.isdecimal()]
    for pid in pids:
        try:
            # One short line for each of some hundred processes; the long file only for those that are large.
            with open(f"{folder}/{pid}/statm", "rb", buffering=0) as file:
                resident = int(file.read(128).split(None, 2)[1]) * _PAGE_BYTES
            held = _held(Path(folder, pid, "status").read_text("utf-8", "replace")) if resident >= least_bytes else 0
        except (OSError, ValueError, IndexError):
            continue
        if held >= least_bytes:
            found[int(pid)] = held
    return found


def _held(status: str) -> int:
    """Bytes, from the text of a /proc/PID/status file."""
    values = {"RssAnon": 0, "RssShmem": 0, "VmLck": 0, "VmRSS": 0}
    for line in status.splitlines():
        key, _, rest = line.partition(":")
        if key in values:
            values[key] = int(rest.split()[0]) << 10
    return max(values["RssAnon"] + values["RssShmem"], min(values["VmLck"], values["VmRSS"]))
