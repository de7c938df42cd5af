"""Looking at what a model needs on this machine: real files with real modes, real sockets."""

from __future__ import annotations

import asyncio
import os
import pwd
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from spark_modeld import checkpoint
from spark_modeld.core.appraisal import Inspection, UnitFacts
from spark_modeld.core.model import Container, Docker, EngineKind, Launch, Model, OwnUnit, Run
from spark_modeld.inspection import Eyes, HostInspector, hidden
from spark_modeld.inspection.access import EXECUTE, READ, Account, Outcome, walk, writers
from spark_modeld.inspection.look import look
from spark_modeld.memory.lone_thread import LoneThread
from support.checkpoints import QWEN3_32B, write
from support.control import open_folder

pytestmark = pytest.mark.unit

NOBODY = "nobody"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes files of other users")


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as found:
        yield found


def model(run: Run, path: Path | None = None, **more: object) -> Model:
    values = {"id": "qwen", "engine": EngineKind.OPENAI, "url": "http://127.0.0.1:1", "served_model_name": "qwen"}
    values |= {"user": NOBODY, "path": str(path) if path else None, **more}
    return Model(run=run, **values)  # type: ignore[arg-type]


def seen(entry: Model, facts: UnitFacts | None = None) -> Inspection:
    return look(entry, facts, Eyes(checkpoint.read, checkpoint.stamp))


def codes(entry: Model, facts: UnitFacts | None = None) -> list[str]:
    found = seen(entry, facts).findings
    assert all(finding.message and finding.hint for finding in found)
    return [finding.code for finding in found]


def nobody() -> Account:
    entry = pwd.getpwnam(NOBODY)
    return Account(NOBODY, entry.pw_uid, lambda: frozenset({entry.pw_gid}))


TRUE = Launch(("/bin/true",))


# Who may read it.


@root_only
def test_the_models_user_is_asked_by_mode_bits(folder: Path) -> None:
    path = write(folder / "m", QWEN3_32B, 400_000, 2)
    assert codes(model(TRUE, path)) == []
    (path / "model-00002-of-00002.safetensors").chmod(0o600)
    assert codes(model(TRUE, path)) == ["path-denied"]
    (path / "model-00002-of-00002.safetensors").chmod(0o640)
    os.chown(path / "model-00002-of-00002.safetensors", -1, pwd.getpwnam(NOBODY).pw_gid)
    assert codes(model(TRUE, path)) == []
    path.chmod(0o750)
    (finding,) = seen(model(TRUE, path)).findings
    assert finding.code == "path-denied"
    assert f"{path} has mode 0750, owner root:root" in finding.message
    os.chown(path, pwd.getpwnam(NOBODY).pw_uid, -1)
    assert codes(model(TRUE, path)) == []


@root_only
def test_groups_are_asked_for_only_where_they_decide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def groups(name: str, gid: int) -> list[int]:
        asked.append(name)
        return [gid]

    monkeypatch.setattr(os, "getgrouplist", groups)
    path = write(folder / "m", QWEN3_32B, 400_000, 2)
    assert codes(model(TRUE, path)) == []
    path.chmod(0o700)
    assert codes(model(TRUE, path)) == ["path-denied"]
    assert asked == []
    path.chmod(0o750)
    assert codes(model(TRUE, path)) == ["path-denied"]
    path.chmod(0o705)
    os.chown(path, -1, pwd.getpwnam(NOBODY).pw_gid)
    assert codes(model(TRUE, path)) == ["path-denied"]
    assert asked == [NOBODY, NOBODY]


@root_only
def test_links_are_followed_through_closed_folders(folder: Path) -> None:
    path = write(folder / "closed" / "m", QWEN3_32B, 400_000, 1)
    (folder / "m").symlink_to(path)
    assert codes(model(TRUE, folder / "m")) == []
    (folder / "closed").chmod(0o700)
    (finding,) = seen(model(TRUE, folder / "m")).findings
    assert str(folder / "closed") in finding.message


@root_only
def test_a_units_own_user_counts(folder: Path) -> None:
    path = write(folder / "m", QWEN3_32B, 400_000, 1)
    path.chmod(0o700)
    own = model(OwnUnit("x.service"), path)
    assert codes(own, UnitFacts(user=NOBODY)) == ["path-denied"]
    assert codes(own, UnitFacts()) == []
    assert codes(own) == []
    assert codes(model(Docker("image"), path)) == ["docker-not-asked"]


@root_only
def test_what_only_the_models_user_may_read_is_no_error() -> None:
    """As somebody else than root: the daemon may not look, the model's user may."""
    with open_folder() as folder:
        path = write(folder / "m", QWEN3_32B, 400_000, 1)
        owner, us = pwd.getpwnam("daemon"), pwd.getpwnam(NOBODY)
        for each in (path, *path.iterdir()):
            os.chown(each, owner.pw_uid, owner.pw_gid)
        path.chmod(0o700)
        read, written = os.pipe()
        child = os.fork()
        if child == 0:  # only this process can become somebody else and end
            os.setgroups([])
            os.setgid(us.pw_gid)
            os.setuid(us.pw_uid)
            found = seen(model(TRUE, path, user="daemon"))
            told = f"{found.checkpoint} {[(f.code, str(f.level)) for f in found.findings]}"
            os.write(written, told.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 10_000).decode() == "None [('path-unseen', 'warning')]"
        os.close(read)
        os.close(written)


def test_a_path_that_is_not_there_is_the_readers_finding(folder: Path) -> None:
    found = seen(model(Docker("image"), folder / "nowhere"))
    assert found.checkpoint is not None
    assert [finding.code for finding in found.checkpoint.findings] == ["path-unreadable"]


# What starts it.


@root_only
def test_the_program(folder: Path) -> None:
    script = folder / "serve.sh"
    script.write_text("#!/bin/sh\n")
    assert codes(model(Launch((str(script),)))) == ["command-not-executable"]
    script.chmod(0o700)
    assert codes(model(Launch((str(script),)))) == ["command-not-executable"]
    script.chmod(0o755)
    assert codes(model(Launch((str(script),)))) == []
    assert codes(model(Launch((str(folder),)))) == ["command-not-executable"]
    assert codes(model(Launch((str(folder / "gone"), "--x")))) == ["command-not-found"]
    assert codes(model(Launch(("bash", str(folder / "gone.sh"))))) == ["command-not-found"]
    assert codes(model(Launch(("bash", "-c", "/gone")))) == []
    assert codes(model(Launch(("sh",)))) == []
    assert codes(model(Launch(("no-such-engine",)))) == ["command-not-found"]
    (folder / "no-such-engine").symlink_to("/bin/true")
    assert codes(model(Launch(("no-such-engine",), {"PATH": f"/bin:{folder}"}))) == []


def test_the_user() -> None:
    assert codes(model(TRUE, user="no-such-user")) == ["user-unknown"]


@root_only
def test_a_start_script_that_others_can_exchange(folder: Path) -> None:
    script = folder / "start.sh"
    script.write_text("docker run x\n")
    run = Container("scout", str(script))
    # /tmp is above it, and sticky: nobody can rename another's folder there.
    assert codes(model(run)) == ["docker-not-asked"]
    script.chmod(0o666)
    assert codes(model(run)) == ["start-script-writable", "docker-not-asked"]
    script.chmod(0o644)
    folder.chmod(0o777)
    assert codes(model(run)) == ["start-script-writable", "docker-not-asked"]
    folder.chmod(0o755)
    os.chown(script, pwd.getpwnam("daemon").pw_uid, -1)
    assert codes(model(run)) == ["start-script-writable", "docker-not-asked"]
    os.chown(script, pwd.getpwnam(NOBODY).pw_uid, -1)
    assert codes(model(run)) == ["docker-not-asked"]
    script.unlink()
    assert codes(model(run)) == ["command-not-found", "docker-not-asked"]


def test_walks(folder: Path) -> None:
    (folder / "f").touch(0o644)
    assert walk(nobody(), folder / "f", READ).outcome is Outcome.ALLOWED
    assert walk(nobody(), folder / "f", EXECUTE).outcome is Outcome.DENIED
    assert walk(nobody(), folder / "f" / "g", READ).outcome is Outcome.ABSENT
    assert writers(folder / "f", frozenset({0, os.geteuid()})) is None


def test_folders_of_a_unit_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "_private_points", lambda: (str(folder),))
    assert codes(model(Launch((f"{folder}/gone",)))) == []
    found = seen(model(TRUE, folder / "gone"))
    assert (found.checkpoint, [finding.code for finding in found.findings]) == (None, ["path-unseen"])


# Flags, fingerprints, and what is read anew.


def test_a_unit_of_ones_own_shows_its_flags() -> None:
    own = model(OwnUnit("x.service"), engine=EngineKind.VLLM)
    facts = UnitFacts(user=NOBODY, command=("/opt/bin/vllm", "serve", "/m", "--gpu-memory-utilization", "0.4"))
    assert seen(own, facts).flags.fraction == 0.4
    assert not seen(own, UnitFacts()).flags.known


SCRIPT = """#!/bin/bash
# vllm is not what runs here
MODEL=/srv/models/scout  # sglang
echo starting sglang --tp 8
docker run -d --name sglang-scout --gpus all --shm-size 16g \\
  -v "$HOME:/root" lmsysorg/sglang:latest-cu130 \\
  python3 -m sglang.launch_server --model-path $MODEL --served-model-name "$NAME" \\
  --mem-fraction-static 0.6 --context-length 32768 && docker logs -f sglang-scout --tp 4
"""


@pytest.mark.parametrize("through", ["launch", "shell", "container"])
def test_flags_that_a_script_writes_out(folder: Path, through: str) -> None:
    script = folder / "serve.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    run: Run = {
        "launch": Launch((str(script), "x")),
        "shell": Launch(("bash", str(script))),
        "container": Container("sglang-scout", str(script)),
    }[through]
    entry = model(run, engine=EngineKind.SGLANG)
    found = seen(entry)
    flags = found.flags
    assert (flags.fraction, flags.context, flags.shm_bytes) == (0.6, 32768, 16 << 30)
    assert (flags.known, flags.bad, flags.served_names, flags.tensor_parallel) == (False, (), (), None)
    script.write_text(SCRIPT.replace("0.6", "$SHARE"))
    again = seen(entry)
    assert (again.flags.fraction, again.flags.bad) == (None, ())
    assert again.fingerprint != found.fingerprint
    script.write_text('exec "$@"\n')
    assert seen(entry).flags.said == {}


def test_the_fingerprint_follows_configuration_and_files(folder: Path) -> None:
    path = write(folder / "m", QWEN3_32B, 400_000, 2)
    entry = model(TRUE, path)
    first = seen(entry).fingerprint
    assert seen(entry).fingerprint == first
    assert seen(replace(entry, aliases=("q",), stop_timeout=1.0)).fingerprint == first
    assert seen(replace(entry, context=9)).fingerprint != first
    assert seen(replace(entry, run=Launch(("/bin/true", "-x")))).fingerprint != first
    os.utime(path / "config.json", (1, 1))
    second = seen(entry).fingerprint
    assert second != first
    (path / "model-00002-of-00002.safetensors").unlink()
    assert seen(entry).fingerprint not in {first, second}


def test_a_checkpoint_is_read_again_only_when_it_changed(folder: Path) -> None:
    path = write(folder / "m", QWEN3_32B, 400_000, 2)
    reads: list[str] = []

    def read(where: str) -> checkpoint.Checkpoint:
        reads.append(where)
        return checkpoint.read(where)

    eyes = Eyes(read, checkpoint.stamp)
    for _ in range(2):
        look(model(TRUE, path), None, eyes)
    assert len(reads) == 1
    (path / "model-00002-of-00002.safetensors").unlink()
    found = look(model(TRUE, path), None, eyes).checkpoint
    assert found is not None
    assert (len(reads), found.findings[0].code) == (2, "unfinished-download")
    for _ in range(2):
        look(model(TRUE, folder / "gone"), None, eyes)
    assert len(reads) == 4


# Off the event loop.


class Stall:
    """Eyes whose stamp does not come back until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.looks = 0

    def stamp(self, path: str) -> checkpoint.Stamp:
        self.looks += 1
        if path == "/hangs":
            self.go.wait(30)
        return checkpoint.Stamp("", {})


def looking() -> int:
    """How many threads there are for looks."""
    return sum(thread.name == "inspection" for thread in threading.enumerate())


async def test_a_path_that_hangs_is_a_finding_and_costs_one_thread() -> None:
    stall = Stall()
    inspector = HostInspector(Eyes(checkpoint.read, stall.stamp), LoneThread, seconds=0.5)
    hangs, fine = model(TRUE, path="/hangs", id="hangs"), model(TRUE, path="/fine", id="fine")
    try:
        for _ in range(3):
            first, second = await asyncio.gather(inspector.inspect(hangs, None), inspector.inspect(hangs, None))
            assert {f.code for f in (*first.findings, *second.findings)} == {"path-hangs"}
            assert [f.code for f in (await inspector.inspect(fine, None)).findings] == []
        assert stall.looks == 4
        assert looking() == 2
        stall.go.set()
        async with asyncio.timeout(20):
            while "path-hangs" in {f.code for f in (await inspector.inspect(hangs, None)).findings}:
                pass  # its old look has to come to an end first
    finally:
        stall.go.set()
        await inspector.close()
    assert looking() == 0


async def test_a_look_that_breaks_is_told_and_ends_nothing() -> None:
    def broken(path: str) -> checkpoint.Stamp:
        raise RuntimeError(path)

    inspector = HostInspector(Eyes(checkpoint.read, broken), LoneThread)
    try:
        found = await inspector.inspect(model(TRUE, path="/m"), None)
        assert [f.code for f in found.findings] == ["check-incomplete"]
        assert [f.code for f in (await inspector.inspect(model(TRUE), None)).findings] == []
    finally:
        await inspector.close()
