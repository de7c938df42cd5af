"""spark-modelctl add: a model's file for what is there, shown, written once, and put in force."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spark_modeld.core.errors import Code
from support.checkpoints import QWEN3_32B, write
from support.command_line import Ctl, Done
from support.control import Control, running
from support.fake_face import Asked, refused

pytestmark = pytest.mark.component

INSPECTED = [
    {
        "Name": "/scout",
        "Config": {"Image": "lmsysorg/sglang:x", "Entrypoint": None,
                   "Cmd": ["python3", "-m", "sglang.launch_server", "--model-path", "/models/m", "--port", "30007"]},
        "HostConfig": {"PortBindings": {"30007/tcp": [{"HostIp": "", "HostPort": "31007"}]},
                       "RestartPolicy": {"Name": "always"}},
        "Mounts": [{"Type": "bind", "Source": "/srv/models", "Destination": "/models"}],
    }
]  # fmt: skip
SHOWN = """\
LoadState=loaded
Id=own.service
ExecStart={ path=/usr/bin/vllm ; argv[]=/usr/bin/vllm serve Qwen/Q --port 8009 ; ignore_errors=no ; pid=0 }
Restart=always
"""


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


@pytest.fixture
def ctl(control: Control, tmp_path: Path) -> Ctl:
    ctl = Ctl(control.path)
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "inspected").write_text(json.dumps(INSPECTED))
    (tmp_path / "shown").write_text(SHOWN)
    for name, says in (
        ("docker", f'[ "$3" = scout ] && exec cat {tmp_path}/inspected; echo "No such container" >&2; exit 1'),
        ("systemctl", f'[ "$4" = own.service ] && exec cat {tmp_path}/shown; echo LoadState=not-found'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{says}\n")
        (folder / name).chmod(0o755)
    ctl.env["PATH"] = f"{folder}:{ctl.env['PATH']}"
    return ctl


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc" / "models.d").mkdir(parents=True)
    return tmp_path / "etc"


async def add(ctl: Ctl, etc: Path, *args: str) -> Done:
    return await ctl("add", "--config", str(etc), *args)


def files(etc: Path) -> list[str]:
    return sorted(path.name for path in (etc / "models.d").iterdir())


async def test_without_a_terminal_it_is_printed_and_nothing_is_written(
    control: Control, ctl: Ctl, etc: Path, tmp_path: Path
) -> None:
    folder = write(tmp_path / "Qwen3-Tiny", QWEN3_32B, 1_000_000, 2)
    done = await add(ctl, etc, str(folder))
    assert done.code == 0
    assert tomllib.loads(done.out)["path"] == str(folder)
    assert f"add {folder} --id qwen3-tiny --write" in done.err
    assert files(etc) == []
    assert control.face.asked == [Asked("measure")]


@pytest.mark.parametrize(
    ("source", "model", "url", "run"),
    [
        ("scout", "scout", "http://127.0.0.1:31007", {"container": {"name": "scout"}, "path": "/srv/models/m"}),
        ("own.service", "own", "http://127.0.0.1:8009", {"unit": "own.service", "served_model_name": "Qwen/Q"}),
    ],
)
async def test_what_runs_already_is_taken_in(ctl: Ctl, etc: Path, source: str, model: str, url: str, run: dict) -> None:
    printed = await add(ctl, etc, source)
    assert (printed.code, files(etc)) == (0, [])
    read = tomllib.loads(printed.out)
    assert (read["url"], {key: read[key] for key in run}) == (url, run)
    shown = (await add(ctl, etc, source, "--json")).json
    assert (shown["id"], shown["written"], shown["toml"]) == (model, False, printed.out)


async def test_it_is_written_and_put_in_force(control: Control, ctl: Ctl, etc: Path) -> None:
    done = await add(ctl, etc, "scout", "--id", "embed", "--write")
    assert done.code == 0
    file = etc / "models.d" / "embed.toml"
    assert (file.read_text(), oct(file.stat().st_mode)[-3:]) == (done.out, "644")
    assert [asked.call for asked in control.face.asked] == ["reload", "check"]
    assert "spark-modelctl switch embed" in done.err
    assert files(etc) == ["embed.toml"]


async def test_nothing_is_ever_overwritten(control: Control, ctl: Ctl, etc: Path) -> None:
    file = etc / "models.d" / "scout.toml"
    file.write_text("mine\n")
    (etc / "models.d" / "dangling.toml").symlink_to("/nowhere")
    for chosen in ("scout", "dangling"):
        done = await add(ctl, etc, "own.service", "--id", chosen, "--write")
        assert (done.code, done.out) == (1, "")
        assert "there already" in done.err
    # A name that was not chosen gives way.
    assert (await add(ctl, etc, "scout", "--json")).json["id"] == "scout-2"
    assert file.read_text() == "mine\n"
    assert control.face.asked == []


async def test_what_the_daemon_does_not_take_does_not_stay(control: Control, ctl: Ctl, etc: Path) -> None:
    control.face.refusal = refused(Code.INVALID_CONFIG, "port taken", http_status=422)
    done = await add(ctl, etc, "scout", "--write")
    assert (done.code, "port taken" in done.err) == (1, True)
    assert files(etc) == []


async def test_errors_keep_it_from_being_written_unless_forced(ctl: Ctl, etc: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "broken", QWEN3_32B, 1_000_000, 2)
    (folder / "model-00001-of-00002.safetensors").unlink()
    done = await add(ctl, etc, str(folder), "--write", "--id", "embed")
    assert (done.code, "unfinished-download" in done.err, files(etc)) == (1, True, [])
    assert (await add(ctl, etc, str(folder))).code == 1
    forced = await add(ctl, etc, str(folder), "--write", "--force", "--id", "embed")
    assert (forced.code, files(etc)) == (0, ["embed.toml"])


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("nobody",), 1, "No such container"),
        (("other.service",), 1, "no unit other.service"),
        (("/nowhere/at/all",), 1, "no checkpoint"),
        (("scout", "--id", "Not An Id"), 2, "is no id"),
        (("scout", "--id", "default"), 2, "is no id"),
        ((), 2, "Missing argument"),
    ],
)
async def test_what_cannot_be_added(ctl: Ctl, etc: Path, args: tuple[str, ...], code: int, says: str) -> None:
    done = await add(ctl, etc, *args)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert files(etc) == []


async def test_without_a_daemon_it_is_written_all_the_same(ctl: Ctl, etc: Path, tmp_path: Path) -> None:
    ctl.env["SPARK_MODELD_SOCKET"] = str(tmp_path / "nobody.sock")
    done = await add(ctl, etc, "scout", "--write")
    assert (done.code, files(etc)) == (0, ["scout.toml"])
    assert "reads it when it starts" in done.err


@pytest.mark.parametrize(("answer", "written"), [(b"y\n", ["scout.toml"]), (b"n\n", []), (b"\n", [])])
async def test_on_a_terminal_a_person_is_asked(ctl: Ctl, etc: Path, answer: bytes, written: list[str]) -> None:
    main, other = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "spark_modeld.cli.main", "add", "--config", str(etc), "scout"),
        stdin=other, stdout=other, stderr=asyncio.subprocess.PIPE, env=ctl.env,
    )  # fmt: skip
    os.close(other)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        asked = await process.stderr.readuntil(b"read it?")
        os.write(main, answer)
        told = await process.stderr.read()
        await process.wait()
    os.close(main)
    assert b"scout.toml" in asked
    assert files(etc) == written
    assert (b"Nothing is written" in told) is not bool(written)
