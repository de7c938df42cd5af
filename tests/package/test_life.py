"""The package on a clean root, from its installation to its purge: one machine's life, in the order of the tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.clean import HOLDS, PACKAGES, CleanHost, build, engine, own_target, script, variant
from support.witness import until

pytestmark = pytest.mark.package

SUITE = os.environ.get("SUITE", "bookworm")
DAEMON = "spark-modeld.service"
SOCKETS = ("spark-modeld.socket", "spark-modeld-http.socket", "spark-modeld-gateway.socket")
UNITS = (DAEMON, *SOCKETS)
PORTS = {"alpha": 8001, "beta": 8002}
SETTINGS = '[memory]\nreserve = "64MiB"\nlarge = "16MiB"\nfloor = "32MiB"\n'
MORE = "/run/spark-modeld/more.sock"
"""What a newer build's daemon listens on as well."""
BY_DOCTOR = (
    "/etc/polkit-1/rules.d/51-spark-modeld-own-units.rules",
    "/etc/systemd/system/sglang-qwen.service.d/50-spark-modeld.conf",
)
"""What `spark-modelctl doctor` writes for units of one's own."""
MOST_EXPOSURE = 1.5
MEMBER, STRANGER = "maria", "stefan"
OTHERS = (
    "/etc/ca-certificates",
    "/etc/hosts",
    "/etc/ssl/",
    "/usr/local/share/",
    "/var/cache/",
    "/var/lib/dpkg/",
    "/var/lib/systemd/linger",
    "/var/log/",
    "/var/tmp/",
)
"""Where the distribution's own packages and tools leave something behind."""
ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")
CONTROL = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


@dataclass
class Machine:
    """The host, and what one test leaves to the next."""

    host: CleanHost
    before: set[str]
    files: dict[str, str]
    new: str
    token: str = ""

    def active(self, *units: str) -> list[str]:
        return self.host.run("systemctl", "is-active", *units, check=False).stdout.split()

    def main_pid(self, unit: str) -> str:
        return self.host.show(unit, "MainPID")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("packages")
    package = build(own_target(SUITE))
    script("packaging/root", SUITE, str(package))
    variant(package, folder / "older.deb", version="0.0.1", more={"usr/lib/spark-modeld/libexec/gone.py": "here = 1\n"})
    changed = {
        "**/system/spark-modeld.service": "# here\n",
        "**/system/spark-modeld.socket": f"[Socket]\nListenStream={MORE}\n",
    }
    variant(package, folder / "newer.deb", version="99", more=changed)
    (folder / "new.deb").write_bytes(package.read_bytes())
    with CleanHost(SUITE, folder) as host:
        for user in (MEMBER, STRANGER):
            host.run("useradd", "--create-home", user)
        files = {path: host.path(path).read_text() for path in ACCOUNTS}
        new = script("dpkg-deb", "-f", str(package), "Version")
        yield Machine(host, host.tree(), files, new)


def test_installing_starts_the_sockets_and_no_daemon(machine: Machine) -> None:
    host = machine.host
    assert host.run("sh", "-c", "command -v python3", check=False).returncode != 0, "the root is clean"
    said = host.apt("install", f"{PACKAGES}/older.deb")
    assert "daemon-reload" not in said, "systemd knew none of the units"
    assert machine.active(*UNITS) == ["inactive", "active", "active", "active"]
    assert host.run("systemctl", "is-enabled", *UNITS).stdout.split() == ["enabled"] * 4
    assert host.run("systemctl", "is-enabled", "spark-modeld-port@31001.socket", check=False).stdout == "disabled\n"
    assert host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "spark-model@*").stdout == ""
    assert host.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
    assert host.run("dpkg", "--verify", "spark-modeld").stdout == ""


def test_doctor_finds_no_error(machine: Machine) -> None:
    told = json.loads(machine.host.ctl("doctor", "--json").stdout)
    assert told["ok"], told
    assert {each["level"] for each in told["findings"]} <= {"ok", "warning"}, told


def test_modes_and_owners(machine: Machine) -> None:
    expected = {
        "/etc/spark-modeld": "755 root:root",
        "/etc/spark-modeld/models.d": "755 root:root",
        "/etc/spark-modeld/spark-modeld.toml": "644 root:root",
        "/run/spark-modeld": "755 spark-modeld:spark-modeld-secrets",
        "/run/spark-modeld/control.sock": "660 root:spark-modeld",
        "/run/spark-models": "755 root:root",
        "/usr/bin/spark-modeld": "755 root:root",
        "/usr/bin/spark-modelctl": "755 root:root",
        "/usr/lib/spark-modeld/libexec/spark-model-run": "755 root:root",
        "/usr/lib/spark-modeld/libexec/launch.py": "644 root:root",
        "/usr/share/polkit-1/rules.d/50-spark-modeld.rules": "644 root:root",
        "/var/lib/spark-models": "750 spark-model:spark-model",
    }
    assert machine.host.modes(*expected) == expected
    # Not the folders: some of them are the distribution's.
    listed = "dpkg -L spark-modeld | xargs -d '\\n' -I {} find {} -maxdepth 0 ! -type d ! -type l"
    foreign = machine.host.run("sh", "-c", f"{listed} '(' ! -user root -o -perm /022 ')'")
    assert foreign.stdout == ""
    assert machine.host.run("find", "/usr/lib/spark-modeld", "/etc/spark-modeld", "!", "-user", "root").stdout == ""


def test_the_users(machine: Machine) -> None:
    def identity(user: str, option: str) -> set[str]:
        return set(machine.host.run("id", option, "-n", user).stdout.split())

    assert identity("spark-modeld", "-g") == {"spark-modeld-secrets"}
    assert identity("spark-modeld", "-G") == {"spark-modeld-secrets", "systemd-journal"}
    assert identity("spark-model", "-G") == {"spark-model"}
    for user in ("spark-modeld", "spark-model"):
        assert "nologin" in machine.host.run("getent", "passwd", user).stdout


def test_the_first_connection_starts_the_daemon(machine: Machine) -> None:
    host = machine.host
    host.run("usermod", "-aG", "spark-modeld", MEMBER)
    assert "empty" in host.ctl("status", user=MEMBER).stdout
    assert machine.active(DAEMON) == ["active"]
    shown = host.modes("/var/lib/spark-modeld")
    assert shown == {"/var/lib/spark-modeld": "750 spark-modeld:spark-modeld-secrets"}


def test_little_is_exposed(machine: Machine) -> None:
    most = f"--threshold={MOST_EXPOSURE * 10:.0f}"
    machine.host.run("systemd-analyze", "security", "--no-pager", most, DAEMON)


def test_a_member_of_the_group_switches(machine: Machine) -> None:
    host = machine.host
    host.write("/etc/spark-modeld/spark-modeld.toml", SETTINGS)
    for model, port in PORTS.items():
        host.write(f"/etc/spark-modeld/models.d/{model}.toml", engine(model, port=port))
    host.run("systemctl", "reload", DAEMON)
    host.ctl("reload", user=MEMBER)
    for model in ("beta", "alpha"):
        host.ctl("switch", model, user=MEMBER)
        assert host.status()["slot"]["model"] == model
        pid = machine.main_pid(f"spark-model@{model}.service")
        assert host.run("stat", "-c", "%U", f"/proc/{pid}").stdout == "spark-model\n"


def test_tokens_are_the_daemons_and_roots(machine: Machine) -> None:
    host = machine.host
    machine.token = json.loads(host.ctl("token", "add", "--json", "--scope", "inference", "laptop").stdout)["token"]
    assert host.modes("/etc/spark-modeld/tokens.toml") == {
        "/etc/spark-modeld/tokens.toml": "640 root:spark-modeld-secrets"
    }
    assert host.run("cat", "/etc/spark-modeld/tokens.toml", user=MEMBER, check=False).returncode != 0
    assert host.run("cat", "/etc/spark-modeld/tokens.toml", user="spark-model", check=False).returncode != 0
    assert host.ask(machine.token, "alpha") == "I am alpha"


def test_a_stranger_is_refused(machine: Machine) -> None:
    for words in (("status",), ("switch", "beta")):
        refused = machine.host.ctl(*words, user=STRANGER, check=False)
        assert refused.returncode == 3, refused
        assert "spark-modeld" in refused.stderr
    assert machine.host.status()["slot"]["model"] == "alpha"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("StopUnit", ("ss", "systemd-journald.service", "replace")),
        ("StartUnit", ("ss", "rescue.service", "replace")),
        ("RestartUnit", ("ss", "dbus.service", "replace")),
        ("KillUnit", ("ssi", "systemd-logind.service", "all", "9")),
        ("StartUnit", ("ss", "spark-modeld.service", "replace")),
        ("Reload", ()),
    ],
)
def test_the_daemons_user_touches_no_other_unit(machine: Machine, method: str, arguments: tuple[str, ...]) -> None:
    done = machine.host.run("busctl", "call", *CONTROL, method, *arguments, user="spark-modeld", check=False)
    assert done.returncode != 0
    assert "Access denied" in done.stderr or "nteractive authentication required" in done.stderr


def test_an_upgrade_leaves_the_model_and_its_stream_alone(machine: Machine) -> None:
    host = machine.host
    host.write(f"{HOLDS}/stream", "")
    chat = host.chat(machine.token, model="alpha", stream=True, script={"hold": f"{HOLDS}/stream", "pieces": 6})
    model, daemon = machine.main_pid("spark-model@alpha.service"), machine.main_pid(DAEMON)
    with subprocess.Popen(chat, stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdout is not None
        first = stream.stdout.readline()
        assert first.startswith("data: ")
        command = host.command(
            "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "install", f"{PACKAGES}/new.deb"
        )
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as apt:
            until("the old daemon drains", lambda: host.show(DAEMON, "SubState") == "stop-sigterm")
            with subprocess.Popen(host.chat(machine.token, model="alpha"), stdout=subprocess.PIPE, text=True) as late:
                host.path(f"{HOLDS}/stream").unlink()
                told = first + stream.communicate(timeout=60)[0]
                said, _ = apt.communicate(timeout=120)
                answered, _ = late.communicate(timeout=60)
    assert stream.returncode == 0
    assert told.rstrip().endswith("data: [DONE]")
    assert [f'"{number} "' in told for number in range(6)] == [True] * 6
    assert apt.returncode == 0, said
    assert "daemon-reload" not in said, "the units are the same"
    assert late.returncode == 0
    assert "I am alpha" in answered
    assert machine.main_pid("spark-model@alpha.service") == model
    assert machine.main_pid(DAEMON) not in {daemon, "0"}
    assert host.run("dpkg-query", "-W", "-f", "${Version}", "spark-modeld").stdout == machine.new
    assert host.run("sh", "-c", "find /usr/lib/spark-modeld -name 'gone*'").stdout == ""
    assert host.path("/etc/spark-modeld/spark-modeld.toml").read_text() == SETTINGS
    assert host.status()["slot"]["model"] == "alpha"


def test_an_upgrade_with_another_unit_says_what_it_does_to_containers(machine: Machine) -> None:
    host = machine.host
    model, daemon = machine.main_pid("spark-model@alpha.service"), machine.main_pid(DAEMON)
    said = host.apt("install", f"{PACKAGES}/newer.deb")
    assert "lose access to the GPU" in said
    assert host.show(DAEMON, "NeedDaemonReload") == "no"
    assert machine.main_pid("spark-model@alpha.service") == model
    assert machine.main_pid(DAEMON) not in {daemon, "0"}
    assert host.status()["slot"]["model"] == "alpha"
    assert host.path(MORE).exists(), "the socket listens where the new definition says"
    assert machine.active(*UNITS) == ["active"] * 4
    assert host.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""


def test_a_downgrade_brings_back_what_the_older_one_had(machine: Machine) -> None:
    host = machine.host
    model, daemon = machine.main_pid("spark-model@alpha.service"), machine.main_pid(DAEMON)
    said = host.apt("install", "--allow-downgrades", f"{PACKAGES}/new.deb")
    assert "lose access to the GPU" in said
    assert MORE not in host.show("spark-modeld.socket", "Listen")
    assert machine.active(*UNITS) == ["active"] * 4
    assert machine.main_pid("spark-model@alpha.service") == model
    assert machine.main_pid(DAEMON) not in {daemon, "0"}
    assert host.ask(machine.token, "alpha") == "I am alpha"


def test_removing_leaves_the_model_serving(machine: Machine) -> None:
    host = machine.host
    model = machine.main_pid("spark-model@alpha.service")
    said = host.apt("remove", "spark-modeld")
    assert "spark-model@alpha.service goes on serving" in said
    assert set(machine.active(*UNITS)) <= {"inactive", "unknown"}
    assert host.show("spark-model-deadlines.service", "ActiveState") == "inactive"
    assert machine.main_pid("spark-model@alpha.service") == model
    answer = script(*host.outside("curl", "-sS", "--fail", f"http://127.0.0.1:{PORTS['alpha']}/v1/models"))
    assert "alpha" in answer
    assert not host.path("/usr/lib/spark-modeld").exists()
    assert host.path("/etc/spark-modeld/models.d/alpha.toml").exists()


def test_installed_again_it_adopts_what_it_finds(machine: Machine) -> None:
    host = machine.host
    model = machine.main_pid("spark-model@alpha.service")
    host.apt("install", f"{PACKAGES}/new.deb")
    assert host.ask(machine.token, "alpha") == "I am alpha"
    assert host.status()["slot"]["model"] == "alpha"
    assert machine.main_pid("spark-model@alpha.service") == model


def test_purging_leaves_nothing(machine: Machine) -> None:
    host = machine.host
    host.run("systemctl", "enable", "--now", "spark-modeld-port@31001.socket", check=False)
    for file in BY_DOCTOR:
        host.write(file, "")
    host.apt("purge", "spark-modeld")
    assert host.show("spark-model@alpha.service", "ActiveState") == "inactive"
    host.apt("autoremove", "--purge")
    left = {path for path in host.tree() - machine.before - host.owned() if not path.startswith(OTHERS)}
    assert sorted(left) == []
    assert {path: host.path(path).read_text() for path in ACCOUNTS} == machine.files
    assert host.run("find", "/run", "-name", "spark-*").stdout == ""
