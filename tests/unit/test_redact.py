from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_modeld.core.redact import MASK, redact

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {MASK}"),
        ("{'authorization': 'Basic Zm9vOmJhcg=='}", f"{{'authorization': 'Basic {MASK}'}}"),
        ("sent bearer 0123456789abcdef to it", f"sent bearer {MASK} to it"),
        ("python -m sglang --api-key hunter2 --port 1", f"python -m sglang --api-key {MASK} --port 1"),
        ("vllm serve --api-key=hunter2 x", f"vllm serve --api-key={MASK} x"),
        ("['--api-key', 'hunter2', '--port']", f"['--api-key', {MASK}, '--port']"),
        ("args: --hf-token x1 --admin-api-key y2", f"args: --hf-token {MASK} --admin-api-key {MASK}"),
        ("HF_TOKEN=abc OPENAI_API_KEY=def", f"HF_TOKEN={MASK} OPENAI_API_KEY={MASK}"),
        ("api_key='my key' next", f"api_key={MASK} next"),
        ('{"token": "v", "x": 1}', f'{{"token": {MASK}, "x": 1}}'),
        ("GET /x?token=abc&y=1", f"GET /x?token={MASK}&y=1"),
        ("proxy http://user:pass@host/x", f"proxy http://{MASK}@host/x"),
        ("key hf_AbCdEfGhIjKl loaded", f"key {MASK} loaded"),
        ("key sk-proj-AbCdEfGh_1 loaded", f"key {MASK} loaded"),
        ("smd_laptop_0123456789abcdef0123", MASK),
        ("nvapi-0123456789abcdef", MASK),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", f"jwt {MASK}"),
    ],
)
def test_secrets_go(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=5 tokens: 7, 90 tokens/s",
        "prompt eval time = 2.0 ms / 22 tokens",
        "loading tokenizer from /srv/models/task-risk-free",
        "http://127.0.0.1:30001/v1/models 200",
        "Scheme not found: compressed-tensors",
        "",
    ],
)
def test_what_helps_to_understand_a_failure_stays(text: str) -> None:
    assert redact(text) == text


def test_a_masked_text_is_not_masked_again() -> None:
    text = redact("--api-key=x HF_TOKEN=y hf_0123456789 http://a:b@c")
    assert redact(text) == text


@given(st.from_regex(r"[A-Za-z0-9_.~+/=-]{6,60}", fullmatch=True), st.text(max_size=30))
def test_no_bearer_survives_whatever_stands_around_it(secret: str, around: str) -> None:
    marked = f"Zz{secret}zZ"
    assert marked not in redact(f"{around} Authorization: Bearer {marked}\n{around}")
    assert marked not in redact(f"{around} --api-key {marked} {around}")


@pytest.mark.parametrize("piece", ["a-", "token", "a.b_", "http://", "'", "eyJaaaaaaaa."])
def test_long_lines_cost_little(piece: str) -> None:
    text = (piece * 4096)[:4096]
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 2.0
