"""The ways to an engine's HTTP for whoever is there before aiohttp, which the daemon's start does not wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from spark_modeld.backends.keys import key_of
from spark_modeld.core.model import Model

if TYPE_CHECKING:
    from spark_modeld.backends.probe import Probe


async def at_once() -> None:
    """When aiohttp may be imported, where nobody minds."""


def probe(model: Model, read_key: Callable[[str], str]) -> Probe:
    """A probe of the model's engine; the first one imports aiohttp. ``read_key`` is that of ``key_of``."""
    from spark_modeld.backends.probe import Probe  # noqa: PLC0415

    return Probe(model.url, key_of(model, read_key)[0])
