"""Every call of the control API, in the order of the spec."""

from __future__ import annotations

from types import MappingProxyType

from spark_modeld.control import handlers, log, page, stream, switching, wire
from spark_modeld.control.routes import Answer, Query, Route
from spark_modeld.core.errors import Code

_UNREADY = (Code.BUS_LOST, Code.SHUTTING_DOWN, Code.INVALID_CONFIG)
_START = (Code.CHECK_FAILED, Code.MEMORY_REFUSED, Code.LARGE_PARALLEL, Code.STUCK, Code.BUSY)
_LOCATION = MappingProxyType({"Location": "where to ask about the switch"})

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/health",
        handler=handlers.health,
        summary="Whether the daemon can do its work; it says nothing about any model",
        answers={200: Answer(description="it can", body=wire.Health)},
        problems=_UNREADY,
        anyone=True,
    ),
    Route(
        method="GET",
        path="/api/status",
        handler=handlers.status,
        summary="The slot, what is happening, memory and warnings on one screen",
        answers={200: Answer(description="the state", body=wire.Status)},
        problems=(Code.INVALID_CONFIG,),
    ),
    Route(
        method="POST",
        path="/api/switch",
        handler=switching.switch,
        summary="Switch the slot to another model, or empty it",
        body=wire.SwitchRequest,
        query=(
            Query(
                name="wait",
                description="`true` (or no value) waits for the end; a number waits so many seconds at most",
                schema={
                    "oneOf": [
                        {"type": "string", "enum": ["", "true", "false"]},
                        {"type": "number", "minimum": 0, "maximum": 86400},
                    ]
                },
            ),
        ),
        answers={
            200: Answer(description="it ended well, or there was nothing to do (`noop`)", body=wire.Switch),
            202: Answer(description="it is under way", body=wire.Switch, headers=_LOCATION),
        },
        problems=(
            Code.UNKNOWN_MODEL,
            Code.TOO_LARGE,
            Code.SUPERSEDED,
            Code.CANCELLED,
            *_START,
            Code.MODEL_FAILED,
            Code.START_TIMEOUT,
            *_UNREADY,
        ),
    ),
    Route(
        method="GET",
        path="/api/switches",
        handler=switching.switches,
        summary="The switch under way and the history, newest first",
        query=(
            Query(
                name="limit",
                description="how many at most",
                schema={"type": "integer", "minimum": 1, "maximum": 1000},
            ),
        ),
        answers={200: Answer(description="switches", body=wire.SwitchList)},
    ),
    Route(
        method="GET",
        path="/api/switches/{id}",
        handler=switching.find,
        summary="One switch",
        answers={200: Answer(description="the switch", body=wire.Switch)},
        problems=(Code.NOT_FOUND,),
    ),
    Route(
        method="DELETE",
        path="/api/switches/{id}",
        handler=switching.cancel,
        summary="Cancel a switch; one that has ended stays as it is",
        answers={
            200: Answer(description="it has ended", body=wire.Switch),
            202: Answer(description="it is on its way back", body=wire.Switch),
        },
        problems=(Code.NOT_FOUND, Code.SHUTTING_DOWN),
    ),
    Route(
        method="GET",
        path="/api/models",
        handler=handlers.models,
        summary="The catalog, and how each model is",
        answers={200: Answer(description="models", body=wire.ModelList)},
        problems=(Code.INVALID_CONFIG,),
    ),
    Route(
        method="GET",
        path="/api/models/{id}",
        handler=handlers.model,
        summary="One model",
        answers={200: Answer(description="the model", body=wire.Model)},
        problems=(Code.UNKNOWN_MODEL, Code.INVALID_CONFIG),
    ),
    Route(
        method="GET",
        path="/api/models/{id}/check",
        handler=handlers.check,
        summary="Everything that is to be said of a model before it is tried; `ok` is false where an error was found",
        answers={200: Answer(description="what was found", body=wire.Check)},
        problems=(Code.UNKNOWN_MODEL, Code.SHUTTING_DOWN, Code.INVALID_CONFIG),
    ),
    Route(
        method="POST",
        path="/api/models/{id}/start",
        handler=handlers.start,
        summary="Start a model without stopping any other",
        answers={202: Answer(description="the model, on its way", body=wire.Model)},
        problems=(Code.UNKNOWN_MODEL, *_START, *_UNREADY),
    ),
    Route(
        method="POST",
        path="/api/models/{id}/stop",
        handler=handlers.stop,
        summary="Stop a side model",
        answers={202: Answer(description="the model, on its way", body=wire.Model)},
        problems=(Code.UNKNOWN_MODEL, Code.STUCK, *_UNREADY),
    ),
    Route(
        method="GET",
        path="/api/models/{id}/logs",
        handler=log.logs,
        summary="The last lines of a model's unit or container; with `follow` also what comes after them",
        query=(
            Query(
                name="lines",
                description=f"how many of the last lines; {log.USUAL} if not given",
                schema={"type": "integer", "minimum": 0, "maximum": log.MOST},
            ),
            Query(
                name="follow",
                description=(
                    "`true` (or no value) streams: one LogLine as JSON on each line, an empty line now and then, until "
                    "the caller hangs up"
                ),
                schema={"type": "string", "enum": ["", "true", "false"]},
            ),
        ),
        answers={200: Answer(description="the lines", body=wire.Log, stream=log.NDJSON)},
        problems=(Code.UNKNOWN_MODEL, Code.INVALID_CONFIG, Code.BUSY, Code.SHUTTING_DOWN),
    ),
    Route(
        method="GET",
        path="/api/memory",
        handler=handlers.memory,
        summary="A fresh reading of memory, and who holds it",
        answers={200: Answer(description="the reading", body=wire.Memory)},
        problems=(Code.SHUTTING_DOWN,),
    ),
    Route(
        method="GET",
        path="/api/endpoints",
        handler=handlers.endpoints,
        summary="Every base URL with its health URL and calls to try, those for clients first",
        query=(
            Query(
                name="model",
                description="only what leads to this model: an id, alias or served name",
                schema={"type": "string", "minLength": 1, "maxLength": 128},
            ),
        ),
        answers={200: Answer(description="the addresses", body=wire.Endpoints)},
        problems=(Code.UNKNOWN_MODEL, Code.SHUTTING_DOWN),
    ),
    Route(
        method="GET",
        path="/api/events",
        handler=stream.events,
        summary="Events as they happen: switch, slot, memory, model, config",
        headers={"Last-Event-ID": "resume after this event"},
        answers={200: Answer(description="server-sent events; data is JSON", media="text/event-stream")},
    ),
    Route(
        method="POST",
        path="/api/reload",
        handler=handlers.reload,
        summary="Read the configuration again; a wrong one (422) changes nothing",
        answers={200: Answer(description="it is in force", body=wire.Reloaded)},
        problems=(Code.INVALID_CONFIG, Code.SHUTTING_DOWN),
    ),
    Route(
        method="POST",
        path="/api/gate/{id}",
        handler=handlers.gate,
        summary="Asked by a model's unit before it starts: may it? Root on the unix socket only",
        answers={204: Answer(description="it may")},
        problems=(Code.UNKNOWN_MODEL, *_START, *_UNREADY),
        gate=True,
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=handlers.metrics,
        summary="What was counted, for Prometheus",
        answers={200: Answer(description="text format 0.0.4", media="text/plain")},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=handlers.spec,
        summary="This document",
        answers={200: Answer(description="OpenAPI 3.1", body=dict)},
    ),
    Route(
        method="GET",
        path="/",
        handler=page.index,
        summary="The dashboard",
        answers={
            200: Answer(description="the page", media="text/html"),
            304: Answer(description="it is as it was"),
        },
        headers={"If-None-Match": "the tag of what the caller has"},
        anyone=True,
    ),
    Route(
        method="GET",
        path="/dashboard/{name}",
        handler=page.part,
        summary="A style sheet or a module of the dashboard",
        answers={
            200: Answer(description="the file, as text/css or text/javascript", media="text/*"),
            304: Answer(description="it is as it was"),
        },
        headers={"If-None-Match": "the tag of what the caller has"},
        problems=(Code.NOT_FOUND,),
        anyone=True,
    ),
)
