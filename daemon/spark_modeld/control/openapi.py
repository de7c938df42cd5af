"""The OpenAPI 3.1 document, from the same table that serves the requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from spark_modeld.control import wire
from spark_modeld.control.answers import encode
from spark_modeld.control.routes import Answer, Route
from spark_modeld.core.errors import Code, Problem

_REF = "#/components/schemas/{name}"
_EVERYWHERE = (Code.INVALID_REQUEST, Code.TOO_LARGE, Code.INTERNAL)
_ID = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"}
_SWITCH_ID = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}


def document(routes: Iterable[Route], version: str) -> bytes:
    """The document as JSON."""
    table = list(routes)
    kinds = {wire.Problem, *_bodies(table)}
    schemas: dict[str, Any]
    _, schemas = msgspec.json.schema_components(sorted(kinds, key=lambda kind: kind.__name__), ref_template=_REF)
    schemas["Problem"]["additionalProperties"] = True
    schemas["Problem"]["properties"]["code"] = {"type": "string", "enum": [str(code) for code in Code]}
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "spark-modeld control API",
                "version": version,
                "description": (
                    "On the unix socket everybody who may open it may call everything. On TCP a bearer token with "
                    "scope `control` may, and one with scope `observe` may GET. HEAD works wherever GET does."
                ),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "smd_<id>_<secret>"}},
            },
        }
    )


def _bodies(table: list[Route]) -> set[type]:
    used = {answer.body for route in table for answer in route.answers.values()} | {route.body for route in table}
    return {kind for kind in used if kind is not None and issubclass(kind, msgspec.Struct)}


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__module__.rpartition('.')[2]}_{route.handler.__name__}",
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": _responses(route),
        "security": [] if route.anyone or route.gate else [{"token": []}],
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(route.body)}}}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    schema = _SWITCH_ID if "/switches/" in route.path else _ID
    return [
        *(
            {"name": name, "in": "path", "required": True, "schema": schema}
            for name in re.findall(r"{(\w+)}", route.path)
        ),
        *({"name": q.name, "in": "query", "description": q.description, "schema": q.schema} for q in route.query),
        *(
            {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
            for name, text in route.headers.items()
        ),
    ]


def _responses(route: Route) -> dict[str, Any]:
    responses = {str(status): _answer(answer) for status, answer in route.answers.items()}
    by_status: dict[int, list[Code]] = {}
    for code in dict.fromkeys((*_EVERYWHERE, *route.problems)):
        by_status.setdefault(Problem(code, "").status, []).append(code)
    by_status.setdefault(403, []).append(Code.NOT_AUTHORIZED)
    if not route.anyone and not route.gate:
        by_status.setdefault(401, []).append(Code.NOT_AUTHORIZED)
    if route.body is not None:
        by_status.setdefault(408, []).append(Code.INVALID_REQUEST)
    if route.path == "/api/reload":
        by_status.setdefault(422, []).append(Code.INVALID_CONFIG)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = _problem(status, codes)
    return responses


def _answer(answer: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        shown["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if answer.body is not None:
        shown["content"] = {answer.media: {"schema": _ref(answer.body)}}
    elif answer.media != "application/json":
        shown["content"] = {answer.media: {"schema": {"type": "string"}}}
    if answer.stream is not None:
        shown["content"][answer.stream] = {"schema": {"type": "string"}}
    return shown


def _problem(status: int, codes: list[Code]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(codes)}",
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
    }
    if status == 401:
        shown["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status == 503 and Code.BUSY in codes:
        shown["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return shown


def _ref(kind: type) -> dict[str, Any]:
    if not issubclass(kind, msgspec.Struct):
        return {"type": "object"}
    return {"$ref": _REF.format(name=kind.__name__)}
