"""One request as a handler sees it, and how a handler waits without outliving the one who asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from aiohttp import web
from msgspec import Struct, field

from spark_modeld.control.access import Caller
from spark_modeld.core.errors import Code, refuse
from spark_modeld.face import Face, Whereabouts
from spark_modeld.metrics import Metrics

T = TypeVar("T")


class Context(Struct, frozen=True):
    """What every handler may use: ``spec`` is the OpenAPI document, ``closing`` is set when the server ends.

    ``gate_uid`` is who may ask the gate: root, or with a per-user systemd, which has no root, the user.
    ``whereabouts`` is None where nobody can say at which addresses this is served.
    """

    face: Face
    version: str
    spec: bytes
    closing: asyncio.Event
    gate_uid: int = 0
    metrics: Metrics = field(default_factory=Metrics)
    whereabouts: Whereabouts | None = None


class Call(Struct, frozen=True):
    """One request that was admitted: ``path`` and ``query`` decoded, ``body`` an instance of the route's type.

    ``gone`` is set when the client hangs up.
    """

    request: web.BaseRequest
    context: Context
    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: object
    gone: asyncio.Event

    @property
    def face(self) -> Face:
        """The engine."""
        return self.context.face


async def until(work: Awaitable[T], call: Call) -> T:
    """What ``work`` returns, unless the client hangs up or the server closes first: then it is cancelled.

    SparkError ``shutting-down``, or ConnectionResetError, which ends the request without an answer.
    """
    task = asyncio.ensure_future(work)
    ends = [asyncio.create_task(event.wait()) for event in (call.gone, call.context.closing)]
    try:
        await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        for each in (task, *ends):
            each.cancel()
        await asyncio.gather(task, *ends, return_exceptions=True)
    if call.gone.is_set():
        raise ConnectionResetError("the client has hung up")
    raise refuse(Code.SHUTTING_DOWN, "The daemon is stopping. Ask again when it is back.")
