"""litellm as a client of the gateway, to be run inside a throwaway host: prints what it saw, as JSON.

``litellm_client.py BASE TOKEN MODEL...``: asks each model twice, at once and streamed, then what has to fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it is fetched from the net

import litellm

MESSAGES = [{"role": "user", "content": "Who are you?"}]


def options(base: str, token: str, model: str) -> dict[str, Any]:
    return {
        **{"model": f"openai/{model}", "api_base": base, "api_key": token, "messages": MESSAGES},
        **{"max_tokens": 20, "temperature": 0, "num_retries": 0, "max_retries": 0},
    }


def failure(base: str, token: str, model: str) -> list[Any]:
    try:
        litellm.completion(**options(base, token, model))
    except (litellm.NotFoundError, litellm.AuthenticationError) as error:
        return [type(error).__name__, error.status_code]
    return []


async def at_once(base: str, token: str, models: list[str]) -> list[str]:
    asked = [litellm.acompletion(**options(base, token, model)) for model in models]
    return [answer.choices[0].message.content.strip() for answer in await asyncio.gather(*asked)]


def main(base: str, token: str, *models: str) -> dict[str, Any]:
    streamed = []
    for model in models:
        pieces = litellm.completion(**options(base, token, model), stream=True)
        streamed.append("".join(piece.choices[0].delta.content or "" for piece in pieces).strip())
    return {
        "plain": [litellm.completion(**options(base, token, m)).choices[0].message.content.strip() for m in models],
        "streamed": streamed,
        "at once": asyncio.run(at_once(base, token, list(models))),
        "unknown": failure(base, token, "nobody"),
        "wrong": failure(base, "smd_wrong_token", models[0]),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
