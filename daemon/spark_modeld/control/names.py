"""Finding models for callers, and helping those who mistyped."""

from __future__ import annotations

import difflib

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.errors import Code, Problem, SparkError, refuse
from spark_modeld.core.model import MODEL_ID
from spark_modeld.face import ModelState, Snapshot

_SHOWN = 80


def nearest(name: str, catalog: Catalog) -> list[str]:
    """The models whose names look most like this one, best first: ids, which are good everywhere."""
    ids = {known.lower(): model.id for model in catalog.models.values() for known in model.names}
    hits = difflib.get_close_matches(name[:_SHOWN].lower(), ids, n=6, cutoff=0.5)
    return list(dict.fromkeys(ids[hit] for hit in hits))[:3]


def unknown_model(name: str, catalog: Catalog) -> SparkError:
    """``unknown-model``, with the ids of the nearest."""
    near = nearest(name, catalog)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    elif catalog.models:
        hint = "GET /api/models lists what there is."
    else:
        hint = "The catalog is empty: put a file into models.d/ and reload."
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return refuse(Code.UNKNOWN_MODEL, f"There is no model {shown!r}. {hint}", model=shown, nearest=near)


def with_nearest(error: SparkError, name: str | None, catalog: Catalog) -> SparkError:
    """The same refusal, with the nearest names where it is about a model that does not exist."""
    problem: Problem = error.problem
    if problem.code is not Code.UNKNOWN_MODEL or "nearest" in problem.extra or name is None:
        return error
    return unknown_model(name, catalog)


def by_id(model_id: str, snapshot: Snapshot) -> ModelState:
    """The model with this id (paths take no aliases). SparkError ``unknown-model`` or ``invalid-config``."""
    if snapshot.config_problem is not None and not snapshot.models:
        raise SparkError(snapshot.config_problem)
    state = snapshot.models.get(model_id)
    if state is None or not MODEL_ID.fullmatch(model_id):
        raise unknown_model(model_id, snapshot.catalog)
    return state
