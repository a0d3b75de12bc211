from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.dialects.splice import MAX_DEPTH, _parse, _walk, members, splice
from headrace.errors import InvalidRequest


def test_members_have_exact_positions() -> None:
    """Whitespace, escapes, numbers and non-ASCII text do not move a position."""
    body = ' {"a" : "é\\u00e9" ,\n"b\\n":[1.50, {"x":"}"}],"ü":-0e1 }\n'.encode()
    found = [(m.name, body[m.start : m.end].decode()) for m in members(body)]
    assert found == [("a", '"é\\u00e9"'), ("b\n", '[1.50, {"x":"}"}]'), ("ü", "-0e1")]
    assert members(b" { } ") == []


def test_everything_else_stays() -> None:
    """Only the value changes; an absent member is put before the closing brace, behind the last value."""
    body = b'{ "model" : "a" ,"x":1.0,\n "y":"\\u0041" \n}\n'
    assert splice(body, {"model": b'"b"'}) == b'{ "model" : "b" ,"x":1.0,\n "y":"\\u0041" \n}\n'
    assert splice(body, {"z": b"1", "model": b'"b"'}) == (
        b'{ "model" : "b" ,"x":1.0,\n "y":"\\u0041","z":1 \n}\n'
    )
    assert splice(b"{}", {"a": b"1", "b": b"2"}) == b'{"a":1,"b":2}'
    assert splice(b"{ }", {"a": b"1"}) == b'{"a":1 }'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"nonsense",
        b"{",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b'{"a":1}x',
        b'{"a":NaN}',
        b'{"a":"\n"}',
        b'{"a":[1}',
        b"{'a':1}",
        b'{"\xff":1}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1',
        b'{"a":"',
    ],
)
def test_what_is_not_an_object(body: bytes) -> None:
    """Anything but one JSON object is refused as the caller's fault."""
    with pytest.raises(InvalidRequest):
        splice(body, {"model": b'"b"'})


def test_a_member_that_is_there_twice() -> None:
    """Two values for what is to be changed are refused, whatever their spelling; elsewhere they are not ours to judge."""
    for body in (b'{"model":"a","model":"b"}', b'{"model":"a","mod\\u0065l":"b"}'):
        with pytest.raises(InvalidRequest, match="twice") as caught:
            splice(body, {"model": b'"c"'})
        assert caught.value.param == "model"
    assert splice(b'{"x":1,"x":2,"model":"a"}', {"model": b'"c"'}) == b'{"x":1,"x":2,"model":"c"}'


def test_nesting_has_a_limit() -> None:
    """The deepest allowed body passes, one level more is refused by the parser, and a million levels are refused quickly."""

    def nested(depth: int) -> bytes:
        return b'{"model":"a","x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    assert splice(nested(MAX_DEPTH), {"model": b'"b"'}).startswith(b'{"model":"b"')
    assert len(_parse(nested(MAX_DEPTH))) == 2
    with pytest.raises(InvalidRequest, match="deeper"):
        _parse(nested(MAX_DEPTH + 1))
    with pytest.raises(InvalidRequest, match="deeper"):
        splice(nested(1_000_000), {"model": b'"b"'})
    wide = b'{"x":[' + b",".join([b'{"a":"[[["}'] * 1000) + b"]}"
    assert len(members(wide)) == 1


def test_hostile_strings_are_read_once() -> None:
    """An unclosed string of a million escaped quotes takes no quadratic time (the suite's timeout would end it)."""
    with pytest.raises(InvalidRequest):
        members(b'{"a":[' * 200 + b'"' + b'\\"' * 1_000_000)


def test_a_huge_number_is_carried() -> None:
    """A number that Python would refuse to convert is none of our business."""
    digits = b"9" * 100_000
    assert splice(b'{"n":' + digits + b',"model":"a"}', {"model": b'"b"'}).startswith(b'{"n":' + digits)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"model"}',
        b'{"messages":[{"content":"say \\"model\\": now"}],"model":"a"}',
        b'{"tools":[{"properties":{"model":"x"}}],"model":"a"}',
        b'{"x":"model","model":"a"}',
        b'{"x\\"model":"q","model":"a"}',
        b'{"x":{"model":"q"},"mod\\u0065l":"a"}',
        b'{"x":{"model":"q"},"\\u006dodel":"a"}',
        b'{"a":"\\u00e9","model":"a\\\\\\"b"}',
        b'{"a":"\\u0061","model"\n:\t"a"}',
    ],
)
def test_only_the_top_member_is_the_member(body: bytes) -> None:
    """Where the name occurs elsewhere, or is spelled with escapes, the member at the top is exchanged."""
    changes = {"model": b'"b"', "n": b"1"}
    assert json.loads(splice(body, changes)) == {**json.loads(body), "model": "b", "n": 1}


NAMES = st.one_of(st.sampled_from(["model", "stream", "n", 'say "model', "mod\u00e9l"]), st.text(max_size=6))
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
        st.sampled_from(["model", '"model"', '{"model":', ',"model":"x"']),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=5),
    st.dictionaries(st.sampled_from(["model", "stream", "n"]), VALUES),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_splice_is_an_update(
    top: dict[str, Any], changes: dict[str, Any], escape: bool, indent: int | None
) -> None:
    """The spliced body decodes to the updated object, and outside the values nothing has changed."""
    body = json.dumps(top, ensure_ascii=escape, indent=indent).encode("utf-8", "surrogatepass")
    raw = {name: json.dumps(value).encode() for name, value in changes.items()}
    result = splice(body, raw)
    assert json.loads(result) == {**top, **changes}
    before = [(m.name, body[m.start : m.end]) for m in members(body)]
    after = [(m.name, result[m.start : m.end]) for m in members(result)]
    assert after == [(name, raw.get(name, value)) for name, value in before] + [
        (name, value) for name, value in raw.items() if name not in top
    ]
    if not set(raw) - set(top):
        assert gaps(result, set(raw)) == gaps(body, set(raw))


PIECES = [
    b'"model"',
    b'"m"',
    b'"\\u006dodel"',
    b'"a\\",\\"model\\":"',
    b":",
    b",",
    b" ",
    b"1",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_the_quick_walk_finds_what_the_parser_finds(pieces: list[bytes]) -> None:
    """On any bytes, duplicates and escaped names included, the walk agrees with the parser or leaves the answer to it."""
    body = b'{"model":' + b"".join(pieces) + b"}"
    quick = _walk(body)
    if quick is not None:
        assert quick == _parse(body)
        assert len({member.name for member in quick}) == len(quick)


def gaps(body: bytes, names: set[str]) -> list[bytes]:
    """The stretches of `body` outside the values of `names`."""
    edges = [0]
    for member in members(body):
        if member.name in names:
            edges += [member.start, member.end]
    edges.append(len(body))
    return [body[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
