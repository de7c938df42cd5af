"""Runs the linters, then each layer of tests, and ends with a table of what ran and one line of totals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from support import clean
from support.spark import why_not

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "build" / "reports"
LAYERS = ("unit", "property", "component", "dbus", "host", "package")
NO_TESTS = 5
CORES = os.cpu_count() or 1
HOSTS = min(6, CORES + 1)
"""How many throwaway hosts at a time: they wait more than they work."""
OF_THE_MACHINE = "this machine has"
"""How the reason begins of a test that is skipped for want of what nobody can install: a driver, a kernel."""


@dataclass
class Result:
    """How one layer went. ``hindrance`` says why it could not run at all, ``skips`` why how many tests did not."""

    layer: str
    seconds: float = 0.0
    failed: bool = False
    note: str = ""
    hindrance: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    skips: Counter[str] = field(default_factory=Counter)

    @property
    def verdict(self) -> str:
        if self.hindrance:
            return "could not run"
        return "failed" if self.failed else "ran"

    @property
    def lacking(self) -> list[str]:
        """What kept it, or tests of it, from running, though this machine could run them."""
        skips = [reason for reason in self.skips if not reason.startswith(OF_THE_MACHINE)]
        return [self.hindrance, *skips] if self.hindrance else skips


def hindrance(layer: str) -> str | None:
    """Why this machine cannot run the layer; None if it can."""
    if layer == "host":
        return why_not()
    if layer == "package":
        return clean.why_not()
    if layer == "dbus" and shutil.which("dbus-daemon") is None:
        return "needs dbus-daemon"
    return None


def counts_of(report: Path) -> dict[str, int]:
    """The totals in pytest's JUnit report."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, skipped, failed, broken = (int(suite.get(key, "0")) for key in ("tests", "skipped", "failures", "errors"))
    return {"passed": total - skipped - failed - broken, "failed": failed + broken, "skipped": skipped}


def skips_in(report: Path) -> Counter[str]:
    """Why tests were skipped, by pytest's JUnit report, and how many for each reason; an expected failure is none."""
    skipped = ElementTree.parse(report).getroot().iter("skipped")
    return Counter(it.get("message", "") for it in skipped if it.get("type") == "pytest.skip")


def side_by_side(layer: str) -> tuple[str, ...]:
    """How pytest spreads the layer: by file where a file shares a host; else whoever is free takes a test."""
    if layer in {"host", "package"}:
        return ("-n", str(HOSTS), "--dist", "loadfile")
    return ("-n", str(CORES), "--dist", "worksteal")


def timed(layer: str, command: Sequence[str]) -> tuple[Result, int]:
    print(f"\n=== {layer}", flush=True)
    started = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    return Result(layer, time.monotonic() - started, failed=status != 0), status


def run_layer(layer: str) -> Result:
    """Runs one layer with a pytest of its own."""
    if reason := hindrance(layer):
        return Result(layer, hindrance=reason)
    report = REPORTS / f"{layer}.xml"
    report.unlink(missing_ok=True)
    pytest = (sys.executable, "-m", "pytest", "-q", f"tests/{layer}", "-m", layer, *side_by_side(layer))
    result, status = timed(layer, (*pytest, f"--junitxml={report}"))
    if status == NO_TESTS:
        result.note = "there are no tests"
    if report.exists():
        result.counts = counts_of(report)
        result.skips = skips_in(report)
    return result


def summary(results: Sequence[Result]) -> str:
    """The table, why tests were skipped, and the totals alone on the last line."""
    lines = ["", f"{'layer':<12}{'':<15}{'seconds':>8}  tests"]
    for result in results:
        tests = ", ".join(f"{number} {word}" for word, number in result.counts.items() if number)
        remark = result.hindrance or result.note or tests
        lines.append(f"{result.layer:<12}{result.verdict:<15}{result.seconds:>8.1f}  {remark}".rstrip())
    skips = [f"{it.layer}: {count} skipped: {why}" for it in results for why, count in it.skips.items()]
    lines += ["", *skips] if skips else []
    totals = {word: sum(result.counts.get(word, 0) for result in results) for word in ("passed", "failed", "skipped")}
    return "\n".join([*lines, "", ", ".join(f"{number} {word}" for word, number in totals.items())])


def main() -> int:
    """The exit status: 1 if a layer failed or, with CI=true, it or a test of it could not run where it could have."""
    # What a shell starts in the background ignores SIGINT, and so does all that it starts: no Ctrl-C could be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    REPORTS.mkdir(parents=True, exist_ok=True)
    layers = os.environ.get("LAYERS", "").split() or ["lint", *LAYERS]
    results = [timed("lint", ["tests/lint"])[0] if layer == "lint" else run_layer(layer) for layer in layers]
    print(summary(results), flush=True)
    lacking = [f"{result.layer}: {reason}" for result in results for reason in result.lacking]
    strict = bool(lacking) and os.environ.get("CI") == "true"
    if strict:
        print(f"CI=true, and this machine could have run more: {'; '.join(lacking)}", file=sys.stderr, flush=True)
    return int(strict or any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
