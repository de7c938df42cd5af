"""The catalog as the gateway needs it: models by any name and by port, ready when a request comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.model import RESERVED_NAMES, EngineKind, Model
from spark_modeld.core.unit import Phase
from spark_modeld.face import Snapshot
from spark_modeld.gateway.access import Visitor
from spark_modeld.gateway.refusals import Refused, refused
from spark_modeld.gateway.upstream import Origin


class Directory:
    """One catalog's models."""

    __slots__ = ("_by_name", "_by_port", "_origins", "catalog")

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        models = catalog.models.values()
        self._by_name = {name: model for model in models for name in model.names}
        self._by_port = {model.gateway_port: model for model in models if model.gateway_port is not None}
        self._origins: dict[str, Origin] = {}

    def find(self, name: str | None) -> Model | None:
        """The model that is meant, None for the occupant. ``Refused``: 404."""
        if name is None or name in RESERVED_NAMES:
            return None
        model = self._by_name.get(name)
        if model is None:
            raise unknown(name)
        return model

    def at_port(self, port: int) -> Model:
        """The model whose port this is. ``Refused``: 404."""
        model = self._by_port.get(port)
        if model is None:
            raise refused(404, "model_not_found", f"No model has the gateway port {port}.")
        return model

    @property
    def ports(self) -> frozenset[int]:
        """The ports of their own that models have."""
        return frozenset(self._by_port)

    def origin(self, model: Model) -> Origin:
        """Where a model's engine listens."""
        origin = self._origins.get(model.url)
        if origin is None:
            origin = self._origins[model.url] = Origin.of(model.url, spare=model.engine is EngineKind.LLAMA_SERVER)
        return origin


def unknown(name: str) -> Refused:
    """There is no such model, or not for this caller."""
    return refused(404, "model_not_found", f"The model {name[:128]!r} does not exist.", param="model")


def listing(snapshot: Snapshot, visitor: Visitor, only: Model | None = None) -> list[dict[str, Any]]:
    """The models a caller may use, as ``/v1/models`` lists them: the occupant first, then others that serve."""
    models = [only] if only is not None else list(snapshot.catalog.models.values())
    shown = [model for model in models if visitor.may_use(model)]
    return [entry(model, snapshot) for model in sorted(shown, key=lambda model: _rank(model, snapshot))]


def entry(model: Model, snapshot: Snapshot) -> dict[str, Any]:
    """One model in OpenAI's shape, and what we know beside."""
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "spark-modeld",
        "aliases": sorted(_others(model)),
        "state": str(_phase(model, snapshot) or Phase.STOPPED),
    }


def _others(model: Model) -> Iterator[str]:
    return (name for name in model.names if name != model.id)


def _phase(model: Model, snapshot: Snapshot) -> Phase | None:
    state = snapshot.models.get(model.id)
    return state.phase if state is not None else None


def _rank(model: Model, snapshot: Snapshot) -> tuple[bool, bool, str]:
    serves = _phase(model, snapshot) is Phase.SERVING
    return (not (serves and model.id == snapshot.slot_model), not serves, model.id)
