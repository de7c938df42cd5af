"""A second real engine with other habits, ``transformers serve``: switched to and from by the operator's command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.serving import LARGE, SETTINGS, Serving, Watch, unit
from support.spark import REPOSITORY, SparkHost, quoted, why_not
from support.tiny_folder import tiny_folder
from support.tiny_models import sentence_of

pytestmark = pytest.mark.transformers

ENVIRONMENT = REPOSITORY / "build" / "transformers"
CACHE = "/var/cache/transformers"
ALPHA, GAMMA = 8401, 8402


def transformers_model(folder: str) -> str:
    """The catalog entry. It calls a model by its folder, and lists what is in the cache: which has to exist."""
    command = ["/opt/transformers/bin/python3", "-m", "transformers.cli.transformers", "serve", folder]
    command += ["--host", "127.0.0.1", "--port", str(GAMMA), "--device", "cpu"]
    words = ", ".join(map(quoted, command))
    lines = ['engine = "openai"', f'url = "http://127.0.0.1:{GAMMA}"', f"served_model_name = {quoted(folder)}"]
    lines += [f"path = {quoted(folder)}", f'memory = "{LARGE}"', 'start_timeout = "5min"', "[launch]"]
    environment = f'environment = {{ HF_HOME = "{CACHE}", HF_HUB_CACHE = "{CACHE}", HF_HUB_OFFLINE = "1" }}'
    return "\n".join([*lines, f"command = [{words}]", environment, ""])


@pytest.fixture(scope="module")
def host() -> Iterator[SparkHost]:
    if reason := why_not():
        pytest.fail(f"no throwaway host here: {reason}")
    if not ENVIRONMENT.exists():
        pytest.skip("needs build/transformers: make test-transformers")
    with SparkHost(binds={"/opt/transformers": ENVIRONMENT}) as host:
        host.install()
        host.settings(SETTINGS)
        host.tiny("alpha", port=ALPHA, memory=LARGE)
        host.model("gamma", transformers_model(f"/srv/models/{tiny_folder('gamma').name}"))
        host.run("install", "-d", "-o", "spark-model", CACHE)
        host.enable()
        yield host


def test_it_is_switched_to_and_from(host: SparkHost) -> None:
    serving = Serving(host)
    with Watch(host, ["alpha", "gamma"]) as watch:
        for _ in range(2):
            assert "alpha serves" in serving.ctl("switch", "alpha")
            assert host.ask(ALPHA) == sentence_of("alpha")
            assert "gamma serves" in serving.ctl("switch", "gamma")
            assert host.ask(GAMMA) == sentence_of("gamma")
            assert serving.slot() == ("gamma", "serving")
            assert serving.active("alpha") == "inactive"
            assert watch.processes("gamma")
        serving.ctl("switch", "--empty")
    assert serving.pid("gamma") == 0
    assert host.show(unit("gamma"), "Result") == "success"


def test_a_folder_that_is_not_there_is_told_by_the_engine_and_read(host: SparkHost) -> None:
    serving = Serving(host)
    serving.ctl("switch", "alpha")
    entry = transformers_model("/srv/models/nowhere").replace('path = "/srv/models/nowhere"\n', "")
    host.model("nowhere", entry.replace(str(GAMMA), "8403"))
    serving.reload()
    said = serving.ctl("switch", "nowhere", exit_status=1)
    assert serving.slot() == ("alpha", "serving")
    assert serving.history()[0]["error"]["reading"]["code"] == "missing-file", said
