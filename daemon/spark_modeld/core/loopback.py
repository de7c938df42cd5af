"""Which names in a request's Host or Origin are this machine's loopback, and nobody's who could be led there."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def names_loopback(host: str) -> bool:
    """Whether ``host``, with a port or without, is `localhost` or a loopback address, and nothing else beside it."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if name is None or parts.netloc != host or parts.username is not None:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
