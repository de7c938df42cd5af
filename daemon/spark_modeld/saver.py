"""Puts the record on disk before what it says is done, without letting a bad disk hold up the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spark_modeld import ports
from spark_modeld.core.record import Record

SAVE_SECONDS = 5.0
"""After this a save counts as failed: a hung disk must not hold up a switch."""
_NO_ANSWER = "the disk does not answer"


class Saver:
    """Saves one record at a time. While a save hangs no other is begun; ``thawed`` is called when it ends."""

    def __init__(self, store: ports.Store, thawed: Callable[[], None]) -> None:
        self._store = store
        self._thawed = thawed
        self._saving: asyncio.Task[None] | None = None

    async def save(self, record: Record) -> str | None:
        """None when the record is on disk, else why it is not."""
        if self._saving is not None:
            return _NO_ANSWER
        self._saving = asyncio.create_task(self._store.save(record), name="save")
        done, _ = await asyncio.wait({self._saving}, timeout=SAVE_SECONDS)
        if not done:
            self._saving.add_done_callback(self._hung_one_ended)
            return _NO_ANSWER
        saved, self._saving = self._saving, None
        try:
            saved.result()
        except OSError as error:
            return str(error)
        return None

    async def close(self) -> None:
        """Waits for nothing any more."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)

    def _hung_one_ended(self, saved: asyncio.Task[None]) -> None:
        self._saving = None
        if not saved.cancelled():
            saved.exception()  # whether it worked no longer matters: there is a newer record
            self._thawed()
