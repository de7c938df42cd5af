"""Who listens, who owns the files, who is in which group, and the tokens."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from spark_modeld.cli.doctor.facts import AccountFacts, PathFacts, Port, Setting, TokenFacts
from spark_modeld.config.tokens import TokenStore
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.model import Container, Docker
from spark_modeld.remains import cgroups
from spark_modeld.remains.sockets import listening

DAEMON_USER, MODEL_USER = "spark-modeld", "spark-model"
OPERATORS, SECRETS = "spark-modeld", "spark-modeld-secrets"
TOKENS = "tokens.toml"
_KINDS = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISSOCK, "socket"))


def ports() -> tuple[Port, ...]:
    """Everybody who listens on TCP. OSError where the kernel cannot be asked."""
    found = list(listening())
    folders = _folders({each.cgroup for each in found if each.cgroup is not None})
    told = []
    for each in found:
        host = socket.inet_ntop(socket.AF_INET6 if len(each.address) == 16 else socket.AF_INET, each.address)
        folder = folders.get(each.cgroup or 0)
        pids = cgroups.processes(folder) if folder is not None and folder != cgroups.ROOT else []
        who = cgroups.named(pids) if 0 < len(pids) < 50 else f"a process of {cgroups.user(each.uid)}"
        told.append(Port(host=host, port=each.port, unit=_unit(folder), who=who))
    return tuple(told)


def paths(setting: Setting, catalog: Catalog) -> dict[str, PathFacts]:
    """The owner and mode of everything that is the daemon's, and of what its catalog names."""
    config = Path(setting.config)
    files = [config, config / "spark-modeld.toml", config / "models.d", config / TOKENS]
    files += [config / "models.d" / f"{model_id}.toml" for model_id in catalog.models]
    places = [*map(str, files), setting.state, setting.runtime, setting.reports, setting.socket]
    places += [model.api_key_file for model in catalog.models.values() if model.api_key_file is not None]
    scripts = [m.run.start_script for m in catalog.models.values() if isinstance(m.run, Container)]
    places += [script for script in scripts if script is not None]
    return {place: _path(place) for place in dict.fromkeys(places)}


def accounts(catalog: Catalog) -> AccountFacts:
    """The users that run something, with their groups."""
    users = {DAEMON_USER, MODEL_USER, *(model.user for model in catalog.models.values())}
    wanted = {OPERATORS, SECRETS, "systemd-journal", "docker"}
    return AccountFacts(
        users={user: _groups(user) for user in sorted(users)},
        groups=frozenset(name for name in wanted if _exists(name)),
    )


def tokens(setting: Setting) -> TokenFacts:
    """The tokens, without their secrets."""
    path = Path(setting.config) / TOKENS
    if path.exists() and not os.access(path, os.R_OK):
        return TokenFacts(now=time.time())
    store = TokenStore(path)
    findings = tuple(f"{each.key}: {each.message}" if each.key else each.message for each in store.findings)
    return TokenFacts(tokens=store.tokens, findings=findings, now=time.time())


def in_containers(catalog: Catalog) -> bool:
    """Whether any model needs docker."""
    return any(isinstance(model.run, Docker | Container) for model in catalog.models.values())


def _folders(numbers: set[int]) -> dict[int, Path]:
    """The control groups with these ids, in one walk."""
    found = {}
    for folder, _, _ in os.walk(cgroups.ROOT):
        try:
            number = os.stat(folder).st_ino
        except OSError:
            continue
        if number in numbers:
            found[number] = Path(folder)
    return found


def _unit(folder: Path | None) -> str:
    """The innermost unit of a control group."""
    names: Iterable[str] = reversed(folder.parts) if folder is not None else ()
    return next((name for name in names if name.endswith((".service", ".scope"))), "")


def _path(place: str) -> PathFacts:
    try:
        seen = os.stat(place)
    except FileNotFoundError:
        return PathFacts(path=place, kind="missing")
    except OSError as error:
        return PathFacts(path=place, kind="", trouble=error.strerror or str(error))
    kind = next((name for is_it, name in _KINDS if is_it(seen.st_mode)), "other")
    owner, group = cgroups.user(seen.st_uid), _group(seen.st_gid)
    return PathFacts(path=place, kind=kind, owner=owner, group=group, mode=stat.S_IMODE(seen.st_mode))


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _groups(user: str) -> frozenset[str] | None:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return None
    return frozenset(_group(gid) for gid in os.getgrouplist(user, account.pw_gid))


def _exists(group: str) -> bool:
    try:
        grp.getgrnam(group)
    except KeyError:
        return False
    return True
