"""Answers that go on: ``GET /api/events`` as server-sent events, and what other streams need too.

Each reader pulls at its own pace. One that stops reading stalls nobody and is cut off; one that hangs up ends its task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

from aiohttp import web

from spark_modeld.control.answers import HEADERS, encode
from spark_modeld.control.call import Call, until
from spark_modeld.core.errors import Code, SparkError, refuse
from spark_modeld.face import Event

HEARTBEAT = 15.0
STALLED = 30.0

T = TypeVar("T")


async def events(call: Call) -> web.StreamResponse:
    """Streams until the client or the server goes."""
    last_id = _last_id(call.request.headers.getall("Last-Event-ID", []))
    return await stream(
        call,
        lambda: call.face.events(last_id),
        _frame,
        media="text/event-stream",
        hello=b"retry: 1000\n\n",
        beat=b": \n\n",
    )


async def stream(
    call: Call,
    source: Callable[[], AsyncIterator[T]],
    frame: Callable[[T], bytes],
    *,
    media: str,
    hello: bytes = b"",
    beat: bytes,
) -> web.StreamResponse:
    """What the source gives, each as one frame, until it ends, or the client or the server goes.

    ``hello`` comes first, ``beat`` whenever there was nothing for a while: it finds out who is gone.
    """
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": media})
    if call.request.method == "HEAD":
        return web.Response(headers=response.headers)
    try:
        await until(_pump(call, response, source(), frame, hello=hello, beat=beat), call)
    except SparkError as error:
        if error.problem.code is not Code.SHUTTING_DOWN or not response.prepared:
            raise
    except TimeoutError:
        if call.request.transport is not None:
            call.request.transport.abort()
        raise ConnectionResetError("the client has stopped reading") from None
    return response


async def _pump(
    call: Call,
    response: web.StreamResponse,
    source: AsyncIterator[T],
    frame: Callable[[T], bytes],
    *,
    hello: bytes,
    beat: bytes,
) -> None:
    # Asked for before the answer's head is sent: whoever has seen the head misses nothing that happens from then on.
    following = asyncio.ensure_future(anext(source))
    try:
        await response.prepare(call.request)
        if hello:
            await _write(response, hello)
        while True:
            await asyncio.wait({following}, timeout=HEARTBEAT)
            if not following.done():
                await _write(response, beat)
                continue
            try:
                found = following.result()
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(source))
            await _write(response, frame(found))
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
