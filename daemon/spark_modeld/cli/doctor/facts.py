"""What is gathered about the machine. Plain values: whatever is judged from them can be tested without a machine.

A part that is None was not to be had within its time. Sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from spark_modeld.config.token_file import Token
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.tailnet import Tailnet

DAEMON = "spark-modeld.service"
SOCKETS = ("spark-modeld.socket", "spark-modeld-http.socket", "spark-modeld-gateway.socket")
OWN_RULE = "/etc/polkit-1/rules.d/51-spark-modeld-own-units.rules"
SHIPPED_RULE = "50-spark-modeld.rules"
COMPETITOR = re.compile(
    r"(?:.*[-_.@])?(?:ollama|vllm|sglang|llama[-_.]?(?:server|cpp|swap)|trtllm|tensorrt[-_]llm|nim|tgi|lmdeploy|local-?ai"
    r"|koboldcpp|text-generation[-_a-z]*)(?:[-_.@].*)?\.service"
)
"""Services that are engines, by their names."""
VERBS = ("start", "stop", "kill", "reset-failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Who asks, and about which daemon. ``groups`` are those of the session, ``package``: it came in a .deb.

    ``config``, ``state``, ``runtime`` and ``reports`` are its folders.
    """

    uid: int
    user: str
    groups: frozenset[str]
    per_user: bool
    config: str
    state: str
    runtime: str
    reports: str
    socket: str
    version: str
    package: bool = False

    @property
    def root(self) -> bool:
        """Whether everything can be seen."""
        return self.uid == 0

    @property
    def systemctl(self) -> str:
        """The command for this daemon's systemd."""
        return "systemctl --user" if self.per_user else "systemctl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What systemd shows of one unit; ``listen`` are addresses and paths, ``allow`` the IPAddressAllow= in force."""

    name: str
    load: str = "loaded"
    active: str = "inactive"
    file_state: str = ""
    need_reload: bool = False
    drop_ins: tuple[str, ...] = ()
    restart: str = "no"
    result: str = "success"
    exit_status: int = 0
    listen: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdFacts:
    """``trouble`` is why there are no units; ``version`` is None without systemd, and 0 where it does not say.

    ``enabled`` are engines, by their names, that start at boot.
    """

    version: int | None = None
    trouble: str = ""
    units: Mapping[str, Unit] = field(default_factory=lambda: MappingProxyType({}))
    enabled: tuple[Unit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BusFacts:
    """Whether the bus answers, and why not."""

    answers: bool
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolkitFacts:
    """``rule`` is whether the shipped rule is there, None where that cannot be seen.

    ``allowed`` has (unit, verb) -> whether polkit lets the daemon's user do it; None where it cannot be asked.
    """

    installed: bool
    rule: bool | None = None
    allowed: Mapping[tuple[str, str], bool] | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlFacts:
    """``hardware``: an NVIDIA GPU is on the PCI bus; ``kernel``: the version of the loaded module.

    ``code`` is NVML's error, 0 for none, None where it did not answer; ``persistence`` is None where it is no question.
    """

    hardware: bool = False
    library: bool = False
    kernel: str = ""
    driver: str = ""
    code: int | None = None
    message: str = ""
    hangs: bool = False
    gpus: tuple[str, ...] = ()
    persistence: bool | None = None
    mig: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerFacts:
    """``socket_group`` owns docker's socket; ``policies`` has the restart policies of the catalog's containers."""

    installed: bool = False
    group: bool = False
    socket: bool = False
    socket_group: str = ""
    version: str = ""
    trouble: str = ""
    refused: bool = False
    hangs: bool = False
    nvidia: bool | None = None
    policies: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """Somebody listens: ``unit`` by the control group of who opened the socket, "" where that cannot be told."""

    host: str
    port: int
    unit: str
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFacts:
    """One path: ``kind`` is file, folder, socket, other or missing; "" where it cannot be seen, with the reason."""

    path: str
    kind: str
    owner: str = ""
    group: str = ""
    mode: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFacts:
    """Users and groups: user -> its groups, None for a user that does not exist; ``groups`` are those that exist."""

    users: Mapping[str, frozenset[str] | None] = field(default_factory=lambda: MappingProxyType({}))
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """The tokens; None where this user may not read them. ``findings`` are the file's own, ``now`` is Unix seconds."""

    tokens: tuple[Token, ...] | None = None
    findings: tuple[str, ...] = ()
    now: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """What the kernel is set to. ``killers`` are the active services that kill when memory is short."""

    total: int = 0
    available: int = 0
    free: int = 0
    swap_total: int = 0
    swap_used: int = 0
    zswap: bool = False
    overcommit: int = 0
    huge_pages: int = 0
    pressure: bool = True
    killers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFacts:
    """``asked`` is whether its API was: a socket that somebody only looks at must not start the daemon.

    ``problem`` is what the API refused with, ``words`` are the last of its journal. ``models`` has what the last look
    at each found wrong with it.
    """

    asked: bool = False
    refused: bool = False
    problem: Mapping[str, Any] | None = None
    status: Mapping[str, Any] | None = None
    models: Mapping[str, tuple[str, ...]] | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFacts:
    """The files as they are now: ``findings`` are (file, key, message), ``unreadable`` what this user may not read."""

    catalog: Catalog = Catalog()
    findings: tuple[tuple[str, str, str], ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TailscaleFacts:
    """What the command said; ``trouble`` is why it said nothing."""

    installed: bool = False
    tailnet: Tailnet | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything."""

    setting: Setting
    config: ConfigFacts
    systemd: SystemdFacts | None = None
    bus: BusFacts | None = None
    polkit: PolkitFacts | None = None
    nvml: NvmlFacts | None = None
    docker: DockerFacts | None = None
    ports: tuple[Port, ...] | None = None
    paths: Mapping[str, PathFacts] | None = None
    accounts: AccountFacts | None = None
    tokens: TokenFacts | None = None
    memory: MemoryFacts | None = None
    daemon: DaemonFacts | None = None
    tailscale: TailscaleFacts | None = None

    @property
    def catalog(self) -> Catalog:
        """The configuration as far as it is good; empty while it is not."""
        return self.config.catalog

    def unit(self, name: str) -> Unit | None:
        """What systemd shows of it."""
        return self.systemd.units.get(name) if self.systemd is not None else None
