"""What is to be expected of loads: what engines say in the journal, what was read, how long the same took before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from spark_modeld import ports
from spark_modeld.core.accounts import LOADING
from spark_modeld.core.effects import Effects
from spark_modeld.core.errors import SparkError
from spark_modeld.core.instant import Instant
from spark_modeld.core.model import Model
from spark_modeld.core.outlook import Estimate, Outlook, estimate, outlook
from spark_modeld.core.progress import Progress, estimated, heard
from spark_modeld.core.slot import Slot
from spark_modeld.core.switch import Switch

PATIENCE_SECONDS = 1.0
"""A load that is over sooner needs no reader of its log."""
_LINES = 200

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
History = tuple[Switch, ...]


class Loading:
    """Follows the journal of every model that loads.

    ``slot`` gives the slot of the moment, ``post`` queues a handler for the writer, ``spawn`` makes a task whose bug
    ends the engine.
    """

    def __init__(
        self,
        outside: ports.Outside,
        *,
        slot: Callable[[], Slot],
        post: Callable[[Callable[[], Effects]], None],
        spawn: Spawn,
    ) -> None:
        self._out = outside
        self._slot = slot
        self._post = post
        self._spawn = spawn
        self._progress: dict[str, Progress] = {}
        self._readers: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._expected: tuple[tuple[str, str | None, History], Estimate | None] | None = None

    @property
    def progress(self) -> Mapping[str, Progress]:
        """Model -> how far it is, for those that load and of which something can be said."""
        found = {model: self._estimated(model) for model in self._readers}
        return MappingProxyType({model: progress for model, progress in found.items() if progress is not None})

    def follow(self) -> None:
        """Begins to read the logs of the models that have begun to load, and leaves those that load no more."""
        house = self._slot().house
        loads = {model for model, life in house.lives.items() if life.phase in LOADING}
        for model, (began, task) in tuple(self._readers.items()):
            risen = house.falls.risen_at.get(model)
            if model not in loads or (risen is not None and risen.wall != began):
                task.cancel()
                del self._readers[model]
                self._progress.pop(model, None)
        for model in loads - self._readers.keys():
            # What was found loading was never seen to rise.
            began = house.falls.risen_at.get(model, house.lives[model].since).wall
            reader = self._spawn(self._read(house.models[model], began), f"load of {model}")
            self._readers[model] = (began, reader)

    def outlook(self, switch: Switch | None, history: History, now: Instant) -> Outlook | None:
        """What is to be expected of the switch under way, None without one. ``history`` has the oldest first."""
        if switch is None:
            return None
        raised = switch.rollback.model if switch.rollback is not None else switch.model
        expected = self._estimate(switch, history)
        return outlook(switch, expected, self.progress.get(raised or ""), now)

    def _estimated(self, model: str) -> Progress | None:
        """What it says itself, or what the disks have given, where that was for nobody else."""
        house, said = self._slot().house, self._progress.get(model)
        appraisal, began = house.appraisals.get(model), house.accounts.paged_in.get(model)
        checkpoint = appraisal.inspection.checkpoint if appraisal is not None else None
        read = house.reading.paged_in if house.reading is not None else None
        if checkpoint is None or read is None or began is None or len(self._readers) != 1:
            return said
        return estimated(said, read - began, checkpoint.weight_bytes or 0)

    def _estimate(self, switch: Switch, history: History) -> Estimate | None:
        # Snapshots are taken with every event, while the history stays what it is.
        about = (switch.id, switch.from_model, history)
        known = self._expected
        if known is None or known[0][:2] != about[:2] or known[0][2] is not history:
            self._expected = known = (about, estimate(history, switch.model, switch.from_model))
        return known[1]

    async def _read(self, spec: Model, began: float) -> None:
        await self._out.clock.sleep(PATIENCE_SECONDS)
        # Too many readers at once, or no journal: then nobody hears how far it is.
        said = None
        with contextlib.suppress(SparkError, OSError):
            async for line in self._out.journal.follow(spec.unit, _LINES):
                progress = heard(line.text) if line.at >= began else None
                if progress is not None and progress != said:
                    said = progress
                    self._post(partial(self._note, spec.id, began, progress))

    def _note(self, model: str, began: float, progress: Progress) -> Effects:
        reader = self._readers.get(model)
        if reader is not None and reader[0] == began:
            self._progress[model] = progress
        return []
