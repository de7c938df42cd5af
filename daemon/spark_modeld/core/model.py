"""A model: one entry of the catalog, how it is run, and what it needs. Sizes are bytes, durations seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import urlsplit

from msgspec import Struct, field

MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MODEL_NAME = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
RESERVED_NAMES = frozenset({"local", "default"})


class EngineKind(StrEnum):
    """The kind of server that runs in a model's unit."""

    SGLANG = "sglang"
    VLLM = "vllm"
    OLLAMA = "ollama"
    LLAMA_SERVER = "llama-server"
    TRTLLM = "trtllm"
    NIM = "nim"
    OPENAI = "openai"


class Role(StrEnum):
    """Whether a model goes into the slot or may run beside its occupant."""

    SLOT = "slot"
    SIDE = "side"


class Amount(Struct, frozen=True):
    """A size: either ``bytes`` or a ``percent`` of the machine's memory, never both."""

    bytes: int | None = None
    percent: float | None = None

    def of(self, total: int) -> int:
        """Bytes, given the machine's total memory in bytes."""
        if self.bytes is not None:
            return self.bytes
        assert self.percent is not None
        return int(total * self.percent / 100)


class Basis(StrEnum):
    """Where a footprint's number comes from; ``unknown`` means nobody could say."""

    DECLARED = "declared"
    MEASURED = "measured"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class Footprint(Struct, frozen=True):
    """What a model needs, in bytes, and where that number comes from.

    ``note`` says more of it in words, ``taken_at`` (Unix seconds) when it was measured.
    """

    bytes: int
    basis: Basis
    note: str = ""
    taken_at: float | None = None


class OwnUnit(Struct, frozen=True):
    """A unit the user already has."""

    unit: str


class Launch(Struct, frozen=True):
    """A command that ``spark-model@<id>.service`` executes."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Docker(Struct, frozen=True):
    """An image that ``spark-model@<id>.service`` runs in the foreground."""

    image: str
    options: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


class Container(Struct, frozen=True):
    """A container that exists already, started and stopped by name."""

    name: str
    start_script: str | None = None


Run = OwnUnit | Launch | Docker | Container


def seat_of(unit: str, name: str) -> str:
    """The seat of the model that a server knows by this name. A name without a tag means the latest."""
    return f"{unit}/{name}" if ":" in name.rpartition("/")[2] else f"{unit}/{name}:latest"


class Model(Struct, frozen=True, kw_only=True):
    """One entry of the catalog: ``models.d/<id>.toml``, defaults filled in."""

    id: str
    engine: EngineKind
    url: str
    run: Run
    served_model_name: str
    aliases: tuple[str, ...] = ()
    role: Role = Role.SLOT
    on_demand: bool = True
    path: str | None = None
    memory: Amount | None = None
    context: int | None = None
    gateway_port: int | None = None
    warm_up: bool = True
    user: str = "spark-model"
    api_key_file: str | None = None
    start_timeout: float = 900.0
    stop_timeout: float = 120.0

    @property
    def unit(self) -> str:
        """The systemd unit that runs this model. The id is the instance verbatim, never escaped."""
        if isinstance(self.run, OwnUnit):
            return self.run.unit
        return f"spark-model@{self.id}.service"

    @property
    def tenant(self) -> bool:
        """Whether its unit is a server that holds other models too, and stays when this one goes."""
        return self.engine is EngineKind.OLLAMA and isinstance(self.run, OwnUnit)

    @property
    def seat(self) -> str:
        """What stands for it among units: its unit; for a tenant, its place on that server."""
        return seat_of(self.unit, self.served_model_name) if self.tenant else self.unit

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host (lower case; every loopback name is ``127.0.0.1``) and port the engine listens on."""
        parts = urlsplit(self.url)
        host = (parts.hostname or "").lower()
        if host in {"localhost", "::1"} or host.startswith("127."):
            host = "127.0.0.1"
        return host, parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def names(self) -> frozenset[str]:
        """Every name a caller may use for this model."""
        return frozenset({self.id, self.served_model_name, *self.aliases})
