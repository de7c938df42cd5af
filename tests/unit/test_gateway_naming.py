"""The model's name in a body: found, replaced, and nothing else changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spark_modeld.gateway import multipart, scan
from spark_modeld.gateway.multipart import Multipart
from spark_modeld.gateway.naming import Body, JsonFields
from spark_modeld.gateway.refusals import Refused
from spark_modeld.gateway.scan import JsonSpans

pytestmark = pytest.mark.unit


def spans(raw: bytes) -> JsonSpans:
    found = JsonSpans(bytearray(raw))
    while not found.advance():
        pass
    return found


def small(raw: bytes) -> Body:
    """As the gateway reads what is not large."""
    fields = JsonFields(raw)
    return fields if fields.placed else spans(raw)


READERS = [small, spans]


def named(body: Body, name: str = "new") -> bytes:
    return b"".join(bytes(piece) for piece in body.naming(name))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("raw", "model", "stream", "wanted"),
    [
        (b'{"model":"a"}', "a", False, b'{"model":"new"}'),
        (b'{"model":"a","stream":true}', "a", True, b'{"model":"new","stream":true}'),
        (b'{"n":123456789012345678901234567890,"model":"a","t":1.10,"u":1E400}', "a", False, None),
        (b'{"mod\\u0065l":"a"}', "a", False, None),
        (b'{"model":null}', None, False, b'{"model":"new"}'),
        (b'{"model":""}', None, False, b'{"model":"new"}'),
        (b"{}", None, False, b'{"model":"new"}'),
        (b'{"x":{"model":"inner"}}', None, False, None),
        (b'{"x":["}","]","\\"model\\":"],"model":"a","stream":false}', "a", False, None),
        (b'{"m\xc3\xb6del":"\xf0\x9f\x8e\x89","model":"\\u00e4"}', "ä", False, None),
    ],
)
def test_the_name_is_found_and_replaced(
    read: Any, raw: bytes, model: str | None, stream: bool, wanted: bytes | None
) -> None:
    body = read(raw)
    assert (body.model, body.stream) == (model, stream)
    after = named(body)
    if wanted is not None:
        assert after == wanted
    assert json.loads(after, parse_float=str, parse_int=str) == {
        **json.loads(raw, parse_float=str, parse_int=str),
        "model": "new",
    }


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'"model"',
        b"{",
        b'{"model":"a"',
        b'{"model":"a",}',
        b'{"model":"a"}{"model":"b"}',
        b'{"model":"a"} x',
        b'{"model":1}',
        b'{"model":["a"]}',
        b"{'model':'a'}",
        b"{model:1}",
        b'{"model" "a"}',
        b'{"a":}',
        b'{,"model":"a"}',
        b'\xef\xbb\xbf{"model":"a"}',
        '{"model":"a"}'.encode("utf-16"),
        '{"model":"a"}'.encode("utf-32-le"),
        b'{"model":"' + b"a" * 5000 + b'"}',
    ],
)
def test_what_is_no_object_with_a_name_is_refused(read: Any, raw: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read(raw)
    assert caught.value.refusal.status in {400, 404}


def test_nothing_takes_long_at_once() -> None:
    """Counted in turns, not in seconds: a body of brackets only is no other than one of letters."""
    raw = bytearray(b'{"x":[' + b"[]," * 20_000 + b'[]],"model":"a"}')
    body, steps = JsonSpans(raw), 1
    while not body.advance():
        steps += 1
    assert body.model == "a"
    assert steps >= 20


def test_two_names_are_refused() -> None:
    for raw in (b'{"model":"a","model":"b","x":1}', b'{"model":"a","mod\\u0065l":"b"}'):
        for read in READERS:
            with pytest.raises(Refused):
                read(raw)


@pytest.mark.parametrize("read", READERS)
def test_every_byte_beside_the_name_stays(read: Any) -> None:
    body = b'\r\n{ "a" : 1.10,"a":2 ,"x":{"y":"\\"model\\":1","\xc3\xa9":"\\u00e9"}%b\t,\n"z":[ ] }\n'
    wanted = named(read(body % b',"model"  : "old"'))
    assert wanted == body % b',"model"  : "new"'
    assert named(read(body % b"")) == (body % b"").replace(b"{", b'{"model":"new",', 1)
    assert named(read(b" { } ")) == b' {"model":"new" } '


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b'{"mod\\u0065l":"a","x":{"model":"a"}}', b'{"mod\\u0065l":"new","x":{"model":"a"}}'),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"new"}'),
        (b'{"x":"model","model":"a"}', b'{"x":"model","model":"new"}'),
        (b'{"x":"model"}', b'{"model":"new","x":"model"}'),
        (b'{"x":{"model":"a"}}', b'{"model":"new","x":{"model":"a"}}'),
    ],
)
def test_another_model_inside_stays(raw: bytes, wanted: bytes) -> None:
    assert [named(read(raw)) for read in READERS] == [wanted, wanted]


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.one_of(st.sampled_from(["model", "stream", 'a"b', "\\"]), st.text(max_size=8)), VALUE),
    st.one_of(st.none(), st.text(max_size=20)),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
    st.integers(1, 40),
)
@example({"a": "\\"}, "m", None, True, 5)
def test_both_readers_agree_and_change_nothing_else(
    rest: dict[str, Any], name: str | None, indent: int | str | None, ascii_only: bool, step: int
) -> None:
    rest.pop("model", None)
    whole = {**rest, "model": name}
    raw = json.dumps(whole, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    before = scan.STEP_BYTES
    scan.STEP_BYTES = step
    try:
        large = spans(raw)
    finally:
        scan.STEP_BYTES = before
    body = small(raw)
    assert (body.model, body.stream) == (large.model, large.stream)
    assert body.model == (name or None)
    after = named(large)
    assert json.loads(after) == {**whole, "model": "new"}
    assert after == named(body)
    if name is not None:
        encoded = json.dumps(name, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        assert len(after) == len(raw) - len(encoded) + len(b'"new"')


# Forms.

TYPE = b"multipart/form-data; boundary=XX"


def form(*parts: tuple[bytes, bytes]) -> bytearray:
    body = b"".join(
        b"--XX\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n" for head, data in parts
    )
    return bytearray(body + b"--XX--\r\n")


def whole_form(raw: bytearray, content_type: bytes) -> Multipart:
    read = Multipart(raw, content_type)
    while not read.advance():
        pass
    return read


FILE = (b'name="file"; filename="a.wav"\r\nContent-Type: audio/wav', bytes(range(256)))


def test_a_forms_name_is_found_and_replaced() -> None:
    read = whole_form(form(FILE, (b'name="model"', b"whisper"), (b'name="stream"', b"true")), TYPE)
    assert (read.model, read.stream) == ("whisper", True)
    assert named(read) == bytes(form(FILE, (b'name="model"', b"new"), (b'name="stream"', b"true")))


@pytest.mark.parametrize("parts", [[FILE], [FILE, (b'name="model"', b"")]])
def test_a_form_without_a_name_gets_one(parts: list[tuple[bytes, bytes]]) -> None:
    read = whole_form(form(*parts), TYPE)
    assert read.model is None
    after = whole_form(bytearray(named(read)), TYPE)
    assert after.model == "new"
    assert FILE[1] in named(read)


def test_the_boundary_may_be_quoted() -> None:
    assert whole_form(form((b'name="model"', b"a")), b'multipart/form-data; charset=utf-8; boundary="XX"').model == "a"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (form((b'name="model"', b"a"), (b'name="model"', b"b")), TYPE),
        (form((b"name=model", b"a")), TYPE),
        (form((b'name="mod\\el"', b"a")), TYPE),
        (form((b'name="x"; name="model"', b"a")), TYPE),
        (form((b"name=\"x\"; name*=utf-8''model", b"a")), TYPE),
        (form((b'name="x"\r\nContent-Disposition: form-data; name="model"', b"a")), TYPE),
        (form((b'\r\n name="model"', b"a")), TYPE),
        (form((b'name="model"', b"\xff")), TYPE),
        (form((b'name="model"', b"a"))[:-10], TYPE),
        (bytearray(b"preamble\r\n") + form((b'name="model"', b"a")), TYPE),
        (bytearray(b"--XX\r\nno head\r\n--XX--\r\n"), TYPE),
        (bytearray(b"--XX--\r\n"), TYPE),
        (form((b'name="model"', b"a")), b"multipart/form-data"),
        (form((b'name="model"', b"a")), b"multipart/form-data; boundary=XX; boundary=YY"),
        (form((b'name="model"', b"a")), b'multipart/form-data; boundary="X\\X"'),
        (bytearray(b"--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 2000 + b"--XX--"), TYPE),
    ],
)
def test_a_form_that_could_be_read_in_two_ways_is_refused(body: bytearray, content_type: bytes) -> None:
    with pytest.raises(Refused) as caught:
        whole_form(body, content_type)
    assert caught.value.refusal.status == 400


@pytest.mark.parametrize("step", [7, 11, 64, 1 << 20])
def test_a_form_is_read_alike_in_steps_of_any_size(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(multipart, "STEP_BYTES", step)
    almost = b"\r\n--X" * 40 + b"\r\n--Y"
    raw = form((b'name="a"', almost), (b'name="model"', b"whisper"), *[(b'name="b"', almost)] * 70)
    read = whole_form(raw, TYPE)
    assert (read.model, named(read).count(b"new")) == ("whisper", 1)
    with pytest.raises(Refused):
        whole_form(raw[:-5], TYPE)


def test_a_large_form_takes_more_than_one_step() -> None:
    read = Multipart(form((b'name="file"', b"\r\n--X" * (1 << 20)), (b'name="model"', b"a")), TYPE)
    steps = 1
    while not read.advance():
        steps += 1
    assert (steps > 5, read.model) == (True, "a")
