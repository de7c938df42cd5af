"""What a route is, and how a request finds its own. One table of routes drives both the server and the spec."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from msgspec import Struct, field

from spark_modeld.control.call import Call
from spark_modeld.core.errors import Code, SparkError, refuse

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Query(Struct, frozen=True, kw_only=True):
    """One query parameter; ``schema`` is JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, Any]


class Answer(Struct, frozen=True, kw_only=True):
    """One answer that is no problem: the Struct in its body, or ``media`` for a body that is not JSON.

    ``stream`` is the media type in which it comes instead where the query asks for one that goes on.
    """

    description: str
    body: type | None = None
    media: str = "application/json"
    stream: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Route(Struct, frozen=True, kw_only=True):
    """One call of the API. ``{name}`` in ``path`` is one segment; ``problems`` are those that only this call has.

    ``anyone`` needs no token; ``gate`` is for systemd's own units, on the unix socket alone.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    problems: tuple[Code, ...] = ()
    query: tuple[Query, ...] = ()
    body: type | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    anyone: bool = False
    gate: bool = False


class Router:
    """Finds routes by method and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_shape: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in routes:
            self._by_shape.setdefault(tuple(route.path.split("/")[1:]), {})[route.method] = route

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route and the values of its path. SparkError ``invalid-request``, ``not-found``, ``method-not-allowed``.

        HEAD finds the route of GET.
        """
        segments = [decode(segment, "path") for segment in raw_path.split("/")[1:]]
        for shape, methods in self._by_shape.items():
            values = _match(shape, segments)
            if values is None:
                continue
            route = methods.get("GET" if method == "HEAD" else method)
            if route is None:
                raise _wrong_method(method, methods)
            return route, values
        raise refuse(Code.NOT_FOUND, "There is nothing here. GET /openapi.json lists every path.")


def decode(text: str, where: str) -> str:
    """Percent-decodes. SparkError ``invalid-request`` for a broken escape or one that is no UTF-8."""
    try:
        if _BAD_ESCAPE.search(text):
            raise ValueError("'%' without two hexadecimal digits")
        return unquote(text, errors="strict")
    except ValueError as error:
        raise refuse(Code.INVALID_REQUEST, f"The {where} has a broken percent-encoding: {error}.") from error


def _match(shape: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    if len(shape) != len(segments):
        return None
    values = {}
    for expected, segment in zip(shape, segments, strict=True):
        if expected.startswith("{"):
            values[expected[1:-1]] = segment
        elif expected != segment:
            return None
    return values


def _wrong_method(method: str, methods: Mapping[str, Route]) -> SparkError:
    allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
    return refuse(
        Code.METHOD_NOT_ALLOWED, f"{method} is not possible here. Possible: {', '.join(allowed)}.", allow=allowed
    )
