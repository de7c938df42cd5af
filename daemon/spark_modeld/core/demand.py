"""Demands: the gateway's requests that wait for a model, in the order in which they came."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from spark_modeld.core.instant import Instant


class Demand(Struct, frozen=True):
    """One request that waits for ``model``, known to the engine as ``ask``.

    ``able``: a start or a switch may be made for it. Others only wait for what is coming up anyway.
    """

    ask: int
    model: str
    since: Instant
    able: bool
    actor: str | None


class Demands:
    """Everybody who waits. Asks are numbered upwards, so the lowest has waited longest."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[int, Demand]] = {}
        self._model_of: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._model_of)

    def add(self, demand: Demand) -> None:
        """One more waits."""
        self._waiting.setdefault(demand.model, {})[demand.ask] = demand
        self._model_of[demand.ask] = demand.model

    def leave(self, ask: int) -> None:
        """This one waits no longer; nothing happens if it did not."""
        model = self._model_of.pop(ask, None)
        if model is not None:
            del self._waiting[model][ask]
            if not self._waiting[model]:
                del self._waiting[model]

    def take(self, model: str) -> tuple[Demand, ...]:
        """All that wait for this model, the first to come first; they wait no longer."""
        taken = tuple(self._waiting.pop(model, {}).values())
        for demand in taken:
            del self._model_of[demand.ask]
        return taken

    def models(self) -> tuple[str, ...]:
        """The models waited for, the one waited for longest first."""
        return tuple(sorted(self._waiting, key=lambda m: next(iter(self._waiting[m]))))

    def of(self, model: str) -> tuple[Demand, ...]:
        """All that wait for this model, the first to come first."""
        return tuple(self._waiting.get(model, {}).values())

    def first(self, model: str) -> Demand | None:
        """Who has waited longest for this model, of those that a start may be made for."""
        return next((d for d in self._waiting.get(model, {}).values() if d.able), None)

    def heads(self) -> Iterator[Demand]:
        """The first of each model, the longest wait first."""
        firsts = (self.first(model) for model in self._waiting)
        return iter(sorted((d for d in firsts if d is not None), key=lambda d: d.ask))
