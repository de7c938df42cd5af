"""doctor's looks at programs that answer, fail, are missing or hang: each in its own bound."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from spark_modeld.cli.doctor import look_docker, look_machine, look_systemd
from spark_modeld.cli.doctor.facts import DAEMON, SOCKETS, DockerFacts, NvmlFacts
from spark_modeld.cli.doctor.gather import _at_once
from spark_modeld.cli.doctor.run import Ran, run
from spark_modeld.core.model import Container
from support.nvml import FakeNvml, library_dir
from support.sick import QWEN, SETTING, catalog, model

pytestmark = pytest.mark.component


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def write(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_program_that_ends_is_told_as_it_ended() -> None:
    assert run("sh", "-c", "echo out; echo one >&2; echo two >&2; exit 3") == Ran(3, "out\n", "one\ntwo\n")
    assert run("sh", "-c", "echo one >&2; echo >&2").says == "one"
    assert run("/no/such/program").missing
    assert run("/etc/passwd").err == "Permission denied"
    assert run("sh", "-c", "echo $LC_ALL").out == "C\n"


def test_a_program_that_hangs_is_left_and_leaves_nothing() -> None:
    before = threading.active_count()
    begun = time.monotonic()
    # The child of a shell holds the pipe open.
    assert run("sh", "-c", "sleep 33.125 & wait", seconds=0.2).hangs
    assert time.monotonic() - begun < 10
    assert threading.active_count() == before
    alive = list(_command_lines())
    assert b"sleep\x0033.125\x00" not in alive


def _command_lines() -> Iterator[bytes]:
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            yield each.read_bytes()


def test_a_look_that_fails_or_hangs_costs_only_its_own_part() -> None:
    over = threading.Event()
    found = _at_once({"good": lambda: 1, "bad": lambda: 1 / 0, "slow": lambda: over.wait(60)}, 0.5)
    over.set()
    assert found == {"good": 1, "bad": None}


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library_dir()))
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "nvml"))
    monkeypatch.setattr(look_machine, "_has_gpu", lambda: True)
    monkeypatch.setattr(look_machine, "_kernel", lambda: "580.95.05")
    return FakeNvml(tmp_path / "nvml")


def said(nvml: FakeNvml, text: str) -> NvmlFacts:
    nvml.path.write_text(text)
    return look_machine.nvml()


def test_a_gb10_is_seen(nvml: FakeNvml) -> None:
    found = said(nvml, "gpu NVIDIA GB10\n")
    assert (found.code, found.gpus, found.hangs) == (0, ("NVIDIA GB10",), False)
    assert (found.persistence, found.mig) == (None, None), "what it does not support is no question"


@pytest.mark.parametrize("code", [9, 18, 999])
def test_what_the_library_refuses_with_is_told(nvml: FakeNvml, code: int) -> None:
    found = said(nvml, f"init {code}\n")
    assert (found.code, found.kernel, bool(found.message)) == (code, "580.95.05", True)


def test_a_library_that_hangs_is_left(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_machine, "run", partial(run, seconds=0.5))
    assert said(nvml, "hang\n").hangs


def test_memory_is_read_where_the_daemon_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal: 1000 kB\nMemAvailable: 900 kB\nMemFree: 100 kB\nHugePages_Total: 2\nHugepagesize: 2048 kB\n"
    )
    monkeypatch.setenv("SPARK_MODELD_MEMINFO", str(tmp_path / "meminfo"))
    found = look_machine.memory()
    assert (found.total, found.available, found.free, found.huge_pages) == (1024000, 921600, 102400, 4 << 20)


KEPT = catalog(model("kept", 1, run=Container("scout")), model("other", 2, run=Container("gone")))


def test_docker_says_what_it_is(programs: Path) -> None:
    info = json.dumps({"ServerVersion": "28.1", "Runtimes": {"runc": {}, "nvidia": {}}})
    write(programs, "docker", f"case $1 in info) echo '{info}';; *) echo '/scout unless-stopped'; exit 1;; esac")
    found = look_docker.docker(KEPT)
    assert (found.version, found.nvidia, dict(found.policies)) == ("28.1", True, {"scout": "unless-stopped"})


def test_docker_that_may_not_be_asked_or_does_not_run(programs: Path) -> None:
    error = "permission denied while trying to connect to the Docker daemon socket"
    write(programs, "docker", f"echo '{json.dumps({'ServerErrors': [error]})}'; exit 1")
    found = look_docker.docker(KEPT)
    assert (found.refused, found.version, found.trouble) == (True, "", error)
    write(programs, "docker", "echo Cannot connect to the Docker daemon. >&2; exit 1")
    found = look_docker.docker(KEPT)
    assert (found.refused, found.hangs, found.trouble) == (False, False, "Cannot connect to the Docker daemon.")
    assert found.policies == {}


def test_docker_that_hangs_or_is_missing(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_docker, "run", partial(run, seconds=0.3))
    write(programs, "docker", "exec sleep 44")
    assert look_docker.docker(KEPT).hangs
    monkeypatch.setattr(look_docker, "run", lambda *_, **__: Ran(None, missing=True))
    assert look_docker.docker(KEPT) == DockerFacts(
        group=look_docker.docker(KEPT).group,
        socket=look_docker.docker(KEPT).socket,
        socket_group=look_docker.docker(KEPT).socket_group,
    )


SHOW = r"""
case "$*" in
  *--version*) echo "systemd 255 (255.4-1ubuntu8)"; echo "+PAM";;
  *ollama*) printf 'LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n';;
  *) printf 'LoadState=loaded\nActiveState=active\nRestart=always\nExecMainStatus=\n'
     printf 'IPAddressAllow=::1/128 127.0.0.0/8\n'
     echo
     printf 'LoadState=loaded\nListen=/run/c.sock (Stream)\nListen=[::1]:5 (Stream)\nNeedDaemonReload=yes\n';;
esac
"""


def test_units_are_read_in_the_order_in_which_they_were_asked_for(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(programs, "systemctl", SHOW)
    for wanted in ("multi-user.target.wants/ollama.service", "x.target.wants/ssh.service", "vllm.service"):
        (programs / wanted).parent.mkdir(exist_ok=True)
        (programs / wanted).symlink_to("/dev/null")
    monkeypatch.setattr(look_systemd, "_FOLDERS", (str(programs),))
    found = look_systemd.systemd(SETTING, catalog(QWEN))
    assert (found.version, found.trouble) == (255, "")
    assert set(found.units) == {DAEMON, SOCKETS[0]}
    assert (found.units[DAEMON].restart, found.units[DAEMON].allow) == ("always", ("::1/128", "127.0.0.0/8"))
    assert found.units[SOCKETS[0]].listen == ("/run/c.sock", "[::1]:5")
    assert found.units[SOCKETS[0]].need_reload
    assert [each.name for each in found.enabled] == ["ollama.service"]


@pytest.mark.parametrize(
    ("script", "version", "trouble"),
    [
        ("case $1 in --version) echo systemd 252;; *) echo 'Failed to connect to bus' >&2; exit 1;; esac", 252, "bus"),
        ("exit 127", None, "127"),
    ],
)
def test_a_systemd_that_does_not_answer(programs: Path, script: str, version: int | None, trouble: str) -> None:
    write(programs, "systemctl", script)
    found = look_systemd.systemd(SETTING, catalog(QWEN))
    assert (found.version, found.units) == (version, {})
    assert trouble in found.trouble
