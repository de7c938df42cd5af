"""What a unit of the user's own started is known by the brand that root gave the unit, and ended by root's word."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spark_modeld.cli.doctor.drop_in import drop_in
from spark_modeld.core.brand import brand_of
from spark_modeld.core.model import EngineKind, Launch, Model, OwnUnit
from spark_modeld.remains import Brands, HostRemains
from spark_modeld.remains.brands import Brand
from support.branded import SLEEP, Children
from support.launcher import load

sweep: Any = load("sweep")
pytestmark = pytest.mark.unit

UNIT = f"my-vllm-{os.getpid()}.service"  # whoever else runs these tests here has another one
DOWN, UP, FAILED, RESTARTING = (
    ("inactive", "dead"),
    ("active", "running"),
    ("failed",) * 2,
    ("activating", "auto-restart"),
)
NOBODY = 65534
AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--clear-groups", *SLEEP)
root = pytest.mark.skipif(os.getuid() != 0, reason="only root can run a process as somebody else")


class House(Children):
    """Branded processes, root's configuration, and a systemd that shows the unit's states one after the other."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(brand_of(UNIT))
        self.folder = folder
        self.states: list[tuple[str, ...]] = [DOWN]
        self.user = "nobody"
        self.asked: list[list[str]] = []
        self.seen_down: Callable[[], object] = lambda: None
        patch.setattr(sweep.subprocess, "run", self._systemctl)
        patch.setattr(sweep, "PATIENCE_SECONDS", 0.2)
        (folder / "models.d").mkdir()
        self.file = folder / "models.d" / "own.toml"
        self.write(f'unit = "{UNIT}"\n')

    def write(self, content: str) -> None:
        self.file.write_text(content)
        self.file.chmod(0o644)

    def _systemctl(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.asked.append(command)
        active, sub = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if (active, sub) == DOWN:
            self.seen_down()
        said = f"User={self.user}\nActiveState={active}\nSubState={sub}\n"
        return subprocess.CompletedProcess(command, 0, stdout=said)

    def sweep(self, mode: str = "user") -> int:
        """The exit status."""
        try:
            status = sweep.main(["own", str(self.folder), str(self.folder), mode])
        except SystemExit as end:
            status = end.code
        return int(status)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    tmp_path.chmod(0o755)
    with closing(House(tmp_path, monkeypatch)) as house:
        yield house


def test_root_and_the_daemon_make_the_same_brand_and_no_launcher_makes_it() -> None:
    record = sweep.own_record(UNIT, user_mode=True)
    assert record == sweep.Record(brand_of(UNIT), os.geteuid(), 0, own=True)
    assert {brand_of(f"{number}.service") >> 60 for number in range(99)} == {6}
    assert len({brand_of(f"{number}.service") for number in range(99)}) == 99
    assert (1 << 62 | (1 << 60) - 1) >> 60 == 4, "the highest of a launcher's"


@pytest.mark.parametrize("state", [DOWN, FAILED, RESTARTING])
def test_what_escaped_from_it_is_ended_and_told(
    house: House, state: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    house.states = [state]
    child, bystander = house.child(), house.child(brand=None)
    assert house.sweep() == 0
    assert child.wait(10) == -signal.SIGTERM
    assert bystander.poll() is None
    assert capsys.readouterr().out == f"sleep (PID {child.pid}) outlived {UNIT}: SIGTERM\n"
    assert house.asked[-1][-2:] == ["--", UNIT]


@pytest.mark.parametrize("state", [UP, ("activating", "start-pre"), ("deactivating", "stop-sigterm"), ("", "")])
def test_nothing_of_a_unit_that_is_not_down_is_ended(house: House, state: tuple[str, ...]) -> None:
    """Its gate is none of ours: what it runs before its start is its own."""
    house.states = [state]
    child = house.child()
    assert house.sweep() == 1
    assert child.poll() is None


def test_a_new_run_is_not_touched_by_a_sweep_that_began_before_it(house: House, tmp_path: Path) -> None:
    """Nothing tells it from the old one: brand, user and unit are the same."""
    deaf, began = tmp_path / "deaf", list[subprocess.Popen[bytes]]()
    old = house.child("sh", "-c", f"trap '' TERM; : >{deaf}; while :; do sleep 1000; done")
    while not deaf.exists():
        assert old.poll() is None
    house.states = [DOWN, UP]
    house.seen_down = lambda: began.append(house.child())
    assert house.sweep() == 1
    assert [each.poll() for each in (old, *began)] == [None, None]
    assert len(began) == 1


def test_another_units_process_is_left_alone(house: House) -> None:
    other = house.child(brand=brand_of(f"other-{UNIT}"))
    assert house.sweep() == 0
    assert other.poll() is None


@pytest.mark.parametrize(
    ("group", "ended"),
    [
        ("/system.slice/{unit}", False),
        ("/system.slice/_{unit}", False),
        ("/system.slice/the-drop-in-was-copied.service/payload", False),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/copied.service", False),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/hideout.scope", True),
        ("/user.slice/user-1000.slice/session-3.scope", True),
        ("/", True),
    ],
)
def test_nothing_in_any_service_is_ended(
    house: House, monkeypatch: pytest.MonkeyPatch, group: str, ended: bool
) -> None:
    child, real = house.child(), sweep.read

    def read(pid: int, name: str) -> bytes:
        # Only here, as every worker of a run has to collect tests of the same names.
        shown = f"1:name=systemd:/\n0::{group.format(unit=UNIT)}\n".encode()
        return shown if (pid, name) == (child.pid, "cgroup") else bytes(real(pid, name))

    monkeypatch.setattr(sweep, "read", read)
    assert house.sweep() == 0
    assert (child.wait(10) if ended else child.poll()) == (-signal.SIGTERM if ended else None)


@root
def test_only_the_units_user_is_gone_by(house: House) -> None:
    """A brand can be copied, onto what one runs oneself; the unit's user cannot be."""
    mine, theirs = house.child(*AS_NOBODY, becomes="sleep"), house.child()
    assert house.sweep("system") == 0
    assert mine.wait(10) == -signal.SIGTERM
    assert theirs.poll() is None


@root
@pytest.mark.parametrize("user", ["", "root", "0", "nobody-at-all", "99999999999"])
def test_no_process_of_roots_is_ended_nor_of_nobody_knows_whose(
    house: House, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    house.user = user
    children = [house.child(), house.child(*AS_NOBODY, becomes="sleep")]
    assert house.sweep("system") == (0 if user == "99999999999" else 73)
    assert [child.poll() for child in children] == [None, None]
    assert ("give it a User=" in capsys.readouterr().err) == (user in {"", "root", "0"})


@pytest.mark.parametrize(
    "content",
    ["unit = 5\n", 'unit = ""\n', 'unit = "--user"\n', 'unit = "-x.service"\n', "unit\n", 'unit = "x.scope"\n'],
)
def test_a_configuration_that_names_no_unit_ends_nobody(house: House, content: str) -> None:
    child = house.child()
    house.write(content)
    assert house.sweep() == 73
    assert (child.poll(), house.asked) == (None, [])


def test_a_configuration_that_others_can_write_ends_nobody(house: House) -> None:
    child = house.child()
    for path in (house.file, house.file.parent, house.folder):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        assert house.sweep() == 73
        path.chmod(mode)
    real = house.folder / "real"
    house.file.rename(real)
    house.file.symlink_to(real)
    assert house.sweep() == 73
    assert child.poll() is None
    if os.getuid() == 0:
        house.file.unlink()
        real.rename(house.file)
        os.chown(house.file, NOBODY, NOBODY)
        assert house.sweep("system") == 73
        assert child.poll() is None


# What the daemon sees, and what it says to root.


def model(*, own: bool = True, engine: EngineKind = EngineKind.VLLM) -> Model:
    way = OwnUnit(UNIT) if own else Launch(("x",))
    return Model(id="own", engine=engine, url="http://127.0.0.1:1", run=way, served_model_name="own")


def test_the_daemon_sees_what_escaped_from_a_unit_of_ones_own(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remains = HostRemains(lambda _: {}, Brands(tmp_path, owner=os.getuid(), user=True))
    assert remains.escaped(model()) == {}
    child = house.child()
    group = Path(f"/proc/{child.pid}/cgroup").read_text().splitlines()[-1].rpartition("/")[2] or None
    assert remains.escaped(model()) == {child.pid: group}
    assert remains.escaped(model(own=False)) == {}
    assert remains.escaped(model(engine=EngineKind.OLLAMA)) == {}, "its server stays"
    names = ("system.slice", "copied.service")
    monkeypatch.setattr("spark_modeld.remains.cgroups.of", lambda _: names)
    assert remains.escaped(model()) == {}


@root
def test_a_system_daemon_looks_at_everybody_but_root(house: House, tmp_path: Path) -> None:
    """Whoever else is found cannot be ended and holds up what starts next: he did come from the unit."""
    brands = Brands(tmp_path, owner=0)
    assert brands.of(model()) == Brand(brand_of(UNIT), None)
    theirs = house.child(*AS_NOBODY, becomes="sleep")
    house.child()
    assert list(HostRemains(lambda _: {}, brands).escaped(model())) == [theirs.pid]


def test_the_drop_in_gives_the_unit_its_brand_and_has_its_start_wait_for_the_end_of_what_escaped() -> None:
    text = drop_in(model(), per_user=False)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == [
        "[Unit]",
        "After=spark-model-sweep@own.service",
        "[Service]",
        f"LimitRTTIME={sweep.own_record(UNIT, user_mode=True).brand}us",
    ]
    assert f"sudo install -D -m 644 /dev/stdin /etc/systemd/system/{UNIT}.d/50-spark-modeld.conf" in text
    assert "sudo systemctl daemon-reload" in text
    mine = drop_in(model(), per_user=True)
    assert f"| install -D -m 644 /dev/stdin ~/.config/systemd/user/{UNIT}.d/50-spark-modeld.conf" in mine
    assert "systemctl --user daemon-reload\n" in mine
