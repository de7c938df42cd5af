"""What of a model escapes is known by its brand, and by nothing that the daemon or the model can write."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from spark_modeld.core.model import EngineKind, Launch, Model
from spark_modeld.remains import Brands, HostRemains
from spark_modeld.remains.brands import Brand, carriers
from support.branded import SLEEP, Children
from support.launcher import LIBEXEC, Config, launch, load, run

sweep: Any = load("sweep")
pytestmark = pytest.mark.unit

UNIT = "spark-model@alpha.service"
RUN = "0123456789abcdef0123456789abcdef"
BRAND = (1 << 62) + os.getpid()  # whoever else runs these tests here has another one


class Stage(Children):
    """Processes with a brand and without, and records of runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(BRAND)
        self.reports = folder
        self.record = folder / "alpha" / "brand"
        self.record.parent.mkdir()

    def write(self, content: str) -> None:
        self.record.write_text(content)
        self.record.chmod(0o644)

    def read(self, *, user_mode: bool = True) -> Any:
        return sweep.read_record("alpha", str(self.reports), user_mode=user_mode)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    tmp_path.chmod(0o755)
    with closing(Stage(tmp_path)) as stage:
        yield stage


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PATIENCE_SECONDS", 0.2)


def record(**other: int) -> Any:
    return sweep.Record(**{"brand": BRAND, "uid": os.getuid(), "began": 0, **other})


def end(**other: int) -> Any:
    return sweep.end(record(**other), UNIT, lambda: True)


def test_who_carries_the_brand_is_ended_and_told(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    child, bystander = stage.child(), stage.child(brand=None)
    assert end() == []
    assert child.wait(10) == -signal.SIGTERM
    assert bystander.poll() is None
    assert capsys.readouterr().out == f"sleep (PID {child.pid}) outlived {UNIT}: SIGTERM\n"


@pytest.mark.usefixtures("_impatient")
def test_who_ignores_a_sigterm_is_killed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    deaf = stage.reports / "deaf"
    child = stage.child("sh", "-c", f"trap '' TERM; : >{deaf}; while :; do sleep 1000; done")
    iter_until_found(lambda: list(stage.reports.glob("deaf")), 1)
    assert end() == []
    assert child.wait(10) == -signal.SIGKILL
    said = capsys.readouterr().out
    assert said.index(f"sh (PID {child.pid}) outlived {UNIT}: SIGTERM") < said.index(f"{UNIT}: SIGKILL")


def test_neither_a_session_nor_an_empty_environment_nor_a_double_fork_hides_a_process(stage: Stage) -> None:
    parent = stage.child("sh", "-c", "setsid env -i sh -c 'sleep 1001 & exit' & wait; sleep 1000")
    orphan = next(pid for pid in iter_until_found(lambda: carriers(Brand(BRAND, os.getuid())), 3))
    assert orphan != parent.pid
    assert end() == []
    assert carriers(Brand(BRAND, os.getuid())) == []


def iter_until_found(look: Any, count: int) -> list[Any]:
    """What it finds (PIDs, say), once there is so much, the last first."""
    deadline = time.monotonic() + 10
    while len(found := look()) < count:
        assert time.monotonic() < deadline, found
    return sorted(found, reverse=True)


@pytest.mark.usefixtures("_impatient")
def test_what_is_forked_while_the_others_are_ended_is_ended_too(stage: Stage) -> None:
    child = stage.child("sh", "-c", "trap 'sleep 1002 & exit' TERM; while :; do sleep 0.05; done")
    assert end() == []
    assert child.wait(10) is not None
    assert carriers(Brand(BRAND, os.getuid())) == []


@pytest.mark.usefixtures("_impatient")
def test_whom_sigkill_does_not_end_is_named(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    child = stage.child()
    monkeypatch.setattr(sweep, "KILL_SECONDS", 0.2)
    monkeypatch.setattr(sweep.signal, "pidfd_send_signal", lambda *_: None)
    assert end() == [f"sleep (PID {child.pid})"]


# Whom it does not end.


def test_another_models_process_is_left_alone(stage: Stage) -> None:
    child = stage.child(brand=BRAND + 1)
    assert end() == []
    assert child.poll() is None


def test_who_began_before_the_model_is_left_alone(stage: Stage) -> None:
    child = stage.child()
    assert end(began=sweep.started(child.pid) + 1) == []
    assert child.poll() is None
    assert end(began=sweep.started(child.pid)) == []
    assert child.wait(10) == -signal.SIGTERM


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run a process as somebody else")
@pytest.mark.parametrize("drop", [("--reuid", "65534"), ("--ruid", "65534"), ("--euid", "65534")])
def test_another_users_process_is_left_alone(stage: Stage, drop: tuple[str, str]) -> None:
    """Also one that is somebody else in part only, as a set-uid program is."""
    child = stage.child("setpriv", *drop, "--clear-groups", *SLEEP, becomes="sleep")
    assert end() == []
    assert child.poll() is None


def test_nothing_inside_the_units_control_group_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    child, real = stage.child(), sweep.read

    def read(pid: int, name: str) -> bytes:
        inside = f"0::/spark.slice/spark-models.slice/{UNIT}/worker\n".encode()
        return inside if (pid, name) == (child.pid, "cgroup") else bytes(real(pid, name))

    monkeypatch.setattr(sweep, "read", read)
    assert end() == []
    assert child.poll() is None


def test_pid_1_is_never_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "branded", lambda *_: True)
    assert sweep.is_ours(os.getpid(), record(), UNIT) is True
    assert sweep.is_ours(1, record(uid=os.stat("/proc/1").st_uid), UNIT) is False


def test_a_pid_that_is_somebody_elses_by_now_is_not_hit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pidfd is of the process that had the PID, and all else is of the one that has it."""
    child = stage.child()
    before = subprocess.Popen(["true"])
    gone = os.pidfd_open(before.pid)
    monkeypatch.setattr(sweep.os, "pidfd_open", lambda _: os.dup(gone))
    before.wait()
    try:
        assert sweep.find(record(), UNIT) == {}
    finally:
        os.close(gone)
    assert child.poll() is None


# The record.


def test_a_record_is_what_the_launcher_wrote(tmp_path: Path) -> None:
    config = Config(tmp_path)
    config.launch(["sh", "-c", "cat /proc/self/limits; sleep 0"])
    shown = [launched(config, run_id).stdout for run_id in (RUN, RUN[::-1])]
    read = sweep.read_record("alpha", str(config.reports), user_mode=True)
    assert read.brand == (1 << 62) + int(RUN[:15], 16)
    assert (read.uid, 0 < read.began <= sweep.started(os.getpid()) + 100_000) == (os.getuid(), True)
    # One brand for all its runs.
    assert [int(sweep.LIMIT.search(each.encode())[1]) for each in shown] == [read.brand, read.brand]
    assert Brands(config.reports, owner=os.getuid()).of(model()) == Brand(read.brand, read.uid)


def launched(config: Config, invocation: str) -> subprocess.CompletedProcess[str]:
    words = ("alpha", str(config.folder), str(config.reports), "user")
    return run("spark-model-run", *words, HOME=str(config.folder.parent), INVOCATION_ID=invocation)


def test_a_users_own_umask_does_not_spoil_the_record(tmp_path: Path) -> None:
    config = Config(tmp_path)
    config.launch(["true"])
    before = os.umask(0o002)
    try:
        assert launched(config, RUN).returncode == 0
    finally:
        os.umask(before)
    assert sweep.read_record("alpha", str(config.reports), user_mode=True).uid == os.getuid()


@pytest.mark.parametrize("invocation", ["", "x" * 32, RUN[:-1], f"{RUN[:-1]};"])
def test_without_a_number_of_systemds_the_model_runs_without_a_brand(tmp_path: Path, invocation: str) -> None:
    config = Config(tmp_path)
    config.launch(["echo", "up"])
    assert launched(config, invocation).stdout == "up\n"
    assert Brands(config.reports, owner=os.getuid()).of(model()) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "1 0 5\n",
        f"{(1 << 62) - 1} {os.getuid()} 5\n",
        f"{(1 << 64) - 1} {os.getuid()} 5\n",
        f"unlimited {os.getuid()} 5\n",
        f"{BRAND} {os.getuid() + 1} 5\n",
        f"{BRAND} {os.getuid()} 5",
        f"{BRAND} {os.getuid()} 5\n{BRAND} 0 5\n",
        f"{BRAND} -1 5\n",
        f"{BRAND} {os.getuid()} 5\n" + "\n" * launch.SIZE_LIMIT,
    ],
    # The brand is another in each process, and pytest's workers have to agree on the names.
    ids=range(10),
)
def test_what_is_no_record_ends_nobody(stage: Stage, content: str) -> None:
    stage.write(content)
    with pytest.raises(launch_refused()):
        stage.read()
    stage.write(f"{BRAND} {os.getuid()} 5\n")
    assert stage.read() == record(began=5)


def launch_refused() -> type[Exception]:
    refused: type[Exception] = sweep.launch.Refused
    return refused


def test_a_system_never_ends_roots_processes(stage: Stage) -> None:
    stage.write(f"{BRAND} 0 5\n")
    with pytest.raises(launch_refused()):
        stage.read(user_mode=False)


def test_a_record_that_others_may_write_or_have_put_there_ends_nobody(stage: Stage, tmp_path: Path) -> None:
    stage.write(f"{BRAND} {os.getuid()} 5\n")
    for path in (stage.record, stage.record.parent, tmp_path):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        with pytest.raises(launch_refused(), match="writable by nobody else"):
            stage.read()
        path.chmod(mode)
    real = tmp_path / "real"
    stage.record.rename(real)
    stage.record.symlink_to(real)
    with pytest.raises(launch_refused(), match="symbolic links are not followed"):
        stage.read()
    stage.record.unlink()
    os.mkfifo(stage.record, 0o644)
    with pytest.raises(launch_refused(), match="not a regular file"):
        stage.read()
    stage.record.unlink()
    real.rename(stage.record)
    stage.record.parent.rename(tmp_path / "beta")
    stage.record.parent.symlink_to(tmp_path / "beta")
    with pytest.raises(launch_refused(), match="symbolic links are not followed"):
        stage.read()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_record_that_belongs_to_somebody_else_ends_nobody(stage: Stage) -> None:
    stage.write(f"{BRAND} 65534 5\n")
    assert stage.read(user_mode=False) == record(uid=65534, began=5)
    os.chown(stage.record, 65534, 0)
    with pytest.raises(launch_refused(), match="must belong to uid 0"):
        stage.read(user_mode=False)
    assert Brands(stage.reports, owner=0).of(model()) is None


@pytest.mark.parametrize("model", ["", "..", "a/b", "-x", "Alpha", "a" * 65, "a\n"])
def test_a_name_that_is_no_id_is_refused(model: str) -> None:
    assert run("spark-model-sweep", model).returncode == 64
    command = ["/usr/bin/python3", LIBEXEC / "sweep.py", model, "/", "/", "system"]
    assert subprocess.run(command, check=False).returncode == 64


def test_a_model_that_never_ran_has_nothing_to_sweep(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = run("spark-model-sweep", "alpha", str(tmp_path), str(tmp_path), "user")
    assert done.returncode == 73
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("state", "down"),
    [
        ("inactive\ndead", True),
        ("failed\nfailed", True),
        ("activating\nauto-restart", True),
        ("activating\nstart-pre", True),
        ("activating\nstart", False),
        ("active\nrunning", False),
        ("deactivating\nstop-sigterm", False),
        ("\n", False),
    ],
)
def test_a_model_that_is_not_down_keeps_all_it_has(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, state: str, down: bool
) -> None:
    active, sub = state.split("\n")
    said = subprocess.CompletedProcess([], 0, stdout=f"ActiveState={active}\nSubState={sub}\n")
    monkeypatch.setattr(sweep.subprocess, "run", lambda *_, **__: said)
    stage.write(f"{BRAND} {os.getuid()} 5\n")
    child = stage.child()
    with nullcontext() if down else pytest.raises(SystemExit, match="1"):
        assert sweep.main(["alpha", str(stage.reports), str(stage.reports), "user"]) == 0
    assert (child.poll() is None) is not down


# What the daemon sees.


def model(name: str = "alpha") -> Model:
    return Model(id=name, engine=EngineKind.VLLM, url="http://127.0.0.1:1", run=Launch(("x",)), served_model_name=name)


def test_the_daemon_sees_what_escaped_and_where_it_is(stage: Stage) -> None:
    remains = HostRemains(lambda _: {}, Brands(stage.reports, owner=os.getuid()))
    child = stage.child()
    assert remains.escaped(model()) == {}
    stage.write(f"{BRAND} {os.getuid()} 5\n")
    groups = Path(f"/proc/{child.pid}/cgroup").read_text().splitlines()[-1].rpartition("/")[2] or None
    assert remains.escaped(model()) == {child.pid: groups}
    assert remains.escaped(model("beta")) == {}
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert remains.escaped(model()) == {}, "nobody has taken note of its end yet, but it has ended"
