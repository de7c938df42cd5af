"""Processes with a model's brand, and without."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

SLEEP = ("sleep", "1000")


class Children:
    """Processes that end with the test."""

    def __init__(self, brand: int) -> None:
        self.brand = brand
        self._children = ExitStack()

    def child(self, *command: str, brand: int | None = 0, becomes: str = "") -> subprocess.Popen[bytes]:
        """Runs it with a brand, this one unless another (or None) is said.

        It returns when the process is the program that it ``becomes``, its first word unless that is said.
        """
        number = self.brand if brand == 0 else brand
        limited = ("prlimit", f"--rttime={number}:{number}") if number else ()
        child = subprocess.Popen([*limited, *(command or SLEEP)], start_new_session=True)
        self._children.callback(child.wait)
        self._children.callback(child.kill)
        program = becomes or (command or SLEEP)[0]
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child.pid}/comm").read_text().strip() != program:
            assert (child.poll(), time.monotonic() < deadline) == (None, True)
        return child

    def close(self) -> None:
        """Ends them."""
        self._children.close()
