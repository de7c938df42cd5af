"""What systemd wants to hear from a Type=notify service (sd_notify(3)). Never blocks, never raises.

The functions speak for this process, to the manager that its environment names.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import MutableMapping

import structlog

log = structlog.get_logger(__name__)


class Notify:
    """Speaks to the manager that started this process; does nothing if none did."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Takes the variables out of ``environ``, so that no child believes they are for it."""
        environ = os.environ if environ is None else environ
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self._watchdog_usec = environ.pop("WATCHDOG_USEC", "")
        self._watchdog_pid = environ.pop("WATCHDOG_PID", "")
        self._status = ""

    def ready(self) -> None:
        """Start-up, or a reload, is done."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent only when it differs from the last one."""
        line = " ".join(text.split())
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Shutting down."""
        self._send("STOPPING=1")

    def extend_timeout(self, usec: int) -> None:
        """Starting, or stopping, may take another ``usec`` microseconds from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={usec}")

    def watchdog(self) -> None:
        """Still alive."""
        self._send("WATCHDOG=1")

    def watchdog_interval(self) -> float | None:
        """Seconds within which systemd wants ``watchdog``; feed it at half of that. None: it does not watch us."""
        usec = self._watchdog_usec
        if self._watchdog_pid not in ("", str(os.getpid())) or not (usec.isascii() and usec.isdigit()):
            return None
        return int(usec) / 1e6 or None

    def _send(self, message: str) -> bool:
        if not self._address.startswith(("/", "@")):
            return False
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(message.encode(), address)
        except OSError as error:
            log.debug("systemd was not told", message=message, reason=str(error))
            return False
        return True


@functools.cache
def _process() -> Notify:
    return Notify()


def ready() -> None:
    """Start-up, or a reload, is done."""
    _process().ready()


def status(text: str) -> None:
    """One line for ``systemctl status``."""
    _process().status(text)


def reloading() -> None:
    """A reload begins; ``ready`` ends it."""
    _process().reloading()


def stopping() -> None:
    """Shutting down."""
    _process().stopping()


def extend_timeout(usec: int) -> None:
    """Starting, or stopping, may take another ``usec`` microseconds from now."""
    _process().extend_timeout(usec)


def watchdog() -> None:
    """Still alive."""
    _process().watchdog()


def watchdog_interval() -> float | None:
    """Seconds within which systemd wants ``watchdog``, None if it does not watch us."""
    return _process().watchdog_interval()
