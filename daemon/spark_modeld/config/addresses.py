"""Listen addresses and URLs."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import urlsplit

from spark_modeld.config.kinds import Kind, Value, string

_LISTEN = r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?):[0-9]{1,5}"
# urlsplit drops tabs and line breaks silently, so what may be in a URL is settled before it sees one.
_URL = r"https?://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)(?::[0-9]{1,5})?/?"
_WILDCARDS = frozenset({"0.0.0.0", "::"})


def listen_address() -> Kind[str]:
    """``host:port`` or ``[v6]:port``."""
    compiled = re.compile(_LISTEN)

    def parse(value: Value) -> str:
        if compiled.fullmatch(string(value)) is None:
            raise ValueError
        host, _ = split_address(value)
        _check_host(host)
        return str(value)

    allowed = 'an address such as "127.0.0.1:30100" or "[::1]:30100", port from 1 to 65535'
    return Kind(allowed, {"type": "string", "pattern": f"^{_LISTEN}$"}, parse)


def engine_url() -> Kind[str]:
    """An engine's base URL, without a path; a closing slash is taken off."""
    compiled = re.compile(_URL)

    def parse(value: Value) -> str:
        if compiled.fullmatch(string(value)) is None:
            raise ValueError
        parts = urlsplit(value)
        _check_host(parts.hostname or "")
        if parts.port == 0:
            raise ValueError("port 0")
        return str(value).rstrip("/")

    allowed = 'http:// or https:// with a host and no user, path or query, such as "http://127.0.0.1:30001"'
    return Kind(allowed, {"type": "string", "pattern": f"^{_URL}$"}, parse, secret=True)


def split_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of a listen address. Raises ValueError for a port out of range."""
    host, _, port = address.rpartition(":")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"port {int(port)}")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host`` (a name or an address, without brackets)."""
    if host.lower() in {"localhost", "ip6-localhost", "ip6-loopback"}:
        return True
    try:
        return IPv4Address(host).is_loopback
    except AddressValueError:
        pass
    try:
        address = IPv6Address(host)
    except AddressValueError:
        return False
    return (address.ipv4_mapped or address).is_loopback


def is_wildcard(host: str) -> bool:
    """Whether ``host`` stands for every address of this machine."""
    try:
        return host in _WILDCARDS or IPv6Address(host) == IPv6Address("::")
    except AddressValueError:
        return False


def reaches(host: str, listener: str) -> bool:
    """Whether a connection to ``host`` may end at a listener on ``listener``, the port being the same."""
    own = is_loopback(host) or is_wildcard(host)
    return host.lower() == listener.lower() or (own and (is_loopback(listener) or is_wildcard(listener)))


def _check_host(host: str) -> None:
    """Raises ValueError for what looks like an address and is none; resolvers take ``127.1`` or ``0x7f.1`` for one."""
    if ":" in host:
        IPv6Address(host)
        return
    last = host.rpartition(".")[2].lower()
    if last.isdigit() or last.startswith("0x"):
        IPv4Address(host)
