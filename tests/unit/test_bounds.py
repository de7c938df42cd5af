"""What root does around a model, tried by those who would get more out of it: real users, real programs, real files.

The hostile are a model's user, somebody else on the machine, and the daemon's own user. Whoever may write the
configuration is root.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.bounds import NEEDS_ROOT, REPORT, STRANGER, USER, capabilities, files, open_folder, own
from support.launcher import LIBEXEC, Config, launch

pytestmark = [pytest.mark.unit, NEEDS_ROOT]

BASICS = {"HOME", "SHELL", "USER", "LOGNAME", "PATH", "LANG", "PWD", "OLDPWD", "TERM", "LC_CTYPE"}


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def config(place: Path) -> Config:
    return Config(place, mode="system")


def model(config: Config, command: list[str], *, settled: bool = True, **environment: str) -> None:
    table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in environment.items())
    config.write(
        f'user = "{USER.pw_name}"\n[launch]\ncommand = {json.dumps(command)}\nenvironment = {{ {table} }}\n',
        settled=settled,
    )


def traps(folder: Path, *names: str) -> Path:
    """Programs of these names that note in ``sprung`` who ran them."""
    folder.mkdir()
    sprung = folder / "sprung"
    sprung.touch()
    sprung.chmod(0o666)
    for name in names:
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $(/usr/bin/id -u)" >>{sprung}\n')
        (folder / name).chmod(0o755)
    return sprung


# What the engine is given.


def test_the_engine_has_nothing_of_roots(config: Config) -> None:
    """From a caller who gives the launcher all that could be handed down; rendered anew, and from memory."""
    model(config, ["/usr/bin/python3", "-I", "-S", "-c", REPORT])
    hand_down = ("--inh-caps", "+net_admin", "--ambient-caps", "+net_admin", "--securebits", "+no_setuid_fixup")
    command = ["setpriv", *hand_down, "--groups", "0,4,4242", "--", str(LIBEXEC / "spark-model-run"), "alpha"]
    for _ in range(2):
        with Path("/etc/shadow").open() as secret:
            done = subprocess.run(
                [*command, str(config.folder), str(config.reports)],
                stdin=secret,
                capture_output=True,
                text=True,
                check=True,
                env={"PATH": "/usr/bin:/bin", "HOME": "/root", "SECRET_OF_ROOT": "x", "ENV": "/root/x"},
                cwd="/root",
                start_new_session=True,
                umask=0o027,
            )
        seen = json.loads(done.stdout)
        status = seen["status"]
        assert set(status["Uid"]) == {str(USER.pw_uid)}
        assert set(status["Gid"]) | set(status["Groups"]) == {str(USER.pw_gid)}
        assert capabilities(seen) == {0}
        assert (status["NoNewPrivs"], seen["dumpable"], seen["terminal"]) == (["1"], 1, "0")
        assert files(seen) == {0: "/dev/null", 1: "pipe", 2: "pipe"}
        assert (seen["folder"], seen["umask"]) == ("/", 0o027)
        assert seen["environment"].keys() <= {
            *["HOME", "SHELL", "USER", "LOGNAME", "PATH", "LANG", "PWD", "OLDPWD", "TERM", "LC_CTYPE"]
        }
    assert config.signature.exists()


def test_the_models_variables_reach_nothing_of_roots(config: Config, place: Path) -> None:
    """Each program that the loader's variable reaches complains once; each trap notes who ran it."""
    sprung = traps(place / "traps", "engine", "sh", "stat", "python3", "setpriv", "prlimit", "cat")
    variables = {"LD_PRELOAD": "/nowhere.so", "BASH_ENV": str(place / "traps" / "cat"), "PYTHONPATH": "/nowhere"}
    model(config, ["engine"], PATH=str(place / "traps"), ENV=str(place / "traps" / "cat"), **variables)
    for _ in range(2):
        sprung.write_text("")
        done = config.run()
        assert done.returncode == 0
        # The engine, which is a shell script here, and the id in it.
        assert done.stderr.count("/nowhere.so") == 2, done.stderr
        assert sprung.read_text() == f"engine {USER.pw_uid}\n"


@pytest.mark.parametrize("program", ["spark-model-run", "spark-model-gate", "spark-model-sweep"])
def test_programs_of_the_callers_choice_are_not_run(config: Config, place: Path, program: str) -> None:
    names = ("sh", "stat", "python3", "setpriv", "prlimit", "mv", "rm", "mkdir", "cat", "systemctl")
    sprung = traps(place / "traps", *names)
    model(config, ["/bin/echo", "here"])
    (place / "admitted").mkdir()
    (place / "admitted" / "alpha").write_text("1\n")
    (config.reports / "alpha").mkdir(parents=True)
    (config.reports / "alpha" / "brand").write_text(f"{1 << 62} {STRANGER} 1\n")
    arguments = {
        "spark-model-run": (str(config.folder), str(config.reports)),
        "spark-model-gate": (str(place), str(config.reports)),
        "spark-model-sweep": (str(config.reports),),
    }
    path = f"{place / 'traps'}:/usr/bin:/bin"
    for _ in range(2):
        subprocess.run(
            [LIBEXEC / program, "alpha", *arguments[program]], env={"PATH": path}, check=False, capture_output=True
        )
    assert sprung.read_text() == ""


# What it is run from.


def hard_link(path: Path) -> None:
    """A stranger's file, by another name."""
    theirs = path.parent.parent.parent / "theirs"
    theirs.write_text(path.read_text())
    own(theirs)
    path.unlink()
    path.hardlink_to(theirs)


def outgrow(path: Path) -> None:
    with path.open("a") as file:
        file.write("#" * launch.SIZE_LIMIT)


SPOILS: list[Callable[[Path], object]] = [
    own,
    hard_link,
    outgrow,
    lambda file: own(file.parent),
    lambda file: own(file.parent.parent),
    lambda file: file.parent.chmod(0o1777),
]


@pytest.mark.parametrize("spoil", SPOILS)
def test_what_somebody_else_could_write_is_not_run_not_even_from_memory(
    config: Config, spoil: Callable[[Path], object]
) -> None:
    model(config, ["/bin/echo", "here"])
    assert config.run().stdout == "here\n"
    spoil(config.file())
    done = config.run()
    assert (done.returncode, done.stdout) == (78, ""), done.stderr


def forge(config: Config, folder: Path) -> None:
    """Puts a stranger's own start script beside a signature that fits."""
    (folder / "start.sig").write_text(config.signature.read_text())
    (folder / "start").write_text("/usr/bin/id -u\n")
    for path in (folder, *folder.iterdir()):
        own(path)


def test_reports_that_somebody_else_made_are_not_run(config: Config, place: Path) -> None:
    model(config, ["/bin/echo", "here"])
    assert config.run().stdout == "here\n"
    alpha = config.reports / "alpha"
    theirs = place / "theirs"
    shutil.copytree(alpha, theirs)
    forge(config, theirs)
    kept = place / "kept"
    alpha.rename(kept)
    alpha.symlink_to(theirs)
    for lie in ("a link to theirs", "theirs", "theirs with root's files", "writable by all"):
        if lie == "theirs":
            alpha.unlink()
            theirs.rename(alpha)
        elif lie == "theirs with root's files":
            for path in alpha.iterdir():
                os.chown(path, 0, 0)
        elif lie == "writable by all":
            shutil.rmtree(alpha)
            kept.rename(alpha)
            config.signature.unlink()
            alpha.chmod(0o777)
        done = config.run()
        assert (done.returncode, done.stdout) == (78, ""), lie
        assert "remove it" in done.stderr, lie


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_daemon_can_read_the_reports_and_nobody_else_can_write_them(config: Config, umask: int) -> None:
    model(config, ["/usr/bin/true"])
    subprocess.run(
        [LIBEXEC / "spark-model-run", "alpha", config.folder, config.reports],
        check=True,
        umask=umask,
        env={"INVOCATION_ID": "0123456789abcdef" * 2},
    )
    modes = {path.name: path.stat().st_mode & 0o777 for path in (config.reports / "alpha", *config.reports.glob("*/*"))}
    assert modes == {"alpha": 0o755, "brand": 0o644, "command": 0o600, "start": 0o600, "start.sig": 0o600}


def test_nobody_is_the_daemon_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    alias = struct_passwd("alias", 990)
    monkeypatch.setattr(launch.pwd, "getpwnam", {"alias": alias, "spark-modeld": alias}.__getitem__)
    with pytest.raises(launch.Refused, match="may not run models"):
        launch.account_of({"user": "alias"})


def struct_passwd(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))


# The folder of the daemon's, in which the gate acts as root.


def test_the_gate_opens_nothing_in_the_daemons_folder(place: Path) -> None:
    """Between a look and the opening a link could come, to a device that acts when it is opened."""
    (place / "admitted").mkdir()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    (place / "admitted" / "alpha").write_text(f"{uptime + 20:.2f}\n")
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(place / "admitted"), 0x20 | 0x40) > 0  # IN_OPEN, IN_MOVED_FROM
        command = [LIBEXEC / "spark-model-gate", "alpha", place, place / "reports"]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
        told = os.read(watch, 4096)
    finally:
        os.close(watch)
    events = []
    while told:
        _, mask, _, length = struct.unpack_from("iIII", told)
        events.append((told[16 : 16 + length].rstrip(b"\0").decode(), mask & 0xFFF))
        told = told[16 + length :]
    assert [event for event in events if event[0]] == [("alpha", 0x40)]
