"""``GET /api/models/{id}/logs``: what a model's unit said, once or as it says more."""

from __future__ import annotations

from aiohttp import web

from spark_modeld.control import views, wire
from spark_modeld.control.answers import answer, encode
from spark_modeld.control.call import Call
from spark_modeld.control.intake import whole
from spark_modeld.control.names import by_id
from spark_modeld.control.stream import stream
from spark_modeld.core.errors import Code, refuse
from spark_modeld.core.unit import LogLine

MOST = 1000
USUAL = 100
NDJSON = "application/x-ndjson"


async def logs(call: Call) -> web.StreamResponse:
    """The last lines as one document, or with ``follow`` as lines of JSON that go on until the client hangs up."""
    entry = by_id(call.path["id"], call.face.snapshot).model
    lines = whole("lines", call.query["lines"], 0, MOST) if "lines" in call.query else USUAL
    if _follows(call.query.get("follow")):
        return await stream(call, lambda: call.face.follow_log(entry.id, lines), _frame, media=NDJSON, beat=b"\n")
    said = await call.face.log(entry.id, lines)
    return answer(wire.Log(model=entry.id, unit=entry.unit, lines=[views.log_line(line) for line in said]))


def _frame(line: LogLine) -> bytes:
    return encode(views.log_line(line)) + b"\n"


def _follows(text: str | None) -> bool:
    match text:
        case None | "false":
            return False
        case "" | "true":
            return True
    raise refuse(Code.INVALID_REQUEST, f"?follow={text[:40]} is not possible: use true or false.")
