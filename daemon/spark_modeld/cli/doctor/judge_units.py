"""Units that are in the way, sockets that do not listen, and ports that somebody else has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from spark_modeld.cli.doctor.facts import COMPETITOR, DAEMON, SOCKETS, Facts, Port, Unit
from spark_modeld.cli.doctor.finding import Area, Finding, error, ok, unseen, warning
from spark_modeld.config.addresses import is_loopback, is_wildcard, split_address
from spark_modeld.core.model import Model, OwnUnit
from spark_modeld.core.settings import GatewaySettings

_NO_RESTART = "[Service]\\nRestart=no\\n"


def units(facts: Facts) -> Iterator[Finding]:
    """Ours, the catalog's own, and those that would start an engine past the daemon."""
    area = Area.UNITS
    if facts.systemd is None or not facts.systemd.units:
        yield unseen(area, "systemd shows no units", "systemctl list-units 'spark-model*'")
        return
    found = [*_ours(facts), *_own(facts), *_competitors(facts)]
    yield from found
    if not found:
        yield ok(area, f"{len(facts.systemd.units)} units are as they should be")
    drops = sorted({drop for unit in facts.systemd.units.values() for drop in unit.drop_ins})
    if drops:
        yield ok(area, f"changed by drop-ins: {', '.join(drops)}")


def _ours(facts: Facts) -> Iterator[Finding]:
    """Loaded and not masked."""
    systemctl = facts.setting.systemctl
    seen = facts.systemd.units if facts.systemd is not None else {}
    own = {model.unit for model in facts.catalog.models.values() if isinstance(model.run, OwnUnit)}
    # A user's own daemon beside the machine's is without the sockets for TCP: the ports are taken.
    spared = SOCKETS[1:] if facts.setting.per_user else ()
    masked = sorted(unit.name for unit in seen.values() if unit.load == "masked" and unit.name not in spared)
    if masked:
        fix = f"{systemctl} unmask {shlex.join(masked)}"
        message = f"{', '.join(masked)}: masked, so it cannot be started"
        yield error(Area.UNITS, "masked", message, fix)
    missing = sorted(
        u.name for u in seen.values() if u.load == "not-found" and u.name not in own and "-port@" not in u.name
    )
    if missing:
        mend = "apt-get install --reinstall spark-modeld" if facts.setting.package else "make install"
        yield error(Area.UNITS, "unit-missing", f"systemd does not know {', '.join(missing)}", mend)
    broken = sorted(u.name for u in seen.values() if u.load not in {"loaded", "masked", "not-found"})
    if broken:
        fix = f"systemd-analyze{' --user' if facts.setting.per_user else ''} verify {shlex.join(broken)}"
        yield error(Area.UNITS, "unit-broken", f"systemd cannot load {', '.join(broken)}", fix)


def _own(facts: Facts) -> Iterator[Finding]:
    """Units of the user's own: there, off at boot, and without a restart of their own."""
    systemctl = facts.setting.systemctl
    for model in sorted(facts.catalog.models.values(), key=lambda each: each.id):
        unit = facts.unit(model.unit)
        if unit is None:
            continue
        enabled = unit.file_state in {"enabled", "enabled-runtime"}
        if enabled and not model.tenant:
            message = f"{unit.name} ({model.id}) starts at boot by itself, past the daemon's admission"
            fix = f"{systemctl} disable {shlex.quote(unit.name)}"
            yield warning(Area.UNITS, "starts-at-boot", message, fix)
        if not isinstance(model.run, OwnUnit):
            continue
        if unit.load == "not-found":
            fix = f"editor {facts.setting.config}/models.d/{model.id}.toml"
            message = f"systemd does not know {unit.name}, the unit of {model.id}"
            yield error(Area.UNITS, "own-unit-missing", message, fix)
        elif unit.restart != "no" and not model.tenant:
            yield _restarts(facts, model, unit)


def _restarts(facts: Facts, model: Model, unit: Unit) -> Finding:
    place = "~/.config/systemd/user" if facts.setting.per_user else "/etc/systemd/system"
    folder = f"{place}/{unit.name if unit.name.isprintable() and ' ' not in unit.name else shlex.quote(unit.name)}.d"
    write = f"mkdir -p {folder} && printf '{_NO_RESTART}' > {folder}/spark-modeld.conf"
    return warning(
        Area.UNITS,
        "restarts-itself",
        f"{unit.name} ({model.id}) has Restart={unit.restart}: systemd brings it back past the daemon's admission",
        f"{write} && {facts.setting.systemctl} daemon-reload",
        "A daemon-reload can take the GPU from containers that run: restart those afterwards.",
    )


def _competitors(facts: Facts) -> Iterator[Finding]:
    catalog = {model.unit for model in facts.catalog.models.values()}
    enabled = facts.systemd.enabled if facts.systemd is not None else ()
    for unit in enabled:
        if COMPETITOR.fullmatch(unit.name) and unit.name not in catalog and not unit.name.startswith("spark-model"):
            now = " --now" if unit.active in {"active", "activating", "reloading"} else ""
            message = f"{unit.name} starts at boot and is in no model's file: it takes memory that nobody admits"
            note = f'Or make it a model: `unit = "{unit.name}"` in a file in {facts.setting.config}/models.d.'
            fix = f"{facts.setting.systemctl} disable{now} {shlex.quote(unit.name)}"
            yield warning(Area.UNITS, "competitor", message, fix, note)


def sockets(facts: Facts) -> Iterator[Finding]:
    """Do they listen, also after a boot, and who reaches them?"""
    area, systemctl = Area.SOCKETS, facts.setting.systemctl
    seen = [unit for name in SOCKETS if (unit := facts.unit(name)) is not None and unit.load == "loaded"]
    if not seen:
        yield unseen(area, "systemd shows no sockets of ours", "systemctl list-sockets 'spark-*'")
        return
    found: list[Finding] = []
    down = [unit for unit in seen if unit.active != "active"]
    if down:
        names = " ".join(unit.name for unit in down)
        why = sorted({unit.result for unit in down if unit.result != "success"})
        message = f"{', '.join(unit.name for unit in down)}: not listening{f' ({why[0]})' if why else ''}"
        # A socket is refused while its service runs.
        fix = f"{systemctl} stop {DAEMON} && {systemctl} start {names} && {systemctl} start {DAEMON}"
        found.append(error(area, "socket-down", message, fix, "Models keep serving."))
    off = [unit.name for unit in seen if unit.file_state == "disabled"]
    daemon = facts.unit(DAEMON)
    if daemon is not None and daemon.file_state == "disabled" and (facts.catalog.settings.slot.default or off):
        off.append(DAEMON)
    if off:
        message = f"{', '.join(off)}: off after the next boot"
        note = "Enabling reads all units again, which can take the GPU from containers that run."
        found.append(warning(area, "socket-disabled", message, f"{systemctl} enable {' '.join(off)}", note))
    found += _reach(facts, seen)
    yield from found
    if not found:
        yield ok(area, f"listening on {', '.join(place for unit in seen for place in unit.listen)}")


def _reach(facts: Facts, seen: list[Unit]) -> Iterator[Finding]:
    area, is_open = Area.SOCKETS, facts.catalog.settings.gateway.auth == "none"
    daemon = facts.unit(DAEMON)
    for unit in seen:
        # What [gateway] listen names beside the passed sockets, the daemon binds itself.
        more = facts.catalog.settings.gateway.listen if unit.name == SOCKETS[2] else ()
        places = dict.fromkeys((*unit.listen, *more))
        far = [place for place in places if not place.startswith("/") and not is_loopback(_host(place))]
        if not far:
            continue
        where = ", ".join(far)
        back = f"{facts.setting.systemctl} edit {unit.name}"
        if unit.name == SOCKETS[1]:
            message = f"the control API listens on {where}: whoever has a token can switch models from the network"
            yield warning(area, "control-reaches-out", message, back, "In the clear: better through SSH.")
        elif is_open:
            message = (
                f"the gateway listens on {where} and asks for no token (auth = none): open to everybody who reaches it"
            )
            fix = f"editor {facts.setting.config}/spark-modeld.toml"
            yield error(area, "open-gateway", message, fix, 'Set auth = "token" in [gateway], then reload.')
        else:
            message = f"the gateway listens on {where}: tokens and texts go over that network in the clear"
            yield warning(area, "gateway-reaches-out", message, back, "Fine in a tailnet; else put TLS in front.")
        if daemon is not None and daemon.deny and set(daemon.allow) <= {"127.0.0.0/8", "::1/128"}:
            message = (
                f"{DAEMON} takes packets from this machine only (IPAddressAllow=), so nobody gets an answer on {where}"
            )
            yield warning(area, "packets-dropped", message, f"{facts.setting.systemctl} edit {DAEMON}")


def ports(facts: Facts) -> Iterator[Finding]:
    """Does somebody else have a port of ours, or of a model?"""
    area = Area.PORTS
    if facts.ports is None:
        yield unseen(area, "the kernel did not say who listens", "ss -ltnp")
        return
    found = [*_our_ports(facts), *_engine_ports(facts)]
    yield from found
    if not found:
        yield ok(area, "nobody else is on the daemon's or a model's ports")


def _our_ports(facts: Facts) -> Iterator[Finding]:
    settings = facts.catalog.settings
    unit_of = {"control": SOCKETS[1], "gateway": SOCKETS[2]}
    for part, addresses in (("control", settings.control.listen), ("gateway", settings.gateway.listen)):
        unit = facts.unit(unit_of[part])
        # Whoever opened a passed socket was systemd, whose control group tells nothing.
        held = unit.listen if unit is not None and unit.active == "active" else ()
        for address in _addresses(unit, addresses, part):
            holder = None if address in held else _holder(facts, *split_address(address))
            if holder is not None and holder.unit != DAEMON:
                what = f"{address} ({part}) belongs to {holder.unit or holder.who}"
                yield error(Area.PORTS, "port-taken", what, *_free(holder))
    for model in facts.catalog.models.values():
        if model.gateway_port is None:
            continue
        unit = facts.unit(f"spark-modeld-port@{model.gateway_port}.socket")
        holder = _holder(facts, "127.0.0.1", model.gateway_port)
        if holder is not None and holder.unit != DAEMON and (unit is None or unit.active != "active"):
            what = f"port {model.gateway_port}, gateway_port of {model.id}, belongs to {holder.unit or holder.who}"
            yield error(Area.PORTS, "port-taken", what, *_free(holder))


def _addresses(unit: Unit | None, configured: tuple[str, ...], part: str) -> tuple[str, ...]:
    """Where it ought to listen: what is passed, and of the gateway also what is configured beside that."""
    passed = unit.listen if unit is not None else ()
    if not passed:
        return configured
    beside = configured if part == "gateway" and configured != GatewaySettings().listen else ()
    return tuple(dict.fromkeys((*passed, *beside)))


def _engine_ports(facts: Facts) -> Iterator[Finding]:
    expected: dict[tuple[str, int], set[str]] = {}
    for model in facts.catalog.models.values():
        expected.setdefault(model.endpoint, set()).add(model.unit)
    running = {
        name for name, unit in (facts.systemd.units.items() if facts.systemd else ()) if unit.active != "inactive"
    }
    for (host, port), names in sorted(expected.items()):
        if host != "127.0.0.1" or (holder := _holder(facts, host, port)) is None:
            continue
        # A container's processes are in no unit of ours: its model's unit runs.
        if holder.unit in names or (holder.unit.endswith(".scope") and names & running):
            continue
        wanted = ", ".join(sorted(names))
        message = f"port {port} of {wanted} belongs to {holder.unit or holder.who}"
        yield warning(Area.PORTS, "engine-port-taken", message, *_free(holder))


def _holder(facts: Facts, host: str, port: int) -> Port | None:
    own = is_loopback(host) or is_wildcard(host)
    for each in facts.ports or ():
        if each.port == port and (each.host == host or (own and (is_loopback(each.host) or is_wildcard(each.host)))):
            return each
    return None


def _free(holder: Port) -> tuple[str, str]:
    """The command that frees the port, or shows who has it."""
    if holder.unit.endswith(".service") and not holder.unit.startswith("user@"):
        return f"systemctl stop {shlex.quote(holder.unit)}", ""
    container = re.fullmatch(r"docker-([0-9a-f]{12,64})\.scope", holder.unit)
    if container is not None:
        return f"docker stop {container[1][:12]}", ""
    return f"ss -ltnp 'sport = :{holder.port}'", "It shows who it is; then stop that."


def _host(place: str) -> str:
    try:
        return split_address(place)[0]
    except ValueError:
        return place
