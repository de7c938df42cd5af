"""What Tailscale says of this machine: its name, and which local ports Serve and Funnel hand on.

The shapes are those of ``tailscale status --json`` and ``tailscale serve status --json`` (``ServeConfig`` in
tailscale's ``ipn/serve.go``), which also has what Funnel opens. Whatever the JSON, nothing is raised: these commands
change between releases, and a part that is not understood is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|::1")
_SCHEME = re.compile(r"[a-z+]+://")


class Served(Struct, frozen=True):
    """One address of the tailnet that ends at this machine: ``public`` ones are open to the whole internet.

    ``host`` (every loopback name is ``127.0.0.1``) and ``port`` are where it ends, ``off`` the command that ends it;
    it is empty for one that lives as long as the command in somebody's terminal.
    """

    url: str
    host: str
    port: int
    public: bool
    off: str


class Tailnet(Struct, frozen=True):
    """This machine in its tailnet: its DNS name ("" where it has none), addresses, and what it hands on."""

    name: str
    addresses: tuple[str, ...] = ()
    served: tuple[Served, ...] = ()


def tailnet_of(status: Any, serve: Any) -> Tailnet | None:
    """The machine by both commands' JSON; None while Tailscale is not up."""
    if _table(status).get("BackendState") != "Running":
        return None
    me = _table(_table(status).get("Self"))
    addresses = me.get("TailscaleIPs") or _table(status).get("TailscaleIPs") or []
    return Tailnet(
        name=_text(me.get("DNSName")).rstrip("."),
        addresses=tuple(_text(each) for each in addresses if each) if isinstance(addresses, list) else (),
        served=served_of(serve),
    )


def served_of(serve: Any) -> tuple[Served, ...]:
    """What Serve and Funnel hand on to a port of this machine, public ones first."""
    found = [*_served(_table(serve), lasting=True)]
    for session in _table(_table(serve).get("Foreground")).values():
        found += _served(_table(session), lasting=False)
    for name, service in _table(_table(serve).get("Services")).items():
        found += _served(_table(service), lasting=True, service=_text(name))
    return tuple(sorted(found, key=lambda each: (not each.public, each.url)))


def _served(config: dict[str, Any], *, lasting: bool, service: str = "") -> Iterator[Served]:
    public = {_text(name) for name, is_open in _table(config.get("AllowFunnel")).items() if is_open is True}
    ports = _table(config.get("TCP"))
    for name, site in _table(config.get("Web")).items():
        host, _, port = name.rpartition(":")
        plain = _table(ports.get(port)).get("HTTP") is True
        for mount, handler in _table(_table(site).get("Handlers")).items():
            if (place := _place(_table(handler).get("Proxy"))) is not None:
                flag = f"--{'http' if plain else 'https'}={port}"
                path = "" if mount == "/" else f" --set-path={mount}"
                off = _off(f"{flag}{path}", name in public, service) if lasting else ""
                yield Served(_url(host, port, mount, plain=plain), *place, name in public, off)
    for port, handler in ports.items():
        if (place := _place(_table(handler).get("TCPForward"))) is None:
            continue
        ends_tls = _text(_table(handler).get("TerminateTLS"))
        is_public = any(name.rpartition(":")[2] == port for name in public)
        off = _off(f"--{'tls-terminated-tcp' if ends_tls else 'tcp'}={port}", is_public, service) if lasting else ""
        yield Served(f"tcp://{ends_tls or service or '*'}:{port}", *place, is_public, off)


def _off(flags: str, public: bool, service: str) -> str:
    return f"tailscale {'funnel' if public else 'serve'}{f' --service={service}' if service else ''} {flags} off"


def _url(host: str, port: str, mount: str, *, plain: bool) -> str:
    usual = "80" if plain else "443"
    path = "" if mount == "/" else mount
    return f"{'http' if plain else 'https'}://{host}{'' if port == usual else f':{port}'}{path}"


def _place(target: Any) -> tuple[str, int] | None:
    """Host and port of a proxy's target: a URL, an address, or a bare port."""
    text = _text(target)
    if text.startswith("unix:"):
        return None
    if text.isdigit():
        text = f"127.0.0.1:{text}"
    try:
        parts = urlsplit(text if _SCHEME.match(text) else f"tcp://{text}")
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    if not host:
        return None
    usual = 443 if parts.scheme.startswith("https") else 80
    return ("127.0.0.1" if _LOOPBACK.fullmatch(host) else host), port or usual


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
