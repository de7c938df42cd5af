"""Responses: every body of the API is JSON from one encoder, every error a problem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web

from spark_modeld.core.errors import Code, Problem

HEADERS: Mapping[str, str] = MappingProxyType({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
REALM = 'Bearer realm="spark-modeld"'


def _open(value: object) -> object:
    # A problem's extra members may be read-only mappings and sets, which msgspec does not know.
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


_ENCODER = msgspec.json.Encoder(enc_hook=_open)


def encode(value: object) -> bytes:
    """The JSON of a Struct, dataclass, enum, mapping or anything made of them."""
    return _ENCODER.encode(value)


def answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response."""
    return web.Response(
        body=encode(value), status=status, content_type="application/json", headers={**HEADERS, **(headers or {})}
    )


def nothing() -> web.Response:
    """204."""
    return web.Response(status=204, headers=HEADERS)


def refusal(problem: Problem, *, headers: Mapping[str, str] | None = None, **members: Any) -> web.Response:
    """A problem as ``application/problem+json``; ``members`` are added to it."""
    merged = {**HEADERS, **(headers or {})}
    retry_after = problem.extra.get("retry_after")
    if problem.code is Code.BUSY and isinstance(retry_after, int | float):
        merged["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if problem.code is Code.METHOD_NOT_ALLOWED:
        merged["Allow"] = ", ".join(problem.extra["allow"])
    if problem.status == 401:
        merged.setdefault("WWW-Authenticate", REALM)
    return web.Response(
        body=encode({**problem.as_dict(), **members}),
        status=problem.status,
        content_type="application/problem+json",
        headers=merged,
    )
