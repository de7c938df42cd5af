"""What polkit lets the daemon's user do, by asking polkit itself about a process of that user."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from spark_modeld.cli.doctor.facts import SHIPPED_RULE, VERBS, PolkitFacts, Setting
from spark_modeld.cli.doctor.polkit_rule import own_units
from spark_modeld.cli.doctor.run import run
from spark_modeld.core.catalog import Catalog

_DAEMON_FILES = (Path("/usr/lib/polkit-1/polkitd"), Path("/usr/libexec/polkitd"), Path("/usr/libexec/polkit-1/polkitd"))
_FOLDERS = (Path("/etc/polkit-1/rules.d"), Path("/usr/share/polkit-1/rules.d"))
ANY_MODEL = "spark-model@doctor.service"
_ACTION = "org.freedesktop.systemd1.manage-units"
_USER = "spark-modeld"
_AT_ONCE = 8


def polkit(setting: Setting, catalog: Catalog) -> PolkitFacts:
    """Only root may ask polkit about others' processes, and look into the folders of its rules."""
    installed = any(path.exists() for path in _DAEMON_FILES)
    if not installed or setting.per_user:
        return PolkitFacts(installed=installed)
    if not setting.root:
        return PolkitFacts(installed=True, rule=_rule())
    try:
        with _somebody() as pid:
            asked = list(product((ANY_MODEL, *own_units(catalog)), VERBS))
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                answers = list(pool.map(lambda each: _may(pid, *each), asked))
    except (KeyError, OSError) as error:
        return PolkitFacts(installed=True, rule=_rule(), trouble=f"there is no user {_USER}: {error}")
    if None in answers:
        return PolkitFacts(installed=True, rule=_rule(), trouble="pkcheck gets no answer from polkit")
    allowed = {each: answer is True for each, answer in zip(asked, answers, strict=True)}
    return PolkitFacts(installed=True, rule=_rule(), allowed=allowed)


@contextmanager
def _somebody() -> Iterator[int]:
    """A process of the daemon's user, for as long as polkit is asked about it. KeyError without that user."""
    account = pwd.getpwnam(_USER)
    groups = [each.gr_gid for each in grp.getgrall() if _USER in each.gr_mem]
    process = subprocess.Popen(
        ("sleep", "30"), user=account.pw_uid, group=account.pw_gid, extra_groups=groups, stdin=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _may(pid: int, unit: str, verb: str) -> bool | None:
    details = ("--detail", "unit", unit, "--detail", "verb", verb)
    asked = run("pkcheck", "--action-id", _ACTION, "--process", str(pid), *details)
    # 1: no; 2 and 3: only with somebody's password.
    return asked.status == 0 if asked.status in {0, 1, 2, 3} else None


def _rule() -> bool | None:
    seen = [_has(folder / SHIPPED_RULE) for folder in _FOLDERS]
    if True in seen:
        return True
    return None if None in seen else False


def _has(path: Path) -> bool | None:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return True
