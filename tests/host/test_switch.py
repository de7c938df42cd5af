"""Switches of real models on a real host: there and back, by every way to ask, refused, superseded, cancelled."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from subprocess import PIPE

import pytest

from support.serving import DAEMON, LARGE, PATIENCE, SETTINGS, Events, Serving, Watch, await_that, bad_model, unit
from support.spark import SparkHost
from support.tiny_models import sentence_of

pytestmark = pytest.mark.host

PORTS = {"alpha": 8001, "beta": 8002, "tiny-a": 8003, "tiny-b": 8004, "slow": 8005, "tardy": 8006, "huge": 8007}
LARGE_MODELS = ("alpha", "beta", "slow", "tardy", "huge")
PHASES = ["queued", "admitting", "draining", "stopping", "reclaiming", "starting", "warming"]


@pytest.fixture(scope="module")
def host(installed_host: SparkHost) -> SparkHost:
    host = installed_host
    host.settings(SETTINGS)
    host.tiny("alpha", port=PORTS["alpha"], memory=LARGE, extra='aliases = ["first", "team/A"]')
    host.tiny("beta", port=PORTS["beta"], memory=LARGE)
    host.tiny("tiny-a", port=PORTS["tiny-a"], extra='stop_timeout = "1s"')
    host.tiny("tiny-b", port=PORTS["tiny-b"])
    host.model("slow", bad_model("slow", PORTS["slow"], "--load-seconds", "600"))
    host.model("tardy", bad_model("tardy", PORTS["tardy"], "--stop-seconds", "1.5"))
    host.model("huge", bad_model("huge", PORTS["huge"], memory="500GiB"))
    host.enable()
    return host


@pytest.fixture
def serving(host: SparkHost) -> Iterator[Serving]:
    """The daemon with an empty slot, and nobody may ever see two large models alive."""
    serving = Serving(host)
    serving.serve(None)
    with Watch(host, LARGE_MODELS):
        yield serving


def test_there_and_back_by_http(serving: Serving) -> None:
    host = serving.host
    ids = []
    for model, left in (("alpha", None), ("beta", "alpha"), ("alpha", "beta")):
        switch = serving.serve(model)
        ids.append(switch["id"])
        assert (switch["model"], switch["from"], switch["phase"]) == (model, left, "ready")
        assert (switch["requested_by"], switch["actor"]) == ("control", "uid 0")
        assert host.ask(PORTS[model]) == sentence_of(model)
        assert serving.slot() == (model, "serving")
        assert serving.desired_on_disk() == model
        assert serving.active(model) == "active"
        if left:
            assert {"queued", "stopping", "starting", "warming"} <= set(switch["timings"])
            assert list(switch["timings"]) == [phase for phase in PHASES if phase in switch["timings"]]
            assert (serving.active(left), serving.pid(left)) == ("inactive", 0)
    assert [switch["id"] for switch in serving.history()[:3]] == ids[::-1]


def test_the_operators_command_and_its_exit_statuses(serving: Serving) -> None:
    assert "alpha serves" in serving.ctl("switch", "--wait", "alpha")
    assert serving.host.ask(PORTS["alpha"]) == sentence_of("alpha")
    assert "alpha serves already" in serving.ctl("switch", "team/A")
    assert json.loads(serving.ctl("switch", "--json", "beta"))["outcome"] == "ready"
    assert serving.host.ask(PORTS["beta"]) == sentence_of("beta")
    assert "alpa" in serving.ctl("switch", "alpa", exit_status=5)
    assert "500.0 GiB" in serving.ctl("switch", "huge", exit_status=4)
    serving.ctl("switch", exit_status=2)
    serving.ctl("switch", "--socket", "/run/nobody.sock", "alpha", exit_status=3)
    said = serving.ctl("switch", "--timeout", "0.2", "slow", exit_status=6)
    assert "under way" in said or "still" in said
    assert serving.slot()[0] == "slow"
    serving.ctl("cancel")
    serving.await_slot("beta", "serving")
    assert "cancelled" in serving.ctl("history")
    serving.ctl("switch", "--empty")
    assert serving.slot() == (None, "empty")


@pytest.mark.parametrize("name", ["first", "team/A"])
def test_a_switch_by_alias(serving: Serving, name: str) -> None:
    assert serving.serve(name)["model"] == "alpha"
    assert serving.host.ask(PORTS["alpha"]) == sentence_of("alpha")


def test_what_serves_already_is_left_alone(serving: Serving) -> None:
    serving.serve("alpha")
    before, known = serving.pid("alpha"), len(serving.history())
    for _ in range(2):
        switch = serving.serve("first")
        assert switch["noop"] is True
    assert serving.pid("alpha") == before
    assert len(serving.history()) == known


def test_an_emptied_slot_stays_empty(serving: Serving) -> None:
    serving.serve("alpha")
    assert serving.serve(None)["model"] is None
    assert (serving.active("alpha"), serving.slot(), serving.desired_on_disk()) == ("inactive", (None, "empty"), "")
    serving.restart_daemon()
    # The answer comes after what belongs in the slot was decided: a switch would show now.
    assert serving.status()["switch"] is None
    assert serving.slot() == (None, "empty")
    assert serving.active("alpha") == "inactive"


class Client(threading.Thread):
    """Asks whichever model answers, all the time, and counts the times when none did."""

    SCRIPT = """
import http.client, json, select, sys
def ask(port):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 16, "temperature": 0}
        link.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        text = answer.read()
        return answer.status == 200 and json.loads(text)["choices"][0]["message"]["content"].strip()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        link.close()
ports = [int(port) for port in sys.argv[1:]]
while not select.select([sys.stdin], [], [], 0)[0]:
    print(json.dumps([word for word in map(ask, ports) if word]), flush=True)
"""

    def __init__(self, host: SparkHost, *ports: int) -> None:
        super().__init__(name="client")
        words = ["/usr/bin/python3", "-I", "-S", "-c", self.SCRIPT, *map(str, ports)]
        self._process = host.popen(*words, stdin=PIPE, stdout=PIPE)
        self.rounds: list[list[str]] = []

    def run(self) -> None:
        assert self._process.stdout is not None
        self.rounds.extend(json.loads(line) for line in self._process.stdout if line.endswith("\n"))

    def heard(self, sentence: str) -> bool:
        """Whether the last round had this answer."""
        return bool(self.rounds) and sentence in self.rounds[-1]

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # which it takes as the end; killing nsenter would leave it running
        self.join(PATIENCE)
        self._process.wait()
        self._process.stdout.close()


def test_make_before_break_leaves_no_gap(serving: Serving) -> None:
    serving.serve("tiny-a")
    client = Client(serving.host, PORTS["tiny-a"], PORTS["tiny-b"], PORTS["tiny-a"])
    client.start()
    try:
        await_that(lambda: client.heard(sentence_of("tiny-a")), "the client's first answer")
        switch = serving.serve("tiny-b")
        assert list(switch["timings"]) == ["queued", "admitting", "starting", "warming"]
        # A llama-server that a client keeps busy past us may have to be killed.
        await_that(lambda: serving.active("tiny-a") in ("inactive", "failed"), "the end of tiny-a")
        await_that(lambda: client.rounds[-1] == [sentence_of("tiny-b")], "tiny-b alone")
    finally:
        client.stop()
    assert serving.slot() == ("tiny-b", "serving")
    assert [round for round in client.rounds if not round] == []
    both = {sentence_of("tiny-a"), sentence_of("tiny-b")}
    assert both == {word for round in client.rounds for word in round}


def test_a_second_large_model_is_refused(serving: Serving) -> None:
    serving.serve("alpha")
    before = serving.pid("alpha")
    status, problem = serving.host.api("POST", "/api/models/beta/start")
    assert (status, problem["code"]) == (409, "large-parallel")
    assert [holder["model"] for holder in problem["holders"]] == ["alpha"]
    assert "alpha" in serving.ctl("start", "beta", exit_status=4)
    assert (serving.active("beta"), serving.pid("alpha")) == ("inactive", before)
    assert serving.slot() == ("alpha", "serving")
    assert serving.host.ask(PORTS["alpha"]) == sentence_of("alpha")


def test_what_does_not_fit_is_refused_with_every_number(serving: Serving) -> None:
    serving.serve("alpha")
    before = serving.pid("alpha")
    status, problem = serving.switch("huge")
    assert (status, problem["code"], problem["status"]) == (507, "memory-refused", 507)
    assert problem["needed"] == 500 << 30
    assert problem["returned"] == 2 << 30
    assert problem["reserve"] == 256 << 20
    assert 0 < problem["available"] < problem["total"]
    assert problem["holders"] == []
    assert problem["available"] + problem["returned"] - problem["needed"] < problem["reserve"]
    assert (problem["switch"]["outcome"], problem["switch"]["from"]) == ("failed", "alpha")
    assert "draining" not in problem["switch"]["timings"]
    assert (serving.slot(), serving.pid("alpha"), serving.desired_on_disk()) == (("alpha", "serving"), before, "alpha")
    assert serving.host.ask(PORTS["alpha"]) == sentence_of("alpha")


def test_a_newer_switch_supersedes_the_one_under_way(serving: Serving) -> None:
    serving.serve("alpha")
    with Events(serving.host) as events:
        slow = serving.begin("slow")
        events.phase("slow", "warming")
    beta = serving.serve("beta")
    assert beta["from"] == "alpha"
    ended = serving.ended(slow)
    assert (ended["outcome"], ended["error"]["code"], ended["error"]["by"]) == ("superseded", "superseded", beta["id"])
    assert serving.active("slow") in ("inactive", "failed")
    assert serving.host.ask(PORTS["beta"]) == sentence_of("beta")
    assert serving.desired_on_disk() == "beta"


def test_a_waiter_hears_that_it_was_superseded(serving: Serving) -> None:
    serving.serve("alpha")
    answers: list[tuple[int, dict[str, object]]] = []
    waiter = threading.Thread(target=lambda: answers.append(serving.switch("slow")))
    with Events(serving.host) as events:
        waiter.start()
        events.phase("slow", "warming")
    serving.serve("beta")
    waiter.join(30)
    assert [(status, answer["code"]) for status, answer in answers] == [(409, "superseded")]


def test_a_cancel_before_the_old_model_was_stopped(serving: Serving) -> None:
    """With make-before-break the old model serves all the while."""
    serving.serve("tiny-a")
    before = serving.pid("tiny-a")
    serving.host.model("slow-tiny", bad_model("slow-tiny", 8008, "--load-seconds", "600", memory="64MiB"))
    serving.reload()
    with Events(serving.host) as events:
        switch = serving.begin("slow-tiny")
        events.phase("slow-tiny", "warming")
    serving.cancel(switch)
    ended = serving.ended(switch)
    assert (ended["outcome"], ended["error"]["code"]) == ("cancelled", "cancelled")
    assert (serving.slot(), serving.pid("tiny-a")) == (("tiny-a", "serving"), before)
    await_that(lambda: serving.active("slow-tiny") in ("inactive", "failed"), "the end of slow-tiny")
    assert serving.desired_on_disk() == "tiny-a"


@pytest.mark.parametrize("moment", ["stopping", "loading"])
def test_a_cancel_after_the_old_model_was_stopped_rolls_back(serving: Serving, moment: str) -> None:
    serving.serve("tardy")
    before = serving.pid("tardy")
    with Events(serving.host) as events:
        switch = serving.begin("slow")
        events.phase(*(("tardy", "stopping") if moment == "stopping" else ("slow", "warming")))
    serving.cancel(switch)
    ended = serving.ended(switch)
    assert (ended["outcome"], ended["error"]["code"]) == ("cancelled", "cancelled")
    assert serving.slot() == ("tardy", "serving")
    assert serving.host.ask(PORTS["tardy"]) == "I am tardy"
    assert serving.pid("tardy") not in (0, before)
    assert serving.active("slow") in ("inactive", "failed")
    assert serving.desired_on_disk() == "tardy"


def test_an_ended_switch_cannot_be_cancelled(serving: Serving) -> None:
    switch = serving.serve("alpha")
    serving.cancel(switch)
    assert serving.slot() == ("alpha", "serving")
    assert serving.host.show(DAEMON, "NRestarts") == "0"
    assert serving.host.show(unit("alpha"), "ActiveState") == "active"
