"""The real clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from spark_modeld.core.instant import Instant


class SystemClock:
    """Implements ``ports.Clock`` on the running event loop."""

    def now(self) -> Instant:
        """This moment."""
        return Instant(time.monotonic(), time.time())

    def call_at(self, at: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back at ``at`` (monotonic seconds); returns what cancels it."""
        handle = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), callback)
        return handle.cancel

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)
