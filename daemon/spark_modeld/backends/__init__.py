"""Engines as seen from outside: how each kind tells that it is ready."""

from __future__ import annotations

from importlib import import_module

from spark_modeld.backends.engine import Engine
from spark_modeld.core.model import EngineKind


def engine_of(kind: EngineKind) -> Engine:
    """The description of this kind of engine; its file is read when a model first needs it."""
    engine = import_module(f"{__name__}.{kind.value.replace('-', '_')}").ENGINE
    assert isinstance(engine, Engine)
    return engine
