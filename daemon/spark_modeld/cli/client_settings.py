"""The settings of each client, word by word as its own screens and variables call them. Never with the token itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

KEY = "the token"


@dataclass(frozen=True)
class ClientSettings:
    """``values`` are the client's own labels, ``example`` something to paste, ``notes`` what else to know."""

    values: dict[str, str]
    example: str = ""
    notes: list[str] = field(default_factory=list)


def settings_of(client: str, url: str, model: str, *, needs_token: bool) -> ClientSettings:
    """For one of cursor, openwebui, openai and curl."""
    key = KEY if needs_token else "anything: the gateway asks for none"
    return {"cursor": _cursor, "openwebui": _open_webui, "openai": _openai, "curl": _curl}[client](url, model, key)


def _cursor(url: str, model: str, key: str) -> ClientSettings:
    return ClientSettings(
        {
            "Settings": "Cursor Settings > Models > API Keys",
            "OpenAI API Key": key,
            "Override OpenAI Base URL": url,
            "Add model": model if model != "local" else "an id of `spark-modelctl models`",
        },
        notes=[
            "While the override is on, Cursor sends its own models there too: switch it off for those.",
            "Cursor wants HTTPS with a name that the whole internet can reach; a tailnet's address is refused.",
        ],
    )


def _open_webui(url: str, model: str, key: str) -> ClientSettings:
    example = f"OPENAI_API_BASE_URL={url}\nOPENAI_API_KEY=$TOKEN"
    return ClientSettings(
        {"Settings": "Admin Panel > Settings > Connections > OpenAI API", "URL": url, "Key": key, "Model": model},
        example,
        [
            "Give it a token of its own, made with --no-switch: its requests for titles and tags then cause no switch.",
            "In a container 127.0.0.1 is the container itself: run it with --network host.",
        ],
    )


def _openai(url: str, model: str, key: str) -> ClientSettings:
    example = (
        "import os\n"
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url={json.dumps(url)}, api_key=os.environ["TOKEN"])\n'
        f'messages = [{{"role": "user", "content": "Hello"}}]\n'
        f"answer = client.chat.completions.create(model={json.dumps(model)}, messages=messages)\n"
        "print(answer.choices[0].message.content)"
    )
    return ClientSettings(
        {"base_url": url, "api_key": key, "model": model},
        example,
        ["Leave its retries on: what has to wait for another model says when to ask again."],
    )


def _curl(url: str, model: str, key: str) -> ClientSettings:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    bearer = '-H "Authorization: Bearer $TOKEN" ' if key == KEY else ""
    example = f"curl {bearer}-H 'Content-Type: application/json' -d '{body}' {url}/chat/completions"
    return ClientSettings({"URL": url, "TOKEN": key, "model": model}, example, ['A stream: -N, and "stream": true.'])
