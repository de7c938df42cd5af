"""What one climb asks of one engine, rung by rung."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from spark_modeld.backends.engine import Engine
from spark_modeld.backends.probe import Answer, Probe
from spark_modeld.core.errors import Code, SparkError, refuse
from spark_modeld.core.model import Model

HEALTH_SECONDS = 30.0
"""SGLang's health gives up after 20 s itself."""
NAMES_SECONDS = 10.0
GENERATION_SECONDS = 120.0
"""A first answer may compile kernels."""
LOAD_SECONDS = 900.0
LOADS = 2
"""A server that failed so often to load a model will fail again: too little memory, a runner that dies."""
FAILING_SECONDS = 120.0
"""An engine that is up and has answered nothing but errors for so long is not loading any more."""
_LOOK_SECONDS = 30.0
"""What one look counts for at most: the time before it may be one in which the whole machine stood still."""
CONFIRM_SECONDS = 0.25
"""Other names than ours are looked at twice, this far apart: a list may still be filling up."""

_NOT_ACCEPTED = frozenset({401, 403})
_NO_SUCH_PATH = frozenset({404, 405, 501})
_NOT_OFFERED = _NO_SUCH_PATH | {400, 415, 422}
"""The engine lacks the path, or says that this model cannot be used so (no chat template, an embedding model)."""

Sleep = Callable[[float], Awaitable[None]]
Attempt = Callable[[], Awaitable[str | None]]
"""Looks once. None: passed; else what is in the way ("" for what is usual while loading). SparkError: never."""


class Climb:
    """What one climb knows."""

    def __init__(
        self,
        model: Model,
        engine: Engine,
        probe: Probe,
        *,
        rung: Callable[[str], None],
        key_trouble: str,
        sleep: Sleep,
        monotonic: Callable[[], float],
    ) -> None:
        self._model = model
        self._engine = engine
        self._probe = probe
        self._rung = rung
        self._key_trouble = key_trouble
        self._told = ""
        self._sleep = sleep
        self._monotonic = monotonic
        self._failed_loads = 0
        self._failing_seconds = 0.0
        self._failed_at: float | None = None
        self._generations = list(engine.generations)

    def rungs(self) -> list[tuple[str, Attempt, bool]]:
        """The rungs that this model's engine has, lowest first: the name told to people, and if it makes it work."""
        rungs: list[tuple[str, Attempt, bool]] = [
            ("connection", self._probe.connect, False),
            ("health", self._health, False),
            ("load", self._load, True) if self._engine.load else ("model name", self._name, False),
        ]
        if self._model.warm_up:
            rungs.append(("first answer", self._first_answer, True))
        return rungs

    def tell(self, words: str) -> None:
        """Passes on what is waited for, once for each change."""
        if words != self._told:
            self._told = words
            self._rung(words)

    async def _health(self) -> str | None:
        answer = await self._probe.get(self._engine.health_path, HEALTH_SECONDS)
        self._demand_access(answer)
        if answer.ok or (self._engine.health_optional and answer.status in _NO_SUCH_PATH):
            return None
        return "" if answer.status in self._engine.loading else answer.words

    async def _name(self) -> str | None:
        obstacle, found = await self._names()
        if found and self._model.served_model_name not in found:
            await self._sleep(CONFIRM_SECONDS)
            obstacle, found = await self._names()
            if found and self._model.served_model_name not in found:
                raise self._wrong_name(found)
        if found or (obstacle is None and self._engine.names_optional):
            return None
        return "no model is listed" if obstacle is None else obstacle

    async def _names(self) -> tuple[str | None, frozenset[str]]:
        """What is in the way of a list, or None and the names listed (none of them: an empty list)."""
        answer = await self._probe.get(self._engine.names_path, NAMES_SECONDS)
        self._demand_access(answer)
        if answer.status in _NO_SUCH_PATH and self._engine.names_optional:
            return None, frozenset()
        names = self._engine.names(answer.document()) if answer.ok else None
        if names is None:
            return (f"no model list at {self._engine.names_path}" if answer.ok else answer.words), frozenset()
        return None, names

    async def _load(self) -> str | None:
        """One server, many models: have it load ours, unless it is listed already."""
        obstacle, found = await self._names()
        if self._model.served_model_name in found:
            return None
        request = self._engine.load
        if obstacle is not None or request is None:
            return obstacle
        answer = await self._probe.post(request.path, request.body(self._model.served_model_name), LOAD_SECONDS)
        self._demand_access(answer)
        if answer.status == 404:
            raise self._unknown_name()
        if answer.ok:
            return "" if request.done(answer.document()) else answer.words
        self._failed_loads += answer.status == 500
        if self._failed_loads >= LOADS:
            raise self._refusal(f"The engine at {self._model.url} could not load it: {_said(answer)}.", "load-failed")
        return answer.words

    async def _first_answer(self) -> str | None:
        while self._generations:
            request = self._generations[0]
            body = request.body(self._model.served_model_name)
            answer = await self._probe.post(request.path, body, GENERATION_SECONDS)
            self._demand_access(answer)
            if answer.ok and request.done(answer.document()):
                return None
            if answer.status not in _NOT_OFFERED:
                words = "it answers nothing" if answer.ok else answer.words
                self._check_failing(answer, words)
                return words
            if _denies_model(answer.document()):
                raise self._unknown_name()
            del self._generations[0]
        # It has no path that we know how to ask for one token: an embedding model, a re-ranker. It is up and has the
        # right name; a warm-up it cannot do must not fail its start.
        return None

    def _check_failing(self, answer: Answer, words: str) -> None:
        """Errors may still come while it warms up; for ever they do not. What hangs is waited for: it may compile."""
        if answer.status in self._engine.loading or answer.status == 0:
            self._failed_at, self._failing_seconds = None, 0.0
            return
        now = self._monotonic()
        if self._failed_at is not None:
            self._failing_seconds += min(now - self._failed_at, _LOOK_SECONDS)
        self._failed_at = now
        if self._failing_seconds >= FAILING_SECONDS:
            raise self._refusal(
                f"The engine at {self._model.url} says that it is healthy, and has answered every request for one "
                f"token with {words} for {self._failing_seconds:.0f} s.",
                "generation-fails",
            )

    def _demand_access(self, answer: Answer) -> None:
        if answer.status not in _NOT_ACCEPTED:
            return
        file = self._model.api_key_file
        if file is None:
            wish = f"set api_key_file in models.d/{self._model.id}.toml to a file that holds the key"
            detail = f"The engine at {self._model.url} is up and wants an API key: {wish}."
        elif self._key_trouble:
            detail = f"The engine at {self._model.url} wants an API key, and {file} is of no use: {self._key_trouble}."
        else:
            said = f": it has to be the one given with {self._engine.key_set_by}" if self._engine.key_set_by else ""
            detail = f"The engine at {self._model.url} does not accept the API key in {file}{said}."
        raise self._refusal(detail, "key-refused")

    def _wrong_name(self, found: frozenset[str]) -> SparkError:
        names = ", ".join(sorted(found)[:5]) + (", ..." if len(found) > 5 else "")
        return self._refusal(
            f"The engine at {self._model.url} serves {names}, not {self._model.served_model_name}. Set "
            f"served_model_name in models.d/{self._model.id}.toml to what it serves{self._or_set_by()}, or see which "
            "server holds the port.",
            "wrong-model",
            found=sorted(found)[:20],
        )

    def _unknown_name(self) -> SparkError:
        name = self._model.served_model_name
        return self._refusal(
            f"The engine at {self._model.url} has no model {name}: provide it there, or set served_model_name in "
            f"models.d/{self._model.id}.toml to one that it has.",
            "wrong-model",
        )

    def _or_set_by(self) -> str:
        way = self._engine.name_set_by
        return f", have it serve that name ({way})" if way else ""

    def _refusal(self, detail: str, result: str, **extra: Any) -> SparkError:
        return refuse(Code.MODEL_FAILED, detail, unit=self._model.unit, result=result, **extra)


def _said(answer: Answer) -> str:
    """The error in an answer, in its own words (Ollama's way), else its status."""
    document = answer.document()
    error = document.get("error") if isinstance(document, dict) else None
    return " ".join(error.split())[:300].rstrip(".") if isinstance(error, str) and error else answer.words


def _denies_model(document: object) -> bool:
    """Whether an error says that the model, not the path, does not exist (OpenAI's, vLLM's and Ollama's ways)."""
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        return error.get("code") == "model_not_found" or error.get("param") == "model"
    return isinstance(error, str) and error.startswith("model ")
