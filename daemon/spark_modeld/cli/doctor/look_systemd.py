"""What systemd and its bus say: each in one call of the program that comes with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spark_modeld.cli.doctor.facts import COMPETITOR, DAEMON, SOCKETS, BusFacts, Setting, SystemdFacts, Unit
from spark_modeld.cli.doctor.run import Ran, run
from spark_modeld.core.catalog import Catalog

_PROPERTIES = {
    *("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "DropInPaths", "Restart", "Result"),
    *("ExecMainStatus", "Listen", "IPAddressAllow", "IPAddressDeny"),
}
_ANY_MODEL = "spark-model@doctor.service"
"""An instance that stands for the template while the catalog is empty; showing it makes nothing."""
MOST_UNITS = 400
_FOLDERS = ("/etc/systemd/system", "/run/systemd/system")
_USERS_FOLDERS = ("~/.config/systemd/user", "/etc/systemd/user")
_KINDS = ("*.wants", "*.requires")


def systemd(setting: Setting, catalog: Catalog) -> SystemdFacts:
    """The version, our units and the catalog's, and the engines that start at boot."""
    scope = ("--user",) if setting.per_user else ()
    with ThreadPoolExecutor(3) as pool:
        asked = pool.submit(run, "systemctl", "--version")
        starting = pool.submit(lambda: _show(scope, _enabled(setting))[0])
        units, trouble = _show(scope, _names(catalog))
        version, enabled = asked.result(), starting.result()
    if not version.good:
        return SystemdFacts(version=0 if version.hangs else None, trouble=_trouble(version))
    match = re.match(r"systemd (\d+)", version.out)
    number = int(match[1]) if match else None
    return SystemdFacts(version=number, trouble=trouble, units=units, enabled=tuple(enabled.values()))


def bus(setting: Setting) -> BusFacts:
    """Whether the bus has an answer for this user."""
    target = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId")
    asked = run("busctl", "--user" if setting.per_user else "--system", "--timeout=1", "call", *target)
    return BusFacts(answers=asked.good, trouble=_trouble(asked))


def _names(catalog: Catalog) -> list[str]:
    ports = (model.gateway_port for model in catalog.models.values())
    sockets = [f"spark-modeld-port@{port}.socket" for port in ports if port is not None]
    models = [model.unit for model in catalog.models.values()] or [_ANY_MODEL]
    return list(dict.fromkeys([DAEMON, *SOCKETS, *sockets, "spark-models.slice", *models]))


def _enabled(setting: Setting) -> list[str]:
    """The engines that some target wants. systemd itself would read every unit file there is to say so."""
    folders = _USERS_FOLDERS if setting.per_user else _FOLDERS
    links = [
        link for folder in folders for kind in _KINDS for link in Path(folder).expanduser().glob(f"{kind}/*.service")
    ]
    return sorted({link.name for link in links if COMPETITOR.fullmatch(link.name)})


def _show(scope: Iterable[str], names: list[str]) -> tuple[dict[str, Unit], str]:
    if not names:
        return {}, ""
    asked = names[:MOST_UNITS]
    shown = run("systemctl", *scope, "show", f"--property={','.join(sorted(_PROPERTIES))}", "--", *asked)
    if not shown.good:
        return {}, _trouble(shown)
    # One block for each, in the order in which they were asked for.
    blocks = shown.out.split("\n\n")
    return {name: _unit(name, block) for name, block in zip(asked, blocks, strict=False)}, ""


def _unit(name: str, block: str) -> Unit:
    shown: dict[str, str] = {}
    listens: list[str] = []
    for line in block.splitlines():
        key, _, value = line.partition("=")
        if key == "Listen" and not value.endswith("(Netlink)"):  # a line for each address
            listens.append(value.partition(" ")[0])
        shown[key] = value
    return Unit(
        name=name,
        load=shown.get("LoadState", "not-found"),
        active=shown.get("ActiveState", "unknown"),
        file_state=shown.get("UnitFileState", ""),
        need_reload=shown.get("NeedDaemonReload") == "yes",
        drop_ins=tuple(shown.get("DropInPaths", "").split()),
        restart=shown.get("Restart", "no"),
        result=shown.get("Result", "success"),
        exit_status=int(shown.get("ExecMainStatus") or 0),
        listen=tuple(listens),
        allow=tuple(shown.get("IPAddressAllow", "").split()),
        deny=tuple(shown.get("IPAddressDeny", "").split()),
    )


def _trouble(asked: Ran) -> str:
    if asked.good:
        return ""
    if asked.missing:
        return "the program is missing"
    return "it does not answer" if asked.hangs else asked.says or f"it ended with {asked.status}"
