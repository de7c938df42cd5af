"""The whole configuration, as everybody reads it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field

from spark_modeld.core.model import Model
from spark_modeld.core.settings import Settings


class Catalog(Struct, frozen=True):
    """The whole configuration: settings and every model, by id."""

    settings: Settings = Settings()
    models: Mapping[str, Model] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, name: str) -> Model | None:
        """The model with this id, alias or served name; None if there is none."""
        if name in self.models:
            return self.models[name]
        return next((m for m in self.models.values() if name in m.names), None)
