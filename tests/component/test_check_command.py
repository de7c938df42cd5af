"""`GET /api/models/{id}/check` and `spark-modelctl check`, over a real socket, with a docker of the test's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from spark_modeld.core.appraisal import Appraisal, Inspection
from spark_modeld.core.errors import Code
from spark_modeld.core.finding import Finding, error, info, warning
from spark_modeld.core.footprint import Checkpoint, Flags, Quantization, estimate
from spark_modeld.core.model import Container, Docker, EngineKind, Run
from spark_modeld.core.switch import Outcome
from support.checkpoints import QWEN3_32B, write
from support.command_line import Ctl
from support.control import Control, running
from support.fake_face import GIB, Asked

pytestmark = pytest.mark.component

FINDINGS = (error("no-weights", "it has \x1b[2Jnone", "Fetch it"), warning("custom-code", "it brings code", "Trust it"))
NOT_ASKED = info("docker-not-asked", "not looked at", "ask docker")


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


@pytest.fixture
def ctl(control: Control) -> Ctl:
    return Ctl(control.path)


def appraise(control: Control, *findings: Finding) -> None:
    """What the face says of every model."""
    stored = Quantization(method="modelopt", format="NVFP4", source="hf_quant_config.json")
    checkpoint = Checkpoint(path="/m", weight_bytes=19 * GIB, weight_source="sizes of 5 files", quantization=stored)
    flags = Flags(known=True, fraction=0.4, said={"fraction": "--gpu-memory-utilization 0.4"})
    plan = estimate(EngineKind.VLLM, checkpoint, flags, total=128 * GIB)
    seen = Inspection(fingerprint="f", checkpoint=checkpoint, flags=flags)
    control.face.appraisal = Appraisal(inspection=seen, estimate=plan, findings=findings)


def runs_as(control: Control, run: Run) -> None:
    """Changes how qwen is run."""
    state = control.face.snapshot.models["qwen"]
    models = {**control.face.snapshot.models, "qwen": replace(state, model=replace(state.model, run=run))}
    control.face.snapshot = replace(control.face.snapshot, models=models)


async def test_the_answer_is_the_contracts(control: Control) -> None:
    appraise(control, *FINDINGS)
    answer = await control.call("GET", "/api/models/qwen/check")
    shown = answer.json
    assert (answer.status, shown["ok"], control.face.asked) == (200, False, [Asked("check", "qwen")])
    assert shown["findings"][1] == {
        "code": "custom-code",
        "level": "warning",
        "message": "it brings code",
        "hint": "Trust it",
    }
    assert (shown["quantization"], shown["weights"]) == ("modelopt (NVFP4)", 19 * GIB)
    assert shown["weights"] + shown["kv_cache"] == int(0.4 * 128 * GIB)
    assert (shown["footprint"]["bytes"], shown["footprint"]["basis"]) == (38 * GIB, "declared")
    assert shown["parts"][0]["source"] == "sizes of 5 files"
    assert (shown["fits"], shown["fits_ever"], shown["total"]) == (True, True, 128 * GIB)
    spec = (await control.call("GET", "/openapi.json")).json
    schema = spec["paths"]["/api/models/{id}/check"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(shown, {**schema, "components": spec["components"]}, cls=jsonschema.Draft202012Validator)


async def test_what_is_not_known_is_null(control: Control) -> None:
    shown = (await control.call("GET", "/api/models/embed/check")).json
    assert (shown["ok"], shown["findings"], shown["parts"]) == (True, [], [])
    assert {shown[key] for key in ("quantization", "weights", "kv_cache", "estimate", "context", "listener")} == {None}


async def test_no_such_model(control: Control, ctl: Ctl) -> None:
    answer = await control.call("GET", "/api/models/nope/check")
    assert (answer.status, answer.json["code"]) == (404, str(Code.UNKNOWN_MODEL))
    done = await ctl("check", "nope")
    assert (done.code, "nope" in done.err) == (5, True)
    assert (await ctl("check")).code == 2


async def test_observers_may_check(control: Control) -> None:
    headers = {"Authorization": "Bearer smd_observe"}
    answer = await control.call("GET", "/api/models/qwen/check", tcp=True, headers=headers)
    assert answer.status == 200


@pytest.mark.parametrize("name", ["qwen", "qwen3", "served/qwen"])
async def test_any_name_will_do(control: Control, ctl: Ctl, name: str) -> None:
    appraise(control, FINDINGS[1])
    done = await ctl("check", name)
    assert (done.code, done.err) == (0, "")
    assert control.face.asked == [Asked("check", "qwen")]
    for text in (
        "warning  custom-code: it brings code", "Trust it", "weights         19.0 GiB  sizes of 5 files",
        "--gpu-memory-utilization 0.4 of 128.0 GiB in all", "needs           38.0 GiB  declared",
        "72.0 GiB of 128.0 GiB available", "modelopt (NVFP4)  hf_quant_config.json", "fits ever     yes",
    ):  # fmt: skip
        assert text in done.out, done.out


async def test_errors_end_it_with_1(control: Control, ctl: Ctl) -> None:
    appraise(control, *FINDINGS)
    done = await ctl("check", "qwen")
    assert (done.code, "1 error" in done.out, "\x1b" in done.out) == (1, True, False)
    shown = await ctl("check", "--json", "qwen")
    assert (shown.code, shown.json["ok"]) == (1, False)
    assert shown.json == (await control.call("GET", "/api/models/qwen/check")).json


async def test_a_switch_shows_what_was_found(control: Control, ctl: Ctl) -> None:
    async def found(*findings: Finding) -> Any:
        process = await ctl.start("switch", "llama")
        requested = await control.face.requested.get()
        control.face._put(replace(requested, findings=findings))
        control.face.finish(requested.id, Outcome.READY)
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    code, out = await found(FINDINGS[1])
    assert (code, "warning  custom-code: it brings code" in out) == (0, True)


async def test_the_catalog_says_of_which_models_something_was_found(control: Control, ctl: Ctl) -> None:
    models = dict(control.face.snapshot.models)
    models["llama-70b"] = replace(models["llama-70b"], findings=FINDINGS)
    control.face.snapshot = replace(control.face.snapshot, models=models)
    done = await ctl("models")
    said = "error    llama-70b: no-weights, custom-code; see `spark-modelctl check llama-70b`"
    assert done.out.splitlines()[-1] == said
    listed = (await control.call("GET", "/api/models/llama-70b")).json
    assert [finding["level"] for finding in listed["findings"]] == ["error", "warning"]


# Docker is asked by the person, not by the daemon.


@pytest.fixture
def docker(tmp_path: Path, ctl: Ctl) -> Path:
    """A docker that says what is in the file ``answer``: an exit status, then a line."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "docker"
    script.write_text(
        f'#!/bin/sh\necho "$*" >>{folder}/asked\nread -r status words <{folder}/answer\n'
        '[ "$status" = 0 ] && echo "$words" || echo "$words" >&2\nexit "$status"\n'
    )
    script.chmod(0o755)
    ctl.env["PATH"] = f"{folder}:{ctl.env['PATH']}"
    return folder


@pytest.mark.parametrize(
    ("run", "answer", "expected"),
    [
        (Docker("a/b:c"), "0 sha256:1", []),
        (Docker("a/b:c"), "1 Error response from daemon: No such image: a/b:c", ["error image-absent"]),
        (Docker("a/b:c"), "1 permission denied while trying to connect", ["info docker-not-asked"]),
        (Container("scout"), "0 no", []),
        (Container("scout"), "0 unless-stopped", ["warning restart-policy"]),
        (Container("scout"), "1 Error response from daemon: No such container: scout", ["error container-absent"]),
        (Container("scout", "/s.sh"), "1 Error: No such container: scout", ["info container-absent"]),
    ],
)
async def test_docker(control: Control, ctl: Ctl, docker: Path, run: Run, answer: str, expected: list[str]) -> None:
    appraise(control, NOT_ASKED)
    runs_as(control, run)
    (docker / "answer").write_text(f"{answer}\n")
    done = await ctl("check", "--json", "qwen")
    assert [f"{finding['level']} {finding['code']}" for finding in done.json["findings"]] == expected
    assert done.code == int(any(each.startswith("error") for each in expected))
    asked = (docker / "asked").read_text()
    assert ("a/b:c" if isinstance(run, Docker) else "scout") in asked


async def test_without_docker_it_says_that_it_was_not_asked(control: Control, ctl: Ctl, tmp_path: Path) -> None:
    appraise(control, NOT_ASKED)
    runs_as(control, Docker("a/b:c"))
    done = await ctl("check", "--json", "qwen", PATH=str(tmp_path))
    assert [finding["code"] for finding in done.json["findings"]] == ["docker-not-asked"]


# A path in no catalog.


async def test_a_path_needs_no_daemon(tmp_path: Path, ctl: Ctl) -> None:
    folder = write(tmp_path / "Qwen3-Tiny", QWEN3_32B, 1_000_000, 2)
    ctl.env["SPARK_MODELD_SOCKET"] = str(tmp_path / "nobody.sock")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 127600748 kB\nMemFree: 90000000 kB\nMemAvailable: 118566368 kB\n")
    ctl.env["SPARK_MODELD_MEMINFO"] = str(meminfo)
    done = await ctl("check", "--json", str(folder))
    assert (done.code, done.err) == (0, "")
    assert (done.json["ok"], done.json["weights"], done.json["weight_files"]) == (True, 1_000_000, 2)
    assert done.json["proposal"]["file"] == "models.d/qwen3-tiny.toml"
    told = (await ctl("check", str(folder))).out
    assert f"In no catalog. `spark-modelctl add {folder}` makes this models.d/qwen3-tiny.toml of it:\n" in told
    assert done.json["proposal"]["toml"] in told
    (folder / "model-00001-of-00002.safetensors").unlink()
    broken = await ctl("check", str(folder))
    assert (broken.code, "unfinished-download" in broken.out) == (1, True)
    gone = await ctl("check", "--json", str(tmp_path / "gone"))
    assert (gone.code, gone.json["proposal"]) == (1, None)
    assert (await ctl("check", "qwen")).code == 3


async def test_a_path_is_given_a_free_name_and_port(control: Control, tmp_path: Path, ctl: Ctl) -> None:
    folder = write(tmp_path / "qwen", QWEN3_32B, 1_000_000, 1)
    toml = (await ctl("check", "--json", str(folder))).json["proposal"]["toml"]
    assert 'served_model_name = "qwen-2"' in toml
    assert "http://127.0.0.1:30001" not in toml
    assert control.face.asked == [Asked("measure")]


async def test_the_path_of_a_model_is_the_models_check(control: Control, tmp_path: Path, ctl: Ctl) -> None:
    folder = write(tmp_path / "m", QWEN3_32B, 1_000_000, 1)
    state = control.face.snapshot.models["qwen"]
    models = {"qwen": replace(state, model=replace(state.model, path=str(folder)))}
    control.face.snapshot = replace(control.face.snapshot, models=models)
    (tmp_path / "link").symlink_to(folder)
    done = await ctl("check", "--json", str(tmp_path / "link"))
    assert json.loads(done.out)["model"] == "qwen"
    assert control.face.asked == [Asked("check", "qwen")]
