"""The spec: a valid OpenAPI 3.1 document that knows every route, and answers that keep to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from spark_modeld.control.table import ROUTES
from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.switch import Outcome
from support.control import Control, running

pytestmark = pytest.mark.component


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


@pytest.fixture
async def spec(control: Control) -> dict[str, Any]:
    answer = await control.call("GET", "/openapi.json")
    assert answer.headers["content-type"].startswith("application/json")
    document: dict[str, Any] = answer.json
    return document


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        return {v for k, v in value.items() if k == "$ref"} | {r for v in value.values() for r in references(v)}
    if isinstance(value, list):
        return {r for v in value for r in references(v)}
    return set()


async def test_every_route_is_described(spec: dict[str, Any]) -> None:
    described = {(m.upper(), path) for path, item in spec["paths"].items() for m in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert spec["openapi"] == "3.1.0"


async def test_the_structure_holds(spec: dict[str, Any]) -> None:
    names = [op["operationId"] for item in spec["paths"].values() for op in item.values()]
    assert len(set(names)) == len(names)
    known = {f"#/components/schemas/{name}" for name in spec["components"]["schemas"]}
    assert references(spec) <= known
    for schema in spec["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, item in spec["paths"].items():
        for operation in item.values():
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            assert any(status.startswith("2") for status in operation["responses"])
            assert all(response["description"] for response in operation["responses"].values())
            for response in operation["responses"].values():
                for media in response.get("content", {}).values():
                    jsonschema.Draft202012Validator.check_schema(media["schema"])


async def test_security_is_described(spec: dict[str, Any]) -> None:
    assert spec["paths"]["/health"]["get"]["security"] == []
    assert spec["paths"]["/api/status"]["get"]["security"] == [{"token": []}]
    assert "401" in spec["paths"]["/api/status"]["get"]["responses"]


async def test_answers_keep_to_the_spec(control: Control, spec: dict[str, Any]) -> None:
    def check(answer: Any, method: str, path: str) -> None:
        response = spec["paths"][path][method.lower()]["responses"][str(answer.status)]
        (media,) = response["content"]
        assert answer.headers["content-type"].split(";")[0] == media
        schema = {**response["content"][media]["schema"], "components": spec["components"]}
        jsonschema.validate(answer.json, schema, cls=jsonschema.Draft202012Validator)

    calls = [
        ("GET", "/health"), ("GET", "/api/status"), ("GET", "/api/models"), ("GET", "/api/models/{id}"),
        ("GET", "/api/memory"), ("GET", "/openapi.json"), ("POST", "/api/reload"), ("POST", "/api/models/{id}/start"),
    ]  # fmt: skip
    for method, path in calls:
        check(await control.call(method, path.format(id="embed")), method, path)
    check(await control.call("GET", "/api/models/nope"), "GET", "/api/models/{id}")
    check(await control.call("POST", "/api/switch", {"model": "llama"}), "POST", "/api/switch")
    control.face.finish("s1", Outcome.FAILED, Problem(Code.STUCK, "why"))
    check(await control.call("GET", "/api/switches"), "GET", "/api/switches")
    check(await control.call("GET", "/api/switches/s1"), "GET", "/api/switches/{id}")
    check(await control.call("DELETE", "/api/switches/s1"), "DELETE", "/api/switches/{id}")
    waiting = asyncio.create_task(control.call("POST", "/api/switch?wait=true", {"model": "embed"}))
    control.face.finish((await _requested(control, "embed")).id, Outcome.SUPERSEDED)
    check(await waiting, "POST", "/api/switch")


async def _requested(control: Control, model: str) -> Any:
    while True:
        switch = await control.face.requested.get()
        if switch.model == model:
            return switch


async def test_every_problem_a_call_gives_is_in_the_spec(control: Control, spec: dict[str, Any]) -> None:
    for route in ROUTES:
        responses = spec["paths"][route.path][route.method.lower()]["responses"]
        for code in route.problems:
            assert str(Problem(code, "").status) in responses
