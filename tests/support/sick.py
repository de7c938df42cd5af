"""Facts of a sound machine, for doctor's judges: a test changes one and sees what is said."""

from __future__ import annotations

import time
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from spark_modeld.cli.doctor.facts import (
    DAEMON,
    SOCKETS,
    VERBS,
    AccountFacts,
    BusFacts,
    ConfigFacts,
    DaemonFacts,
    DockerFacts,
    Facts,
    MemoryFacts,
    NvmlFacts,
    PathFacts,
    PolkitFacts,
    Setting,
    SystemdFacts,
    TailscaleFacts,
    TokenFacts,
    Unit,
)
from spark_modeld.config.token_file import Scope, Token
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.model import EngineKind, Launch, Model, OwnUnit
from spark_modeld.core.settings import Settings, SlotSettings

GIB = 1 << 30
CONFIG = "/etc/spark-modeld"
OWN = "sglang-own.service"
SECRETS = "spark-modeld-secrets"
LISTENS = ("/run/spark-modeld/control.sock", "127.0.0.1:30100", "127.0.0.1:30101")


def model(name: str, port: int, **more: Any) -> Model:
    values: dict[str, Any] = {"engine": EngineKind.SGLANG, "run": Launch(("x",)), "served_model_name": name}
    return Model(id=name, url=f"http://127.0.0.1:{port}", **(values | more))


QWEN, OWNED = model("qwen", 30001), model("owned", 30002, run=OwnUnit(OWN))


def catalog(*models: Model, **settings: Any) -> Catalog:
    """With ``qwen`` as default, if it is there."""
    known = {each.id: each for each in models or (QWEN, OWNED)}
    slot = SlotSettings(default="qwen" if "qwen" in known else "")
    return Catalog(Settings(**({"slot": slot} | settings)), MappingProxyType(known))


def unit(name: str, **more: Any) -> Unit:
    return Unit(name=name, **more)


def units(*changed: Unit) -> dict[str, Unit]:
    """Those of a sound machine, some of them changed."""
    sockets = [
        unit(name, active="active", file_state="enabled", listen=(place,))
        for name, place in zip(SOCKETS, LISTENS, strict=True)
    ]
    local = ("127.0.0.0/8", "::1/128")
    daemon = unit(DAEMON, active="active", file_state="enabled", restart="always", allow=local, deny=("0.0.0.0/0",))
    models = [unit("spark-model@qwen.service", active="active", file_state="static"), unit(OWN, file_state="disabled")]
    return {each.name: each for each in (daemon, *sockets, *models, *changed)}


def path(place: str, kind: str = "file", owner: str = "root", group: str = "root", mode: int = 0o644) -> PathFacts:
    return PathFacts(path=place, kind=kind, owner=owner, group=group, mode=mode)


def paths(*changed: PathFacts) -> dict[str, PathFacts]:
    sound = [
        path(CONFIG, "folder", mode=0o755),
        path(f"{CONFIG}/models.d", "folder", mode=0o755),
        path(f"{CONFIG}/spark-modeld.toml"),
        path(f"{CONFIG}/models.d/qwen.toml"),
        path(f"{CONFIG}/models.d/owned.toml"),
        path(f"{CONFIG}/tokens.toml", group=SECRETS, mode=0o640),
        path("/run/spark-modeld", "folder", "spark-modeld", SECRETS, 0o755),
        path("/run/spark-models", "folder", mode=0o755),
        path("/var/lib/spark-modeld", "folder", "spark-modeld", SECRETS, 0o750),
        path("/run/spark-modeld/control.sock", "socket", "root", "spark-modeld", 0o660),
    ]
    return {each.path: each for each in (*sound, *changed)}


def token(name: str = "laptop", expires: float | None = None) -> Token:
    return Token(id=name, name=name, hash="sha256:" + "0" * 64, scopes=frozenset({Scope.INFERENCE}), expires=expires)


def status(**more: Any) -> dict[str, Any]:
    slot = {"model": "qwen", "phase": "serving"}
    return {"version": "1.0", "bus": "connected", "slot": slot, "warnings": [], "last_failure": None} | more


SETTING = Setting(
    uid=0,
    user="root",
    groups=frozenset({"root"}),
    per_user=False,
    config=CONFIG,
    state="/var/lib/spark-modeld",
    runtime="/run/spark-modeld",
    reports="/run/spark-models",
    socket="/run/spark-modeld/control.sock",
    version="1.0",
)
ANN = replace(SETTING, uid=1000, user="ann", groups=frozenset({"ann"}))
USERS = {
    "spark-modeld": frozenset({SECRETS, "systemd-journal"}),
    "spark-model": frozenset({"spark-model"}),
}
GROUPS = frozenset({"spark-modeld", SECRETS, "systemd-journal", "docker"})
ALLOWED = {(name, verb): True for name in ("spark-model@doctor.service", OWN) for verb in VERBS}


def sound(**changed: Any) -> Facts:
    """A machine on which there is nothing to mend."""
    facts = Facts(
        setting=SETTING,
        config=ConfigFacts(catalog=catalog()),
        systemd=SystemdFacts(version=255, units=units()),
        bus=BusFacts(answers=True),
        polkit=PolkitFacts(installed=True, rule=True, allowed=ALLOWED),
        nvml=NvmlFacts(hardware=True, library=True, code=0, gpus=("NVIDIA GB10",), driver="580.95.05"),
        docker=DockerFacts(),
        ports=(),
        paths=paths(),
        accounts=AccountFacts(users=USERS, groups=GROUPS),
        tokens=TokenFacts(tokens=(token(),), now=time.time()),
        memory=MemoryFacts(total=120 * GIB, available=110 * GIB, free=100 * GIB),
        daemon=DaemonFacts(asked=True, status=status(), models={"owned": (), "qwen": ()}),
        tailscale=TailscaleFacts(),
    )
    return replace(facts, **changed)
