"""Ends the processes that a model's unit started and that outlived it: ``sweep.py ID REPORT_DIRECTORY system|user``.

Runs as root, asked for by a daemon that is not: nothing it goes by can be written by the daemon or by a model. It takes
no list of processes. It ends those that carry the brand which the unit's launcher gave the model's runs (brand.sh: a
resource limit, which children inherit and nobody else can have), that run as the model's user alone, began after the
first of these runs, and are outside the unit's control group; and only while the unit is down.

SIGTERM, and after ``PATIENCE_SECONDS`` SIGKILL, always through a pidfd that was opened before all of that was looked
at: a PID that is used again is never hit. Exit 0: nothing is left. 1: something is. 73: there is no trustworthy record.
64: called wrongly.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
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
ASLEEP = frozenset({("inactive", "dead"), ("failed", "failed"), ("activating", "auto-restart")})
AT_ITS_GATE = ("activating", "start-pre")


@dataclass(frozen=True)
class Record:
    """What is to be ended: by its brand, the uid it runs as, and when (ticks since boot) it can have begun at the
    earliest.
    """

    brand: int
    uid: int
    began: int


def read_record(model_id: str, reports: str, *, user_mode: bool) -> Record:
    """The launcher's record of the model's runs. launch.Refused, OSError."""
    owner = os.geteuid() if user_mode else 0
    content, _ = launch.read_owned(reports, (model_id, "brand"), owner)
    match = RECORD.fullmatch(content.decode("ascii", "replace"))
    if match is None:
        raise launch.Refused(f"{reports}/{model_id}/brand is no record of a run")
    record = Record(*map(int, match.groups()))
    if record.brand not in BRANDS:
        raise launch.Refused(f"{record.brand} is no brand: other processes have such a limit")
    if record.uid != owner if user_mode else record.uid == 0:
        raise launch.Refused(f"uid {record.uid} runs no models here")
    return record


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
    inside = any(unit in line.split(":", 2)[-1].split("/") for line in groups.splitlines())
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


def end(record: Record, unit: str) -> list[str]:
    """Ends them, those too that are forked meanwhile; the names of those that do not go."""
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


def is_down(unit: str, *, user_mode: bool) -> bool:
    """Whether nothing of the unit runs but, at most, its gate, as systemd says. OSError, subprocess.SubprocessError."""
    command = ["systemctl", *(["--user"] if user_mode else []), "show", "--property=ActiveState,SubState", unit]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout
    shown = dict(line.partition("=")[::2] for line in said.splitlines())
    state = (shown.get("ActiveState"), shown.get("SubState"))
    return state in ASLEEP or state == AT_ITS_GATE


def fail(status: int, message: str) -> NoReturn:
    """Says why on standard error and exits."""
    print(f"spark-model-sweep: {message}", file=sys.stderr)
    sys.exit(status)


def main(arguments: list[str]) -> int:
    """The exit status."""
    model_id, reports, mode = arguments
    if not launch.MODEL_ID.fullmatch(model_id) or mode not in ("system", "user"):
        fail(64, f"{model_id!r} is not a model id, or {mode!r} not a mode")
    unit, user_mode = f"spark-model@{model_id}.service", mode == "user"
    try:
        record = read_record(model_id, reports, user_mode=user_mode)
        if not is_down(unit, user_mode=user_mode):
            print(f"{unit} is not down: nothing is ended")
            return 1
        left = end(record, unit)
    except (launch.Refused, OSError, subprocess.SubprocessError) as error:
        fail(73, f"{model_id}: {error}")
    if left:
        fail(1, f"{model_id}: still there after SIGKILL: {', '.join(left)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
