"""A server of many models, as Ollama's API shows it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from spark_modeld.backends import late
from spark_modeld.backends.engine import listed
from spark_modeld.core.model import Model
from spark_modeld.core.reading import Loaded

_LIST_SECONDS = 2.0
_KEEP_SECONDS = 10.0
_NEVER_SECONDS = 10 * 365 * 86400.0


class OllamaServer:
    """ports.ModelServer over HTTP.

    ``read_key`` and ``http`` are those of ``Ladder``.
    """

    def __init__(
        self,
        read_key: Callable[[str], str],
        *,
        http: Callable[[], Awaitable[object]] = late.at_once,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._read_key = read_key
        self._http = http
        self._wall = wall

    async def loaded(self, model: Model) -> tuple[Loaded, ...] | None:
        """See ports.ModelServer."""
        await self._http()
        async with late.probe(model, self._read_key) as probe:
            answer = await probe.get("/api/ps", _LIST_SECONDS)
        entries = listed(answer.document(), "models") if answer.ok else None
        return None if entries is None else tuple(self._entry(model.unit, e) for e in entries if _name(e))

    async def pin(self, model: Model) -> None:
        """See ports.ModelServer."""
        await self._keep(model, -1)

    async def unload(self, model: Model) -> None:
        """See ports.ModelServer."""
        await self._keep(model, 0)

    async def _keep(self, model: Model, keep_alive: int) -> None:
        body = {"model": model.served_model_name, "keep_alive": keep_alive, "stream": False}
        async with late.probe(model, self._read_key) as probe:
            await probe.post("/api/generate", body, _KEEP_SECONDS)

    def _entry(self, unit: str, entry: dict[str, Any]) -> Loaded:
        return Loaded(
            unit=unit,
            name=_name(entry),
            bytes=_bytes(entry.get("size")),
            gpu_bytes=_bytes(entry.get("size_vram")),
            ends_in=self._ends_in(entry.get("expires_at")),
        )

    def _ends_in(self, expires_at: object) -> float | None:
        """Ollama writes "never" as an instant some centuries away."""
        try:
            at = datetime.fromisoformat(expires_at) if isinstance(expires_at, str) else None
        except ValueError:
            return None
        left = (at.replace(tzinfo=at.tzinfo or UTC).timestamp() - self._wall()) if at is not None else _NEVER_SECONDS
        return left if left < _NEVER_SECONDS else None


def _name(entry: dict[str, Any]) -> str:
    name = entry.get("model") or entry.get("name")
    return name if isinstance(name, str) else ""


def _bytes(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
