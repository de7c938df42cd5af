"""The calls that read the state or change the configuration."""

from __future__ import annotations

import asyncio
import time
from importlib import import_module

from aiohttp import web

from spark_modeld.control import views, wire
from spark_modeld.control.answers import HEADERS, answer, nothing
from spark_modeld.control.call import Call, until
from spark_modeld.control.names import by_id, unknown_model
from spark_modeld.core.endpoints import Places
from spark_modeld.core.endpoints import endpoints as all_endpoints
from spark_modeld.core.errors import Code, SparkError, refuse
from spark_modeld.core.model import MODEL_ID


async def health(call: Call) -> web.StreamResponse:
    """Whether the daemon can do its work; it says nothing about any model."""
    snapshot = call.face.snapshot
    if snapshot.config_problem is not None:
        raise SparkError(snapshot.config_problem)
    if snapshot.stopping:
        raise refuse(Code.SHUTTING_DOWN, "The daemon is stopping; models keep serving.")
    if snapshot.bus != "connected":
        raise refuse(Code.BUS_LOST, "There is no connection to systemd; the daemon keeps trying.")
    return answer(wire.Health())


async def status(call: Call) -> web.StreamResponse:
    """Everything on one screen."""
    snapshot = call.face.snapshot
    if snapshot.config_problem is not None:
        raise SparkError(snapshot.config_problem)
    return answer(views.status(snapshot, call.face.switches(), call.context.version, time.time()))


async def models(call: Call) -> web.StreamResponse:
    """The catalog."""
    snapshot = call.face.snapshot
    if snapshot.config_problem is not None and not snapshot.models:
        raise SparkError(snapshot.config_problem)
    switches = call.face.switches()
    return answer(wire.ModelList(models=[views.model(state, switches) for _, state in sorted(snapshot.models.items())]))


async def model(call: Call) -> web.StreamResponse:
    """One model."""
    return answer(_model(call, call.path["id"]))


def _model(call: Call, model_id: str) -> wire.Model:
    return views.model(by_id(model_id, call.face.snapshot), call.face.switches())


async def check(call: Call) -> web.StreamResponse:
    """Looks at one model afresh."""
    model_id = by_id(call.path["id"], call.face.snapshot).model.id
    return answer(views.check(await until(call.face.check(model_id), call)))


async def start(call: Call) -> web.StreamResponse:
    """Starts a model beside what runs."""
    model_id = by_id(call.path["id"], call.face.snapshot).model.id
    await call.face.start(model_id, actor=call.caller.actor)
    return answer(_model(call, model_id), status=202)


async def stop(call: Call) -> web.StreamResponse:
    """Stops a side model."""
    model_id = by_id(call.path["id"], call.face.snapshot).model.id
    await call.face.stop(model_id, actor=call.caller.actor)
    return answer(_model(call, model_id), status=202)


async def memory(call: Call) -> web.StreamResponse:
    """A fresh reading."""
    reading = await until(call.face.measure(), call)
    return answer(views.memory(reading, call.face.snapshot))


async def endpoints(call: Call) -> web.StreamResponse:
    """Every address at which this daemon and its models are reached."""
    catalog, name = call.face.snapshot.catalog, call.query.get("model")
    model = catalog.find(name) if name is not None else None
    if name is not None and model is None:
        raise unknown_model(name, catalog)
    whereabouts = call.context.whereabouts
    places, tailnet = await until(whereabouts.find(), call) if whereabouts is not None else (Places(), None)
    found = all_endpoints(catalog, places, tailnet, model)
    return answer(views.endpoints(found, places, tailnet, call.face.snapshot))


async def metrics(call: Call) -> web.StreamResponse:
    """What was counted. The library is imported by the first who asks, beside the loop."""
    exposition = await asyncio.to_thread(import_module, "spark_modeld.control.exposition")
    text: bytes = exposition.render(call.context.metrics, call.context.version)
    return web.Response(body=text, headers={**HEADERS, "Content-Type": exposition.CONTENT_TYPE})


async def reload(call: Call) -> web.StreamResponse:
    """Reads the configuration again."""
    await call.face.reload()
    return answer(wire.Reloaded(models=sorted(call.face.snapshot.catalog.models)))


async def gate(call: Call) -> web.StreamResponse:
    """Whether a unit may start. The engine decides, also about ids it does not know."""
    model_id = call.path["id"]
    if not MODEL_ID.fullmatch(model_id):
        raise unknown_model(model_id, call.face.snapshot.catalog)
    await call.face.gate(model_id)
    return nothing()


async def spec(call: Call) -> web.StreamResponse:
    """The OpenAPI document."""
    return web.Response(body=call.context.spec, content_type="application/json", headers=HEADERS)
