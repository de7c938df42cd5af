"""Holds models to their stop times while the machine goes down: ``deadlines.py CONFIGURATION_DIRECTORY system|user``.

Otherwise the daemon does that, but it is stopped beside them. Runs as root, when everything is being stopped, and
returns when no model's unit is. It asks PID 1 itself: neither the daemon nor a bus has to be there. What is not being
stopped is left alone.

Exit 73: systemd cannot be asked; the units' own TimeoutStopSec= holds then. 64: called wrongly.
"""

import os
import re
import subprocess
import sys
import time
import tomllib

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import launch  # noqa: E402 - the launcher's rules for what root may read
import launch_docker  # noqa: E402

UNIT = re.compile(rf"spark-model@({launch.MODEL_ID.pattern})\.service")
SHOWN = "Id,ActiveState,InactiveExitTimestampMonotonic,ActiveExitTimestampMonotonic"
ANSWER_SECONDS = 30.0
AGAIN_SECONDS = 1.0


class Systemd:
    """systemctl, for the system or for the user."""

    def __init__(self, *, user_mode: bool) -> None:
        self._command = ("systemctl", *(("--user",) if user_mode else ()))

    def _run(self, *arguments: str, check: bool = True, timeout: float | None = ANSWER_SECONDS) -> str:
        done = subprocess.run(
            [*self._command, *arguments], check=check, capture_output=True, text=True, timeout=timeout
        )
        return done.stdout

    def stopping(self) -> list[str]:
        """The models' units that have to go down and are not down."""
        jobs = [line.split() for line in self._run("list-jobs", "--no-legend", "--plain").splitlines()]
        return [job[1] for job in jobs if len(job) > 2 and job[2] == "stop" and UNIT.fullmatch(job[1])]

    def began(self, units: list[str]) -> dict[str, float | None]:
        """Since when (monotonic seconds) each unit is going down; 0 where that is not known, None: it has not begun."""
        found: dict[str, float | None] = {}
        for block in self._run("show", f"--property={SHOWN}", "--", *units).split("\n\n"):
            shown = dict(line.partition("=")[::2] for line in block.splitlines())
            left = int(shown["ActiveExitTimestampMonotonic"])
            # Older than the start before it: it never became active this time.
            since = left / 1e6 if left >= int(shown["InactiveExitTimestampMonotonic"]) else 0.0
            found[shown["Id"]] = since if shown["ActiveState"] == "deactivating" else None
        return found

    def wait(self, units: list[str], seconds: float | None) -> None:
        """Returns when all of them are down, or after so long."""
        try:
            # They are being stopped: this joins the jobs that there are.
            self._run("stop", "--", *units, timeout=seconds)
        except subprocess.TimeoutExpired:
            return
        except subprocess.CalledProcessError:
            time.sleep(AGAIN_SECONDS)  # a job was cancelled: whatever that was for, it is looked at again

    def kill(self, unit: str) -> None:
        """SIGKILL to all its processes; one that has none any more is no matter."""
        self._run("kill", "--signal=SIGKILL", "--", unit, check=False)


def stop_timeout(unit: str, config: str, owner: int) -> float:
    """How long it may take to stop, in seconds: infinite, and thus systemd's business, if nobody can tell."""
    name = f"{unit[len('spark-model@') : -len('.service')]}.toml"
    try:
        model, settings = (
            tomllib.loads(launch.read_owned(config, names, owner)[0].decode())
            if os.path.lexists(os.path.join(config, *names))
            else {}
            for names in (("models.d", name), ("spark-modeld.toml",))
        )
        return launch_docker.stop_timeout(model, settings)
    except (launch.Refused, ValueError, OSError) as error:
        print(f"{unit} may take as long as its TimeoutStopSec= says: {error}", flush=True)
        return float("inf")


def hold(systemd: Systemd, config: str, owner: int) -> None:
    """Kills what takes too long, until nothing is being stopped. OSError, subprocess.SubprocessError."""
    limits: dict[str, float] = {}
    seen: dict[str, float] = {}
    killed: set[str] = set()
    while units := systemd.stopping():
        began = systemd.began(units)
        now = time.monotonic()
        due: list[float] = []
        for unit in units:
            if unit not in limits:
                limits[unit] = stop_timeout(unit, config, owner)
            since = began.get(unit)
            if since == 0.0:
                since = seen.setdefault(unit, now)
            at = (now if since is None else since) + limits[unit]
            if at <= now and unit not in killed:
                print(f"{unit} has not stopped within {limits[unit]:g} s: killed", flush=True)
                systemd.kill(unit)
                killed.add(unit)
            elif unit not in killed:
                due.append(at)
        at = min(due, default=float("inf"))
        systemd.wait(units, None if at == float("inf") else at - now)


def main(arguments: list[str]) -> int:
    """The exit status."""
    config, mode = arguments
    if mode not in ("system", "user"):
        print(f"spark-model-deadlines: {mode!r} is not a mode", file=sys.stderr)
        return 64
    user_mode = mode == "user"
    try:
        hold(Systemd(user_mode=user_mode), config, os.geteuid() if user_mode else 0)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"spark-model-deadlines: systemd cannot be asked: {error}", file=sys.stderr)
        return 73
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
