"""Whether a serving engine still generates: what was seen of it, and when that is too little.

Three things prove that it does: something that it counts has moved, it answered a request for one token, or a client
got some of its answer. It is asked for that token only after half of the patience without any other proof. Time in
which nobody looked (the machine was frozen, the daemon was) proves nothing against it.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from spark_modeld.core.errors import Code, Problem
from spark_modeld.core.model import Model

PERIOD_SECONDS = 10.0
LENIENCE = 5
"""How many times longer it may take where clients are served and nobody can see whether they get anything."""
MOST_LENIENCE = 30
"""The same where its processes are at work all the time: what they work at cannot be seen, so there is an end to it."""
REFUSALS = 3
_AGAIN_SECONDS = 1.0
_LOOKS = 10


class Reach(StrEnum):
    """How far a look came."""

    REFUSED = "refused"
    SILENT = "silent"
    UNWELL = "unwell"
    WELL = "well"


class Look(Struct, frozen=True):
    """One look at an engine: how it answered, and in ``words`` what was wrong.

    ``mark`` changes when it generates (None: it does not show that). ``others``: other clients are connected to it
    (None: that was not looked for).
    """

    reach: Reach
    words: str = ""
    mark: str | None = None
    others: bool | None = False


class Proof(StrEnum):
    """What came of a request for one token."""

    GIVEN = "given"
    FAILED = "failed"
    HUNG = "hung"
    NOT_OFFERED = "not-offered"


class Proven(Struct, frozen=True):
    """The end of a request for one token."""

    proof: Proof
    words: str = ""


class Pulse:
    """What is known of one engine since it serves. Times are monotonic seconds.

    ``patience`` is ``health.stall_timeout``; without ``may_ask`` no token is ever asked for, and being well is enough.
    """

    def __init__(self, model: Model, now: float, *, patience: float, may_ask: bool) -> None:
        self._model = model
        self._patience = patience
        self._may_ask = self._may_ask_now = may_ask
        self._period = max(0.1, min(PERIOD_SECONDS, patience / _LOOKS))
        self._looked_at = now
        self._answered_at = now
        self._flowed_at = now
        self._worked_at = now
        self._refusals = 0
        self._in_flight = 0
        self._failure = ""
        self._look = Look(Reach.WELL)

    @property
    def pause(self) -> float:
        """Seconds until the next look: soon, when nobody listened just now."""
        return min(_AGAIN_SECONDS, self._period) if self._refusals else self._period

    @property
    def look_seconds(self) -> float:
        """How long one look may take."""
        return max(1.0, min(10.0, self._patience / 4))

    def wonders(self, now: float) -> bool:
        """Whether it matters to the next look who else is connected. To tell costs more than the rest of the look."""
        return self._quiet(now) + self._period >= self._patience

    def looked(
        self, look: Look, now: float, *, flowed_at: float | None = None, in_flight: int = 0, may_ask: bool = True
    ) -> None:
        """A look; ``in_flight`` is how many leases are held, ``flowed_at`` when bytes of a good answer came last.

        ``may_ask`` False: it is not to be asked for a token at the moment.
        """
        unseen = now - self._looked_at
        if unseen > 2 * self._period + 3 * self.look_seconds:
            self._answered_at += unseen
            self._flowed_at += unseen
        moved = look.mark is not None and self._look.mark is not None and look.mark != self._look.mark
        self._looked_at = now
        self._refusals = self._refusals + 1 if look.reach is Reach.REFUSED else 0
        self._in_flight = in_flight
        self._look = look
        self._may_ask_now = may_ask and self._may_ask
        if flowed_at is not None:
            self._flowed_at = max(self._flowed_at, flowed_at)
        if moved or (look.reach is Reach.WELL and not self._may_ask_now):
            self._answers(now)

    def proved(self, proven: Proven, now: float) -> None:
        """What came of the token that was asked for."""
        match proven.proof:
            case Proof.GIVEN:
                self._answers(now)
            case Proof.NOT_OFFERED:
                self._may_ask = self._may_ask_now = False
                self._answers(now)
            case Proof.FAILED:
                self._failure = proven.words
            case Proof.HUNG:
                self._failure = ""

    def due(self, now: float) -> bool:
        """Whether it is to be asked for one token."""
        reached = self._look.reach in {Reach.WELL, Reach.UNWELL}
        return self._may_ask_now and reached and now - self._answered_at >= self._patience / 2

    def stalled(self, now: float) -> float | None:
        """For how many seconds it has generated nothing, once that is too long; None while it may be well."""
        if self._refusals >= REFUSALS:
            return now - self._looked_at
        quiet = self._quiet(now)
        unanswered = now - self._answered_at
        if quiet >= self._patience * (LENIENCE if self._hidden() else 1):
            return unanswered
        return unanswered if self._failure and unanswered >= self._patience * LENIENCE else None

    def excusable(self, now: float) -> bool:
        """Whether it is no stall if its processes are at work: clients are served, and nothing else can be seen."""
        return self._refusals < REFUSALS and self._hidden() and now - self._answered_at < self._patience * MOST_LENIENCE

    def works(self, now: float) -> None:
        """Its processes are at work."""
        self._worked_at = now

    def problem(self, now: float) -> Problem:
        """What is wrong with it, in words."""
        unit, url = self._model.unit, self._model.url
        if self._refusals >= REFUSALS:
            detail = f"Nothing listens at {url} any more, though systemd says that {unit} runs."
            return Problem(Code.MODEL_FAILED, detail, {"unit": unit, "result": "unreachable"})
        seconds = round(now - self._answered_at)
        how = {Reach.WELL: "says that it is healthy and", Reach.UNWELL: f"says {self._look.words} and"}
        detail = f"Its engine {how.get(self._look.reach, 'does not answer and')} has generated nothing for {seconds} s"
        if self._failure:
            detail += f"; asked for one token, it answers {self._failure}"
        extra = {"unit": unit, "result": "stalled", "seconds": seconds}
        return Problem(Code.MODEL_FAILED, f"{detail}.", extra)

    def _answers(self, now: float) -> None:
        self._answered_at = self._flowed_at = now
        self._failure = ""

    def _quiet(self, now: float) -> float:
        return now - max(self._answered_at, self._flowed_at, self._worked_at)

    def _hidden(self) -> bool:
        """Whether a long answer that nobody can see may come before ours."""
        trouble = self._failure or self._look.reach is Reach.UNWELL
        return self._look.mark is None and not trouble and (self._in_flight > 0 or self._look.others is not False)
