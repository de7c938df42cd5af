"""The log of a model's unit over the API: once, and as it goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from spark_modeld.control import stream
from spark_modeld.core.errors import Code
from support.control import Control, assert_no_tasks_but, read_head, running
from support.fake_face import Asked, refused

pytestmark = pytest.mark.component
PATH = "/api/models/qwen/logs"


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with running(tmp_path) as it:
        yield it


async def follow(control: Control, query: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await control.open()
    writer.write(f"GET {PATH}?follow=true{query} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    status, headers = await read_head(reader)
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    return reader, writer


async def read_line(reader: asyncio.StreamReader) -> Any:
    async with asyncio.timeout(10):
        return json.loads(await reader.readline())


async def test_the_last_lines(control: Control) -> None:
    for text in ("one", "two", "three"):
        control.face.say(text)
    shown = (await control.call("GET", f"{PATH}?lines=2")).json
    assert (shown["model"], shown["unit"]) == ("qwen", "spark-model@qwen.service")
    assert [line["text"] for line in shown["lines"]] == ["two", "three"]
    assert shown["lines"][0]["time"] == "2026-09-21T14:13:20.125000Z"
    assert len((await control.call("GET", PATH)).json["lines"]) == 3
    assert (await control.call("GET", f"{PATH}?lines=0&follow=false")).json["lines"] == []
    assert control.face.asked == [Asked("log", "qwen")] * 3


@pytest.mark.parametrize("query", ["lines=-1", "lines=1001", "lines=x", "lines=", "follow=1", "since=1"])
async def test_bad_queries(control: Control, query: str) -> None:
    answer = await control.call("GET", f"{PATH}?{query}")
    assert (answer.status, answer.json["code"]) == (400, "invalid-request")


async def test_unknown_models(control: Control) -> None:
    for query in ("", "?follow=true"):
        answer = await control.call("GET", f"/api/models/qwem/logs{query}")
        assert (answer.status, answer.json["nearest"]) == (404, ["qwen"])


async def test_a_token_to_observe_is_enough(control: Control) -> None:
    answer = await control.call("GET", PATH, tcp=True, headers={"Authorization": "Bearer smd_observe"})
    assert answer.status == 200
    assert (await control.call("GET", PATH, tcp=True)).status == 401


async def test_following(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    control.face.say("before")
    control.face.say("last")
    before = asyncio.all_tasks()
    reader, writer = await follow(control, "&lines=1")
    assert (await read_line(reader))["text"] == "last"
    control.face.say("and on")
    assert (await read_line(reader))["text"] == "and on"
    assert control.face.readers == 1
    writer.close()
    await writer.wait_closed()
    await assert_no_tasks_but(before)
    assert control.face.readers == 0


async def test_a_silent_log_answers_and_beats(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.01)
    reader, writer = await follow(control)
    assert await reader.readline() == b"\n"
    control.face.say("at last")
    while not (line := (await reader.readline()).strip()):
        pass
    assert json.loads(line)["text"] == "at last"
    writer.close()
    await writer.wait_closed()


async def test_too_many_followers_are_told(control: Control) -> None:
    control.face.refusal = refused(Code.BUSY, retry_after=30)
    answer = await control.call("GET", f"{PATH}?follow=true")
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "busy", "30")


async def test_head_starts_no_follower(control: Control) -> None:
    answer = await control.call("HEAD", f"{PATH}?follow=true")
    assert (answer.status, control.face.asked) == (200, [])


async def test_closing_ends_it(control: Control) -> None:
    reader, writer = await follow(control)
    await control.runner.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_it_keeps_to_the_spec(control: Control) -> None:
    control.face.say("one")
    spec = (await control.call("GET", "/openapi.json")).json
    content = spec["paths"]["/api/models/{id}/logs"]["get"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "application/x-ndjson"}
    schema = {**content["application/json"]["schema"], "components": spec["components"]}
    jsonschema.validate((await control.call("GET", PATH)).json, schema, cls=jsonschema.Draft202012Validator)
