"""One daemon thread for calls that may hang for minutes, and that the event loop must be able to walk away from."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar, cast

T = TypeVar("T")


class LoneThread:
    """Runs one call at a time, always in the same thread. For use from one event loop.

    A call that is late is abandoned, not ended: until it returns by itself no other is begun, and no other thread
    either. So a wedged driver costs one thread, however often it is asked.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: asyncio.Future[Any] | None = None
        self._due = 0.0
        self._closed = False

    async def call(self, work: Callable[[], T], timeout: float) -> T:
        """What ``work`` returns or raises. It begins after this call, never before.

        TimeoutError when it took longer than ``timeout`` seconds, and at once while an earlier call is over its time.
        RuntimeError after ``close``.
        """
        if self._closed:
            raise RuntimeError(f"the thread {self._name} is closed")
        loop = asyncio.get_running_loop()
        while self._pending is not None and not self._pending.done():
            await self._wait(self._pending)
        future: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(_retrieve)
        self._pending, self._due = future, loop.time() + timeout
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(_job(work, future, loop))
        await self._wait(future)
        return future.result()

    async def close(self, farewell: Callable[[], None], timeout: float) -> bool:
        """Ends the thread after one last call; False for one that hangs: it ends when it comes back."""
        if not self._closed:
            if self._thread is not None:
                with suppress(TimeoutError):
                    await self.call(farewell, timeout)
            self._closed = True
            self._jobs.put(None)
        free = self._pending is None or self._pending.done()
        if self._thread is not None and free:
            self._thread.join()  # it has nothing left to do but to take the None
        return free

    async def _wait(self, future: asyncio.Future[Any]) -> None:
        """Waits for a call until it is due. The future is never cancelled: it says whether the thread is free."""
        due = self._due
        await asyncio.wait({future}, timeout=max(0.0, due - asyncio.get_running_loop().time()))
        if not future.done():
            raise TimeoutError(f"a call in the thread {self._name} is late")

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _job(work: Callable[[], T], future: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("T", result))
        else:
            future.set_exception(error)

    def job() -> None:
        result: T | None = None
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - the thread's boundary: it goes to the caller
            failed = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    return job


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Takes note of an exception, so that asyncio does not complain about a call that was abandoned."""
    if not future.cancelled():
        future.exception()
