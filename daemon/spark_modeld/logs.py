"""Where log lines go: with fields to the journal under systemd, readable to stderr otherwise."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_JOURNAL = "/run/systemd/journal/socket"
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
_FIELD_LIMIT = 16 * 1024


def set_up(level: str) -> None:
    """Sends every line from ``level`` up to the journal when stderr is the journal, else to stderr."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    processors: list[Any] = [structlog.processors.add_log_level]
    factory: Any
    if _stderr_is_journal():
        processors += [structlog.processors.format_exc_info, _as_fields]
        factory = _Journal
    else:
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        processors += [stamp, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    _Quick.wanted = threshold <= logging.INFO
    _Quick.journal = _Journal() if factory is _Journal else None
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )


def line(message: str, fields: Mapping[str, str]) -> None:
    """What ``info`` does, for lines that come by the thousand: nothing of structlog's on the way to the journal."""
    if not _Quick.wanted:
        return
    if _Quick.journal is not None:
        said = "\n".join([f"{key.upper()}={value}" for key, value in fields.items()])
        text = f"MESSAGE={message}\nPRIORITY=6\nSYSLOG_IDENTIFIER=spark-modeld\n{said}\n"
        if text.count("\n") == len(fields) + 3:
            _Quick.journal.info(text.encode(errors="replace"))
            return
    structlog.get_logger().info(message, **fields)


def _stderr_is_journal() -> bool:
    """systemd tells the device and inode of the stream it connected to the journal."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        mine = os.fstat(2)
    except OSError:
        return False
    return named == f"{mine.st_dev}:{mine.st_ino}"


def _as_fields(_logger: object, _name: str, event: MutableMapping[str, Any]) -> tuple[tuple[bytes], dict[str, Any]]:
    """The journal's native protocol: ``KEY=value`` lines, values with newlines with their length before them."""
    message = str(event.pop("event", ""))
    priority = _PRIORITY.get(str(event.pop("level", "info")), 6)
    trace = event.pop("exception", None)
    fields = {"MESSAGE": f"{message}\n{trace}" if trace else message, "PRIORITY": str(priority)}
    fields |= {key.upper(): text for key, value in event.items() if value is not None and (text := str(value))}
    fields["SYSLOG_IDENTIFIER"] = "spark-modeld"
    return (b"".join(_field(key, value) for key, value in fields.items()),), {}


def _field(key: str, value: str) -> bytes:
    raw = value.encode(errors="replace")[:_FIELD_LIMIT]
    if b"\n" not in raw:
        return key.encode() + b"=" + raw + b"\n"
    return key.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"


def _message(datagram: bytes) -> bytes:
    """What ``_as_fields`` put first, the message, with a newline at its end."""
    if datagram.startswith(b"MESSAGE="):
        return datagram.removeprefix(b"MESSAGE=").split(b"\n", 1)[0] + b"\n"
    start = len(b"MESSAGE\n") + 8
    return datagram[start : start + int.from_bytes(datagram[start - 8 : start], "little")] + b"\n"


class _Journal:
    """One datagram a line. A journal that does not take it loses the line, never the daemon's time."""

    _socket: socket.socket | None = None

    def __init__(self, *_args: object) -> None:
        if _Journal._socket is None:
            _Journal._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            _Journal._socket.setblocking(False)

    def _send(self, datagram: bytes) -> None:
        sock = _Journal._socket
        assert sock is not None
        try:
            try:
                sock.send(datagram)
            except BlockingIOError:
                raise
            except OSError:
                # Not connected yet, or to a journal that was replaced; each line's own look for it costs as much again.
                sock.connect(_JOURNAL)
                sock.send(datagram)
        except OSError:
            # The journal is gone or full: stderr is its stream socket, which it reads when it is back.
            with contextlib.suppress(OSError):
                os.write(2, _message(datagram))

    debug = info = warning = error = exception = critical = msg = _send


class _Quick:
    """Where ``line`` goes."""

    wanted = True
    journal: _Journal | None = None
