"""What is no HTTP, through the whole gateway: one answer, nothing after it is believed, and no engine hears of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.malformed import BAD_CHUNKS, SMUGGLING
from support.relaying import AUTH, Relaying, relaying, request

pytestmark = pytest.mark.component

# What an attacker wants to be taken for a request of its own.
INNER = request(b'{"model":"qwen"}', path="/v1/completions")
CHUNKED = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n".encode()


@pytest.fixture
async def it() -> AsyncIterator[Relaying]:
    async with relaying() as running:
        yield running


async def all_that_comes(it: Relaying, sent: bytes) -> bytes:
    client = await it.open()
    await client.send(sent)
    return await client.ended()


async def test_a_head_that_could_be_read_in_two_ways_is_answered_once_and_closed(it: Relaying) -> None:
    for case, head in SMUGGLING.items():
        told = head.replace(b"Host: x\r\n", b"Host: x\r\n" + AUTH.encode(), 1)
        said = await all_that_comes(it, told + b"0\r\n\r\n" + INNER)
        assert said.startswith(b"HTTP/1.1 400 "), case
        assert said.count(b"\r\n\r\n") == 1, case
        assert b"connection: close\r\n" in said, case
    assert it.engine.asked == []


async def test_bad_chunks_are_answered_once_and_closed(it: Relaying) -> None:
    for chunks in BAD_CHUNKS:
        said = await all_that_comes(it, CHUNKED + chunks + INNER)
        assert said.startswith(b"HTTP/1.1 400 "), chunks[:60]
        assert said.count(b"\r\n\r\n") == 1, chunks[:60]
        assert b"connection: close\r\n" in said, chunks[:60]
    assert (it.engine.asked, it.leases.granted) == ([], 0)


async def test_what_a_length_covers_is_body_and_never_a_request(it: Relaying) -> None:
    client = await it.open()
    await client.send(request(b'{"model":"qwen","x":"' + INNER.replace(b'"', b"'").replace(b"\r\n", b"\\n") + b'"}'))
    assert (await client.reply()).status == 200
    assert len(it.engine.asked) == 1
