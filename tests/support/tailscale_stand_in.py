#!/usr/bin/env python3
"""The ``tailscale`` command, as far as doctor and people need it, over a ServeConfig in a file.

The shapes are those of tailscale 1.9x (``ipn/serve.go``, ``ipnstate.Status``). It knows ``status --json``,
``serve status --json``, ``serve|funnel --bg --https=PORT TARGET`` and ``serve|funnel --https=PORT off``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CONFIG = Path("/run/tailscale-serve.json")
NAME = "spark.tail1234.ts.net"


def status() -> dict[str, Any]:
    me = {"HostName": "spark", "DNSName": f"{NAME}.", "TailscaleIPs": ["100.101.102.103", "fd7a:115c:a1e0::1"]}
    return {
        **{"Version": "1.90.1-t8b5c4a1e2", "BackendState": "Running", "AuthURL": "", "Self": {**me, "Online": True}},
        **{"TailscaleIPs": me["TailscaleIPs"], "MagicDNSSuffix": "tail1234.ts.net", "CertDomains": [NAME]},
        **{"CurrentTailnet": {"Name": "someone@example.com", "MagicDNSSuffix": "tail1234.ts.net"}, "Peer": None},
    }


def load() -> dict[str, Any]:
    return dict(json.loads(CONFIG.read_text())) if CONFIG.exists() else {}


def change(verb: str, words: list[str]) -> None:
    (port,) = [word.partition("=")[2] for word in words if word.startswith("--https=")] or ["443"]
    target, config, place = words[-1], load(), f"{NAME}:{port}"
    web, tcp, funnel = (config.setdefault(key, {}) for key in ("Web", "TCP", "AllowFunnel"))
    if target == "off":
        if place not in web:
            sys.exit("error: failed to remove web serve: error: handler does not exist")
        del web[place], tcp[port]
        funnel.pop(place, None)
    else:
        proxy = f"http://127.0.0.1:{target}" if target.isdigit() else target
        web[place], tcp[port] = {"Handlers": {"/": {"Proxy": proxy}}}, {"HTTPS": True}
        if verb == "funnel":
            funnel[place] = True
    CONFIG.write_text(json.dumps({key: value for key, value in config.items() if value}))


def main() -> None:
    words = sys.argv[1:]
    if words[0] == "status":
        print(json.dumps(status(), indent=2))
    elif words[1:] == ["status", "--json"]:
        print(json.dumps(load(), indent=2))
    else:
        change(words[0], words[1:])


if __name__ == "__main__":
    main()
