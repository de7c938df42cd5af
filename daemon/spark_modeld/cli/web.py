"""HTTP to a URL, as a client of the gateway sends it: redirects are not followed, and no proxy is used."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct, field

_LOOK_SECONDS = 1.0
_LARGEST = 8 << 20


class Unanswered(Exception):
    """Nobody answered, or it was no HTTP; the text says which."""


class Answer(Struct, frozen=True):
    """One answer: ``document`` is its JSON, None where it has none."""

    status: int
    document: Any
    headers: dict[str, str] = field(default_factory=dict)


def call(method: str, url: str, *, token: str | None = None, body: Any = None, seconds: float = 30.0) -> Answer:
    """One request, with the token as its bearer. Unanswered."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    payload = None
    if body is not None:
        payload = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    try:
        connection.request(method, parts.path or "/", payload, headers)
        response = connection.getresponse()
        content = response.read(_LARGEST)
    except TimeoutError as error:
        raise Unanswered(f"no answer within {seconds:g} s") from error
    except ssl.SSLError as error:
        raise Unanswered(f"no TLS: {error.reason or error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unanswered(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error
    finally:
        connection.close()
    return Answer(response.status, _json(content), {name.lower(): value for name, value in response.getheaders()})


def health_of(url: str) -> str:
    """``answers``, or what is wrong, in a few words."""
    try:
        answer = call("GET", url, seconds=_LOOK_SECONDS)
    except Unanswered as error:
        return str(error).lower()
    return "answers" if answer.status == 200 else f"answers with {answer.status}"


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
