"""Each finding, from facts: what is wrong is said, with the command that mends it; what is right is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from spark_modeld.cli.doctor.facts import (
    DAEMON,
    SOCKETS,
    BusFacts,
    ConfigFacts,
    DaemonFacts,
    DockerFacts,
    Facts,
    MemoryFacts,
    NvmlFacts,
    PolkitFacts,
    Port,
    SystemdFacts,
    TailscaleFacts,
    TokenFacts,
)
from spark_modeld.cli.doctor.finding import Area, Finding, Level
from spark_modeld.cli.doctor.judge import judge
from spark_modeld.core.model import Amount, Container, Docker, EngineKind, OwnUnit
from spark_modeld.core.settings import GatewaySettings, MemorySettings
from spark_modeld.core.tailnet import Served, Tailnet
from support.sick import (
    ALLOWED,
    ANN,
    CONFIG,
    GIB,
    GROUPS,
    OWN,
    OWNED,
    QWEN,
    SECRETS,
    SETTING,
    USERS,
    catalog,
    model,
    path,
    paths,
    sound,
    status,
    token,
    unit,
    units,
)

pytestmark = pytest.mark.unit


def wrong(facts: Facts) -> dict[str, Finding]:
    """All that is not ok, by its code."""
    return {each.code: each for each in judge(facts) if each.level is not Level.OK}


def config(*models: Any, **settings: Any) -> ConfigFacts:
    return ConfigFacts(catalog=catalog(*models, **settings))


def seen(*changed: Any, **more: Any) -> SystemdFacts:
    return SystemdFacts(version=255, units=units(*changed), **more)


def accounts(**users: Any) -> Any:
    return replace(sound().accounts, users=USERS | {name.replace("_", "-"): of for name, of in users.items()})


def served(port: int, *, public: bool = False) -> TailscaleFacts:
    off = f"tailscale {'funnel' if public else 'serve'} --https=443 off"
    return TailscaleFacts(
        installed=True, tailnet=Tailnet("s.ts.net", (), (Served("https://s.ts.net", "127.0.0.1", port, public, off),))
    )


def test_a_sound_machine_has_an_ok_for_every_area() -> None:
    found = judge(sound())
    assert {each.level for each in found} == {Level.OK}
    assert [each.area for each in found] == list(Area)


def test_what_was_not_gathered_is_unseen_and_nothing_is_made_up() -> None:
    found = judge(Facts(setting=SETTING, config=ConfigFacts()))
    assert {each.area for each in found} == set(Area)
    errors = {each.code for each in found if each.level is Level.ERROR}
    assert errors == {"bus-away"}


OPEN = GatewaySettings(auth="none")
BOXED = model("boxed", 8009, run=Docker("image", ("--gpus", "all")))
KEPT = model("kept", 8010, run=Container("scout"))
SCRIPTED = model("scripted", 8011, run=Container("scout", "/srv/start.sh"))
KEYED = model("keyed", 8012, api_key_file="/etc/key")
PORTED = model("ported", 8013, gateway_port=31001)
WORKS = DockerFacts(installed=True, group=True, socket=True, socket_group="docker", version="28", nvidia=True)
BOX = {"config": config(BOXED), "daemon": DaemonFacts(asked=True, status=status(), models={"boxed": ()})}
GATEWAY = unit(SOCKETS[2], active="active", file_state="enabled", listen=("0.0.0.0:30101",))
FAR = replace(GATEWAY, listen=("10.0.0.1:30101",))
WRONG_FILE = ConfigFacts(findings=((f"{CONFIG}/x", "a.b", "no"),))


def only(*models: Any, **more: Any) -> dict[str, Any]:
    """A catalog of these alone, which the daemon knows too."""
    names: dict[str, tuple[str, ...]] = {each.id: () for each in models}
    return {"config": config(*models, **more), "daemon": DaemonFacts(asked=True, status=status(), models=names)}


def kernel(**more: Any) -> MemoryFacts:
    return MemoryFacts(total=99 * GIB, available=90 * GIB, free=80 * GIB, **more)


def port(number: int, name: str = "squatter.service", host: str = "127.0.0.1") -> tuple[Port, ...]:
    return (Port(host=host, port=number, unit=name, who="python3 (PID 7)"),)


CASES: dict[str, tuple[Level, Mapping[str, Any], str]] = {
    # code: level, what is changed, what its command has
    "no-systemd": (Level.ERROR, {"systemd": SystemdFacts(trouble="the program is missing")}, ""),
    "systemd-away": (Level.ERROR, {"systemd": SystemdFacts(version=255, trouble="it hangs")}, "systemctl status"),
    "systemd-old": (Level.WARNING, {"systemd": SystemdFacts(version=249, units=units())}, ""),
    "daemon-reload-needed": (Level.WARNING, {"systemd": seen(unit(OWN, need_reload=True))}, "systemctl daemon-reload"),
    "bus-away": (Level.ERROR, {"bus": BusFacts(answers=False, trouble="no")}, "start dbus.socket"),
    "daemon-off-bus": (Level.ERROR, {"daemon": DaemonFacts(asked=True, status=status(bus="lost"))}, "restart"),
    "polkit-missing": (Level.ERROR, {"polkit": PolkitFacts(installed=False)}, "apt-get install polkitd"),
    "polkit-refuses": (
        Level.ERROR,
        {"polkit": PolkitFacts(installed=True, allowed=ALLOWED | {("spark-model@doctor.service", "kill"): False})},
        "make install",
    ),
    "own-unit-without-rule": (
        Level.ERROR,
        {"polkit": PolkitFacts(installed=True, allowed=ALLOWED | {(OWN, "stop"): False})},
        "spark-modelctl doctor --polkit-rule | install -m 644",
    ),
    "daemon-away": (Level.ERROR, {"daemon": DaemonFacts(asked=True, problem={"code": "unreachable"})}, "restart"),
    "daemon-asleep": (Level.WARNING, {"daemon": DaemonFacts()}, f"systemctl start {DAEMON}"),
    "daemon-fails": (
        Level.ERROR,
        {"daemon": DaemonFacts(words=("boom",)), "systemd": seen(unit(DAEMON, active="failed", result="exit-code"))},
        "journalctl",
    ),
    "invalid-config": (Level.ERROR, {"config": WRONG_FILE}, f"editor {CONFIG}/x"),
    "old-daemon": (Level.WARNING, {"daemon": DaemonFacts(asked=True, status=status(version="0.9"))}, "restart"),
    "stray-container": (
        Level.WARNING,
        {"daemon": DaemonFacts(asked=True, status=status(warnings=[{"code": "stray-container", "message": "x"}]))},
        "spark-modelctl status",
    ),
    "not-in-force": (Level.WARNING, {"daemon": DaemonFacts(asked=True, status=status(), models={})}, "reload"),
    "model-unfit": (
        Level.ERROR,
        {"daemon": DaemonFacts(asked=True, status=status(), models={"owned": (), "qwen": ("no such path",)})},
        "spark-modelctl check qwen",
    ),
    "no-models": (Level.WARNING, {"config": ConfigFacts(), "daemon": None}, "examples"),
    "masked": (Level.ERROR, {"systemd": seen(unit(SOCKETS[1], load="masked"))}, f"unmask {SOCKETS[1]}"),
    "unit-missing": (Level.ERROR, {"systemd": seen(unit(DAEMON, load="not-found"))}, "make install"),
    "unit-broken": (Level.ERROR, {"systemd": seen(unit(OWN, load="bad-setting"))}, f"verify {OWN}"),
    "own-unit-missing": (Level.ERROR, {"systemd": seen(unit(OWN, load="not-found"))}, "models.d/owned.toml"),
    "starts-at-boot": (Level.WARNING, {"systemd": seen(unit(OWN, file_state="enabled"))}, f"disable {OWN}"),
    "restarts-itself": (Level.WARNING, {"systemd": seen(unit(OWN, restart="always"))}, f"{OWN}.d/spark-modeld.conf"),
    "competitor": (
        Level.WARNING,
        {"systemd": seen(enabled=(unit("vllm.service", active="active", file_state="enabled"),))},
        "systemctl disable --now vllm.service",
    ),
    "socket-down": (Level.ERROR, {"systemd": seen(unit(SOCKETS[2], file_state="enabled"))}, f"start {SOCKETS[2]}"),
    "socket-disabled": (
        Level.WARNING,
        {"systemd": seen(unit(DAEMON, active="active", file_state="disabled"))},
        f"enable {DAEMON}",
    ),
    "control-reaches-out": (
        Level.WARNING,
        {"systemd": seen(unit(SOCKETS[1], active="active", listen=("[::]:30100",)))},
        f"edit {SOCKETS[1]}",
    ),
    "gateway-reaches-out": (Level.WARNING, {"systemd": seen(GATEWAY)}, f"edit {SOCKETS[2]}"),
    "packets-dropped": (Level.WARNING, {"systemd": seen(FAR)}, f"edit {DAEMON}"),
    "open-gateway": (Level.WARNING, {"config": config(QWEN, OWNED, gateway=OPEN)}, "spark-modeld.toml"),
    "port-taken": (
        Level.ERROR,
        {"ports": port(30101), "systemd": seen(unit(SOCKETS[2], file_state="enabled", listen=("127.0.0.1:30101",)))},
        "systemctl stop squatter.service",
    ),
    "engine-port-taken": (Level.WARNING, {"ports": port(30001, f"docker-{'a' * 64}.scope"), "systemd": seen(
        unit("spark-model@qwen.service"))}, "docker stop aaaaaaaaaaaa"),
    "tokens-mode": (Level.ERROR, {"paths": paths(path(f"{CONFIG}/tokens.toml", group=SECRETS))}, f"root:{SECRETS}"),
    "tokens-broken": (Level.ERROR, {"tokens": TokenFacts(findings=("is not valid TOML",))}, "editor"),
    "no-tokens": (Level.WARNING, {"tokens": TokenFacts(tokens=())}, "token add"),
    "token-expired": (
        Level.WARNING,
        {"tokens": TokenFacts(tokens=(token(), token("old", 5.0)), now=6.0)},
        "token revoke old",
    ),
    "no-user": (Level.ERROR, {"accounts": accounts(spark_model=None)}, "systemd-sysusers"),
    "no-model-user": (
        Level.ERROR,
        {**only(model("m", 1, user="ann")), "accounts": accounts(ann=None)},
        "useradd --system --create-home ann",
    ),
    "model-in-group": (
        Level.ERROR,
        {"accounts": accounts(spark_model=frozenset({SECRETS}))},
        f"gpasswd --delete spark-model {SECRETS}",
    ),
    "no-journal": (Level.WARNING, {"accounts": accounts(spark_modeld=frozenset({SECRETS}))}, "systemd-journal"),
    "daemon-in-docker": (
        Level.WARNING,
        {"accounts": accounts(spark_modeld=USERS["spark-modeld"] | {"docker"})},
        "gpasswd --delete spark-modeld docker",
    ),
    "config-writable": (
        Level.ERROR,
        {"paths": paths(path(f"{CONFIG}/models.d/qwen.toml", mode=0o664))},
        f"chmod go-w {CONFIG}/models.d/qwen.toml",
    ),
    "script-writable": (
        Level.ERROR,
        {**only(SCRIPTED), "paths": paths(path("/srv/start.sh", owner="ann")), "docker": WORKS},
        "chown root /srv/start.sh",
    ),
    "folder-missing": (Level.ERROR, {"paths": paths(path("/run/spark-models", "missing"))}, "systemd-tmpfiles"),
    "folder-owner": (Level.ERROR, {"paths": paths(path("/run/spark-modeld", "folder"))}, "chown spark-modeld"),
    "state-owner": (Level.ERROR, {"paths": paths(path("/var/lib/spark-modeld", "folder"))}, "chown -R spark-modeld"),
    "socket-mode": (
        Level.ERROR,
        {"paths": paths(path("/run/spark-modeld/control.sock", "socket", "root", "spark-modeld", 0o666))},
        "chmod 660",
    ),
    "no-key": (Level.ERROR, {**only(KEYED), "paths": paths(path("/etc/key", "missing"))}, "install -m 640"),
    "key-readable": (Level.WARNING, {**only(KEYED), "paths": paths(path("/etc/key"))}, "chmod 640 /etc/key"),
    "key-unreadable": (Level.ERROR, {**only(KEYED), "paths": paths(path("/etc/key", mode=0o600))}, "chmod 640"),
    "nvml-hangs": (Level.ERROR, {"nvml": NvmlFacts(library=True, hangs=True)}, "reboot"),
    "no-driver": (Level.ERROR, {"nvml": NvmlFacts(hardware=True)}, "ubuntu-drivers install"),
    "version-mismatch": (Level.ERROR, {"nvml": NvmlFacts(library=True, code=18, kernel="580.1")}, "reboot"),
    "driver-not-loaded": (Level.ERROR, {"nvml": NvmlFacts(hardware=True, library=True, code=9)}, "modprobe nvidia"),
    "nvml-fails": (Level.ERROR, {"nvml": NvmlFacts(library=True, code=999, message="Unknown Error")}, "nvidia-smi"),
    "no-persistence": (Level.WARNING, {"nvml": NvmlFacts(library=True, code=0, persistence=False)}, "nvidia-smi -pm 1"),
    "mig": (Level.WARNING, {"nvml": NvmlFacts(library=True, code=0, mig=True)}, "nvidia-smi -mig 0"),
    "no-docker": (Level.ERROR, BOX, "apt-get install docker.io"),
    "docker-hangs": (Level.ERROR, {**BOX, "docker": replace(WORKS, version="", hangs=True)}, "restart docker.service"),
    "docker-down": (Level.ERROR, {**BOX, "docker": replace(WORKS, version="", trouble="x")}, "start docker.service"),
    "no-docker-group": (Level.ERROR, {**BOX, "docker": replace(WORKS, group=False)}, "groupadd"),
    "docker-socket-group": (Level.ERROR, {**BOX, "docker": replace(WORKS, socket_group="root")}, "chgrp docker"),
    "no-nvidia-runtime": (Level.WARNING, {**BOX, "docker": replace(WORKS, nvidia=False)}, "nvidia-ctk"),
    "restart-policy": (
        Level.WARNING,
        {**only(KEPT), "docker": replace(WORKS, policies={"scout": "always"})},
        "docker update --restart=no scout",
    ),
    "no-container": (Level.ERROR, {**only(KEPT), "docker": WORKS}, "docker ps"),
    "no-overcommit": (Level.ERROR, {"memory": kernel(overcommit=2)}, "sysctl -w"),
    "swapping": (Level.WARNING, {"memory": kernel(swap_total=9 * GIB, swap_used=2 * GIB)}, "swapoff"),
    "zswap": (Level.WARNING, {"memory": kernel(swap_total=GIB, zswap=True)}, "zswap"),
    "huge-pages": (Level.WARNING, {"memory": kernel(huge_pages=GIB)}, "nr_hugepages=0"),
    "killer": (Level.WARNING, {"memory": kernel(killers=("earlyoom.service",))}, "disable --now earlyoom"),
    "reserve-too-large": (
        Level.ERROR,
        {"config": config(QWEN, OWNED, memory=MemorySettings(reserve=Amount(bytes=200 * GIB)))},
        "spark-modeld.toml",
    ),
    "tailscale-away": (Level.WARNING, {"tailscale": TailscaleFacts(installed=True, trouble="it hangs")}, "tailscaled"),
    "engine-handed-on": (Level.ERROR, {"tailscale": served(30001, public=True)}, "tailscale funnel --https=443 off"),
    "control-handed-on": (Level.ERROR, {"tailscale": served(30100)}, "tailscale serve --https=443 off"),
    "open-gateway-handed-on": (
        Level.ERROR,
        {"tailscale": served(30101), "config": config(QWEN, OWNED, gateway=OPEN)},
        "tailscale serve --https=443 off",
    ),
    "unknown-engine-handed-on": (Level.WARNING, {"tailscale": served(11434)}, "tailscale serve --https=443 off"),
}  # fmt: skip


@pytest.mark.parametrize("code", CASES)
def test_what_is_wrong_is_said_with_what_mends_it(code: str) -> None:
    level, changes, fix = CASES[code]
    found = wrong(sound(**changes))
    assert code in found, found
    assert found[code].level is level
    assert fix in found[code].fix
    assert found[code].message


def test_a_daemon_of_ones_own_may_be_without_tcp_sockets_and_its_bus_is_a_package() -> None:
    mine = replace(SETTING, per_user=True)
    masked = [unit(name, load="masked") for name in SOCKETS]
    found = wrong(replace(sound(systemd=seen(*masked), bus=BusFacts(answers=False, trouble="no")), setting=mine))
    assert found["masked"].fix.endswith(f"unmask {SOCKETS[0]}")
    assert "install dbus-user-session" in found["bus-away"].fix


def test_every_code_has_a_case() -> None:
    """The cases know every code that the judges' sources have."""
    import re
    from pathlib import Path

    from spark_modeld.cli.doctor import judge as module

    sources = "".join(file.read_text() for file in Path(module.__file__).parent.glob("judge_*.py"))
    codes = set(re.findall(r"(?:error|warning)\(\s*(?:area|Area\.\w+),\s*\"([a-z-]+)\"", sources))
    assert len(codes) > 60
    assert codes - CASES.keys() <= {"no-operator"}  # it has a test of its own


def test_an_open_gateway_beyond_loopback_is_an_error() -> None:
    found = wrong(sound(systemd=seen(GATEWAY), config=config(QWEN, OWNED, gateway=OPEN)))
    assert any(
        each.level is Level.ERROR and "open to everybody" in each.message
        for each in judge(sound(systemd=seen(GATEWAY), config=config(QWEN, OWNED, gateway=OPEN)))
        if each.code == "open-gateway"
    )
    assert "gateway-reaches-out" not in found


def test_a_gateway_with_tokens_may_be_handed_on() -> None:
    (found,) = [each for each in judge(sound(tailscale=served(30101, public=True))) if each.area is Area.TAILSCALE]
    assert (found.level, "the whole internet needs a token" in found.message) == (Level.OK, True)
    ported = sound(**only(PORTED), tailscale=served(31001))
    assert "open-gateway-handed-on" not in wrong(ported)
    assert wrong(sound(tailscale=served(22))) == {}


def test_ollama_may_start_at_boot_and_again() -> None:
    ollama = model("ollama", 11434, engine=EngineKind.OLLAMA, run=OwnUnit("ollama.service"))
    there = unit("ollama.service", active="active", file_state="enabled", restart="always")
    allowed = ALLOWED | {("ollama.service", verb): True for _, verb in ALLOWED}
    facts = sound(
        **only(QWEN, ollama),
        systemd=seen(there, enabled=(there,)),
        polkit=PolkitFacts(installed=True, allowed=allowed),
    )
    assert wrong(facts) == {}


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("ollama.service", True),
        ("my-vllm@7.service", True),
        ("llama-server.service", True),
        ("text-generation-inference.service", True),
        ("nimbus.service", False),
        ("nginx.service", False),
        ("spark-modeld.service", False),
    ],
)
def test_competitors_are_known_by_name(name: str, is_one: bool) -> None:
    assert ("competitor" in wrong(sound(systemd=seen(enabled=(unit(name, file_state="enabled"),))))) is is_one


def test_our_own_listeners_are_nobody_elses() -> None:
    daemon = (*port(30101, DAEMON), *port(30100, "init.scope"), *port(30001, "spark-model@qwen.service"))
    assert wrong(sound(ports=daemon)) == {}
    container = (*port(30001, f"docker-{'a' * 64}.scope"),)
    assert wrong(sound(ports=container)) == {}, "its unit runs, so it may be the container of that unit"
    taken = wrong(sound(**only(PORTED), ports=port(31001, "user@1000.service")))
    assert taken["port-taken"].fix == "ss -ltnp 'sport = :31001'"


def test_who_may_not_look_is_told_how() -> None:
    facts = sound(
        setting=ANN,
        polkit=PolkitFacts(installed=True),
        tokens=TokenFacts(),
        daemon=DaemonFacts(asked=True, refused=True),
        config=ConfigFacts(catalog=catalog(), unreadable=(f"{CONFIG}/models.d/x.toml",)),
    )
    found = judge(facts)
    hidden = {each.area for each in found if each.level is Level.UNSEEN}
    assert hidden == {Area.POLKIT, Area.TOKENS, Area.DAEMON, Area.CONFIGURATION}
    assert {each.command(root=False) for each in found if each.level is Level.UNSEEN} == {"sudo spark-modelctl doctor"}
    assert wrong(facts)["no-operator"].command(root=False) == "sudo usermod -aG spark-modeld ann"


def test_an_operator_who_has_not_logged_in_again_is_not_sent_away_twice() -> None:
    facts = sound(
        setting=ANN, daemon=DaemonFacts(asked=True, refused=True), accounts=accounts(ann=frozenset({"spark-modeld"}))
    )
    assert "no-operator" not in wrong(facts)


@pytest.mark.parametrize(
    ("fix", "shown"),
    [
        ("systemctl start x", "sudo systemctl start x"),
        ("a && b 'c'", "sudo sh -c 'a && b '\"'\"'c'\"'\"''"),
        ("", ""),
    ],
)
def test_commands_are_roots(fix: str, shown: str) -> None:
    finding = Finding(area=Area.BUS, code="x", level=Level.ERROR, message="m", fix=fix)
    assert finding.command(root=False) == shown
    assert finding.command(root=True) == fix
    assert replace(finding, by_user=True).command(root=False) == fix


def test_a_users_own_daemon_needs_no_root() -> None:
    ann = replace(ANN, per_user=True, config="/home/ann/.config/spark-modeld")
    mine = {"/home/ann/x": path("/home/ann/x", owner="ann", mode=0o600)}
    facts = sound(
        setting=ann, polkit=PolkitFacts(installed=True), paths=mine, systemd=seen(unit(OWN, restart="always"))
    )
    found = wrong(facts)
    assert set(found) == {"restarts-itself"}
    command = found["restarts-itself"].command(root=False, per_user=True)
    assert command.endswith("systemctl --user daemon-reload")
    assert "sudo" not in command
    writable = {"/home/ann/x": path("/home/ann/x", owner="ann", mode=0o666)}
    assert "config-writable" in wrong(replace(facts, paths=writable))


def test_a_users_own_token_is_made_by_the_user_but_the_machine_is_still_roots() -> None:
    made = wrong(sound(tokens=TokenFacts(tokens=())))["no-tokens"]
    assert made.command(root=False, per_user=True).startswith("spark-modelctl --user token add")
    assert made.command(root=False).startswith("sudo spark-modelctl token add")
    reboot = wrong(sound(nvml=NvmlFacts(library=True, hangs=True)))["nvml-hangs"]
    assert reboot.command(root=False, per_user=True) == "sudo systemctl reboot"


def test_what_the_settings_add_to_the_passed_sockets_counts() -> None:
    more = GatewaySettings(listen=("127.0.0.1:30101", "10.0.0.1:30102"))
    facts = sound(config=config(QWEN, OWNED, gateway=more))
    assert set(wrong(facts)) == {"gateway-reaches-out", "packets-dropped"}
    taken = wrong(replace(facts, ports=port(30102, host="10.0.0.1")))
    assert "10.0.0.1:30102 (gateway) belongs to squatter.service" in taken["port-taken"].message


def test_only_the_defaults_unfitness_is_an_error() -> None:
    unfit = DaemonFacts(asked=True, status=status(), models={"owned": ("no such path",), "qwen": ()})
    assert wrong(sound(daemon=unfit))["model-unfit"].level is Level.WARNING


def test_the_last_failure_and_drop_ins_are_told_whatever_else_there_is() -> None:
    failure = {
        "model": "beta",
        "outcome": "failed",
        "started_at": "2026-01-31T12:00:00.000Z",
        "error": {"detail": "boom"},
    }
    facts = sound(
        daemon=DaemonFacts(asked=True, status=status(version="0.9", last_failure=failure)),
        systemd=seen(unit(OWN, restart="always", drop_ins=("/etc/systemd/system/x.d/y.conf",))),
    )
    told = [each.message for each in judge(facts) if each.level is Level.OK]
    assert "its last failure: beta at 2026-01-31 12:00:00Z: boom" in told
    assert "changed by drop-ins: /etc/systemd/system/x.d/y.conf" in told


def test_a_daemon_that_is_coming_up_is_not_failing() -> None:
    facts = sound(daemon=DaemonFacts(), systemd=seen(unit(DAEMON, active="activating", file_state="enabled")))
    assert "daemon-fails" not in wrong(facts)
    again = seen(unit(DAEMON, active="activating", result="exit-code", file_state="enabled"))
    assert "daemon-fails" in wrong(replace(facts, systemd=again))


def test_swap_alone_and_oomd_are_no_trouble() -> None:
    quiet = MemoryFacts(total=99 * GIB, available=90 * GIB, swap_total=GIB, killers=("systemd-oomd.service",))
    assert wrong(sound(memory=replace(quiet, free=80 * GIB))) == {}
    cached = [each.message for each in judge(sound(memory=replace(quiet, free=GIB))) if each.area is Area.MEMORY]
    assert "page cache" in cached[0]


def test_groups_of_the_sound_machine_are_what_the_judges_ask_for() -> None:
    assert {"no-user"} <= wrong(sound(accounts=replace(sound().accounts, groups=GROUPS - {SECRETS}))).keys()
