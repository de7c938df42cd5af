"""Who asks about what, and the configuration as it is on disk."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

from spark_modeld import __version__, paths
from spark_modeld.cli.doctor.facts import ConfigFacts, Setting
from spark_modeld.config.load import ConfigDirectory
from spark_modeld.core.errors import SparkError

_PACKAGE_LIST = Path("/var/lib/dpkg/info/spark-modeld.list")
_UNREADABLE = "cannot be read: Permission denied"


def setting(*, per_user: bool, config: str | None, socket: str) -> Setting:
    """This run. ValueError where a per-user systemd has no runtime directory."""
    # What systemd gives to services says nothing about a daemon that somebody asks about.
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_DIRECTORY")}
    where = paths.find(user=per_user, config=config, environ=environment)
    uid = os.geteuid()
    return Setting(
        uid=uid,
        user=_user(uid),
        groups=frozenset(_group(gid) for gid in {*os.getgroups(), os.getegid()}),
        per_user=per_user,
        config=str(where.config),
        state=str(where.state),
        runtime=str(where.runtime),
        reports=str(where.reports),
        socket=socket,
        version=__version__,
        package=_PACKAGE_LIST.exists(),
    )


def configuration(folder: str) -> ConfigFacts:
    """What is in the files, or everything that is wrong with them."""
    try:
        return ConfigFacts(catalog=ConfigDirectory(Path(folder)).load())
    except SparkError as error:
        told = [(each["file"], each["key"], each["message"]) for each in error.problem.extra["findings"]]
    except OSError as error:
        return ConfigFacts(unreadable=(f"{folder}: {error.strerror}",))
    unreadable = tuple(file for file, _, message in told if message == _UNREADABLE)
    return ConfigFacts(findings=tuple(each for each in told if each[2] != _UNREADABLE), unreadable=unreadable)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
