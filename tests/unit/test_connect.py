"""The live test of a client's settings, against servers that do one thing wrong each."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from spark_modeld.cli.client_settings import settings_of
from spark_modeld.cli.connecting import CLIENTS
from spark_modeld.cli.trial import Result, Trial
from spark_modeld.cli.web import Unanswered, call, health_of

pytestmark = pytest.mark.unit

TOKEN = "smd_aaaaaaaa_secret"
LIST = {"object": "list", "data": [{"id": "qwen", "aliases": ["q"]}, {"id": "other"}]}
CHAT = {"model": "qwen", "choices": [{"message": {"role": "assistant", "content": "Hello!"}}]}
REFUSED = {"error": {"message": "The token is unknown, wrong or expired.", "type": "x", "code": "y"}}

Answers = Callable[[str, str, str | None], tuple[int, Any]]


def sound(method: str, path: str, token: str | None) -> tuple[int, Any]:
    if token != TOKEN:
        return 401, REFUSED
    return 200, CHAT if method == "POST" else LIST


class Front:
    """A gateway that answers as the test says; ``asked`` is what it heard."""

    def __init__(self) -> None:
        self.answers: Answers = sound
        self.asked: list[tuple[str, str, Any]] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                front.asked.append((self.command, self.path, body))
                bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
                status, document = front.answers(self.command, self.path, bearer)
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def trial(self, model: str = "qwen", token: str | None = TOKEN, *, is_open: bool = False, may: str = "") -> Any:
        """The results by their names."""
        run = Trial(self.url, model, token, is_open=is_open).run(may_chat=may)
        return {each.name: each for each in run}


@pytest.fixture
def front() -> Iterator[Front]:
    front = Front()
    thread = threading.Thread(target=front.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield front
    front.server.shutdown()
    front.server.server_close()
    thread.join()


def test_what_works_works(front: Front) -> None:
    found = front.trial("q")
    assert [each.ok for each in found.values()] == [True] * 5
    assert "Hello!" in found["a chat answer"].detail
    assert [(method, path) for method, path, _ in front.asked] == [
        *(("GET", "/v1/models"), ("GET", "/v1/models"), ("GET", "/models"), ("POST", "/v1/chat/completions")),
    ]
    assert front.asked[-1][2]["model"] == "q"


def test_nothing_is_asked_that_could_start_a_model(front: Front) -> None:
    found = front.trial("local", may="nothing serves")
    assert found["a chat answer"] == Result("a chat answer", None, "nothing serves")
    assert not [method for method, _, _ in front.asked if method == "POST"]


def test_without_a_token_only_the_door_is_tried(front: Front) -> None:
    found = front.trial(token=None)
    assert [each.ok for each in found.values()] == [True, None, None, None]
    assert "token add" in found["200 with the token"].detail
    assert len(front.asked) == 1


def test_a_door_that_is_open_is_a_failure_where_it_should_not_be(front: Front) -> None:
    front.answers = lambda method, _path, _token: (200, CHAT if method == "POST" else LIST)
    assert front.trial()["401 without the token"].ok is False
    assert front.trial(token=None, is_open=True)["200 without a token (auth = none)"].ok is True


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "wrong, over"), (403, "token list"), (404, "ends in /v1"), (503, "holds the slot"), (500, "address?")],
)
def test_each_refusal_says_what_to_do(front: Front, status: int, says: str) -> None:
    front.answers = lambda _method, _path, token: (status if token else 401, REFUSED if status != 500 else None)
    found = front.trial()["200 with the token"]
    assert found.ok is False
    assert says in found.detail


def test_a_model_that_is_not_listed_is_told_with_those_that_are(front: Front) -> None:
    found = front.trial("nobody")
    assert (found["nobody in the list"].ok, "qwen, other" in found["nobody in the list"].detail) == (False, True)
    assert found["a chat answer"].ok is None


@pytest.mark.parametrize("document", [None, [], {"data": 3}, {"data": [1]}, {"data": []}])
def test_a_list_that_is_none_is_a_failure(front: Front, document: Any) -> None:
    front.answers = lambda _method, _path, token: (200, document) if token else (401, REFUSED)
    assert front.trial("local")["a model in the list"].ok is False


@pytest.mark.parametrize("document", [None, {}, {"choices": []}, {"choices": [{"message": None}]}, "x"])
def test_an_answer_without_words_is_a_failure(front: Front, document: Any) -> None:
    front.answers = lambda method, path, token: (200, document) if method == "POST" else sound(method, path, token)
    assert front.trial()["a chat answer"].ok is False


def test_where_nobody_listens_it_says_so(front: Front) -> None:
    (found,) = Trial("http://127.0.0.1:1/v1", "local", TOKEN, is_open=False).run(may_chat="")
    assert (found.ok, "refused" in found.detail) == (False, True)
    assert health_of("http://127.0.0.1:1/health") == "connection refused"
    front.answers = lambda *_: (503, None)
    assert health_of(f"{front.url}/health") == "answers with 503"
    with pytest.raises(Unanswered):
        call("GET", "https://127.0.0.1:1/")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("needs_token", [True, False])
def test_every_client_has_settings_with_the_address_and_never_a_token(client: str, needs_token: bool) -> None:
    found = settings_of(client, "http://spark:1/v1", 'a"b', needs_token=needs_token)
    assert "http://spark:1/v1" in found.values.values()
    assert "smd_" not in f"{found.values}{found.example}{found.notes}"
    if client == "openai":
        compile(found.example, "example", "exec")
