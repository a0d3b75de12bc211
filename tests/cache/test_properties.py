"""What holds for any request and any order of events: scopes, and the shelf's accounts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.test_layer import House
from tests.cache.test_parts import entry

from headrace.cache.key import OUT_OF_SCOPE, Key, read_key
from headrace.cache.shelf import Shelf
from headrace.dialects import by_name
from headrace.handler import Body

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.text("abcdefgh_", min_size=1, max_size=6).filter(
    lambda name: name not in OUT_OF_SCOPE and name not in ("model", "messages", "n", "audio")
)
HOUSE = House()


def key_of(members: dict[str, Any], *, reverse: bool = False) -> Key:
    body = {"model": "smart", "messages": [{"role": "user", "content": "What is a tort?"}]} | members
    if reverse:
        body = dict(reversed(body.items()))
    wire = json.dumps(body, ensure_ascii=False).encode()
    request = msgspec.structs.replace(HOUSE.request(), body=Body(wire=wire, dialect=by_name("openai-chat")))
    return read_key(request, HOUSE.policy)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=3), st.dictionaries(NAMES, VALUES, max_size=3))
def test_members_part_requests_and_their_order_does_not(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Equal members, equal key, however they are ordered; other members, another scope, whether Headrace knows them or not."""
    first = key_of(one)
    assert key_of(one, reverse=True) == first
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (key_of(two).scope == first.scope) == same


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "hit", "remove"]),
            st.integers(0, 12),
            st.integers(0, 3_000),
            st.integers(0, 9),
        ),
        max_size=40,
    )
)
def test_the_shelf_never_holds_more_than_it_may_and_counts_right(
    steps: list[tuple[str, int, int, int]],
) -> None:
    """After any puts, hits and removals: bytes are those of what is there, at most the limit, and every entry is found by its request."""
    shelf = Shelf(8_000)
    for what, number, size, cost in steps:
        found = shelf.get(f"e{number}")
        if what == "put":
            shelf.put(entry(f"e{number}", size=size, cost=cost))
        elif what == "hit" and found is not None:
            shelf.hit(found)
        elif what == "remove":
            shelf.remove([f"e{number}"])
        assert shelf.bytes == sum(one.size for one in shelf) <= shelf.max_bytes
        assert all(
            shelf.exact(one.exact) is one and shelf.canonical(one.scope, one.canonical or "") is one
            for one in shelf
        )
