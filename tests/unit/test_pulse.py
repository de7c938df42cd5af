"""When an engine that serves counts as stalled: what proves that it generates, and how long it may prove nothing."""

from __future__ import annotations

import pytest

from spark_modeld.core.model import EngineKind, Launch, Model
from spark_modeld.core.pulse import LENIENCE, REFUSALS, Look, Proof, Proven, Pulse, Reach

pytestmark = pytest.mark.unit

MODEL = Model(id="m", engine=EngineKind.VLLM, url="http://127.0.0.1:8000", run=Launch(("x",)), served_model_name="m")
PATIENCE = 120.0
WELL = Look(Reach.WELL)


class Story:
    """A pulse, looked at for as long as it is due, with the same sight each time."""

    def __init__(self, *, may_ask: bool = True) -> None:
        self.now = 1000.0
        self.pulse = Pulse(MODEL, self.now, patience=PATIENCE, may_ask=may_ask)
        self.asked = 0

    def see(self, look: Look, seconds: float, *, answer: Proven | None = None, in_flight: int = 0) -> float | None:
        """Goes on for so long; the time after which it counted as stalled."""
        began = self.now
        while self.now < began + seconds:
            self.now += self.pulse.pause
            self.pulse.looked(look, self.now, in_flight=in_flight)
            if self.pulse.due(self.now):
                self.asked += 1
                if answer:
                    self.pulse.proved(answer, self.now)
            if self.pulse.stalled(self.now) is not None:
                return self.now - began
        return None


def test_an_idle_engine_is_asked_for_one_token_now_and_then_and_left_alone() -> None:
    story = Story()
    assert story.see(WELL, 3600, answer=Proven(Proof.GIVEN)) is None
    assert story.asked == 60


@pytest.mark.parametrize("answer", [None, Proven(Proof.FAILED, "HTTP 500"), Proven(Proof.HUNG)])
@pytest.mark.parametrize("look", [WELL, Look(Reach.WELL, mark="tokens 17"), Look(Reach.UNWELL, "HTTP 503")])
def test_one_that_generates_nothing_is_found_within_the_timeout(look: Look, answer: Proven | None) -> None:
    story = Story()
    assert story.see(WELL, 600, answer=Proven(Proof.GIVEN)) is None
    assert story.see(look, 3600, answer=answer) == pytest.approx(PATIENCE, abs=story.pulse.pause)
    detail = story.pulse.problem(story.now).detail
    assert ("asked for one token, it answers HTTP 500" in detail) == (answer is not None and bool(answer.words))
    assert story.pulse.problem(story.now).extra["result"] == "stalled"


def test_what_it_counts_proves_it_and_then_it_is_never_asked() -> None:
    story = Story()
    for tokens in range(500):
        assert story.see(Look(Reach.WELL, mark=str(tokens)), 10) is None
    assert story.asked == 0


@pytest.mark.parametrize("clients", [{"in_flight": 1}, {}])
def test_one_that_may_be_busy_where_nobody_can_see_it_is_given_longer(clients: dict[str, int]) -> None:
    story = Story()
    look = Look(Reach.WELL, others=not clients)
    assert story.see(look, 3600, answer=Proven(Proof.HUNG), **clients) == pytest.approx(PATIENCE * LENIENCE, abs=20)


def test_who_else_is_connected_is_looked_for_only_when_it_may_decide() -> None:
    story, wondered = Story(), set()
    for _ in range(360):
        wondered.add(story.pulse.wonders(story.now))
        assert story.see(WELL, 10, answer=Proven(Proof.GIVEN)) is None
    assert wondered == {False}
    since = story.now
    while not story.pulse.wonders(story.now):
        assert story.see(Look(Reach.WELL, others=None), 10, answer=Proven(Proof.HUNG)) is None
    assert story.now - since == pytest.approx(PATIENCE, abs=20)
    assert story.see(WELL, 3600, answer=Proven(Proof.HUNG)) == 10


def test_an_engine_is_not_given_up_before_it_was_looked_who_is_connected() -> None:
    story = Story()
    unknown = Look(Reach.WELL, others=None)
    assert story.see(unknown, PATIENCE + 20, answer=Proven(Proof.HUNG)) is None
    assert story.see(WELL, 10, answer=Proven(Proof.HUNG)) == 10


def test_errors_are_no_sign_of_being_busy() -> None:
    story = Story()
    assert story.see(Look(Reach.WELL, others=True), 3600, answer=Proven(Proof.FAILED, "nothing")) == PATIENCE


def test_requests_that_come_to_their_end_hold_it_off_but_not_for_ever_if_it_only_answers_errors() -> None:
    story = Story()

    def flow(seconds: float, answer: Proven) -> bool:
        end = story.now + seconds
        while story.now < end:
            story.now += story.pulse.pause
            story.pulse.looked(WELL, story.now, flowed_at=story.now - 1)
            if story.pulse.due(story.now):
                story.pulse.proved(answer, story.now)
            if story.pulse.stalled(story.now) is not None:
                return True
        return False

    assert not flow(3600, Proven(Proof.HUNG))
    story = Story()
    assert not flow(PATIENCE * 3, Proven(Proof.FAILED, "HTTP 500"))
    assert flow(PATIENCE * 3, Proven(Proof.FAILED, "HTTP 500"))


def test_where_nothing_listens_it_is_found_in_seconds() -> None:
    story = Story()
    refused = Look(Reach.REFUSED)
    assert story.see(refused, 3600) == pytest.approx(10 + REFUSALS - 1)
    assert story.pulse.problem(story.now).extra["result"] == "unreachable"


def test_a_refusal_now_and_then_is_none() -> None:
    story = Story()
    for _ in range(100):
        assert story.see(Look(Reach.REFUSED), 1) is None
        assert story.see(WELL, 20, answer=Proven(Proof.GIVEN)) is None


def test_one_that_offers_no_generation_or_must_not_be_asked_is_judged_by_its_health() -> None:
    for story in (Story(may_ask=False), Story()):
        assert story.see(WELL, 3600, answer=Proven(Proof.NOT_OFFERED)) is None
        assert story.asked <= 1
        assert story.see(Look(Reach.UNWELL, "HTTP 500"), 3600) == PATIENCE


def test_time_in_which_nobody_looked_is_not_held_against_it() -> None:
    story = Story()
    story.see(WELL, 100)
    story.now += 3600
    story.pulse.looked(WELL, story.now)
    assert story.pulse.stalled(story.now) is None
    story.see(WELL, 10, answer=Proven(Proof.GIVEN))
    assert story.see(WELL, 3600) == pytest.approx(PATIENCE, abs=10)
