"""``GET /api/events``: the engine's events as server-sent events.

Each reader pulls at its own pace. One that stops reading stalls nobody and is cut off; one that hangs up ends its task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from aiohttp import web

from spark_modeld.control.answers import HEADERS, encode
from spark_modeld.control.call import Call, until
from spark_modeld.core.errors import Code, SparkError, refuse
from spark_modeld.face import Event

HEARTBEAT = 15.0
STALLED = 30.0
_BEAT = b": \n\n"


async def events(call: Call) -> web.StreamResponse:
    """Streams until the client or the server goes."""
    last_id = _last_id(call.request.headers.getall("Last-Event-ID", []))
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
    if call.request.method == "HEAD":
        return web.Response(headers=response.headers)
    try:
        await until(_pump(call, response, call.face.events(last_id)), call)
    except SparkError as error:
        if error.problem.code is not Code.SHUTTING_DOWN or not response.prepared:
            raise
    except TimeoutError:
        if call.request.transport is not None:
            call.request.transport.abort()
        raise ConnectionResetError("the client has stopped reading") from None
    return response


async def _pump(call: Call, response: web.StreamResponse, source: AsyncIterator[Event]) -> None:
    # Asked for before the answer's head is sent: whoever has seen the head misses nothing that happens from then on.
    following = asyncio.ensure_future(anext(source))
    try:
        await response.prepare(call.request)
        await _write(response, b"retry: 1000\n\n")
        while True:
            await asyncio.wait({following}, timeout=HEARTBEAT)
            if not following.done():
                await _write(response, _BEAT)
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(source))
            await _write(response, _frame(event))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        if isinstance(source, AsyncGenerator):
            await source.aclose()


async def _write(response: web.StreamResponse, frame: bytes) -> None:
    async with asyncio.timeout(STALLED):
        await response.write(frame)


def _frame(event: Event) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.kind.encode(), encode(event.data))


def _last_id(sent: list[str]) -> int | None:
    if not sent:
        return None
    if len(sent) > 1 or not (sent[0].isascii() and sent[0].isdigit() and len(sent[0]) <= 18):
        raise refuse(Code.INVALID_REQUEST, "Last-Event-ID must be the id of an event: a whole number.")
    return int(sent[0])
