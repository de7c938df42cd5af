"""The live test of a client's settings: what a client would do, step by step, and what each failure means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spark_modeld.cli.web import Answer, Unanswered, call

_LOOK_SECONDS = 10.0
_CHAT_SECONDS = 900.0
_TOKENS = 16


@dataclass(frozen=True)
class Result:
    """How one step went: ``ok`` is None where it was not tried, and ``detail`` says why, or what to do."""

    name: str
    ok: bool | None
    detail: str = ""


class Trial:
    """Of one base URL (with its ``/v1``), a model's name and a token; ``is_open``: the gateway asks for none.

    ``ctl`` is how the operator's command is called here, as root where that is needed.
    """

    def __init__(
        self, url: str, model: str, token: str | None, *, is_open: bool, ctl: str = "sudo spark-modelctl"
    ) -> None:
        self._url, self._model, self._token, self._is_open = url, model, token, is_open
        self._ctl = ctl

    def run(self, *, may_chat: str) -> list[Result]:
        """Every step; ``may_chat`` is why no question is to be asked, "" where it may be."""
        try:
            return list(self._steps(may_chat))
        except Unanswered as error:
            return [Result(f"reach {self._url}", False, f"{error}. `spark-modelctl endpoints` shows where it listens.")]

    def _steps(self, may_chat: str) -> Iterator[Result]:
        yield self._stranger(call("GET", f"{self._url}/models", seconds=_LOOK_SECONDS))
        if self._token is None and not self._is_open:
            how = f"needs a token: {self._make}; then again with --token-stdin"
            yield from (Result(name, None, how) for name in ("200 with the token", self._in_list, "a chat answer"))
            return
        listed = call("GET", f"{self._url}/models", token=self._token, seconds=_LOOK_SECONDS)
        yield Result("200 with the token", listed.status == 200, "" if listed.status == 200 else self._meaning(listed))
        if listed.status != 200:
            yield from (Result(name, None, "not without the list") for name in (self._in_list, "a chat answer"))
            return
        # Some clients leave out the /v1.
        bare = call("GET", f"{self._url.removesuffix('/v1')}/models", token=self._token, seconds=_LOOK_SECONDS)
        yield Result("the list without /v1 too", bare.status == 200, "" if bare.status == 200 else self._meaning(bare))
        found = self._listed(listed)
        yield found
        if found.ok is False:
            yield Result("a chat answer", None, "not without the model")
        elif may_chat:
            yield Result("a chat answer", None, may_chat)
        else:
            yield self._chat()

    def _stranger(self, answer: Answer) -> Result:
        if self._is_open:
            detail = "" if answer.status == 200 else self._meaning(answer)
            return Result("200 without a token (auth = none)", answer.status == 200, detail)
        if answer.status == 401:
            return Result("401 without the token", True)
        if answer.status == 200:
            return Result("401 without the token", False, "it lets anybody in: see `spark-modelctl doctor`")
        return Result("401 without the token", False, self._meaning(answer))

    @property
    def _in_list(self) -> str:
        return "a model in the list" if self._model == "local" else f"{self._model} in the list"

    def _listed(self, answer: Answer) -> Result:
        told = answer.document.get("data") if isinstance(answer.document, dict) else None
        entries = [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []
        names = [str(each.get("id")) for each in entries]
        aliases = {str(alias) for each in entries for alias in each.get("aliases") or []}
        shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
        if not names:
            return Result(self._in_list, False, "the list is empty: no model, or the token may use none")
        if self._model == "local" or self._model in {*names, *aliases}:
            return Result(self._in_list, True, shown)
        return Result(self._in_list, False, f"it has {shown}: a client's model has to be one of these")

    def _chat(self) -> Result:
        messages = [{"role": "user", "content": "Say hello."}]
        body = {"model": self._model, "messages": messages, "max_tokens": _TOKENS}
        url = f"{self._url}/chat/completions"
        answer = call("POST", url, token=self._token, body=body, seconds=_CHAT_SECONDS)
        if answer.status != 200:
            return Result("a chat answer", False, self._meaning(answer))
        document: Any = answer.document if isinstance(answer.document, dict) else {}
        try:
            message = document["choices"][0]["message"]
            said = message.get("content") or message.get("reasoning_content") or ""
        except (KeyError, IndexError, TypeError, AttributeError):
            return Result("a chat answer", False, "the engine's answer has no message")
        return Result("a chat answer", True, f"{document.get('model') or self._model} says {str(said)[:60].strip()!r}")

    @property
    def _make(self) -> str:
        return f"`{self._ctl} token add --scope inference NAME` makes one"

    def _meaning(self, answer: Answer) -> str:
        """What a refusal says, and what to do about it."""
        error = answer.document.get("error") if isinstance(answer.document, dict) else None
        said = str(error.get("message", "")) if isinstance(error, dict) else ""
        todo = {
            401: f"the token is wrong, over or not for this gateway; {self._make}",
            403: f"the token lacks what this needs: `{self._ctl} token list`",
            404: "no such model or path: the base URL ends in /v1",
            429: "too many requests wait already",
            502: "`spark-modelctl status` says what failed",
            503: "another model holds the slot, or the daemon is busy: `spark-modelctl status`",
            507: "`spark-modelctl memory` says who holds the memory",
        }.get(answer.status, "is that the gateway's address?" if not said else "")
        return " ".join(part for part in (f"status {answer.status}.", said, f"({todo})" if todo else "") if part)
