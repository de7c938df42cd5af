"""The one thread in which every object of GLib lives, and a private bus connection inside it.

No other module imports ``gi``. Signals and replies are dispatched in the main context that was the
thread's default when they were asked for: one thread with its own context sees both in the order in
which the bus delivered them. The process's default context, and with it ``GLib.idle_add``, is never used.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pydbus  # gives every Gio.DBusConnection its .pydbus
import structlog
from gi.repository import Gio, GLib
from msgspec import Struct

log = structlog.get_logger(__name__)

PROPERTIES = "org.freedesktop.DBus.Properties"

_MAX_REPLY_SECONDS = 2**31 // 1000 - 1


class BusError(Struct, frozen=True):
    """Why a call failed. ``name`` is the D-Bus error's name, None when nothing came back (timeout, closed)."""

    name: str | None
    message: str


class Call(Struct, frozen=True):
    """A method call: ``method`` is interface and member, dotted; ``signature`` that of all arguments, in brackets."""

    destination: str
    path: str
    method: str
    signature: str = "()"
    args: tuple[object, ...] = ()


Reply = tuple[Any, ...] | BusError
Done = Callable[[Reply], object]
Cancel = Callable[[], None]


class _Inbox(GLib.Source):  # type: ignore[misc]
    """Work posted from other threads. One source for all of it: PyGObject leaks 80 bytes with every idle source."""

    def __init__(self) -> None:
        super().__init__()
        self._work: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()
        self._lock = threading.Lock()  # between writing to the descriptor and closing it
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = GLib.PollFD(self._fd, GLib.IO_IN)
        self.add_poll(self._poll)

    def put(self, work: Callable[..., None], args: tuple[object, ...]) -> None:
        """May be called from any thread, and after ``close``, when it does nothing."""
        with self._lock:
            if self._fd >= 0:
                self._work.append((work, args))
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """In the source's own thread."""
        self.destroy()
        with self._lock:
            os.close(self._fd)
            self._fd = -1
            self._work.clear()

    def prepare(self) -> tuple[bool, int]:
        """GLib asks whether to dispatch without polling."""
        return False, -1

    def check(self) -> bool:
        """GLib asks after it has polled."""
        return bool(self._poll.revents & GLib.IO_IN)

    def dispatch(self, _callback: object, _args: object) -> bool:
        """Runs what was posted so far, in order."""
        os.eventfd_read(self._fd)
        while self._work and self._fd >= 0:
            work, args = self._work.popleft()
            guarded(work)(*args)
        return bool(GLib.SOURCE_CONTINUE) if self._fd >= 0 else bool(GLib.SOURCE_REMOVE)


class GLibThread:
    """A thread that runs a GLib main loop on a context of its own."""

    def __init__(self, name: str = "systemd-bus") -> None:
        self._context = GLib.MainContext.new()
        self._loop = GLib.MainLoop.new(self._context, False)
        self._inbox = _Inbox()
        self._inbox.attach(self._context)
        # A daemon: an exit that forgot stop() must not hang. PyGObject takes any thread named MainThread for the main.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread; work posted earlier runs first."""
        self._thread.start()

    def stop(self, then: Callable[[], object]) -> None:
        """Ends the thread after the work posted so far. ``then`` is the last thing it calls; see ``join``."""

        def quit_loop() -> None:
            self._inbox.close()
            self._loop.quit()
            then()

        self.post(quit_loop)

    def join(self) -> None:
        """Waits for the thread's end; after ``stop`` called its ``then`` that is a matter of microseconds."""
        self._thread.join()

    def post(self, work: Callable[..., None], *args: object) -> None:
        """Runs ``work`` in the thread. May be called from any thread; the order of calls is kept."""
        self._inbox.put(work, args)

    def later(self, seconds: float, work: Callable[..., None], *args: object) -> Cancel:
        """Runs ``work`` in the thread after ``seconds``; the result cancels it (and may be called twice)."""

        def once(*_: object) -> bool:
            guarded(work)(*args)
            return bool(GLib.SOURCE_REMOVE)

        source = GLib.timeout_source_new(max(0, round(seconds * 1000)))
        source.set_priority(GLib.PRIORITY_DEFAULT)
        source.set_callback(once)
        source.attach(self._context)
        cancel: Cancel = source.destroy
        return cancel

    def _run(self) -> None:
        self._context.push_thread_default()
        try:
            self._loop.run()
        finally:
            self._context.pop_thread_default()


def guarded(work: Callable[..., None]) -> Callable[..., None]:
    """``work`` for GLib to call: what it raises would vanish there, so it is logged here."""

    def call(*args: object) -> None:
        try:
            work(*args)
        except Exception:
            log.exception("callback failed", callback=getattr(work, "__qualname__", repr(work)))

    return call


class Link:
    """One private connection to a message bus. To be touched in its thread only."""

    def __init__(self, thread: GLibThread, connection: Any, timeout: float) -> None:
        self._thread = thread
        self._connection = connection
        self._timeout_ms = round(min(timeout, _MAX_REPLY_SECONDS) * 1000)
        self._closed: Callable[[str], None] | None = None
        self._undo: set[Cancel] = set()

    @staticmethod
    def open(
        thread: GLibThread,
        done: Callable[[Link | BusError], None],
        *,
        address: str | None,
        user: bool,
        timeout: float,
    ) -> Cancel:
        """Connects to ``address``, else to the user's or the system's bus. The result gives the attempt up."""
        cancellable = Gio.Cancellable.new()
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        # pydbus.connect() is the same call without a way out: a bus that accepts and never answers would hold the
        # thread for ever. And not pydbus.SystemBus(): its exit-on-close ends the process with the bus.
        overdue = thread.later(timeout, cancellable.cancel)

        def opened(_source: object, result: Any, *_: object) -> None:
            overdue()
            try:
                connection = Gio.DBusConnection.new_for_address_finish(result)
            except GLib.Error as error:
                done(_bus_error(error))
                return
            connection.set_exit_on_close(False)
            done(Link(thread, connection, timeout))

        try:
            kind = Gio.BusType.SESSION if user else Gio.BusType.SYSTEM
            where = address or Gio.dbus_address_get_for_bus_sync(kind, None)
            Gio.DBusConnection.new_for_address(where, flags, None, cancellable, guarded(opened))
        except GLib.Error as error:
            overdue()
            thread.post(done, _bus_error(error))
        cancel: Cancel = cancellable.cancel
        return cancel

    def on_closed(self, closed: Callable[[str], None]) -> None:
        """Calls ``closed`` with the reason when the other side, or the socket, is gone."""

        def handler(_connection: object, _vanished: bool, error: Any) -> None:
            self._tell_closed(_bus_error(error).message if error else "the connection was closed")

        self._closed = closed
        handler_id = self._connection.connect("closed", guarded(handler))
        self._undo.add(lambda: self._connection.disconnect(handler_id))

    def _tell_closed(self, reason: str) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed(reason)

    def call(self, call: Call, done: Done) -> None:
        """Sends the call without waiting; ``done`` gets the reply's values."""
        self._send(call, done, lambda reply: reply.unpack())

    def get_all(self, destination: str, path: str, names: tuple[str, ...], done: Done) -> None:
        """Reads the object's properties in one piece; ``done`` gets a 1-tuple of a dict of those named that exist.

        The empty interface name means every interface: two GetAll calls could straddle a change. Only the named
        values are unpacked, because a service has 300.
        """

        def pick(reply: Any) -> tuple[dict[str, Any]]:
            everything = reply.get_child_value(0)
            found = {name: everything.lookup_value(name, None) for name in names}
            return ({name: value.unpack() for name, value in found.items() if value is not None},)

        self._send(Call(destination, path, f"{PROPERTIES}.GetAll", "(s)", ("",)), done, pick)

    def _send(self, call: Call, done: Done, unpack: Callable[[Any], tuple[Any, ...]]) -> None:
        def finished(connection: Any, result: Any, *_: object) -> None:
            try:
                reply = connection.call_finish(result)
            except GLib.Error as error:
                failure = _bus_error(error)
                if failure.name is None and connection.is_closed():
                    # The loss is told before what it did to the calls under way.
                    self._tell_closed(failure.message)
                done(failure)
                return
            done(unpack(reply))

        interface, _, member = call.method.rpartition(".")
        self._connection.call(
            call.destination,
            call.path,
            interface,
            member,
            GLib.Variant(call.signature, call.args),
            None,
            Gio.DBusCallFlags.NO_AUTO_START,
            self._timeout_ms,
            None,
            guarded(finished),
        )

    def subscribe(
        self,
        sender: str,
        interface: str,
        signal: str,
        fired: Callable[..., None],
        *,
        path: str | None = None,
        arg0: str | None = None,
    ) -> Cancel:
        """Calls ``fired`` with the signal's values from now on; the result ends that.

        ``sender`` should be a unique name: anybody may send a signal that looks like systemd's.
        """

        def on_signal(_sender: str, _path: str, _interface: str, _signal: str, values: tuple[object, ...]) -> None:
            fired(*values)

        bus: pydbus.bus.Bus = self._connection.pydbus
        subscription = bus.subscribe(sender, interface, signal, path, arg0, 0, guarded(on_signal))

        def cancel() -> None:
            self._undo.discard(cancel)
            subscription.unsubscribe()  # may be called twice

        self._undo.add(cancel)
        return cancel

    def follow(self, sender: str, path: str, names: tuple[str, ...], changed: Callable[..., None]) -> Cancel:
        """Calls ``changed(interface, values, invalidated)`` at every PropertiesChanged of the object; undone like that.

        Only the named values are unpacked: a service's signal carries a hundred, and there are six to a switch.
        """

        def on_signal(_bus: object, _sender: str, _path: str, _interface: str, _signal: str, content: Any) -> None:
            everything = content.get_child_value(1)
            found = {name: everything.lookup_value(name, None) for name in names}
            values = {name: value.unpack() for name, value in found.items() if value is not None}
            changed(content.get_child_value(0).get_string(), values, content.get_child_value(2).unpack())

        flags = Gio.DBusSignalFlags.NONE
        numbers = [
            self._connection.signal_subscribe(
                sender, PROPERTIES, "PropertiesChanged", path, None, flags, guarded(on_signal)
            )
        ]

        def cancel() -> None:
            self._undo.discard(cancel)
            while numbers:  # may be called twice
                self._connection.signal_unsubscribe(numbers.pop())

        self._undo.add(cancel)
        return cancel

    def close(self, closed: Callable[[], None] | None = None) -> None:
        """Closes the connection; ``on_closed`` is not called. ``closed`` is, after a second at the latest."""
        self._closed = None
        # What GLib holds of our callbacks is freed by its loop, which must still run then.
        while self._undo:
            self._undo.pop()()
        cancellable = Gio.Cancellable.new()
        overdue = self._thread.later(1.0, cancellable.cancel)

        def finished(connection: Any, result: Any, *_: object) -> None:
            overdue()
            try:
                connection.close_finish(result)
            except GLib.Error as error:
                log.debug("bus connection did not close in order", reason=_bus_error(error).message)
            if closed is not None:
                closed()

        self._connection.close(cancellable, guarded(finished))


def _bus_error(error: Any) -> BusError:
    name = Gio.DBusError.get_remote_error(error)
    text = str(error.message).removeprefix(f"GDBus.Error:{name}: ")
    return BusError(name, text)
