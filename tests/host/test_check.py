"""The check through the real CLI and API: every finding once, switches that it blocks, and files that it writes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.checkpoints import DEEPSEEK_V3, NVFP4, QWEN3_32B, write
from support.gb10 import Gb10
from support.serving import DAEMON, Serving, await_that, unit
from support.spark import SparkHost, quoted
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

GIB = 1 << 30
ROOT = "/srv/checkpoints"
STRANGER = 8090
SETTINGS = '[memory]\nreserve = "8GiB"\nlarge = "24GiB"\nfloor = "3GiB"\n'
COMPRESSED = QWEN3_32B | {
    "quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
}
OWN = "[Service]\nExecStart=/bin/sleep infinity\nRestart=always\n[Install]\nWantedBy=multi-user.target\n"
SLEEP = '[launch]\ncommand = ["/bin/sleep", "infinity"]'


def sglang(model: str, folder: str, *flags: str) -> str:
    words = ["python3", "-m", "sglang.launch_server", "--model-path", f"{ROOT}/{folder}", "--served-model-name", model]
    return f"[launch]\ncommand = [{', '.join(map(quoted, (*words, *flags)))}]"


# code: level, engine, lines before the way to run, the way to run
FINDINGS: dict[str, tuple[str, str, str, str]] = {
    "path-unreadable": ("error", "openai", f'path = "{ROOT}/nowhere"', SLEEP),
    "path-denied": ("error", "openai", f'path = "{ROOT}/denied"', SLEEP),
    "path-unseen": ("warning", "openai", f'path = "{ROOT}/unseen"', SLEEP),
    "no-weights": ("error", "openai", f'path = "{ROOT}/no-weights"', SLEEP),
    "unfinished-download": ("error", "openai", f'path = "{ROOT}/unfinished"', SLEEP),
    "download-under-way": ("warning", "openai", f'path = "{ROOT}/under-way"', SLEEP),
    "compressed-tensors": (
        "error",
        "sglang",
        f'path = "{ROOT}/compressed"',
        sglang("compressed-tensors", "compressed"),
    ),
    "quantization-mismatch": (
        "error",
        "sglang",
        f'path = "{ROOT}/nvfp4"',
        sglang("quantization-mismatch", "nvfp4", "--quantization", "awq"),
    ),
    "served-name-mismatch": ("error", "sglang", "", sglang("another-name", "nvfp4")),
    "custom-code": ("warning", "sglang", f'path = "{ROOT}/custom"', sglang("custom-code", "custom")),
    "no-tokenizer": ("error", "sglang", f'path = "{ROOT}/gated"', sglang("no-tokenizer", "gated")),
    "fraction-too-small": (
        "error",
        "sglang",
        f'path = "{ROOT}/nvfp4"',
        sglang("fraction-too-small", "nvfp4", "--mem-fraction-static", "0.1"),
    ),
    "command-not-found": ("error", "openai", "", '[launch]\ncommand = ["/opt/gone/serve", "x"]'),
    "command-not-executable": ("error", "openai", "", f'[launch]\ncommand = ["{ROOT}/unfinished/config.json"]'),
    "user-unknown": ("error", "openai", 'user = "nobody-we-know"', SLEEP),
    "unit-missing": ("error", "openai", 'unit = "own-missing.service"', ""),
    "unit-masked": ("error", "openai", 'unit = "own-masked.service"', ""),
    "restart-policy": ("warning", "openai", 'unit = "own-eager.service"', ""),
    "unit-enabled": ("warning", "openai", 'unit = "own-enabled.service"', ""),
    "docker-not-asked": ("info", "openai", "", '[docker]\nimage = "nobody/has:it"'),
    "start-script-writable": ("error", "openai", "", f'[container]\nname = "scout"\nstart_script = "{ROOT}/open.sh"'),
    "port-taken": ("error", "openai", "", SLEEP),
    "memory-never": ("error", "openai", 'memory = "125GiB"', SLEEP),
    "memory-now": ("warning", "openai", 'memory = "105GiB"', SLEEP),
    "footprint-unknown": ("warning", "openai", "", SLEEP),
    "no-path": ("info", "openai", "", SLEEP),
}


@pytest.fixture(scope="module")
def gb10(installed_host: SparkHost) -> Gb10:
    gb10 = Gb10(installed_host)
    gb10.install()
    gb10.reset()
    return gb10


@pytest.fixture(scope="module")
def host(installed_host: SparkHost, gb10: Gb10) -> SparkHost:
    del gb10  # it has to be there first
    host = installed_host
    host.settings(SETTINGS)
    checkpoints(host)
    host.write("/etc/systemd/system/own-eager.service", OWN)
    host.write("/etc/systemd/system/own-enabled.service", OWN.replace("Restart=always\n", ""))
    host.run("ln", "-s", "/dev/null", "/etc/systemd/system/own-masked.service")
    host.run("systemctl", "enable", "own-enabled.service")
    host.run("systemd-run", "--unit", "stranger", "python3", "-m", "http.server", "--bind", "127.0.0.1", str(STRANGER))
    for port, (code, (_, engine, lines, run)) in enumerate(FINDINGS.items(), 9000):
        place = STRANGER if code == "port-taken" else port
        host.model(code, f'engine = "{engine}"\nurl = "http://127.0.0.1:{place}"\n{lines}\n{run}\n')
    host.tiny("alpha", port=8001, memory="30GiB")
    host.tiny("beta", port=8002, memory="30GiB")
    host.tiny("misled", port=8003, memory="30GiB")
    entry = host.path("/etc/spark-modeld/models.d/misled.toml")
    lines = [line for line in entry.read_text().splitlines() if not line.startswith("path")]
    entry.write_text("\n".join([f'path = "{ROOT}/nowhere"', *lines, ""]))
    run = sglang("estimated", "nvfp4", "--mem-fraction-static", "0.97")
    host.model("estimated", f'engine = "sglang"\nurl = "http://127.0.0.1:8004"\npath = "{ROOT}/nvfp4"\n{run}\n')
    host.enable()
    return host


def checkpoints(host: SparkHost) -> None:
    """Folders of true headers and holes."""
    root = host.path(ROOT)
    small = 1_000_000
    write(root / "nvfp4", QWEN3_32B, 20_300_000_000, 5, {"hf_quant_config.json": NVFP4})
    write(root / "compressed", COMPRESSED, small, 2)
    write(root / "custom", DEEPSEEK_V3, small, 2)
    for name in ("denied", "unseen", "no-weights", "unfinished", "under-way", "gated"):
        write(root / name, QWEN3_32B, small, 2)
    for file in (root / "no-weights").glob("*safetensors*"):
        file.unlink()
    (root / "unfinished" / "model-00002-of-00002.safetensors").unlink()
    (root / "under-way" / "model-00003.safetensors.part").touch()
    (root / "under-way" / "model-00003.safetensors").write_bytes(
        (root / "under-way" / "model-00001-of-00002.safetensors").read_bytes()
    )
    (root / "gated" / "tokenizer.json").unlink()
    (root / "denied").chmod(0o700)
    host.run("chown", "-R", "spark-model", f"{ROOT}/unseen")
    (root / "unseen").chmod(0o700)
    host.write(f"{ROOT}/open.sh", "#!/bin/sh\n", mode=0o777)


@pytest.fixture
def serving(host: SparkHost) -> Iterator[Serving]:
    serving = Serving(host)
    serving.serve(None)
    yield serving
    serving.serve(None)


def check(host: SparkHost, model: str) -> dict[str, Any]:
    status, answer = host.api("GET", f"/api/models/{model}/check")
    assert status == 200, answer
    return dict(answer)


@pytest.mark.parametrize("code", FINDINGS)
def test_every_finding_once(serving: Serving, code: str) -> None:
    if code == "port-taken":
        await_that(lambda: check(serving.host, code)["listener"], "the stranger to listen")
    shown = check(serving.host, code)
    found = [finding for finding in shown["findings"] if finding["code"] == code]
    assert [finding["level"] for finding in found] == [FINDINGS[code][0]], shown["findings"]
    assert found[0]["message"]
    assert found[0]["hint"]
    errors = {finding["code"] for finding in shown["findings"] if finding["level"] == "error"}
    assert errors <= {code}
    assert shown["ok"] is (not errors)


def test_the_command_line_tells_all_of_it(serving: Serving) -> None:
    said = serving.ctl("check", "fraction-too-small", exit_status=1)
    assert "error    fraction-too-small: --mem-fraction-static 0.1" in said
    assert "18.9 GiB  sizes of the 5 files named in model.safetensors.index.json" in said
    assert "modelopt (NVFP4)  hf_quant_config.json quantization.quant_algo" in said
    shown = json.loads(serving.ctl("check", "--json", "alpha"))
    assert (shown["ok"], shown["fits"], shown["fits_ever"]) == (True, True, True)
    assert (shown["footprint"]["bytes"], shown["footprint"]["basis"]) == (30 * GIB, "declared")
    assert shown["weights"] > 1_000_000
    assert shown["quantization"] == "gguf (F16)"
    assert "PID" in serving.ctl("check", "port-taken", exit_status=1)
    serving.ctl("check", "nobody", exit_status=5)
    serving.ctl("check", exit_status=2)


def test_an_error_blocks_a_switch_before_anything_is_stopped(serving: Serving) -> None:
    serving.serve("alpha")
    before = serving.pid("alpha")
    status, problem = serving.switch("unfinished-download")
    assert (status, problem["code"]) == (422, "check-failed")
    assert [finding["code"] for finding in problem["findings"] if finding["level"] == "error"] == [
        "unfinished-download"
    ]
    assert problem["switch"]["outcome"] == "failed"
    assert (serving.pid("alpha"), serving.slot()) == (before, ("alpha", "serving"))
    said = serving.ctl("switch", "unfinished-download", exit_status=4)
    assert "unfinished-download: The download is not finished: model-00002-of-00002.safetensors" in said
    assert "`hf download` goes on where it stopped" in said
    assert (serving.pid("alpha"), serving.desired_on_disk()) == (before, "alpha")


def test_force_goes_past_it_and_says_so(serving: Serving) -> None:
    status, problem = serving.switch("misled")
    assert (status, problem["code"]) == (422, "check-failed")
    said = serving.ctl("switch", "misled", "--force")
    assert "misled serves" in said
    assert "path-unreadable" in said
    assert serving.host.ask(8003) == sentence_of("misled")
    shown = serving.host.api("GET", "/api/models/misled")[1]
    assert [finding["code"] for finding in shown["findings"]] == ["path-unreadable"]


def test_systemctl_is_told_too(serving: Serving) -> None:
    started = serving.host.run("systemctl", "start", unit("misled"), check=False)
    assert started.returncode != 0
    assert "misled is not tried" in serving.host.journal("-o", "cat", "-u", unit("misled"))


def test_an_estimate_is_refused_with_its_numbers(serving: Serving, gb10: Gb10) -> None:
    serving.serve("alpha")
    gb10.available(80 * GIB)
    before = serving.pid("alpha")
    status, problem = serving.switch("estimated")
    assert (status, problem["code"], problem["basis"]) == (507, "memory-refused", "estimated")
    shown = check(serving.host, "estimated")
    assert problem["needed"] == shown["footprint"]["bytes"] == shown["estimate"] > 100 * GIB
    assert problem["needed"] == sum(part["bytes"] for part in shown["parts"])
    assert problem["available"] + problem["returned"] - problem["needed"] < problem["reserve"] == 8 * GIB
    assert serving.pid("alpha") == before
    assert "(estimated)" in serving.ctl("switch", "estimated", exit_status=4)
    gb10.available(110 * GIB)


def test_a_folder_in_no_catalog_gets_its_file(serving: Serving) -> None:
    host = serving.host
    assert json.loads(serving.ctl("check", "--json", f"{ROOT}/nvfp4"))["model"] == "estimated"
    host.run("cp", "-a", "--sparse=always", f"{ROOT}/nvfp4", f"{ROOT}/Qwen3 32B")
    host.run("systemctl", "stop", "spark-modeld.socket", "spark-modeld-http.socket", DAEMON)
    away = json.loads(host.run("spark-modelctl", "check", "--json", f"{ROOT}/Qwen3 32B", check=False).stdout)
    host.enable()
    assert away["proposal"]["id"] == "qwen3-32b"
    shown = json.loads(serving.ctl("check", "--json", f"{ROOT}/Qwen3 32B"))
    proposal = shown["proposal"]
    assert tomllib.loads(proposal["toml"])["path"] == f"{ROOT}/Qwen3 32B"
    assert proposal["toml"] in serving.ctl("check", f"{ROOT}/Qwen3 32B")
    file = Path("/etc/spark-modeld") / proposal["file"]
    host.write(str(file), proposal["toml"])
    try:
        serving.reload()
        added = check(host, proposal["id"])
        assert (added["path"], added["quantization"]) == (f"{ROOT}/Qwen3 32B", "modelopt (NVFP4)")
        assert (added["ok"], added["fits"]) == (True, True), added["findings"]
        assert json.loads(serving.ctl("check", "--json", f"{ROOT}/Qwen3 32B/"))["model"] == proposal["id"]
    finally:
        host.path(str(file)).unlink()
        serving.reload()


def test_a_gguf_in_no_catalog_gets_a_llama_server(serving: Serving) -> None:
    host = serving.host
    host.run("cp", host.api("GET", "/api/models/alpha")[1]["path"], f"{ROOT}/Tiny.Q4.gguf")
    toml = tomllib.loads(json.loads(serving.ctl("check", "--json", f"{ROOT}/Tiny.Q4.gguf"))["proposal"]["toml"])
    assert (toml["engine"], toml["launch"]["command"][0]) == ("llama-server", "llama-server")
    assert toml["served_model_name"] == "tiny.q4"
