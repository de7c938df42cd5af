"""Gathers all facts at once: each look in a thread of its own that is not waited for beyond its time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from spark_modeld.cli.doctor import look_config, look_daemon, look_docker, look_machine, look_places, look_polkit
from spark_modeld.cli.doctor import look_systemd as looks
from spark_modeld.cli.doctor.facts import Facts, Setting
from spark_modeld.cli.doctor.run import SECONDS

# Some looks ask several programs, one after the other.
_DEADLINE_SECONDS = 2 * SECONDS + 1


def gather(setting: Setting) -> Facts:
    """Everything that can be seen. What failed or did not come in time is None."""
    config = look_config.configuration(setting.config)
    catalog = config.catalog
    wanted: dict[str, Callable[[], Any]] = {
        "systemd": lambda: looks.systemd(setting, catalog),
        "bus": lambda: looks.bus(setting),
        "polkit": lambda: look_polkit.polkit(setting, catalog),
        "nvml": look_machine.nvml,
        "memory": look_machine.memory,
        "docker": lambda: look_docker.docker(catalog),
        "ports": look_places.ports,
        "paths": lambda: look_places.paths(setting, catalog),
        "accounts": lambda: look_places.accounts(catalog),
        "tokens": lambda: look_places.tokens(setting),
        "daemon": lambda: look_daemon.daemon(setting),
        "tailscale": look_daemon.tailscale,
    }
    return Facts(setting=setting, config=config, **_at_once(wanted, _DEADLINE_SECONDS))


def _at_once(wanted: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    for name, look in wanted.items():
        # Daemons: a look that hangs in the kernel must not hold up the end of this process.
        threading.Thread(target=_look, args=(name, look, done), name=name, daemon=True).start()
    found: dict[str, Any] = {}
    deadline = time.monotonic() + seconds
    while len(found) < len(wanted):
        try:
            name, value = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[name] = value
    return found


def _look(name: str, look: Callable[[], Any], done: queue.SimpleQueue[tuple[str, Any]]) -> None:
    try:
        done.put((name, look()))
    except Exception:  # noqa: BLE001 - one part that fails must not take the others with it; it is told as unseen
        done.put((name, None))
