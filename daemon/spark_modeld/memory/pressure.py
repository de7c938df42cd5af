"""The kernel's pressure-stall trigger for memory: it wakes us when tasks were held up for want of memory.

https://docs.kernel.org/accounting/psi.html, "Monitoring for pressure thresholds". Without privileges the window has to
be a multiple of 2 s, so at most one wake-up comes in 2 s. Kernels without PSI, or with PSI switched off, are common:
whether it works is tried, never assumed.
"""

from __future__ import annotations

import asyncio
import os
import select

import structlog

log = structlog.get_logger()

_PATH = "/proc/pressure/memory"
_STALL_USEC = 150_000
_WINDOW_USEC = 2_000_000


class KernelPressure:
    """Implements ``ports.Pressure``. The trigger is armed by the first call, and let go of by ``close``."""

    def __init__(self, path: str = _PATH) -> None:
        self._path = path
        self._trigger: int | None = None
        self._epoll: select.epoll | None = None
        self._tried = False

    async def felt(self) -> None:
        """Returns when tasks were held up for 150 ms within 2 s; never where the kernel does not tell."""
        self._arm()
        epoll = self._epoll
        if epoll is None:
            await asyncio.Event().wait()
            return
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        # asyncio's own selectors know readable and writable only; an epoll is readable when anything happened in it.
        loop.add_reader(epoll.fileno(), lambda: None if told.done() else told.set_result(None))
        try:
            await told
        finally:
            loop.remove_reader(epoll.fileno())
        if any(events & select.EPOLLERR for _, events in epoll.poll(0)):
            log.info("the kernel tells no memory pressure any more; memory is looked at now and then")
            self.close()

    @property
    def armed(self) -> bool:
        """Whether the kernel took the trigger."""
        return self._epoll is not None

    def close(self) -> None:
        """Lets go of the trigger."""
        if self._epoll is not None:
            self._epoll.close()
        if self._trigger is not None:
            os.close(self._trigger)
        self._epoll, self._trigger = None, None

    def _arm(self) -> None:
        if self._tried:
            return
        self._tried = True
        try:
            self._trigger = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._trigger, b"some %d %d\0" % (_STALL_USEC, _WINDOW_USEC))
            self._epoll = select.epoll()
            self._epoll.register(self._trigger, select.EPOLLPRI)
        except OSError as error:
            log.info(f"the kernel tells no memory pressure ({error}); memory is looked at now and then")
            self.close()
