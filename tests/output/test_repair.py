"""Local repair: what it puts right, what it leaves alone, and that it never changes a value."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.output.judge import judge
from headrace.output.partial import Partial
from headrace.output.repair import Unrepairable, candidates
from headrace.output.schema import Mismatch, Shape, shape_of

ANY: Shape[Any] = shape_of({"type": "object"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def fenced(text: str, pick: random.Random) -> str:
    return pick.choice(["```json\n{}\n```", "```\n{}```", "Here:\n```JSON\n{}\n```\nDone."]).replace(
        "{}", text
    )


def surrounded(text: str, pick: random.Random) -> str:
    return pick.choice(
        ["Sure! {} Hope it helps.", "The answer is:\n\n{}", "{}\n\nLet me know.", "<think>a {b}</think>{}"]
    ).replace("{}", text)


def written(
    value: object, pick: random.Random, *, commas: bool = False, comments: bool = False, quotes: bool = False
) -> str:
    """`value` as a sloppy model writes it."""

    def string(text: str) -> str:
        if not quotes or "'" in text:
            return json.dumps(text, ensure_ascii=pick.random() < 0.5)
        return "'" + json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"') + "'"

    def note() -> str:
        return pick.choice(["", " // it's so, }\n", ' /* a " b */ ', " # note\n"]) if comments else ""

    def go(inner: object) -> str:
        tail = pick.choice(["", ","]) if commas else ""
        if isinstance(inner, dict):
            body = ", ".join(f"{string(k)}: {note()}{go(v)}{note()}" for k, v in inner.items())
            return "{" + note() + body + (tail if inner else "") + "}"
        if isinstance(inner, list):
            return "[" + ", ".join(go(v) + note() for v in inner) + (tail if inner else "") + "]"
        return string(inner) if isinstance(inner, str) else json.dumps(inner)

    return go(value)


@settings(max_examples=300, deadline=None)
@given(
    OBJECTS,
    st.randoms(use_true_random=False),
    st.sampled_from(["fence", "extra", "commas", "comments", "quotes"]),
)
def test_each_class_is_repaired_to_the_same_value(
    value: dict[str, Any], pick: random.Random, kind: str
) -> None:
    """Whatever JSON a model meant, fences, words, commas, comments and quotes around and in it do not change it."""
    match kind:
        case "fence":
            text = fenced(json.dumps(value), pick)
        case "extra":
            text = surrounded(json.dumps(value), pick)
        case _:
            text = written(
                value, pick, commas=kind == "commas", comments=kind == "comments", quotes=kind == "quotes"
            )
    assert judge(text, ANY).value == value


@settings(max_examples=300, deadline=None)
@given(OBJECTS.filter(bool), st.randoms(use_true_random=False))
def test_a_cut_answer_is_never_completed(value: dict[str, Any], pick: random.Random) -> None:
    """Every proper beginning of an object is refused, at whatever character it ends."""
    text = written(value, pick, quotes=pick.random() < 0.5, commas=pick.random() < 0.5)
    cut = text[: pick.randrange(1, len(text))]
    with pytest.raises(Mismatch):
        judge(cut, ANY, cut=pick.random() < 0.5)


@settings(max_examples=300, deadline=None)
@given(OBJECTS, st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from("{}[]\"',:\\ x1"))))
def test_damage_never_changes_a_value_silently(value: dict[str, Any], damage: list[tuple[int, str]]) -> None:
    """An answer with characters put in anywhere is refused, or read as strict JSON would read the repaired text: never raises else."""
    text = json.dumps(value)
    for at, mark in damage[:2]:
        at %= len(text) + 1
        text = text[:at] + mark + text[at:]
    try:
        found = judge(text, ANY)
    except Mismatch:
        return
    assert json.loads(found.text) == found.value


@pytest.mark.parametrize(
    "text",
    [
        '{"quote": "He said "hi" to me"}',
        '{"a": 1, "a": 2,}',
        '{"regex": "\\d+",}',
        "{'a': NaN}",
        '{"a": 01}',
        '{"a": 1 2}',
        '{"a": undefined}',
        '{"a": "x, "b": {"a": "y"}}',
        '[{"a": 1}, {"a": "y',
        '{"say "hi" x": {"a": 1}}',
        '{first name: {"a": 1}}',
        'see { and {"a": 1}',
        '"city": {"a": 1}, "b": 2',
        '{"a": 1}, {"a": 1, "b"',
        "no JSON here",
        "{",
        "[" * 200,
        '{"a":' * 200,
        "",
    ],
)
def test_what_would_be_a_guess_is_refused(text: str) -> None:
    """Inner quotes, keys twice, unknown escapes, numbers that are none, cut values: no value comes of it."""
    with pytest.raises((Unrepairable, Mismatch)):
        [judge(candidate.text, ANY) for candidate in candidates(text)]


def test_two_values_are_none_and_one_twice_is_one() -> None:
    """An answer with an example in it is ambiguous; the same value in a draft and at the end is not."""
    with pytest.raises(Mismatch, match="2 different values"):
        judge('For example {"a": 1}. So: {"a": 2}', ANY)
    assert judge('Draft {"a": 1}. Final: {"a": 1.0}', ANY).value == {"a": 1}


def test_numbers_keep_their_digits() -> None:
    """A number is carried as it was written, however long."""
    digits = "0.1234567890123456789012345678901234567890"
    assert digits in judge(f"{{'n': {digits},}}", ANY).text


def test_hostile_text_is_read_in_bounded_time() -> None:
    """A megabyte of brackets, quotes or backslashes is refused quickly."""
    for text in (
        "[" * 1_000_000,
        "{" * 1_000_000,
        '{"a":"' + "\\" * 1_000_000,
        "{x}" * 300_000,
        "/*" * 500_000,
    ):
        with pytest.raises((Unrepairable, Mismatch)):
            [judge(candidate.text, ANY) for candidate in candidates(text)]


@settings(max_examples=200, deadline=None)
@given(OBJECTS, st.booleans(), st.integers(1, 5))
def test_partials_grow_to_the_value(value: dict[str, Any], ascii_only: bool, size: int) -> None:
    """Fed in any pieces, the last partial is the value; no number appears before it is complete."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    partial, last = Partial(), None
    for at in range(0, len(text), size):
        found = partial.feed(text[at : at + size])
        last = found if found is not None else last
    assert last == value


def test_partials_do_not_show_half_a_number() -> None:
    """37000000 is never 37."""
    partial = Partial()
    seen = [partial.feed(piece) for piece in ('{"n": 3', "7", "000000", ', "t', '": tr', "ue}")]
    assert [value for value in seen if value is not None] == [
        {},
        {"n": 37_000_000},
        {"n": 37_000_000, "t": True},
    ]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text("abc:,{}[]\" '#/\\\n", max_size=8), JSON, min_size=1, max_size=4))
def test_unescaped_quotes_never_change_a_value(value: dict[str, Any]) -> None:
    """Quotes inside keys and texts that a model forgot to escape: the value itself, or none; never a part of it."""
    text = json.dumps(value).replace('\\"', '"')
    try:
        expected = json.loads(text)  # by chance it may be JSON still, of whatever value
    except ValueError:
        expected = value
    with contextlib.suppress(Mismatch):
        assert judge(text, ANY).value == expected
