"""The composition root: the only place that sees everything."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog

from spark_modeld import __version__, arguments, logs, paths, tailnet
from spark_modeld.backends.ladder import Ladder
from spark_modeld.backends.model_server import OllamaServer
from spark_modeld.backends.vitals import EngineVitals
from spark_modeld.clock import SystemClock
from spark_modeld.config.load import ConfigDirectory
from spark_modeld.config.tokens import TokenStore
from spark_modeld.core.errors import SparkError
from spark_modeld.core.footprint import Checkpoint
from spark_modeld.counting import Counting
from spark_modeld.engine import Engine
from spark_modeld.face import Snapshot
from spark_modeld.inspection import Eyes, HostInspector
from spark_modeld.memory.attribution import Owners
from spark_modeld.memory.containers import Containers
from spark_modeld.memory.gauge import NvmlGauge
from spark_modeld.memory.lone_thread import LoneThread
from spark_modeld.memory.pressure import KernelPressure
from spark_modeld.metrics import Metrics
from spark_modeld.ports import Outside
from spark_modeld.remains import Brands, HostRemains
from spark_modeld.state import StateFile
from spark_modeld.status_line import StatusLine
from spark_modeld.systemd import notify, sockets
from spark_modeld.systemd.journal import Journalctl
from spark_modeld.systemd.manager import Manager
from spark_modeld.systemd.marks import Marks
from spark_modeld.whereabouts import Whereabouts

if TYPE_CHECKING:
    from spark_modeld.checkpoint import Stamp
    from spark_modeld.control.server import Kind, Runner
    from spark_modeld.gateway.doors import Doors
    from spark_modeld.gateway.server import Gateway

log = structlog.get_logger()

OPERATORS_GROUP = "spark-modeld"
_EXTEND_USEC = 30_000_000
# Well within TimeoutStopSec=.
DRAIN_SECONDS = 60.0


def main(argv: list[str] | None = None) -> int:
    """``spark-modeld``: runs until SIGTERM. Exit status 0, or 1 with a line that says what is wrong."""
    options = arguments.parser().parse_args(argv)
    try:
        where = paths.find(user=options.user, config=options.config)
        logs.set_up("info")
        with asyncio.Runner(loop_factory=_faster_loop()) as runner:
            return runner.run(Daemon(where, user=options.user).run())
    except (OSError, ValueError, SparkError) as error:
        print(f"spark-modeld: {error}", file=sys.stderr)
        return 1


class Daemon:
    """The parts, put together, and their life between the first and the last signal."""

    def __init__(self, where: paths.Paths, *, user: bool) -> None:
        self._where = where
        self._user = user
        self._passed = sockets.passed()
        # Ladders wait for it: that of a model that is adopted would hold READY=1 up.
        self._aiohttp = asyncio.Event()
        systemd = Manager(user=user)
        clock = SystemClock()
        # The launchers are root's; beside a user's own systemd they run as that user.
        launcher = os.getuid() if user else 0
        self._containers = Containers(where.reports, owner=launcher)
        self._brands = Brands(where.reports, owner=launcher, user=user)
        self._gauge = NvmlGauge(
            clock,
            meminfo_path=os.environ.get("SPARK_MODELD_MEMINFO", "/proc/meminfo"),
            unit_of=systemd.unit_of,
            owners=self._owners,
            user=user,
        )
        self._pressure = KernelPressure()
        outside = Outside(
            pressure=self._pressure,
            systemd=systemd,
            gauge=self._gauge,
            remains=HostRemains(self._containers.of, self._brands, self._passed.diagnostics),
            prober=Ladder(_read_key, http=self._aiohttp.wait),
            vitals=EngineVitals(_read_key),
            server=OllamaServer(_read_key, http=self._bring_aiohttp),
            store=StateFile(where.state),
            marks=Marks(where.runtime),
            clock=clock,
            journal=Journalctl(user=user),
            inspector=HostInspector(Eyes(_read_checkpoint, _stamp, user=user), LoneThread),
            source=ConfigDirectory(where.config, passed=[_address(s) for s in self._passed.tcp]),
        )
        self._engine = Engine(outside, boot_id=_boot_id(), new_id=lambda: f"sw-{secrets.token_hex(5)}")
        self._metrics = Metrics()
        self._counting = Counting(self._metrics, lambda: self._engine.snapshot)
        self._whereabouts = Whereabouts(tailnet.look)
        self._log_level = "info"
        self._stop = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    def _owners(self) -> Owners:
        models = self._engine.snapshot.catalog.models
        brands = {brand.number: model for model in models if (brand := self._brands.of(models[model])) is not None}
        return Owners.of(models.values(), self._containers.of(models), brands)

    async def run(self) -> int:
        """From start to SIGTERM, or to a bug that ends the engine; the exit status. OSError if a bind fails."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._engine.listen(self._counting.see)
        self._engine.listen_ended(self._counting.ended)
        await asyncio.gather(self._engine.boot(), asyncio.to_thread(_import_gateway))
        self._follow_log_level(self._engine.snapshot)
        self._engine.listen(self._follow_log_level)
        gateway, doors = self._open_gateway()
        self._whereabouts.gateway = doors.addresses
        listeners = self._listeners()
        status_line = StatusLine(notify.status)
        self._engine.listen(status_line.follow)
        # Whoever connects from here on is answered. aiohttp is a third of the whole start: systemd, and what it has
        # waiting for this daemon, need not wait for that as well.
        notify.ready()
        status_line.follow(self._engine.snapshot)
        runner = await self._serve(listeners)
        if not self._stop.is_set():
            self._engine.open()
        watchdog = asyncio.create_task(self._feed_watchdog(), name="watchdog")
        log.info(f"spark-modeld {__version__} is ready")
        gc.freeze()
        gc.enable()
        stopped = await self._stopped()
        notify.stopping()
        notify.extend_timeout(_EXTEND_USEC)
        gateway.wind_up()
        self._engine.refrain()
        # Streams may go on for a while, and systemd wants to hear of us meanwhile.
        await asyncio.gather(runner.close(), gateway.close(DRAIN_SECONDS if stopped else 0.0))
        doors.close()
        watchdog.cancel()
        await asyncio.gather(watchdog, return_exceptions=True)
        await self._engine.shut_down()
        unhurt = await self._gauge.close()
        self._pressure.close()
        log.info("spark-modeld ends; models are left as they are")
        status = 0 if stopped else 1
        if not unhurt:
            _leave(status)
        return status

    async def _stopped(self) -> bool:
        """True when somebody stops the daemon, False when its engine is broken."""
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        broken = asyncio.create_task(self._engine.broken(), name="broken")
        done, pending = await asyncio.wait({stop, broken}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return broken not in done

    def _follow_log_level(self, snapshot: Snapshot) -> None:
        if snapshot.catalog.settings.log.level != self._log_level:
            self._log_level = snapshot.catalog.settings.log.level
            logs.set_up(self._log_level)

    async def _serve(self, listeners: list[tuple[socket.socket, Kind]]) -> Runner:
        await self._bring_aiohttp()
        from spark_modeld.control.server import serve  # noqa: PLC0415 - imported by ``_import_aiohttp``

        self._whereabouts.serve_control(listeners)
        return await serve(
            self._engine,
            listeners,
            tokens=TokenStore(self._where.tokens),
            version=__version__,
            # A user's own systemd runs the gates as that user.
            gate_uid=os.getuid() if self._user else 0,
            metrics=self._metrics,
            whereabouts=self._whereabouts,
        )

    async def _bring_aiohttp(self) -> None:
        """Now: without it nobody knows what a server of many models holds, and READY=1 has to wait for that."""
        if not self._aiohttp.is_set():
            await asyncio.to_thread(_import_aiohttp)
            self._aiohttp.set()

    def _open_gateway(self) -> tuple[Gateway, Doors]:
        from spark_modeld.gateway.doors import Doors  # noqa: PLC0415 - imported by ``_import_gateway``
        from spark_modeld.gateway.record import line  # noqa: PLC0415
        from spark_modeld.gateway.server import Gateway  # noqa: PLC0415

        tokens = TokenStore(self._where.tokens)
        gateway = Gateway(self._engine, tokens, self._metrics, recorder=lambda record: logs.line(*line(record)))
        gateway.follow(self._engine.snapshot)
        self._engine.listen(gateway.follow)
        passed = self._passed
        doors = Doors(gateway, sockets.bind_early, passed=passed.gateway, ports=passed.ports)
        doors.follow(self._engine.snapshot)
        self._engine.listen(doors.follow)
        return gateway, doors

    def _listeners(self) -> list[tuple[socket.socket, Kind]]:
        """The sockets systemd passed; started by hand, our own."""
        passed = self._passed
        if passed.control or passed.http:
            return [*((s, "unix") for s in passed.control), *((s, "tcp") for s in passed.http)]
        self._where.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
        group = None if self._user or os.geteuid() != 0 else OPERATORS_GROUP
        unix = sockets.bind_unix(self._where.control_socket, mode=0o660, group=group)
        listen = self._engine.snapshot.catalog.settings.control.listen
        return [(unix, "unix"), *((sockets.bind_tcp(address), "tcp") for address in listen)]

    def _on_hangup(self) -> None:
        task = asyncio.create_task(self._reload(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        notify.reloading()
        try:
            await self._engine.reload()
        except SparkError as error:
            log.error(f"the configuration was not taken: {error.problem.detail}")
        notify.ready()

    async def _feed_watchdog(self) -> None:
        """Only an engine that still takes its turns keeps the daemon alive."""
        interval = notify.watchdog_interval()
        if interval is None:
            return
        while True:
            await self._engine.ping()
            notify.watchdog()
            await asyncio.sleep(interval / 2)


def _faster_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is one: the gateway needs a fifth less of a processor with it."""
    try:
        new: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return new


def _read_key(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _read_checkpoint(path: str) -> Checkpoint:
    from spark_modeld import checkpoint  # noqa: PLC0415 - the daemon's start does not wait for it

    return checkpoint.read(path)


def _stamp(path: str) -> Stamp:
    from spark_modeld import checkpoint  # noqa: PLC0415

    return checkpoint.stamp(path)


def _leave(status: int) -> NoReturn:
    """Ends the process at once. All is saved; a driver's library that hangs would clean up, and hang the exit too."""
    log.warning("what hangs is left behind")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _import_gateway() -> None:
    """What the gateway needs, while systemd answers."""
    for name in ("gateway.server", "gateway.doors"):
        import_module(f"spark_modeld.{name}")


def _import_aiohttp() -> None:
    """Everything that needs it, ``lean`` first."""
    for name in ("lean", "control.server", "backends.climb"):
        import_module(f"spark_modeld.{name}")


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
