"""The readiness ladder: connection, health, name, first answer. A rung once passed is not looked at again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from spark_modeld.backends import engine_of, late
from spark_modeld.backends.keys import key_of
from spark_modeld.backends.pace import pause
from spark_modeld.core.errors import SparkError
from spark_modeld.core.model import Model
from spark_modeld.ports import LadderPassed, LadderRefused

if TYPE_CHECKING:
    from spark_modeld.backends.climb import Attempt, Sleep


class Ladder:
    """ports.Prober over HTTP.

    ``read_key`` reads the file a model's ``api_key_file`` names: the key, or OSError. ``http`` is awaited before the
    first request: it returns when aiohttp may be imported, or was.
    """

    def __init__(
        self,
        read_key: Callable[[str], str],
        *,
        http: Callable[[], Awaitable[object]] = late.at_once,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._read_key = read_key
        self._http = http
        self._monotonic = monotonic
        self._sleep = sleep

    async def climb(self, model: Model, rung: Callable[[str], None]) -> LadderPassed | LadderRefused:
        """See ports.Prober. Nothing is left open when it returns or is cancelled."""
        await self._http()
        from spark_modeld.backends.climb import Climb  # noqa: PLC0415
        from spark_modeld.backends.probe import Probe  # noqa: PLC0415

        key, trouble = key_of(model, self._read_key)
        async with Probe(model.url, key) as probe:
            climb = Climb(
                model,
                engine_of(model.engine),
                probe,
                rung=rung,
                key_trouble=trouble,
                sleep=self._sleep,
                monotonic=self._monotonic,
            )
            try:
                for name, attempt, works in climb.rungs():
                    await self._until(name, attempt, climb.tell, works=works)
            except SparkError as error:
                return LadderRefused(error.problem)
        return LadderPassed()

    async def _until(self, name: str, attempt: Attempt, tell: Callable[[str], None], *, works: bool) -> None:
        tell(name)
        began = self._monotonic()
        while (obstacle := await attempt()) is not None:
            tell(f"{name}: {obstacle}" if obstacle else name)
            await self._sleep(pause(self._monotonic() - began, works=works))
