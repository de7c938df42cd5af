"""litellm, the library that many tools ask through, at the gateway on a host."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.front import GATEWAY, add_token, await_nothing_held
from support.network import network_of
from support.scene import SETTINGS, Scene
from support.spark import REPOSITORY, SOURCE, SparkHost, why_not
from support.tiny_models import sentence_of

pytestmark = pytest.mark.clients

ENVIRONMENT = REPOSITORY / "build" / "clients"


@pytest.fixture(scope="module")
def host() -> Iterator[SparkHost]:
    if reason := why_not():
        pytest.fail(f"no throwaway host here: {reason}")
    if not ENVIRONMENT.exists():
        pytest.skip("needs build/clients: make test-clients")
    with SparkHost(binds={"/opt/clients": ENVIRONMENT}) as host:
        host.install()
        host.settings(SETTINGS.replace("[slot]\n", '[slot]\nmin_residency = "50ms"\n'))
        host.tiny("alpha", port=8401)
        host.tiny("beta", port=8402)
        host.enable()
        yield host


def test_litellm_asks_streams_and_knows_the_errors(host: SparkHost) -> None:
    token = add_token(host, "litellm")
    script = f"{SOURCE}/tests/support/litellm_client.py"
    ran = host.run("/opt/clients/bin/python3", script, f"{GATEWAY}/v1", token, "alpha", "beta", timeout=240)
    seen = json.loads(ran.stdout.splitlines()[-1])
    both = [sentence_of("alpha"), sentence_of("beta")]
    assert (seen["plain"], seen["streamed"], seen["at once"]) == (both, both, both)
    assert (seen["unknown"], seen["wrong"]) == (["NotFoundError", 404], ["AuthenticationError", 401])
    with network_of(host):
        await_nothing_held(Scene(host), 8401, 8402)
