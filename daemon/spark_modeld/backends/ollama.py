"""Ollama. One server, many models: ready means that ``/api/ps`` lists the model.

The load asks with ``keep_alive`` -1, or Ollama drops the model again after five idle minutes. A request without one
leaves the model's as it is. A model's name is its tag; none means ``:latest``.
"""

from __future__ import annotations

from spark_modeld.backends.engine import Engine, Request, listed
from spark_modeld.core.model import EngineKind


def _names(document: object) -> frozenset[str] | None:
    entries = listed(document, "models")
    if entries is None:
        return None
    full = {name for entry in entries for name in (entry.get("name"), entry.get("model")) if isinstance(name, str)}
    return frozenset(full | {name.removesuffix(":latest") for name in full})


def _done(document: object) -> bool:
    return isinstance(document, dict) and document.get("done") is True


ENGINE = Engine(
    kind=EngineKind.OLLAMA,
    health_path="/api/version",
    names_path="/api/ps",
    alive_path="/api/ps",
    names=_names,
    name_set_by="ollama cp",
    load=Request("/api/generate", lambda name: {"model": name, "keep_alive": -1, "stream": False}, _done),
    generations=(
        Request(
            "/api/generate",
            lambda name: {
                "model": name,
                "prompt": "Hi",
                "options": {"num_predict": 1},
                "stream": False,
            },
            _done,
        ),
    ),
)
