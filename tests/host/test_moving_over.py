"""A household of scripts, containers and proxies moves over, by the guide's own files, and its clients go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import docker, readme
from support.gb10 import Gb10
from support.serving import Serving
from support.spark import REPOSITORY, SOURCE, SparkHost

pytestmark = pytest.mark.host

GUIDE = REPOSITORY / "packaging/guide/moving-over.md"
HOME = "/home/spark/ai"
SECRET_FILE = f"{HOME}/configs/caddy/cursor_bearer_token.txt"
QWEN, SCOUT = "qwen3-32b-nvfp4", "llama4-scout-17b-nvfp4"
# script, container, the engine's port, the port that clients know
HABITS = {
    QWEN: ("sglang_qwen_32b.sh", "sglang-qwen-uncensored", 30001, 31001),
    SCOUT: ("sglang_scout_17b.sh", "sglang-scout", 30000, 31000),
}


class Household(Serving):
    """The machine as it was, and what its people type."""

    def arrange(self) -> None:
        """Scripts that create the containers, and the secret that Caddy has checked; Qwen is up, started by hand."""
        host = self.host
        docker.start_docker(host)
        host.run("useradd", "--create-home", "--groups", "docker", "spark")
        for model, (script, container, port, _) in HABITS.items():
            engine = ["/usr/bin/python3", "-I", "-S", f"{SOURCE}/tests/support/vendor_engine.py"]
            # As vLLM: what SGLang's end is, a SIGKILL of itself, is nothing to a container's first process.
            engine += ["--as", "vllm", "--name", model, "--port", str(port)]
            start = docker.run_detached(container, engine)
            host.write(f"{HOME}/scripts/serve/{script}", f"#!/bin/bash\n{start}\n", mode=0o755)
        host.run("chown", "-R", "spark:spark", "/home/spark")
        host.run("sh", "-c", f"mkdir -p {Path(SECRET_FILE).parent} && openssl rand -hex 32 > {SECRET_FILE}")
        host.run("bash", f"{HOME}/scripts/serve/{HABITS[QWEN][0]}", user="spark")
        host.await_engine(30001)

    def move(self) -> None:
        """What the guide says, in its order."""
        for file in readme.files(GUIDE.read_text(encoding="utf-8")):
            self.host.write(file.place, file.content)
        self.host.run("sh", "-c", f"spark-modelctl token add --stdin cursor < {SECRET_FILE}")
        self.host.enable()

    @property
    def secret(self) -> str:
        return self.host.path(SECRET_FILE).read_text().strip()

    def containers(self) -> set[str]:
        return set(self.host.run("docker", "ps", "--format", "{{.Names}}").stdout.split())

    def code(self, url: str, secret: str | None) -> str:
        """The notes' own quick test: 401 or 200."""
        header = ["-H", f"Authorization: Bearer {secret}"] if secret is not None else []
        return self.host.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *header, url).stdout

    def says(self, port: int, model: str | None) -> str:
        """The answer of whoever is behind the port."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hallo"}]}
        header = ["-H", f"Authorization: Bearer {self.secret}", "-H", "Content-Type: application/json"]
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        answer = self.host.run("curl", "-sS", "--fail-with-body", *header, "-d", json.dumps(body), url)
        return str(json.loads(answer.stdout)["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def household() -> Iterator[Household]:
    if reason := docker.why_not():
        pytest.fail(reason)
    with SparkHost() as host:
        home = Household(host)
        home.arrange()
        host.install()
        Gb10(host).install()
        host.settings('[slot]\nmin_residency = "0s"\n')
        home.move()
        yield home


def test_the_model_that_ran_is_taken_over_as_it_is(household: Household) -> None:
    before = household.host.run("docker", "inspect", "--format", "{{.Id}}", "sglang-qwen-uncensored").stdout
    household.ctl("switch", QWEN)
    assert household.host.run("docker", "inspect", "--format", "{{.Id}}", "sglang-qwen-uncensored").stdout == before
    assert household.slot() == (QWEN, "serving")


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_the_old_ports_ask_for_the_old_secret(household: Household, path: str) -> None:
    for *_, port in HABITS.values():
        url = f"http://127.0.0.1:{port}{path}"
        assert household.code(url, household.secret) == "200"
        assert [household.code(url, wrong) for wrong in (None, "sk-local")] == ["401", "401"]
    assert household.code("http://127.0.0.1:31001/health", None) == "200"


def test_stop_and_start_by_hand_is_one_command(household: Household) -> None:
    household.ctl("switch", QWEN)
    for model in (SCOUT, QWEN, SCOUT):
        household.ctl("switch", model)
        _, container, port, _ = HABITS[model]
        assert household.containers() == {container}
        listed = json.loads(household.host.run("curl", "-s", f"http://127.0.0.1:{port}/v1/models").stdout)
        assert [each["id"] for each in listed["data"]] == [model]


@pytest.mark.parametrize("name", ["local", None, QWEN])
def test_whoever_asks_at_a_models_port_gets_that_model(household: Household, name: str | None) -> None:
    household.ctl("switch", SCOUT)
    assert household.says(31001, name) == f"I am {QWEN}"
    assert household.says(31000, name) == f"I am {SCOUT}"


def test_the_one_address_has_both(household: Household) -> None:
    assert household.says(30101, QWEN) == f"I am {QWEN}"
    assert household.says(30101, SCOUT) == f"I am {SCOUT}"
    assert household.says(30101, "local") == f"I am {SCOUT}", "the occupant"
    listed = household.host.run(
        *("curl", "-s", "-H", f"Authorization: Bearer {household.secret}", "http://127.0.0.1:30101/v1/models")
    )
    assert [each["id"] for each in json.loads(listed.stdout)["data"]] == [SCOUT, QWEN]


def test_a_secret_is_rotated_without_a_restart(household: Household) -> None:
    host, url = household.host, "http://127.0.0.1:31001/v1/models"
    daemon = host.show("spark-modeld.service", "MainPID")
    new = json.loads(host.run("spark-modelctl", "token", "add", "--json", "cursor-2").stdout)["token"]
    assert [household.code(url, each) for each in (household.secret, new)] == ["200", "200"]
    host.run("spark-modelctl", "token", "revoke", "cursor")
    assert [household.code(url, each) for each in (household.secret, new)] == ["401", "200"]
    assert host.show("spark-modeld.service", "MainPID") == daemon
