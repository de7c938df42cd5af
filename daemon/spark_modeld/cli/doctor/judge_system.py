"""systemd, its bus, polkit, and the daemon itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spark_modeld.cli.doctor.facts import DAEMON, OWN_RULE, SHIPPED_RULE, SOCKETS, Facts
from spark_modeld.cli.doctor.finding import Area, Finding, error, ok, unseen, warning
from spark_modeld.cli.doctor.polkit_rule import own_units

_OLDEST = 252
# Moved into its place: polkit reads a rule as soon as it appears, and does not look again when only its mode changes.
INSTALL_RULE = (
    f"spark-modelctl doctor --polkit-rule | install -m 644 /dev/stdin {OWN_RULE}.new && mv {OWN_RULE}.new {OWN_RULE}"
)


def systemd(facts: Facts) -> Iterator[Finding]:
    """Is it there, new enough, and does it know the units as they are?"""
    area, seen = Area.SYSTEMD, facts.systemd
    if seen is None:
        yield unseen(area, "systemctl did not answer in time", "systemctl is-system-running")
        return
    if seen.version is None:
        yield error(area, "no-systemd", f"there is no systemctl that works here ({seen.trouble or 'no version'})")
        return
    if seen.trouble:
        yield error(area, "systemd-away", f"systemd does not answer: {seen.trouble}", "systemctl status")
        return
    if seen.version < _OLDEST:
        message = f"systemd {seen.version} is older than {_OLDEST}, the oldest that this was tried with"
        yield warning(area, "systemd-old", message)
    stale = sorted(unit.name for unit in seen.units.values() if unit.need_reload)
    if stale:
        yield warning(
            area,
            "daemon-reload-needed",
            f"systemd has not read {_some(stale)} since the files changed",
            f"{facts.setting.systemctl} daemon-reload",
            "A daemon-reload can take the GPU from containers that run: restart those afterwards.",
        )
    if not stale and seen.version >= _OLDEST:
        yield ok(area, f"systemd {seen.version}")


def bus(facts: Facts) -> Iterator[Finding]:
    """Without it nothing is started or stopped."""
    area, seen = Area.BUS, facts.bus
    status = facts.daemon.status if facts.daemon is not None else None
    if seen is None or not seen.answers:
        trouble = seen.trouble if seen is not None else "no answer in time"
        start = f"{facts.setting.systemctl} start dbus.socket dbus.service"
        if facts.setting.per_user:  # a small Debian has none for users
            start = f"sudo apt-get install dbus-user-session && {facts.setting.systemctl} start dbus.socket"
        yield error(area, "bus-away", f"the bus does not answer: {trouble}", start)
    elif status is not None and status["bus"] != "connected":
        message = "the bus answers, but the daemon has no connection to it; it keeps trying"
        yield error(area, "daemon-off-bus", message, f"{facts.setting.systemctl} restart {DAEMON}")
    else:
        yield ok(area, "the bus answers")


def polkit(facts: Facts) -> Iterator[Finding]:
    """May the daemon start and stop what it has to?"""
    area, seen = Area.POLKIT, facts.polkit
    if facts.setting.per_user:
        yield ok(area, "not needed: your own systemd does what you say")
        return
    if seen is None:
        yield unseen(area, "polkit could not be asked in time")
        return
    if not seen.installed:
        message = "polkit is not installed, so the daemon may start and stop nothing"
        yield error(area, "polkit-missing", message, "apt-get install polkitd")
        return
    units = own_units(facts.catalog)
    if seen.allowed is None:
        if seen.rule is False:
            yield _no_shipped_rule(facts)
        about = f" and {_some(units)}" if units else ""
        why = f" ({seen.trouble})" if seen.trouble else ""
        yield unseen(area, f"only root may ask polkit what it lets the daemon do with its models{about}{why}")
        return
    refused: dict[str, list[str]] = {}
    for (unit, verb), allowed in sorted(seen.allowed.items()):
        if not allowed:
            refused.setdefault(unit, []).append(verb)
    own = {unit: verbs for unit, verbs in refused.items() if unit in units}
    if len(own) < len(refused):
        yield _no_shipped_rule(facts)
    if own:
        what = (
            f"the daemon may not {', '.join(sorted({v for verbs in own.values() for v in verbs}))} {_some(sorted(own))}"
        )
        yield error(area, "own-unit-without-rule", f"{what}: no polkit rule allows it", INSTALL_RULE)
    if not refused:
        yield ok(area, f"lets the daemon start and stop its models{f' and {_some(units)}' if units else ''}")


def _no_shipped_rule(facts: Facts) -> Finding:
    mend = "apt-get install --reinstall spark-modeld" if facts.setting.package else "make install"
    note = "" if facts.setting.package else "In the source folder that it was installed from."
    message = f"polkit does not let the daemon start spark-model@*.service: {SHIPPED_RULE} is missing or overruled"
    return error(Area.POLKIT, "polkit-refuses", message, mend, note)


def daemon(facts: Facts) -> Iterator[Finding]:
    """Does it run, and what does it complain about?"""
    area, seen, unit = Area.DAEMON, facts.daemon, facts.unit(DAEMON)
    if seen is None:
        yield unseen(area, "the daemon did not answer in time", f"systemctl status {DAEMON}")
    elif seen.refused:
        yield from _refused(facts)
    elif seen.status is not None:
        yield from _says(facts, seen.status)
    elif seen.problem is not None and seen.problem.get("code") == "invalid-config":
        message = "it runs, and touches no model until its configuration is right"
        yield error(area, "invalid-config", message, "spark-modelctl reload", "When the files are right.")
    elif not seen.asked:
        yield from _asleep(facts)
    else:
        says = (unit is not None and unit.active) or "unknown"
        detail = seen.problem.get("detail", "") if seen.problem is not None else ""
        last = f"; its last words: {seen.words[-1]}" if seen.words else ""
        start = f"{facts.setting.systemctl} restart {SOCKETS[0]} {DAEMON}"
        message = f"it does not answer (systemd: {says}). {detail.split(' Start it with')[0]}{last}"
        yield error(area, "daemon-away", message, start)


def _refused(facts: Facts) -> Iterator[Finding]:
    user, accounts = facts.setting.user, facts.accounts
    yield unseen(Area.DAEMON, "you may not open its control socket")
    member = accounts is not None and "spark-modeld" in (accounts.users.get(user) or frozenset())
    if not member:
        note = "It counts from the next login on."
        message = f"{user} is no operator: not in group spark-modeld"
        yield warning(Area.DAEMON, "no-operator", message, f"usermod -aG spark-modeld {user}", note)


def _says(facts: Facts, status: Any) -> Iterator[Finding]:
    area, before = Area.DAEMON, 0
    version = str(status.get("version", ""))
    if version != facts.setting.version:
        message = f"it runs version {version}, installed is {facts.setting.version}"
        fix = f"{facts.setting.systemctl} restart {DAEMON}"
        yield warning(area, "old-daemon", message, fix, "Models keep serving.")
        before += 1
    for told in status["warnings"]:
        yield warning(area, str(told["code"]), str(told["message"]), "spark-modelctl status", by_user=True)
        before += 1
    if not before:
        slot = status["slot"]
        yield ok(area, f"runs version {version}: {slot['model'] or 'the slot is'} {slot['phase']}")
    failure = status.get("last_failure")
    if failure is not None:
        detail = (failure.get("error") or {}).get("detail") or failure["outcome"]
        when = f"{failure['started_at'][:19].replace('T', ' ')}Z"
        yield ok(area, f"its last failure: {failure['model'] or 'empty'} at {when}: {detail}")


def _asleep(facts: Facts) -> Iterator[Finding]:
    """Its socket is there and it is not: an ordinary state, unless it died."""
    unit, seen = facts.unit(DAEMON), facts.daemon
    if unit is not None and (unit.active == "failed" or unit.result != "success"):
        last = f"; its last words: {seen.words[-1]}" if seen is not None and seen.words else ""
        message = f"it keeps failing ({unit.result}, status {unit.exit_status}){last}"
        fix = f"journalctl -b -n 50 -u {DAEMON}"
        yield error(Area.DAEMON, "daemon-fails", message, fix, f"Then: {facts.setting.systemctl} restart {DAEMON}")
        return
    message = "it does not run; the first connection to a socket of its starts it"
    yield warning(
        Area.DAEMON,
        "daemon-asleep",
        message,
        f"{facts.setting.systemctl} start {DAEMON}",
        "It then brings up what belongs in the slot.",
    )


def _some(names: Any, most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
