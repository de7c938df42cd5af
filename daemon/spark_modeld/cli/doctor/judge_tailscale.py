"""What Tailscale Serve and Funnel hand on: both arrive from 127.0.0.1, so only tokens keep strangers out."""

from __future__ import annotations

from collections.abc import Iterator

from spark_modeld.cli.doctor.facts import SOCKETS, Facts
from spark_modeld.cli.doctor.finding import Area, Finding, error, ok, unseen, warning
from spark_modeld.config.addresses import is_loopback, is_wildcard, split_address
from spark_modeld.core.tailnet import Served

_ENGINE_PORTS = frozenset({11434, 30000, 30001, 8355})
"""Where engines listen that are in no catalog; 8000 and 8080 are anybody's."""


def tailscale(facts: Facts) -> Iterator[Finding]:
    """Does anything lead past the gateway's tokens?"""
    area, seen = Area.TAILSCALE, facts.tailscale
    if seen is None:
        yield unseen(area, "tailscale could not be asked", "tailscale serve status")
        return
    if not seen.installed:
        yield ok(area, "not installed")
        return
    if seen.trouble:
        yield warning(area, "tailscale-away", seen.trouble, "systemctl restart tailscaled.service")
        return
    if seen.tailnet is None:
        yield ok(area, "installed, and not connected")
        return
    served = [finding for each in seen.tailnet.served if (finding := _judge(facts, each)) is not None]
    yield from served
    if not served:
        yield ok(area, f"{seen.tailnet.name or 'connected'}: nothing of ours is handed on")


def _judge(facts: Facts, served: Served) -> Finding | None:
    catalog, who = facts.catalog, "the whole internet" if served.public else "the tailnet"
    lead = f"{'Funnel' if served.public else 'Serve'} hands {served.url} on to"
    engines = sorted(m.id for m in catalog.models.values() if _is(served, *m.endpoint))
    note = "" if served.off else "It lives in somebody's terminal: press Ctrl-C there."
    area = Area.TAILSCALE
    if engines:
        message = f"{lead} the engine of {', '.join(engines)}, past tokens and admission: open to {who}"
        return error(
            area, "engine-handed-on", message, served.off, note or "Hand on the gateway: tailscale serve --bg 30101"
        )
    if any(_is(served, *split_address(address)) for address in _addresses(facts, 1, catalog.settings.control.listen)):
        message = f"{lead} the control API: {who} may try tokens that switch models"
        return error(area, "control-handed-on", message, served.off, note)
    ports = {model.gateway_port for model in catalog.models.values() if model.gateway_port is not None}
    gateways = _addresses(facts, 2, catalog.settings.gateway.listen)
    own_port = served.host == "127.0.0.1" and served.port in ports
    if own_port or any(_is(served, *split_address(address)) for address in gateways):
        if catalog.settings.gateway.auth == "none":
            message = f"{lead} the gateway, which asks for no token: open to {who}"
            return error(area, "open-gateway-handed-on", message, served.off, note)
        return ok(area, f"{lead} the gateway: {who} needs a token")
    if served.host == "127.0.0.1" and served.port in _ENGINE_PORTS:
        message = f"{lead} port {served.port}, where engines listen: open to {who}"
        return warning(area, "unknown-engine-handed-on", message, served.off, note)
    return None


def _addresses(facts: Facts, socket: int, configured: tuple[str, ...]) -> set[str]:
    """Where it listens, by its socket unit and by its settings."""
    unit = facts.unit(SOCKETS[socket])
    places = {place for place in (unit.listen if unit is not None else ()) if not place.startswith("/")}
    return places | set(configured)


def _is(served: Served, host: str, port: int) -> bool:
    if served.port != port:
        return False
    here = is_loopback(host) or is_wildcard(host)
    return here if served.host == "127.0.0.1" else host.lower() == served.host
