"""``make demo`` does what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.spark import REPOSITORY

pytestmark = pytest.mark.host


def test_all_of_the_demo_happens() -> None:
    command = [sys.executable, str(REPOSITORY / "tests/demo.py")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of it happened" in done.stdout
