"""The daemon's memory across restarts: ``state.toml``, replaced as a whole."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from spark_modeld import durable
from spark_modeld.core.record import Record
from spark_modeld.state_format import Renderer, parse

STATE_FILE = "state.toml"


class StateFile:
    """Keeps a Record in ``state.toml`` of one directory. One process may save at a time; implements ``ports.Store``."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / STATE_FILE
        self._renderer = Renderer()
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._saved = 0

    def load(self) -> tuple[Record, str | None]:
        """The record on disk. A missing file is an empty record; one that cannot be used is set aside with a warning.

        Blocking; never raises.
        """
        durable.remove_leftovers(self._path)
        try:
            return parse(self._path.read_bytes()), None
        except FileNotFoundError:
            return Record(), None
        except OSError as error:
            return Record(), self._set_aside(f"cannot be read ({error.strerror})")
        except ValueError as error:
            return Record(), self._set_aside(f"is damaged ({error})")

    async def save(self, record: Record) -> None:
        """Returns when this record, or one handed in after it, is on disk. OSError when it could not be written.

        Cancelling stops the waiting, not the writing.
        """
        await asyncio.to_thread(self._save, next(self._numbers), record)

    def _save(self, number: int, record: Record) -> None:
        with self._lock:
            # Threads need not come here in the order of their calls; an older record must never replace a newer one.
            if number < self._saved:
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace_file(self._path, self._renderer.render(record))
            self._saved = number

    def _set_aside(self, why: str) -> str:
        """Renames the file so that its content is kept; the warning to give."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        target = self._path.with_name(f"{STATE_FILE}.damaged-{stamp}")
        for number in count(2):
            if not os.path.lexists(target):
                break
            target = self._path.with_name(f"{STATE_FILE}.damaged-{stamp}-{number}")
        said = f"{self._path} {why}; the daemon goes by what systemd shows"
        try:
            self._path.rename(target)
        except OSError as error:
            return f"{said}. It could not be set aside: {error.strerror}"
        return f"{said}. It was set aside as {target}"
