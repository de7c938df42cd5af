"""Why models went down, and when each was started last."""

from __future__ import annotations

from msgspec.structs import replace

from spark_modeld.core.accounts import LOADING
from spark_modeld.core.curve import Curve
from spark_modeld.core.errors import BLAMED_ON_THE_UNIT, Problem
from spark_modeld.core.instant import Instant
from spark_modeld.core.life import Life
from spark_modeld.core.unit import Phase


class Falls:
    """``fallen`` is why a model that nobody stopped went down last, also while it is up again, until it is stopped or a
    person asks for it; ``risen_at`` when it was started last. ``blamed`` is why the guard is stopping it.
    """

    def __init__(self) -> None:
        self.blamed: dict[str, Problem] = {}
        self.fallen: dict[str, Problem] = {}
        self.risen_at: dict[str, Instant] = {}

    def explained(self, model: str, before: Life, after: Life, curve: Curve | None) -> Life:
        """With what is known of its end: that the guard stopped it, or how memory went while it loaded."""
        if after.phase is Phase.SERVING:
            self.blamed.pop(model, None)
        if after.idle and model in self.blamed:
            return replace(after, problem=self.blamed.pop(model))
        problem = after.problem
        killed = problem is not None and problem.extra.get("result") in {"oom-kill", "signal"}
        if problem is not None and killed and before.phase in LOADING and curve is not None:
            return replace(after, problem=replace(problem, extra={**problem.extra, "curve": curve.points()}))
        return after

    def moved(self, model: str, before: Life, after: Life, now: Instant) -> None:
        """Its life has entered another phase."""
        if before.idle:
            self.risen_at[model] = now
        elif after.idle:
            self.fallen.pop(model, None)
            if after.problem is not None and after.problem.code in BLAMED_ON_THE_UNIT:
                self.fallen[model] = after.problem

    def explain(self, model: str, before: Problem, after: Problem) -> None:
        """The same problem of a model that fell, of which more is known now."""
        if self.fallen.get(model) == before:
            self.fallen[model] = after

    def pardon(self, model: str) -> None:
        """A person asked for it."""
        self.fallen.pop(model, None)

    def forget(self, model: str) -> None:
        """It has left the catalog."""
        self.fallen.pop(model, None)
        self.risen_at.pop(model, None)
