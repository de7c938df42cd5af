"""Two Sparks behind the LiteLLM proxy, by the files of packaging/litellm as they are."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.front import scripted_model
from support.scene import HOLDS, bad_model
from support.spark import REPOSITORY, llama_model, why_not
from support.tiny_models import sentence_of, tiny_model
from support.two_sparks import GPT, QWEN, SMALL, TwoSparks, two_sparks
from support.witness import engines, until

pytestmark = pytest.mark.clients

ENVIRONMENT = REPOSITORY / "build" / "clients"
HOMES = {GPT: "spark-a", QWEN: "spark-b"}
HOME, OTHER = "spark-a", "spark-b"
"""GPT's."""
PORT = 8001
FITS, FITS_NOT = "64MiB", "10TiB"
REST_SECONDS = 90.0
"""For a Spark's cooldown_time to pass, and its model to start."""


@pytest.fixture(scope="module")
def booted() -> Iterator[TwoSparks]:
    if reason := why_not():
        pytest.fail(f"no throwaway host here: {reason}")
    if not ENVIRONMENT.exists():
        pytest.skip("needs build/clients: make test-clients")
    with two_sparks(ENVIRONMENT) as two:
        yield two


@pytest.fixture
def two(booted: TwoSparks) -> TwoSparks:
    """Both are there, and each has its own model."""
    for spark in booted.sparks:
        booted.plug_in(spark)
        booted.start_daemon(spark)
    all_at_home(booted)
    return booted


def all_at_home(two: TwoSparks) -> None:
    until("all are at home", lambda: {model: two.ask(model).spark for model in HOMES} == HOMES, seconds=REST_SECONDS)
    assert [two.slot(home) for home in HOMES.values()] == list(HOMES)


def entry(memory: str = FITS, extra: str = "") -> str:
    """GPT's catalog entry."""
    return llama_model(GPT, port=PORT, gguf=f"/srv/models/{tiny_model(GPT).name}", memory=memory, extra=extra)


@contextlib.contextmanager
def refitted(two: TwoSparks, gpt: str, *sparks: str, serving: str | None = None) -> Iterator[None]:
    """These Sparks have another entry for GPT, and this model in the slot."""
    try:
        for spark in sparks:
            two.refit(spark, gpt=gpt, serving=serving)
        yield
    finally:
        for spark in sparks:
            two.refit(spark, gpt=entry(), serving=None)


def answers(two: TwoSparks, model: str, spark: str) -> None:
    """Plain and streamed, from this Spark."""
    for stream in (False, True):
        answer = two.ask(model, stream=stream)
        assert (answer.status, answer.spark, answer.text) == (200, spark, sentence_of(model))


def test_each_has_its_own_model_and_both_share_the_small_one(two: TwoSparks) -> None:
    for model, home in HOMES.items():
        answers(two, model, home)
    shared = {two.ask(SMALL).spark for _ in range(30)}
    assert shared == set(two.sparks)
    for spark, host in two.sparks.items():
        assert engines(host).keys() == {SMALL, two.slot(spark)}


def test_a_daemon_that_is_down_is_replaced_until_it_is_back(two: TwoSparks) -> None:
    two.stop_daemon("spark-a")
    answers(two, GPT, "spark-b")
    assert two.slot("spark-b") == GPT
    assert {two.ask(SMALL).spark for _ in range(10)} == {"spark-b"}
    two.start_daemon("spark-a")
    all_at_home(two)


def test_a_spark_that_is_gone_without_a_word_is_replaced(two: TwoSparks) -> None:
    two.unplug("spark-b")
    answers(two, QWEN, "spark-a")
    assert {two.ask(SMALL).spark for _ in range(10)} == {"spark-a"}
    two.unplug("spark-a")
    refused = two.ask(QWEN)
    assert (refused.status, b"Try again in" in refused.body) == (429, True)


def test_a_request_under_way_goes_to_the_other_when_its_spark_is_gone(two: TwoSparks) -> None:
    spark = two.sparks["spark-a"]
    frozen = engines(spark)[GPT]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(two.ask, GPT)
            until("it is under way", lambda: spark.api("GET", "/api/status")[1]["slot"]["in_flight"] == 1)
            two.unplug("spark-a")
            answer = asked.result()
        assert (answer.status, answer.spark, answer.text) == (200, "spark-b", sentence_of(GPT))
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


def test_a_home_that_has_no_room_is_replaced(two: TwoSparks) -> None:
    with refitted(two, entry(memory=FITS_NOT), HOME):
        answers(two, GPT, OTHER)
        assert two.slot(HOME) is None


def test_a_home_that_may_not_switch_is_replaced(two: TwoSparks) -> None:
    with refitted(two, entry(extra="on_demand = false"), HOME, serving=QWEN):
        answer = two.ask(GPT, stream=True)
        assert (answer.status, answer.spark, answer.text) == (200, OTHER, sentence_of(GPT))
        assert two.slot(HOME) == QWEN


def test_a_home_whose_model_does_not_come_up_is_replaced(two: TwoSparks) -> None:
    """In a stream, which has its head by then: what went wrong is an event."""
    with refitted(two, bad_model(GPT, "--die-after-seconds", "1", port=PORT), HOME):
        answer = two.ask(GPT, stream=True)
        assert (answer.status, answer.text) == (200, sentence_of(GPT))
        assert two.slot(OTHER) == GPT


def test_what_both_refuse_is_told_with_the_reason(two: TwoSparks) -> None:
    with refitted(two, entry(memory=FITS_NOT), HOME, OTHER):
        refused = two.ask(GPT)
        assert (refused.status, b"short" in refused.body) == (507, True), refused.body


@pytest.mark.parametrize("how", ["unplugged", "killed"])
def test_a_stream_that_is_cut_ends_with_an_error(two: TwoSparks, how: str) -> None:
    """And the next request gets its answer; by the other Spark, where the home is gone."""
    spark, hold = two.sparks[HOME], f"{HOLDS}/stream"
    spark.write(hold, "")
    with refitted(two, scripted_model(GPT, port=PORT), HOME, serving=GPT):
        with two.asked(GPT, stream=True, script={"hold": hold, "pieces": 3}) as response:
            begun = response.readline()
            if how == "unplugged":
                two.unplug(HOME)
            else:
                (engine,) = engines(spark)[GPT]
                os.kill(engine, signal.SIGKILL)
            lines = [line for line in response.read().splitlines() if line]
        assert json.loads(begun.removeprefix(b"data: "))["choices"][0]["delta"]["content"] == "0 "
        assert [list(json.loads(line.removeprefix(b"data: "))) for line in lines] == [["error"]], lines
        spark.path(hold).unlink()
        if how == "unplugged":
            answers(two, GPT, OTHER)
        else:
            assert two.ask(GPT).text == f"I am {GPT}"
