"""Runs other programs within a bound: one that hangs is left, and says so."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from spark_modeld.programs import end, start

SECONDS = 4.0
"""Far more than any of them takes, also on a machine that is busy loading a model."""


@dataclass(frozen=True)
class Ran:
    """How it ended: ``status`` is None where it did not run, or hangs."""

    status: int | None
    out: str = ""
    err: str = ""
    missing: bool = False
    hangs: bool = False

    @property
    def good(self) -> bool:
        """Whether it did what it was asked."""
        return self.status == 0

    @property
    def says(self) -> str:
        """Its last line of error."""
        return next((line.strip() for line in reversed(self.err.splitlines()) if line.strip()), "")


def run(*command: str, seconds: float = SECONDS, environment: Mapping[str, str] | None = None) -> Ran:
    """Its end, or what hindered it. It never raises, and takes hardly longer than so many seconds."""
    plain = {"LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    try:
        process = start(*command, environment={**plain, **(environment or {})})
    except FileNotFoundError:
        return Ran(None, missing=True)
    except OSError as error:
        return Ran(None, err=error.strerror or str(error))
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return Ran(None, hangs=True)
    finally:
        end(process)
    return Ran(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
