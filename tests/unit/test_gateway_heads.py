"""Heads and chunks: what is refused, and that a second reader (llhttp) reads the rest just as we do."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spark_modeld.gateway.chunks import Chunks
from spark_modeld.gateway.familiar import Familiar
from spark_modeld.gateway.heads import HEAD_LIMIT, Malformed, end_of_head, parse_request, parse_response
from support.malformed import BAD_CHUNKS, POST, SMUGGLING

pytestmark = pytest.mark.unit


def read(data: bytes) -> Any:
    end = end_of_head(data)
    assert end >= 0
    return parse_request(data[:end])


@pytest.mark.parametrize("case", SMUGGLING)
def test_what_could_be_read_in_two_ways_is_refused(case: str) -> None:
    with pytest.raises(Malformed) as caught:
        read(SMUGGLING[case])
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST + b"X: " + b"a" * HEAD_LIMIT, 431),
        (POST + b"X: 1\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ],
)
def test_what_is_too_long_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(Malformed) as caught:
        read(head)
    assert caught.value.status == status


def test_a_head_is_read() -> None:
    request = read(POST + b"X-A:  b c \t\r\nConnection: Keep-Alive , X-A\r\nContent-Length: 007\r\n\r\nrest")
    assert (request.method, request.target, request.http10, request.length, request.close) == (
        "POST",
        "/v1/chat/completions",
        False,
        7,
        False,
    )
    assert request.get(b"x-a") == b"b c"
    assert request.get(b"x-b") is None
    assert request.options == {b"keep-alive", b"x-a"}


@pytest.mark.parametrize("cut", range(1, len(POST) + 2))
def test_half_a_head_is_waited_for(cut: int) -> None:
    assert end_of_head((POST + b"\r\n")[:cut]) == (-1 if cut < len(POST) + 2 else len(POST) + 2)


@pytest.mark.parametrize(
    ("head", "length", "chunked", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5, False, True),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n", None, True, False),
        (b"HTTP/1.1 200 \r\n\r\n", None, False, True),
        (b"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", 0, False, True),
        (b"HTTP/1.0 200 OK\r\n\r\n", None, False, False),
    ],
)
def test_a_response_says_how_long_it_is(head: bytes, length: int | None, chunked: bool, keep: bool) -> None:
    response = parse_response(head)
    assert (response.length, response.chunked, response.keep) == (length, chunked, keep)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
    ],
)
def test_an_engines_nonsense_is_refused(head: bytes) -> None:
    with pytest.raises(Malformed):
        parse_response(head)


# A second reader.


class Second:
    """What llhttp says of a request."""

    def __init__(self, data: bytes) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.done = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.done += 1


NAMES = st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Connection", b"X-A", b"Host", b"X A", b"X-A ", b""])
VALUES = st.one_of(
    st.sampled_from(
        [b"5", b"0", b"+5", b"5, 5", b"chunked", b"gzip, chunked", b"close", b" a ", b"a\rb", b"a\nb", b"\0"]
    ),
    st.binary(max_size=12),
)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@given(LINES, st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\n "]))
@example([(b"Content-Length", b"5")], b"\r\n")
def test_what_is_taken_is_taken_by_llhttp_too_and_means_the_same(
    lines: list[tuple[bytes, bytes]], ending: bytes
) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\n" + b"".join(n + b": " + v + ending for n, v in lines) + b"\r\n"
    try:
        end = end_of_head(head)
        request = parse_request(head[:end]) if end >= 0 else None
    except Malformed:
        return
    if request is None or end < len(head):
        return
    body = b"5\r\nhello\r\n0\r\n\r\n" if request.length is None else b"x" * min(request.length, 100)
    if request.length is not None and request.length > 100:
        return
    second = Second(head + body)
    assert second.fields == request.fields
    assert (second.method, second.target) == (b"POST", b"/x")
    assert second.body == (b"hello" if request.length is None else body)
    assert second.done == 1


# Chunks.

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def chunked(pieces: list[bytes], *, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    body = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return body + b"0\r\n" + trailers + b"\r\n"


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


@given(
    PIECES,
    st.sampled_from([b"", b";a=b", b";x"]),
    st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nZ: \r\n"]),
    st.lists(st.integers(0, 1000), max_size=12),
    st.binary(max_size=20),
)
def test_chunks_are_taken_apart_however_they_arrive(
    pieces: list[bytes], extension: bytes, trailers: bytes, cuts: list[int], after: bytes
) -> None:
    chunks = Chunks()
    got, rest = b"", b""
    for part in cut(chunked(pieces, extension=extension, trailers=trailers) + after, cuts):
        if chunks.done:
            rest += part
        else:
            got += b"".join(chunks.feed(part))
            rest += chunks.rest
    assert chunks.done
    assert (got, rest) == (b"".join(pieces), after)


def feed(chunks: Chunks, data: bytes, step: int) -> None:
    for at in range(0, len(data), step):
        chunks.feed(data[at : at + step])
        assert not chunks.done


@pytest.mark.parametrize("data", BAD_CHUNKS)
@pytest.mark.parametrize("step", [1, 3, 10**6])
def test_bad_chunks_are_refused(data: bytes, step: int) -> None:
    with pytest.raises(Malformed):
        feed(Chunks(), data, step)


EVENT = b"3\r\na\n\n\r\n"
EVENTS = st.lists(st.sampled_from([b"data: 1\n\n", b"data", b"\n", b"data: 1\r\n\r\n", b"\n\n\r\n"]), max_size=6)


@given(EVENTS, st.sampled_from([b"", b"", b";x"]), st.lists(st.integers(0, 90), max_size=8))
def test_what_passes_as_it_is_is_whole_chunks_and_whole_events(
    pieces: list[bytes], extension: bytes, cuts: list[int]
) -> None:
    chunks = Chunks()
    for part in cut(chunked(pieces, extension=extension), cuts):
        if chunks.done:
            break
        size = chunks.events(part)
        taken = chunks.feed(part)
        if size:
            assert size == len(b"".join(taken))
            assert all(each.endswith(b"\n\n") or each == b"\n" for each in taken)
            assert chunks.events(EVENT) == 3


def test_whole_events_pass_as_they_are() -> None:
    for size in (1, 15, 16, 255, 256, 70000):
        event = b"x" * (size - 2) + b"\n\n"[:size]
        assert Chunks().events(chunked([event]).removesuffix(b"0\r\n\r\n") + EVENT) == size + 3


@pytest.mark.parametrize("before", [b"1", b"8\r", b"8\r\n", b"3\r\na\n\n", b"0\r\n", b"0\r\n\r\n"])
def test_what_only_looks_like_a_chunk_does_not_pass_as_it_is(before: bytes) -> None:
    chunks = Chunks()
    chunks.feed(before)
    assert chunks.events(EVENT) == 0


@pytest.mark.parametrize("data", BAD_CHUNKS)
def test_bad_chunks_never_pass_as_they_are(data: bytes) -> None:
    data = data.replace(b"hello", b"hel\n\n")
    assert not any(Chunks().events(before + data[:at]) for before in (b"", EVENT) for at in range(1, 60))


def again(head: bytes, length: bytes) -> bytes:
    return head + b"Authorization: Bearer a\r\nContent-Length: " + length + b"\r\nX: 1\r\n\r\n"


def test_a_head_that_comes_again_is_read_alike_and_not_twice() -> None:
    familiar = Familiar()
    first = familiar.read(again(POST, b"5"))
    assert familiar.read(again(POST, b"5")) is first
    first.secret, first.forwarded = "a", b"x: 1\r\n"
    longer = familiar.read(again(POST, b"1024"))
    assert (longer.length, longer.fields, longer.secret, longer.forwarded) == (1024, first.fields, "a", b"x: 1\r\n")
    assert first.length == 5
    other = familiar.read(again(POST.replace(b"chat/", b""), b"5"))
    assert (other.path, other.secret, other.forwarded) == ("/v1/completions", None, None)


def outcome(read: Callable[[bytes], Any], head: bytes) -> Any:
    try:
        return read(head)
    except Malformed as error:
        return error


KNOWN = [again(POST, b"5"), POST + b"\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\n", again(POST, b"00")]
LINES = [
    b"Content-Length: 7",
    b"content-length: 12",
    b"Transfer-Encoding: chunked",
    b"X: 1",
    b"Content-Length: 1_0",
    b"",
]


@given(
    st.sampled_from(KNOWN),
    st.one_of(
        st.sampled_from([*KNOWN, *SMUGGLING.values()]),
        st.sampled_from([b"", b"+5", b"-1", b" 5", b"5 ", b"5, 5", b"0x5", b"\xd9\xa5", b"5\r\nContent-Length: 6"]).map(
            lambda length: again(POST, length)
        ),
        st.lists(st.sampled_from(LINES), max_size=4).map(lambda lines: POST + b"\r\n".join([*lines, b"", b""])),
        st.builds(
            lambda head, at, cut, put: head[: at % len(head)] + put + head[at % len(head) + cut :],
            st.sampled_from(KNOWN),
            st.integers(0, 200),
            st.integers(0, 5),
            st.binary(max_size=6),
        ),
    ),
)
def test_what_a_connection_remembers_changes_no_reading(before: bytes, head: bytes) -> None:
    familiar = Familiar()
    familiar.read(before)
    expected, read = outcome(parse_request, head), outcome(familiar.read, head)
    if isinstance(expected, Malformed):
        assert (str(read), read.status) == (str(expected), expected.status)
        return
    names = ("method", "target", "path", "http10", "length", "close", "options")
    assert [getattr(read, name) for name in names] == [getattr(expected, name) for name in names]
    lengths = {b"content-length"}
    assert [f for f in read.fields if f[0] not in lengths] == [f for f in expected.fields if f[0] not in lengths]
