"""With CI=true no test is left out in silence."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import layers
from layers import OF_THE_MACHINE, Result, skips_in

pytestmark = pytest.mark.unit

TESTS = f"""
import pytest

@pytest.mark.skipif(True, reason="needs mandoc")
@pytest.mark.parametrize("page", [1, 2])
def test_page(page): ...

@pytest.fixture
def tool():
    pytest.skip("needs promtool")

def test_rules(tool): ...

def test_driver():
    pytest.skip("{OF_THE_MACHINE} no NVIDIA driver")

@pytest.mark.xfail(reason="not yet")
def test_expected():
    raise AssertionError

def test_good(): ...
"""


def test_why_tests_were_skipped_is_read_from_the_report(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "test_it.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    skips = skips_in(report)
    driver = f"{OF_THE_MACHINE} no NVIDIA driver"
    assert skips == Counter({"needs mandoc": 2, "needs promtool": 1, driver: 1})
    result = Result("unit", counts=layers.counts_of(report), skips=skips)
    assert result.lacking == ["needs mandoc", "needs promtool"]
    assert "unit: 2 skipped: needs mandoc" in layers.summary([result]).splitlines()


IN_THE_BACKGROUND = """
import subprocess, sys
import layers

def timed(layer, command):
    status = subprocess.call([sys.executable, "-c", sys.argv[1]])
    return layers.Result(layer, note=f"ended with {status}"), status

layers.timed = timed
layers.main()
"""
INTERRUPTED = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"


def test_ctrl_c_can_be_tested_also_by_a_job_in_the_background(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_BACKGROUND, INTERRUPTED],
        env={"PYTHONPATH": str(Path(layers.__file__).parent), "LAYERS": "lint"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"ended with {-signal.SIGINT}" in done.stdout


@pytest.mark.parametrize(
    ("result", "strict", "status"),
    [
        (Result("unit"), True, 0),
        (Result("unit", failed=True), False, 1),
        (Result("unit", skips=Counter({"needs mandoc": 2})), True, 1),
        (Result("unit", skips=Counter({"needs mandoc": 2})), False, 0),
        (Result("unit", skips=Counter({f"{OF_THE_MACHINE} no PSI in its kernel": 2})), True, 0),
        (Result("dbus", hindrance="needs dbus-daemon"), True, 1),
        (Result("dbus", hindrance="needs dbus-daemon"), False, 0),
    ],
    ids=["good", "failed", "a tool is missing", "not in CI", "of the machine", "could not run", "could not, not in CI"],
)
def test_what_could_have_run_is_a_failure_in_ci(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    result: Result,
    strict: bool,
    status: int,
) -> None:
    monkeypatch.setattr(layers, "run_layer", lambda layer: result)
    monkeypatch.setenv("LAYERS", "unit")
    monkeypatch.setenv("CI", "true" if strict else "")
    assert layers.main() == status
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "0 passed, 0 failed, 0 skipped"
    assert [reason in said.err for reason in result.lacking] == [strict] * len(result.lacking)
