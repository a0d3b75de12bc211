"""Strings of JSON text exchanged where they stand: what is not changed keeps its bytes, and what is changed is what was meant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.dialects.literals import rewrite

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def mapped(value: Any, path: list[str]) -> Any:
    """The same change on the decoded value; the path as `rewrite` tells it."""
    match value:
        case str():
            return changed(path, value, False)
        case list():
            return [mapped(item, [*path, ""]) for item in value]
        case dict():
            return {
                changed([*path, name], name, True): mapped(item, [*path, name])
                for name, item in value.items()
            }
        case _:
            return value


def changed(path: Sequence[str], text: str, is_name: bool) -> str:
    """Says where it was."""
    return f"{is_name}:{'/'.join(path)}={text}"


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_it_is_the_change_of_the_value(value: Any, ascii_only: bool, indent: int | None) -> None:
    """However it is written: every string is told once, with the members that lead to it."""
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert json.loads(rewrite(body, changed)) == mapped(value, [])


@given(VALUES)
def test_what_stays_is_the_same_object(value: Any) -> None:
    """Nothing is written anew where nothing changes."""
    body = json.dumps(value).encode()
    assert rewrite(body, lambda path, text, is_name: text) is body


def test_only_the_string_changes() -> None:
    """Spaces, numbers, escapes of other strings and duplicates stay."""
    body = rb'{ "a" : "x\u0041\/" , "b":1.50, "b": [ "x" ,"\ud800"] }'
    out = rewrite(body, lambda path, text, is_name: "y\n" if text == "x" else text)
    assert out == rb'{ "a" : "x\u0041\/" , "b":1.50, "b": [ "y\n" ,"\ud800"] }'
    out = rewrite(body, lambda path, text, is_name: text + "!" if text == "\ud800" else text)
    assert out == rb'{ "a" : "x\u0041\/" , "b":1.50, "b": [ "x" ,"\ud800!"] }'


@pytest.mark.parametrize(
    "body", [b"", b"}", b']]"x"', b'"x', b'{"a":', b"\xff", b'{"a":"\xff"}', b'"a":"b"', b'["\\u12"]']
)
def test_what_is_no_json_does_no_harm(body: bytes) -> None:
    """It is for others to refuse it."""
    assert rewrite(body, lambda path, text, is_name: text) is body
