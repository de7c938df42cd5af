"""Real clients of the gateway, to be run inside a throwaway host. Each prints what it saw, as JSON.

``gateway_clients.py sdk TOKEN`` · ``gateway_clients.py stream TOKEN MODEL`` (prints each piece as it comes)
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai

BASE = "http://127.0.0.1:30101/v1"
PROMPT: Any = [{"role": "user", "content": "Who are you?"}]


def failure(model: str, token: str, *, status: bool = False) -> Any:
    client = openai.OpenAI(base_url=BASE, api_key=token, max_retries=0)
    try:
        client.chat.completions.create(model=model, messages=PROMPT, max_tokens=4)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code]
    return None


async def several(token: str, models: list[str]) -> list[str]:
    """All at once, with the asynchronous client."""
    async with openai.AsyncOpenAI(base_url=BASE, api_key=token, max_retries=0) as client:
        asked = [client.chat.completions.create(model=m, messages=PROMPT, max_tokens=20) for m in models]
        return [str(answer.choices[0].message.content) for answer in await asyncio.gather(*asked)]


def sdk(token: str) -> dict[str, Any]:
    client = openai.OpenAI(base_url=BASE, api_key=token, max_retries=0)
    stream = client.chat.completions.create(
        model="alpha", messages=PROMPT, max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    return {
        "models": [each.id for each in client.models.list()],
        "one": client.models.retrieve("alpha").id,
        "streamed": "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices),
        "usage": pieces[-1].usage.completion_tokens if pieces[-1].usage else None,
        "plain": client.chat.completions.create(model="a", messages=PROMPT, max_tokens=20).choices[0].message.content,
        "legacy": client.completions.create(model="local", prompt="Who", max_tokens=4).choices[0].text,
        "several": asyncio.run(several(token, ["alpha"] * 8)),
        "unknown": failure("nobody", token),
        "wrong": failure("alpha", "smd_wrong"),
    }


def stream(token: str, model: str) -> dict[str, Any]:
    client = openai.OpenAI(base_url=BASE, api_key=token, max_retries=0)
    try:
        for piece in client.chat.completions.create(model=model, messages=PROMPT, max_tokens=2000, stream=True):
            print(json.dumps({"piece": piece.choices[0].delta.content if piece.choices else None}), flush=True)
    except openai.APIError as error:
        return {"error": type(error).__name__, "code": error.code, "message": error.message}
    return {"error": None}


if __name__ == "__main__":
    print(json.dumps({"sdk": sdk, "stream": stream}[sys.argv[1]](*sys.argv[2:])), flush=True)
