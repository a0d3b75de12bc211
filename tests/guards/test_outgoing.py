"""Answers looked at as they grow: the same is found however they are cut, and nothing of a word is out before it was looked at."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.guards.outgoing import Outgoing, Violation, find_links

KEY = "sk-proj-aB3dE5gH7jK9mN1pQ3sT5vW7"
TEXT = f"See https://good.example/a and https://u:p@evil.example:8443/x?q=1, then use {KEY} or password: s3cret-Pa55word please"


def outgoing(**rules: object) -> Outgoing:
    """All rules at once unless told."""
    return Outgoing(**({"secrets": True, "allow": ["good.example"]} | rules))  # type: ignore[arg-type]


def told(text: str, cuts: list[int], **rules: object) -> set[str]:
    """What is said of a text in pieces."""
    looked, said, at = outgoing(**rules), set(), 0
    for cut in [*sorted(cuts), len(text)]:
        said |= {violation.said for violation in looked.feed(text[at:cut])}
        at = cut
    return said | {violation.said for violation in looked.close()}


def test_every_cut_finds_the_same() -> None:
    """In two places anywhere, and in single characters."""
    whole = told(TEXT, [])
    assert whole == {"a key, a token or a password", "a link to evil.example"}
    for first in range(len(TEXT)):
        assert told(TEXT, [first, first + 7]) == whole
    assert told(TEXT, list(range(len(TEXT)))) == whole


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 8, 13])
def test_nothing_of_a_bad_word_is_seen_before_it_is_found(piece: int) -> None:
    """What counts as looked at never reaches into a secret or a link that was not told of yet."""
    looked = outgoing()
    start = TEXT.index("https://u:p@")
    for at in range(0, len(TEXT), piece):
        if looked.feed(TEXT[at : at + piece]):
            break
        assert looked.seen <= start
    else:
        pytest.fail("nothing was found")


def test_the_words_before_say_what_it_is() -> None:
    """Also when they were looked at long before the word came."""
    assert told("password: s3cret-Pa55word ", [10]) == {"a key, a token or a password"}
    assert told("so s3cret-Pa55word ", [3]) == set()


def test_each_violation_is_told_once() -> None:
    """What stands in the context of later words was told of."""
    looked = outgoing()
    found = [
        violation
        for piece in (f"{KEY} ", "https://evil.example ", "and ", "so ", "on ")
        for violation in looked.feed(piece)
    ]
    assert [violation.reason for violation in found] == ["secret", "link"]


def test_private_keys_are_stopped_at_their_first_line() -> None:
    """Not at the end of the key, which would be out by then."""
    assert told("-----BEGIN EC PRIVATE KEY-----\n", []) == {"a key, a token or a password"}


def test_domains_stand_for_those_below_them() -> None:
    """And for no others: a longer name that ends alike is another domain."""
    text = "https://good.example https://a.good.example http://evilgood.example //x.example [i](//img.bad.example/p.png)"
    assert told(text, []) == {"a link to evilgood.example", "a link to img.bad.example"}
    assert told(text, [], allow=None, deny=["bad.example"]) == {"a link to img.bad.example"}


def test_links_are_read_as_browsers_do() -> None:
    """User names, ports, addresses in brackets, backslashes and capitals."""
    text = r"HTTPS://User@EVIL.example.:443/ https:\\two.example http://[2001:db8::1]/x wss://three.example"
    assert find_links(text) == ["evil.example", "two.example", "[2001:db8::1]", "three.example"]


def test_length() -> None:
    """Told when it is passed, once."""
    looked = Outgoing(max_characters=10)
    assert looked.feed("0123456789") == []
    assert looked.feed("x") == [Violation("length", "more than 10 characters")]
    assert looked.feed("y") == []


@given(st.lists(st.text(alphabet='ab "é\n', max_size=8), max_size=20))
def test_what_is_seen_grows_to_the_whole(pieces: list[str]) -> None:
    """And only a word that has not ended is not looked at."""
    looked, seen, text = outgoing(), 0, ""
    for piece in pieces:
        looked.feed(piece)
        text += piece
        assert seen <= looked.seen <= len(text)
        assert all(c.isascii() and c not in ' "\n' for c in text[looked.seen :])
        seen = looked.seen
    looked.close()
    assert looked.seen == len(text)


def test_a_word_without_end_costs_no_more_than_it_is_long() -> None:
    """200 kB of one word, in pieces of a few characters."""
    looked = outgoing()
    started = time.perf_counter()
    for _ in range(4_000):
        looked.feed("abcdefgh12" * 5)
    assert time.perf_counter() - started < 5.0
