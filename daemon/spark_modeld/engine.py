"""The single writer: one task takes events in order, asks the core, runs the effects, publishes a snapshot.

Everything that changes state goes through one queue: API calls, what systemd reports, timers, probes,
readings, leases. ``doing`` runs the effects, ``calls`` is what the face asks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from spark_modeld import ports
from spark_modeld.calls import Calls
from spark_modeld.core import effects as fx
from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, Problem, SparkError
from spark_modeld.core.slot import Slot
from spark_modeld.core.switch import Switch
from spark_modeld.face import Snapshot
from spark_modeld.publish import snapshot_of
from spark_modeld.strays import Strays
from spark_modeld.units import Units

log = structlog.get_logger()

_ENDING = Problem(Code.SHUTTING_DOWN, "The daemon is shutting down; ask again when it is back.", {"retry_after": 1})


class Engine(Calls):
    """The daemon's state and the only thing that changes it. Implements ``face.Face`` and ``face.Leases``."""

    async def boot(self) -> None:
        """Loads configuration and record, reads systemd, adopts what runs. Starts no model before ``open``."""
        async with self._configuring:
            await self._boot()

    async def _boot(self) -> None:
        self._record, warning = self._out.store.load()
        self._chronicle.history = self._record.history
        if warning:
            self._warn("state-damaged", warning)
        try:
            catalog = self._out.source.load()
        except SparkError as error:
            # A broken configuration keeps nobody from asking what is wrong; no model is touched until it is mended.
            self._config_problem = error.problem
            catalog = Catalog()
        self._build(catalog)
        self._writer = self._spawn(self._serve(), "engine")
        with contextlib.suppress(SparkError):
            self._slot.house.look(await self._out.gauge.read(), self._now())
        if self._config_problem is None:
            await self._connect()
        await self.ping()
        self._spawn(self._watches.sample(self._observe), "sample")
        self._spawn(Strays(self._out, slot=lambda: self._slot, tell=self._say_stray).watch(), "strays")

    def open(self) -> None:
        """From here on models are started: the one that belongs in the slot first."""
        self._opened = True
        self._post(lambda: self._slot.open(self._now()))
        self._appraisals.all()

    async def ping(self) -> None:
        """Returns when the engine has handled everything that came before. SparkError when it handles nothing more."""
        await self._ask(lambda: (None, []))

    async def broken(self) -> None:
        """Returns when a bug has ended the engine: nothing is decided any more, the process has to end."""
        await self._broken.wait()

    def refrain(self) -> None:
        """Starts nothing any more, from the next turn on."""
        self._post(lambda: self._slot.shut_down(self._now()))

    async def shut_down(self) -> None:
        """Starts nothing any more, puts the record on disk, lets go of everything. No model is touched."""
        self.refrain()
        self._post(lambda: [fx.Save()])
        # A broken engine saves nothing: what it would write may be the very thing that broke it.
        with contextlib.suppress(SparkError):
            await self.ping()
        self._publisher.events.close()
        for deadline in self._timers.values():
            deadline.cancel()
        if self._wake:
            self._wake()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._saver.close()
        await self._out.inspector.close()
        self._promises.end(_ENDING)
        await self._out.systemd.close()

    def listen(self, listener: Callable[[Snapshot], None]) -> None:
        """Calls back with every new snapshot."""
        self._publisher.listeners.append(listener)

    def listen_ended(self, listener: Callable[[Switch], None]) -> None:
        """Calls back with every switch that has ended."""
        self._publisher.ended_listeners.append(listener)

    async def reload(self) -> None:
        """See ``Face``."""
        async with self._configuring:
            try:
                catalog = await asyncio.to_thread(self._out.source.load)
            except SparkError as error:
                raise SparkError(replace(error.problem, http_status=422)) from error
            if await self._ask(lambda: self._take(catalog)):
                await self._connect()
                if self._opened:
                    self.open()
            await self.ping()
        self._appraisals.all()
        log.info(f"configuration read: {len(catalog.models)} model{'' if len(catalog.models) == 1 else 's'}")

    def _take(self, catalog: Catalog) -> tuple[bool, fx.Effects]:
        """A good configuration; True when it is the first one and systemd has to be read."""
        if self._config_problem is None:
            return False, self._slot.configure(catalog, self._now())
        self._config_problem = None
        self._build(catalog)
        return True, []

    def _build(self, catalog: Catalog) -> None:
        self._slot = Slot(catalog, self._record, self._now(), new_id=self._new_id)
        self._slot.planner.held = bool(self._boot_id) and self._record.held_boot == self._boot_id
        if self._record.boot and self._record.boot != self._boot_id:
            self._slot.machine_went_down(self._now())
        self._units = Units(self._slot, self._out.systemd, escaped=self._out.remains.escaped)

    async def _connect(self) -> None:
        await self._out.systemd.connect(self._on_bus, self._units.names())

    def _on_bus(self, report: ports.BusReport) -> None:
        self._post(lambda: self._units.report(report, self._now()))

    # The writer.

    async def _serve(self) -> None:
        while True:
            handler = await self._queue.get()
            before = self._slot.switch
            effects = handler()
            # First: while the disk is waited for, a switch that ended is in the history, as it will be in the record.
            for effect in sorted(effects, key=lambda effect: not isinstance(effect, fx.Ended)):
                await self._run(effect)
            self._tidy()
            self._tell(before)
            self._publish()
            # What an answer speaks of is on disk, and in the snapshot, when the caller has it.
            answers, self._told_when_done = self._told_when_done, []
            for answer in answers:
                answer()
            self._chronicle.tell()

    def _publish(self) -> None:
        warnings = tuple(self._warnings.values())
        snapshot = snapshot_of(
            self._slot,
            warnings=warnings,
            config_problem=self._config_problem,
            progress=self._loading.progress,
            outlook=self._loading.outlook(self._slot.switch, self._chronicle.history, self._now()),
        )
        self._publisher.publish(snapshot)

    def _tidy(self) -> None:
        """Ends what is over, reads the log of what fell, and watches the units the catalog names now."""
        self._watches.tidy()
        self._disarm()
        self._postmortem.follow()
        self._loading.follow()
        self._units.follow()

    def _tell(self, before: Switch | None) -> None:
        """The log's line for each phase of a switch."""
        after = self._slot.switch
        if after is None or (before and before.id == after.id and before.phase is after.phase):
            return
        log.info(
            f"switch to {after.model or 'nothing'}: {after.phase}",
            model=after.model or "",
            switch_id=after.id,
            requested_by=str(after.requested_by),
            actor=after.actor or "",
        )
