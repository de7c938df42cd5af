"""What one kind of engine looks like from outside, as a value: paths, statuses, bodies. No code runs per engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from spark_modeld.core.model import EngineKind


class Request(Struct, frozen=True):
    """A POST that makes an engine work.

    ``body`` makes the JSON for a served model name; ``done`` says whether a 200's JSON document shows it was done.
    """

    path: str
    body: Callable[[str], dict[str, Any]]
    done: Callable[[object], bool]


class Engine(Struct, frozen=True, kw_only=True):
    """How an engine's readiness is told.

    ``loading`` are the statuses of ``health_path`` that only mean "not yet"; others are waited for too, but named.
    ``health_optional``: a server without that path (404, 405) is asked for its names next.
    ``names`` reads the served names out of the JSON document at ``names_path``; None means it is not such a list.
    ``names_optional``: an empty list is accepted, nothing can be compared then.
    ``load``: set where the server is one and the models many; asks it to load the model, and ``names_path`` lists
    what is loaded. ``generations`` are tried in order until the engine has one of them.
    ``name_set_by`` is the option or variable that gives a model its served name, ``key_set_by`` that of its API key.
    While it serves, ``alive_path`` is asked instead of ``health_path`` where that costs the engine something; ``marks``
    are paths and what reads, out of a body, that which changes as the engine generates (the first that has it).
    """

    kind: EngineKind
    health_path: str = "/health"
    health_optional: bool = False
    loading: frozenset[int] = frozenset({503})
    names_path: str = "/v1/models"
    names: Callable[[object], frozenset[str] | None]
    names_optional: bool = False
    load: Request | None = None
    generations: tuple[Request, ...]
    alive_path: str | None = None
    name_set_by: str = ""
    key_set_by: str = ""
    marks: tuple[tuple[str, Callable[[bytes], str | None]], ...] = ()


def listed(document: object, member: str) -> list[dict[str, Any]] | None:
    """The objects in the list ``document[member]``; None if the document has no such list."""
    entries = document.get(member) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return None
    return [entry for entry in entries if isinstance(entry, dict)]


def openai_names(document: object) -> frozenset[str] | None:
    """The names in an OpenAI model list, with the aliases that llama-server adds."""
    entries = listed(document, "data")
    if entries is None:
        return None
    names: set[str] = set()
    for entry in entries:
        aliases = entry.get("aliases")
        candidates = [entry.get("id"), *(aliases if isinstance(aliases, list) else [])]
        names.update(name for name in candidates if isinstance(name, str))
    return frozenset(names)


def _chosen(document: object) -> bool:
    return bool(listed(document, "choices"))


CHAT = Request(
    "/v1/chat/completions",
    lambda name: {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": False},
    _chosen,
)
COMPLETION = Request(
    "/v1/completions",
    lambda name: {"model": name, "prompt": "Hi", "max_tokens": 1, "stream": False},
    _chosen,
)
OPENAI_GENERATIONS = (CHAT, COMPLETION)
