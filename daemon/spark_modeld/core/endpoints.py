"""Every address at which this machine's daemon and models are reached, with its health URL and calls to try."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct, field

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.model import EngineKind, Model
from spark_modeld.core.tailnet import Served, Tailnet

_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|\[::1\]")
_WILDCARD = frozenset({"0.0.0.0", "[::]"})
_BEARER = '-H "Authorization: Bearer $TOKEN"'
_JSON = "-H 'Content-Type: application/json'"
_HEALTH = MappingProxyType(
    {EngineKind.OLLAMA: "/api/version", EngineKind.NIM: "/v1/health/ready", EngineKind.OPENAI: "/v1/models"}
)
"""Where an engine says that it is alive, if not at /health."""


class EndpointKind(StrEnum):
    """What answers: the control API, the gateway, the gateway for one model, or an engine itself."""

    CONTROL = "control"
    GATEWAY = "gateway"
    GATEWAY_PORT = "gateway-port"
    ENGINE = "engine"


class Reach(StrEnum):
    """From where it can be reached."""

    MACHINE = "machine"
    NETWORK = "network"
    TAILNET = "tailnet"
    INTERNET = "internet"


class Places(Struct, frozen=True, kw_only=True):
    """Where the daemon listens: the control socket's path, and addresses such as ``127.0.0.1:30100``.

    ``ports`` are the gateway ports that mean one model each.
    """

    host: str = "localhost"
    socket: str | None = None
    control: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()
    ports: Mapping[int, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))


class Endpoint(Struct, frozen=True, kw_only=True):
    """One of them. ``url`` is the base URL for clients, ``model`` the model it means, None for all of them.

    ``token`` is the scope that a caller's token needs, None where none is asked for.
    """

    kind: EndpointKind
    url: str
    health: str
    reach: Reach
    token: str | None = None
    model: str | None = None
    examples: tuple[str, ...] = ()


def endpoints(catalog: Catalog, places: Places, tailnet: Tailnet | None, model: Model | None = None) -> list[Endpoint]:
    """All of them, those for clients first; with a model, those that lead to it."""
    scope = None if catalog.settings.gateway.auth == "none" else "inference"
    name = model.id if model is not None else "local"
    models = [model] if model is not None else list(catalog.models.values())
    served = tailnet.served if tailnet is not None else ()
    found = [*_gateways(places.gateway, places.host, served, scope, name)]
    for each in models:
        if each.gateway_port is not None:
            at = places.ports.get(each.gateway_port, (f"127.0.0.1:{each.gateway_port}",))
            found += _gateways(at, places.host, served, scope, each.id, own=True)
    if model is None:
        found += _controls(places, served)
    return [*found, *(_engine(each) for each in models)]


def _gateways(
    addresses: Iterable[str], host: str, served: Iterable[Served], scope: str | None, name: str, *, own: bool = False
) -> Iterator[Endpoint]:
    addresses = tuple(addresses)
    roots = [(f"http://{_named(address, host)}", _reach(address)) for address in addresses]
    roots += [
        (each.url, Reach.INTERNET if each.public else Reach.TAILNET)
        for each in served
        if each.url.startswith("http") and any(_ends_at(each, address) for address in addresses)
    ]
    for root, reach in roots:
        yield Endpoint(
            kind=EndpointKind.GATEWAY_PORT if own else EndpointKind.GATEWAY,
            url=f"{root}/v1",
            health=f"{root}/health",
            reach=reach,
            token=scope,
            model=name if own else None,
            examples=_calls(f"{root}/v1", scope, name),
        )


def _calls(url: str, scope: str | None, name: str) -> tuple[str, ...]:
    bearer = f"{_BEARER} " if scope else ""
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    return (f"curl {bearer}{url}/models", f"curl {bearer}{_JSON} -d '{body}' {url}/chat/completions")


def _controls(places: Places, served: Iterable[Served]) -> Iterator[Endpoint]:
    if places.socket is not None:
        by_socket = f"curl --unix-socket {places.socket}"
        yield Endpoint(
            kind=EndpointKind.CONTROL,
            url=f"unix:{places.socket}",
            health=f"unix:{places.socket}:/health",
            reach=Reach.MACHINE,
            examples=(f"{by_socket} http://localhost/api/status",),
        )
    for address in places.control:
        root = f"http://{_named(address, places.host)}"
        yield Endpoint(
            kind=EndpointKind.CONTROL,
            url=root,
            health=f"{root}/health",
            reach=next((Reach.TAILNET for each in served if _ends_at(each, address)), _reach(address)),
            token="control",
            examples=(f"curl {_BEARER} {root}/api/status",),
        )


def _engine(model: Model) -> Endpoint:
    health = f"{model.url}{_HEALTH.get(model.engine, '/health')}"
    host, _ = model.endpoint
    return Endpoint(
        kind=EndpointKind.ENGINE,
        url=model.url,
        health=health,
        reach=Reach.MACHINE if host == "127.0.0.1" else Reach.NETWORK,
        model=model.id,
        examples=(f"curl {health}",),
    )


def _reach(address: str) -> Reach:
    return Reach.MACHINE if _LOOPBACK.fullmatch(_host(address)) else Reach.NETWORK


def _named(address: str, host: str) -> str:
    """The address as a client writes it: one that stands for all of the machine's by the machine's name."""
    return f"{host}:{address.rpartition(':')[2]}" if _host(address) in _WILDCARD else address


def _host(address: str) -> str:
    return address.rpartition(":")[0].lower()


def _ends_at(served: Served, address: str) -> bool:
    host, _, port = address.rpartition(":")
    if served.port != int(port):
        return False
    if served.host == "127.0.0.1":
        return host.lower() in _WILDCARD or _LOOPBACK.fullmatch(host.lower()) is not None
    return host.strip("[]").lower() == served.host
