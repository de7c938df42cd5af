"""Which path means what."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote

from msgspec import Struct

from spark_modeld.gateway.refusals import Refusal, Refused, refused


class Kind(StrEnum):
    """What a request is for."""

    HEALTH = "health"
    MODELS = "models"
    MODEL = "model"
    INFERENCE = "inference"
    ADMIN = "engine-admin"


class Route(Struct, frozen=True):
    """What a request is for; ``name`` is the model that ``MODEL`` asks about, ``path`` has no query.

    ``inner`` is the path as engines know it: with ``/v1``, whether or not the client's base URL had it. vLLM and SGLang
    know no inference path without it; llama-server has other ones there, in a format of its own. Only ``tokenize`` is
    bare everywhere.
    """

    kind: Kind
    path: str
    inner: str
    name: str = ""


_EXACT = frozenset(
    {"chat/completions", "completions", "embeddings", "responses", "messages", "rerank", "score", "tokenize"}
)
_BELOW = ("audio/", "images/")
_READING = frozenset({"GET", "HEAD"})
# Two readers may take these for different paths: what is allowed here would be another thing at the engine.
_AMBIGUOUS = re.compile(r"//|\\|%2f|%5c|%2e|%00|(?:^|/)\.\.?(?:[/;]|$)|#", re.IGNORECASE)


@lru_cache(maxsize=256)
def find(method: str, path: str) -> Route:
    """What the request is for. ``Refused``: 400 for a path that could be read in two ways, 405."""
    if not path.startswith("/") or _AMBIGUOUS.search(path):
        raise refused(400, "invalid_path", "The path has to be plain: no dot segments, no encoded slashes or dots.")
    plain = path.removeprefix("/v1/") if path.startswith("/v1/") else path[1:]
    if plain in _EXACT:
        inner = "/tokenize" if plain == "tokenize" else f"/v1/{plain}"
        return _only(frozenset({"POST"}), method, Route(Kind.INFERENCE, path, inner))
    if plain.startswith(_BELOW):
        return _only(_READING | {"POST"}, method, Route(Kind.INFERENCE, path, f"/v1/{plain}"))
    if plain == "models":
        return _only(_READING, method, Route(Kind.MODELS, path, path))
    if path == "/health":
        return _only(_READING, method, Route(Kind.HEALTH, path, path))
    if plain.startswith("models/") and method in _READING:
        return Route(Kind.MODEL, path, path, unquote(plain.removeprefix("models/")))
    return Route(Kind.ADMIN, path, path)


def _only(methods: frozenset[str], method: str, route: Route) -> Route:
    if method in methods:
        return route
    allow = ", ".join(sorted(methods))
    message = f"This path takes {allow} only."
    raise Refused(Refusal(status=405, code="method_not_allowed", message=message, allow=allow))
