"""Ends the processes that a model's unit started and that outlived it.

``sweep.py ID CONFIGURATION_DIRECTORY REPORT_DIRECTORY system|user``

Runs as root, asked for by a daemon that is not: nothing it goes by can be written by the daemon or by a model. It takes
no list of processes. It ends those that carry the brand which the unit's launcher gave the model's runs (brand.sh: a
resource limit, which children inherit and nobody else can have), that run as the model's user alone, began after the
first of these runs, and are outside the unit's control group; and only while the unit is down.

A unit of the user's own has no launcher: what carries its brand was branded by systemd, where root has put a
``LimitRTTIME=`` into the unit. That brand is made from the unit's name, which root's configuration says; the user is
the unit's ``User=``, which systemd says. Here nothing in any service is ended: a drop-in can have been copied.

SIGTERM, and after ``PATIENCE_SECONDS`` SIGKILL, always through a pidfd that was opened before all of that was looked
at, and before systemd was asked whether the unit is down: neither a PID that is used again is hit, nor a new run. Exit
0: nothing is left. 1: something is. 73: there is no trustworthy record. 64: called wrongly.
"""

import contextlib
import hashlib
import os
import pwd
import re
import select
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import launch  # noqa: E402 - the launcher's rules for what root may read

PATIENCE_SECONDS = 10.0
KILL_SECONDS = 4.0
LOOK_SECONDS = 0.1
LOOKS = 10
RECORD = re.compile(r"([0-9]{19}) ([0-9]{1,10}) ([0-9]{1,20})\n")
BRANDS = range(1 << 62, 1 << 63)
"""Neither "unlimited" nor any limit that somebody would set is among them."""
LIMIT = re.compile(rb"^Max realtime timeout +\S+ +([0-9]+) ", re.MULTILINE)
USERS = re.compile(rb"^Uid:\t([0-9]+)\t([0-9]+)\t([0-9]+)\t([0-9]+)$", re.MULTILINE)
UNIT = re.compile(r"[A-Za-z0-9:_.\\][A-Za-z0-9:_.\\@-]*\.service")
SERVICE = re.compile(r"(?!user@[0-9]+\.service$).+\.service", re.DOTALL)
ASLEEP = frozenset({("inactive", "dead"), ("failed", "failed"), ("activating", "auto-restart")})
AT_ITS_GATE = ("activating", "start-pre")


@dataclass(frozen=True)
class Record:
    """What is to be ended: by its brand, the uid it runs as, and when (ticks since boot) it can have begun at the
    earliest. ``own``: its unit is one of the user's own.
    """

    brand: int
    uid: int
    began: int
    own: bool = False


def read_record(model_id: str, reports: str, *, user_mode: bool) -> Record:
    """The launcher's record of the model's runs. launch.Refused, OSError."""
    owner = os.geteuid() if user_mode else 0
    content, _ = launch.read_owned(reports, (model_id, "brand"), owner)
    match = RECORD.fullmatch(content.decode("ascii", "replace"))
    if match is None:
        raise launch.Refused(f"{reports}/{model_id}/brand is no record of a run")
    record = Record(int(match[1]), int(match[2]), int(match[3]))
    if record.brand not in BRANDS:
        raise launch.Refused(f"{record.brand} is no brand: other processes have such a limit")
    if record.uid != owner if user_mode else record.uid == 0:
        raise launch.Refused(f"uid {record.uid} runs no models here")
    return record


def own_unit(model_id: str, config: str, *, user_mode: bool) -> str | None:
    """The unit of the user's own that the configuration names, None where there is none. launch.Refused, OSError."""
    if not os.path.lexists(os.path.join(config, "models.d", f"{model_id}.toml")):
        return None
    content, _ = launch.read_owned(config, ("models.d", f"{model_id}.toml"), os.geteuid() if user_mode else 0)
    try:
        unit = tomllib.loads(content.decode()).get("unit")
    except ValueError as error:  # also what is no TOML, or no UTF-8
        raise launch.Refused(f"{config}/models.d/{model_id}.toml: {error}") from error
    if unit is not None and not (isinstance(unit, str) and UNIT.fullmatch(unit)):
        raise launch.Refused(f"unit = {unit!r} is no service")
    return unit


def own_record(unit: str, *, user_mode: bool) -> Record:
    """What is to be ended of this unit of the user's own. launch.Refused, OSError, subprocess.SubprocessError."""
    brand = 0x6 << 60 | int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") >> 4
    if user_mode:
        return Record(brand, os.geteuid(), 0, own=True)
    name = show(unit, user_mode=False).get("User", "")
    try:
        uid = int(name) if name.isdecimal() else pwd.getpwnam(name or "root").pw_uid
    except KeyError:
        raise launch.Refused(f"{unit} runs as {name!r}, and there is no such user") from None
    if uid == 0:
        raise launch.Refused(f"{unit} runs as root, and no process of root's is ended: give it a User=")
    return Record(brand, uid, 0, own=True)


def read(pid: int, name: str) -> bytes:
    """A file of /proc/PID, empty where there is none."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
        return file.read(1 << 16)
    return b""


def branded(pid: int, record: Record) -> bool:
    """Whether it carries the brand."""
    match = LIMIT.search(read(pid, "limits"))
    return match is not None and int(match[1]) == record.brand


def is_ours(pid: int, record: Record, unit: str) -> bool:
    """Whether the process that has this PID now is one to end."""
    users = USERS.search(read(pid, "status"))
    # As somebody else in part: a program that is set-uid, and may be at work for others.
    if pid <= 1 or users is None or {int(uid) for uid in users.groups()} != {record.uid}:
        return False
    groups = read(pid, "cgroup").decode("utf-8", "replace")
    names = {name for line in groups.splitlines() for name in line.split(":", 2)[-1].split("/")}
    inside = any(map(SERVICE.fullmatch, names)) if record.own else unit in names
    return bool(groups) and not inside and started(pid) >= record.began and branded(pid, record)


def started(pid: int) -> int:
    """When it was started, in ticks since boot; -1 if it is gone."""
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[19]) if len(fields) > 19 else -1


def find(record: Record, unit: str) -> dict[int, int]:
    """PID -> pidfd of each process to end."""
    found: dict[int, int] = {}
    for _ in range(LOOKS):
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        steady = True
        for pid in [pid for pid in pids if branded(pid, record)]:
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                # Looked at afterwards: while the pidfd's process lives, nobody else has its PID.
                if not ended(pidfd) and is_ours(pid, record, unit) and not ended(pidfd):
                    found[pid] = pidfd
                else:
                    steady = steady and not ended(pidfd)
                    os.close(pidfd)
        # One that has ended by now may have forked another since they were listed.
        if found or (steady and all(os.path.lexists(f"/proc/{pid}") for pid in pids)):
            break
    return found


def ended(pidfd: int) -> bool:
    """Whether the process is over, be it that nobody has taken note of it yet."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def await_ends(pidfds: list[int], seconds: float) -> None:
    """Returns when one of them is over, or after so many seconds."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    poll.poll(max(0.0, seconds) * 1000)


def named(pid: int) -> str:
    """The program's name, never its arguments."""
    return f"{read(pid, 'comm').decode('utf-8', 'replace').strip() or 'a process'} (PID {pid})"


def end(record: Record, unit: str, is_down: Callable[[], bool]) -> list[str]:
    """Ends them, those too that are forked meanwhile; the names of those that do not go.

    ``is_down`` is asked about the unit after they were found and before they get a signal: then their run is over.
    """
    begun = time.monotonic()
    told: dict[tuple[int, int], int] = {}
    names: dict[int, str] = {}
    while True:
        alive = find(record, unit)
        waited = time.monotonic() - begun
        number = signal.SIGTERM if waited < PATIENCE_SECONDS else signal.SIGKILL
        try:
            if not alive:
                return []
            new = any(told.get((pid, started(pid))) != number for pid in alive)
            if new and not is_down():
                print(f"{unit} is not down: nothing is ended", flush=True)
                return [named(pid) for pid in sorted(alive)]
            for pid, pidfd in alive.items():
                key = (pid, started(pid))
                if told.get(key) != number:
                    told[key] = number
                    names[pid] = named(pid)
                    print(f"{names[pid]} outlived {unit}: {number.name}", flush=True)
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, number)
            if waited > PATIENCE_SECONDS + KILL_SECONDS:
                return [names[pid] for pid in sorted(alive)]
            await_ends(list(alive.values()), LOOK_SECONDS)
        finally:
            for pidfd in alive.values():
                os.close(pidfd)


def show(unit: str, *, user_mode: bool) -> dict[str, str]:
    """What systemd says of the unit. OSError, subprocess.SubprocessError."""
    command = ["systemctl", *(["--user"] if user_mode else []), "show", "--property=ActiveState,SubState,User"]
    said = subprocess.run([*command, "--", unit], check=True, capture_output=True, text=True, timeout=10).stdout
    return dict(line.partition("=")[::2] for line in said.splitlines())


def is_down(record: Record, unit: str, *, user_mode: bool) -> bool:
    """Whether nothing of the unit runs but, at most, our own gate. OSError, subprocess.SubprocessError."""
    shown = show(unit, user_mode=user_mode)
    state = (shown.get("ActiveState"), shown.get("SubState"))
    return state in ASLEEP or (state == AT_ITS_GATE and not record.own)


def fail(status: int, message: str) -> NoReturn:
    """Says why on standard error and exits."""
    print(f"spark-model-sweep: {message}", file=sys.stderr)
    sys.exit(status)


def main(arguments: list[str]) -> int:
    """The exit status."""
    model_id, config, reports, mode = arguments
    if not launch.MODEL_ID.fullmatch(model_id) or mode not in ("system", "user"):
        fail(64, f"{model_id!r} is not a model id, or {mode!r} not a mode")
    user_mode = mode == "user"
    try:
        if unit := own_unit(model_id, config, user_mode=user_mode):
            record = own_record(unit, user_mode=user_mode)
        else:
            unit = f"spark-model@{model_id}.service"
            record = read_record(model_id, reports, user_mode=user_mode)
        left = end(record, unit, lambda: is_down(record, unit, user_mode=user_mode))
    except (launch.Refused, OSError, subprocess.SubprocessError) as error:
        fail(73, f"{model_id}: {error}")
    if left:
        fail(1, f"{model_id}: still there: {', '.join(left)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
