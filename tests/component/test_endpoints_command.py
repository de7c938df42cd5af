"""GET /api/endpoints, and the overview that spark-modelctl makes of it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spark_modeld.core.endpoints import Places
from spark_modeld.core.tailnet import Served, Tailnet
from spark_modeld.whereabouts import Whereabouts
from support.command_line import Ctl
from support.control import Control, running

pytestmark = pytest.mark.component

HERE = Tailnet("spark.ts.net", ("100.64.0.1",), (Served("https://spark.ts.net", "127.0.0.1", 9, True, "x"),))


class Where:
    """At these places."""

    def __init__(self) -> None:
        self.places = Places(host="spark", socket="/run/c.sock", gateway=("127.0.0.1:9",))
        self.tailnet: Tailnet | None = HERE

    async def find(self) -> tuple[Places, Tailnet | None]:
        return self.places, self.tailnet


@pytest.fixture
def where() -> Where:
    return Where()


@pytest.fixture
async def control(tmp_path: Path, where: Where) -> AsyncIterator[Control]:
    async with running(tmp_path, whereabouts=where) as it:
        where.places = Places(
            host="spark", socket=str(it.path), control=(f"127.0.0.1:{it.port}",), gateway=("127.0.0.1:9",)
        )
        yield it


async def test_the_api_has_them_all(control: Control) -> None:
    shown = (await control.call("GET", "/api/endpoints")).json
    assert (shown["host"], shown["tailscale"]["name"]) == ("spark", "spark.ts.net")
    kinds = [each["kind"] for each in shown["endpoints"]]
    assert kinds == ["gateway", "gateway", "control", "control", "engine", "engine", "engine"]
    public = shown["endpoints"][1]
    assert (public["url"], public["reach"]) == ("https://spark.ts.net/v1", "internet")
    states = {each["model"]: each["state"] for each in shown["endpoints"] if each["kind"] == "engine"}
    assert states["qwen"] == "serving"


async def test_a_model_is_found_by_any_of_its_names(control: Control) -> None:
    for name in ("llama-70b", "llama", "served/llama-70b"):
        shown = (await control.call("GET", f"/api/endpoints?model={name}")).json
        assert {each["model"] for each in shown["endpoints"]} == {None, "llama-70b"}
    answer = await control.call("GET", "/api/endpoints?model=lama")
    assert (answer.status, answer.json["code"]) == (404, "unknown-model")


async def test_the_command_is_one_overview(control: Control) -> None:
    done = await Ctl(control.path)("endpoints")
    assert (done.code, done.err) == (0, "")
    for text in (
        "tailscale spark.ts.net  100.64.0.1",
        "http://127.0.0.1:9/v1  (this machine only, token with scope inference, connection refused)",
        "https://spark.ts.net/v1  (from the whole internet, token with scope inference)",
        f"http://127.0.0.1:{control.port}  (this machine only, token with scope control, answers)",
        f"curl --unix-socket {control.path} http://localhost/api/status",
        "http://127.0.0.1:30001  (qwen serving, this machine only)",
    ):
        assert text in done.out, done.out


async def test_its_json_is_the_apis(control: Control) -> None:
    done = await Ctl(control.path)("endpoints", "llama", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json == (await control.call("GET", "/api/endpoints?model=llama")).json
    assert (await Ctl(control.path)("endpoints", "nobody")).code == 5


async def test_the_daemon_knows_where_it_listens_and_asks_tailscale_now_and_then(tmp_path: Path) -> None:
    asked: list[None] = []
    where = Whereabouts(lambda: asked.append(None) or HERE)  # type: ignore[func-returns-value]
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as tcp, socket.socket(socket.AF_INET6) as six:
        unix.bind(str(tmp_path / "c.sock"))
        tcp.bind(("127.0.0.1", 0))
        six.bind(("::1", 0))
        where.serve_control([(unix, "unix"), (tcp, "tcp"), (six, "tcp")])
        ports = tcp.getsockname()[1], six.getsockname()[1]
    where.gateway = lambda: [("127.0.0.1:30101", None), ("127.0.0.1:31001", 31001)]
    for _ in range(2):
        places, tailnet = await where.find()
    assert places.socket == str(tmp_path / "c.sock")
    assert places.control == (f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}")
    assert (places.gateway, dict(places.ports)) == (("127.0.0.1:30101",), {31001: ("127.0.0.1:31001",)})
    assert (tailnet, len(asked)) == (HERE, 1)
