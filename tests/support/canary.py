"""All that the daemon, its gateway and its command line say to anybody: to be searched for what nobody may see."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.spark import CONTROL_SOCKET, SparkHost

CONTROL, GATEWAY = "http://127.0.0.1:30100", "http://127.0.0.1:30101"
ENDLESS = ("/api/events",)
BODIES: dict[str, tuple[object, ...]] = {
    "/api/switch": ({"model": "alpha"}, {"model": "nobody"}, {"model": 3}, {}, "no JSON", {"model": "alpha", "x": 1}),
}
"""What is sent to a POST, beside nothing at all."""
COMMANDS = (
    *(
        "status",
        "models",
        "memory",
        "history",
        "endpoints",
        "check alpha",
        "check nobody",
        "logs -n 1000",
        "logs leaky",
    ),
    *("connect curl", "connect openai", "connect cursor", "connect openwebui", "doctor", "token list", "reload"),
    *("switch alpha", "switch nobody", "start alpha", "stop alpha", "cancel", "token add --scope x y"),
)


def chat(model: str, **more: Any) -> dict[str, Any]:
    """A request for a chat."""
    return {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 20, **more}


class Conversation:
    """What was said so far, by where it was said."""

    def __init__(self, host: SparkHost, token: str) -> None:
        self._host, self._token = host, token
        self.said: dict[str, str] = {}

    def hear(self, where: str, text: str) -> None:
        """Something was said there."""
        assert text, f"{where} said nothing"
        self.said[where] = f"{self.said.get(where, '')}\n{text}"

    def who_says(self, word: str) -> set[str]:
        """Where the word was said."""
        return {where for where, text in self.said.items() if word in text}

    def curl(self, where: str, url: str, *options: str, headers: tuple[str, ...] = ()) -> None:
        """One call, heads included. Its headers are in no argument, and those of the request are not shown."""
        config = "".join(f"header = {json.dumps(header)}\n" for header in headers)
        command = ("curl", "--silent", "--show-error", "--include", "--max-time", "20", "--config", "-", *options, url)
        done = self._host.run(*command, check=False, input=config)
        self.hear(where, done.stdout + done.stderr)

    def ask_all(self) -> None:
        """Every call of the control API, on its socket and on its port, with and without a token, good ones and bad."""
        spec = self._host.api("GET", "/openapi.json")[1]
        names = {"/switches": self._host.api("GET", "/api/switches")[1]["switches"][0]["id"], "/dashboard": "main.js"}
        for path, methods in spec["paths"].items():
            for method in sorted(methods.keys() & {"get", "post", "delete"}):
                if path in ENDLESS:
                    continue
                known = next((name for part, name in names.items() if part in path), "alpha")
                ids = [known, "leaky"] if "{" in path else [""]
                for name in ids:
                    self._ask(method.upper(), re.sub(r"\{\w+\}", name, path), path)

    def _ask(self, method: str, path: str, template: str) -> None:
        bearer = (f"Authorization: Bearer {self._token}",)
        where = f"{method} {path}"
        bodies = [None, *BODIES.get(template, ())] if method == "POST" else [None]
        for body in bodies:
            words = ("--request", method)
            if body is not None:
                words = (*words, "--header", "Content-Type: application/json", "--data", json.dumps(body))
            self.curl(where, f"http://localhost{path}", *words, "--unix-socket", CONTROL_SOCKET)
        # Wrong tokens are answered ever more slowly: one call shows what all say to them.
        wrong = (f"Authorization: Bearer {self._token}x",), (f"Authorization: {self._token}",), ("Host: evil", *bearer)
        for headers in (bearer, (), *(wrong if path in ("/api/status", "/api/switch") else ())):
            self.curl(f"{where} on its port", f"{CONTROL}{path}", "--request", method, headers=headers)

    def ask_the_gateway(self) -> None:
        """Its lists, its answers, streams and refusals, and last what it says of a model that does not come up."""
        good = (f"Authorization: Bearer {self._token}", "Content-Type: application/json")
        bad = (
            f"Authorization: Bearer {self._token}x",
            f"Authorization: Basic {self._token}",
            f"X-Api-Key: {self._token}",
        )
        for path in ("/v1/models", "/models", "/health", "/metrics", "/v1/nothing", "/props", "/slots", "/v1/../x"):
            self.curl(f"gateway {path}", f"{GATEWAY}{path}", "--path-as-is", headers=good)
            self.curl(f"gateway {path}", f"{GATEWAY}{path}", "--path-as-is", headers=("Accept: */*",))
        requests: tuple[Any, ...] = (chat("alpha"), chat("alpha", stream=True), chat("nobody"), {}, "x", chat("leaky"))
        for header in bad:
            self.curl("gateway refusals", f"{GATEWAY}/v1/models", headers=(header + self._token,))
        self.curl("gateway refusals", f"{GATEWAY}/v1/models", headers=(*good, "Transfer-Encoding: x"))
        for path in ("/v1/completions", "/v1/embeddings", "/tokenize", "/v1/chat/completions"):
            for request in requests if path.startswith("/v1/chat") else requests[:1]:
                self.curl(f"gateway {path}", f"{GATEWAY}{path}", "--data", json.dumps(request), headers=good)

    def run_all(self) -> None:
        """Every command that looks, as people and as programs read it, and some that are refused."""
        for command in COMMANDS:
            for words in (command.split(), [*command.split(), "--json"]):
                done = self._host.run("spark-modelctl", *words, check=False)
                self.hear(f"spark-modelctl {command}", done.stdout + done.stderr)

    @contextmanager
    def overhearing(self) -> Iterator[None]:
        """What is streamed meanwhile: events and a model's log, by the API and by the command line."""
        streams = {
            "GET /api/events": ["curl", "-sN", "--unix-socket", CONTROL_SOCKET, "http://localhost/api/events"],
            "GET logs, followed": [
                *("curl", "-sN", "--unix-socket", CONTROL_SOCKET),
                "http://localhost/api/models/leaky/logs?follow=true&lines=100",
            ],
            "spark-modelctl events": ["spark-modelctl", "events"],
            "spark-modelctl logs -f": ["spark-modelctl", "logs", "leaky", "-f"],
        }
        with_us = ("setpriv", "--pdeathsig", "TERM", "--")  # what entered the host for it is all that we can end
        listeners = {
            where: self._host.popen(*with_us, *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for where, command in streams.items()
        }
        try:
            yield
        finally:
            for listener in listeners.values():
                listener.terminate()
            for where, listener in listeners.items():
                self.hear(where, listener.communicate(timeout=20)[0])
