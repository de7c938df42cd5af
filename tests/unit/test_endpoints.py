"""Every address, by what the daemon listens on and what Tailscale hands on."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from spark_modeld.core.catalog import Catalog
from spark_modeld.core.endpoints import Endpoint, EndpointKind, Places, Reach, endpoints
from spark_modeld.core.model import EngineKind, Launch, Model
from spark_modeld.core.settings import GatewaySettings, Settings
from spark_modeld.core.tailnet import Served, Tailnet

pytestmark = pytest.mark.unit


def model(name: str, port: int, engine: EngineKind = EngineKind.SGLANG, gateway_port: int | None = None) -> Model:
    url = f"http://127.0.0.1:{port}"
    return Model(id=name, engine=engine, url=url, run=Launch(("x",)), served_model_name=name, gateway_port=gateway_port)


def catalog(*models: Model, auth: str = "token") -> Catalog:
    settings = Settings(gateway=GatewaySettings(auth=auth))
    return Catalog(settings, MappingProxyType({each.id: each for each in models}))


QWEN = model("qwen", 30001, gateway_port=31001)
PLACES = Places(
    host="spark",
    socket="/run/spark-modeld/control.sock",
    control=("127.0.0.1:30100",),
    gateway=("127.0.0.1:30101", "0.0.0.0:8000", "[fd00::1]:8001"),
    ports=MappingProxyType({31001: ("127.0.0.1:31001",)}),
)


def of(found: list[Endpoint], kind: EndpointKind) -> list[Endpoint]:
    return [each for each in found if each.kind is kind]


def test_the_gateways_say_who_reaches_them() -> None:
    found = of(endpoints(catalog(QWEN), PLACES, None), EndpointKind.GATEWAY)
    assert [(each.url, each.reach) for each in found] == [
        ("http://127.0.0.1:30101/v1", Reach.MACHINE),
        ("http://spark:8000/v1", Reach.NETWORK),
        ("http://[fd00::1]:8001/v1", Reach.NETWORK),
    ]
    assert {each.token for each in found} == {"inference"}
    assert found[0].health == "http://127.0.0.1:30101/health"
    assert '"model": "local"' in found[0].examples[1]
    assert "Bearer $TOKEN" in found[0].examples[0]


def test_an_open_gateway_asks_for_no_token() -> None:
    found = of(endpoints(catalog(QWEN, auth="none"), PLACES, None), EndpointKind.GATEWAY)
    assert {each.token for each in found} == {None}
    assert not any("Bearer" in example for each in found for example in each.examples)


def test_a_models_own_port_means_that_model() -> None:
    (found,) = of(endpoints(catalog(QWEN), PLACES, None), EndpointKind.GATEWAY_PORT)
    assert (found.url, found.model) == ("http://127.0.0.1:31001/v1", "qwen")
    assert '"model": "qwen"' in found.examples[1]


def test_the_control_api_is_on_its_socket_and_its_port() -> None:
    by_socket, by_port = of(endpoints(catalog(), PLACES, None), EndpointKind.CONTROL)
    assert (by_socket.url, by_socket.token) == ("unix:/run/spark-modeld/control.sock", None)
    assert (by_port.url, by_port.token) == ("http://127.0.0.1:30100", "control")


@pytest.mark.parametrize(
    ("engine", "path"),
    [(EngineKind.SGLANG, "/health"), (EngineKind.OLLAMA, "/api/version"), (EngineKind.NIM, "/v1/health/ready")],
)
def test_engines_say_where_they_are_alive(engine: EngineKind, path: str) -> None:
    (found,) = of(endpoints(catalog(model("m", 30001, engine)), PLACES, None), EndpointKind.ENGINE)
    assert (found.health, found.model) == (f"http://127.0.0.1:30001{path}", "m")


def test_what_tailscale_hands_on_is_an_address_too() -> None:
    served = (
        Served("https://spark.ts.net", "127.0.0.1", 30101, True, ""),
        Served("https://spark.ts.net:8443", "127.0.0.1", 8000, False, ""),
        Served("tcp://*:1", "127.0.0.1", 30101, False, ""),
        Served("https://spark.ts.net:10000", "127.0.0.1", 9999, True, ""),
    )
    found = of(endpoints(catalog(QWEN), PLACES, Tailnet("spark.ts.net", served=served)), EndpointKind.GATEWAY)
    assert [(each.url, each.reach) for each in found[3:]] == [
        ("https://spark.ts.net/v1", Reach.INTERNET),
        ("https://spark.ts.net:8443/v1", Reach.TAILNET),
    ]


def test_with_a_model_only_what_leads_to_it() -> None:
    other = model("other", 30002, gateway_port=31002)
    found = endpoints(catalog(QWEN, other), PLACES, None, QWEN)
    assert {each.model for each in found} == {None, "qwen"}
    assert not of(found, EndpointKind.CONTROL)
    assert '"model": "qwen"' in found[0].examples[1]
