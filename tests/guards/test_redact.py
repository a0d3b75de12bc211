"""Values out, placeholders in, and back again: exactly, whatever the text and however it is cut."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.guards import KINDS, Redactor, Restorer, redact, restore
from headrace.guards.redact import PLACEHOLDER, _few, _many, as_json, exchanger

VALUES = [
    "ann@example.com",
    "+49 30 1234567",
    "4111 1111 1111 1111",
    "DE89370400440532013000",
    "2001:db8::7",
    "sk-proj-aB3dE5gH7jK9mN1pQ3sT5vW7",
    "o'neil+x@sub.example.org",
]
PIECES = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from(
        ["[EMAIL_1]", "[EMAIL_2]", "[CARD_1]", "[", "]", "[EMAIL_", "[EMAIL_1", "_1]", " ", "\n", "ID-1234"]
    ),
    st.text(max_size=12),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@given(TEXTS)
def test_restored_is_what_was_redacted(text: str) -> None:
    """Whatever the text, also one that has placeholders of its own."""
    redacted, values = redact(text, patterns={"staff": r"ID-\d{4}"})
    assert restore(redacted, values) == text
    assert not any(value in redacted for value in values.values())
    assert set(PLACEHOLDER.findall(text)).isdisjoint(values)


@given(st.lists(TEXTS, max_size=4))
def test_no_text_of_a_request_keeps_a_value_of_another(texts: list[str]) -> None:
    """A value found in one text is exchanged in all, by the same placeholder."""
    values = Redactor().values(texts)
    exchange = exchanger(values)
    for text in texts:
        assert restore(exchange(text), values) == text
        assert not any(value in exchange(text) for value in values.values())


def test_one_value_has_one_placeholder_and_a_conversation_keeps_it() -> None:
    """A longer conversation with the same beginning numbers that beginning alike, so that its text stays the same."""
    first = ["write to ann@example.com and bob@example.com", "ann@example.com again"]
    longer = [*first, "now carl@example.com"]
    values = Redactor().values(longer)
    assert list(values.items())[:2] == list(Redactor().values(first).items())
    assert [exchanger(values)(text) for text in longer] == [
        "write to [EMAIL_1] and [EMAIL_2]",
        "[EMAIL_1] again",
        "now [EMAIL_3]",
    ]


def test_a_value_hidden_in_a_word_goes_too() -> None:
    """Found where it stands alone, a card is exchanged also where nothing would have found it."""
    values = Redactor(("card",)).values(["4111111111111111", "ref4111111111111111x"])
    assert exchanger(values)("ref4111111111111111x") == "ref[CARD_1]x"


def test_short_values_of_a_pattern_stay_in_words() -> None:
    """A name of two letters is not cut out of every word that has them."""
    text, values = redact("Al always told Alice, not Al", (), {"name": r"\bAl\b"})
    assert text == "[NAME_1] always told Alice, not [NAME_1]"
    assert restore(text, values) == "Al always told Alice, not Al"


def test_one_value_may_be_the_beginning_of_another() -> None:
    """The longer one is not taken for the shorter one and a rest."""
    values = Redactor(("email",)).values(["ann@example.co", "ann@example.com"])
    assert exchanger(values)("ann@example.com, ann@example.co") == "[EMAIL_2], [EMAIL_1]"


@given(
    st.sets(st.text(alphabet="ab c", min_size=1, max_size=9), min_size=1, max_size=8),
    st.text(alphabet="ab c", max_size=60),
)
def test_many_values_are_exchanged_as_few_are(values: set[str], text: str) -> None:
    """The table for thousands of values does what the pattern for some does."""
    names = {value: f"[X_{number}]" for number, value in enumerate(sorted(values), 1)}
    assert _many(names)(text) == _few(names)(text)


def test_thousands_of_values_cost_what_the_text_is_long() -> None:
    """A table of ten thousand people, half a megabyte."""
    text = "\n".join(f"{n},Ann Smith,person{n}@example.com,Main Street {n}" for n in range(10_000))
    started = time.perf_counter()
    redacted, values = redact(text, ("email",))
    restorer = Restorer(values)
    again = (
        "".join(restorer.feed(redacted[at : at + 7]) for at in range(0, len(redacted), 7)) + restorer.close()
    )
    assert time.perf_counter() - started < 10.0
    assert again == text and len(values) == 10_000 and "@" not in redacted


@pytest.mark.parametrize("encode", [str, as_json])
def test_every_cut_of_a_stream_gives_the_same_text(encode: type[str]) -> None:
    """Cut at every two places, with placeholders next to what only looks like one: nothing is missed and nothing is made up."""
    values = {"[NOTE_1]": 'say "hi"\\\n', "[NOTE_12]": "b", "[EMAIL_1]": "ann@example.com"}
    text = "a [[NOTE_1]][NOTE_12]x [NOTE_13] [note_1] [EMAIL_1][EMAIL_ [EMAIL_1"
    whole = restore(text, values, encode=encode)
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            restorer = Restorer(values, encode=encode)
            pieces = (text[:first], text[first:second], text[second:])
            assert "".join(map(restorer.feed, pieces)) + restorer.close() == whole


@given(TEXTS, st.lists(st.integers(0, 200), max_size=6))
def test_any_cut_of_any_text_gives_it_back(text: str, cuts: list[int]) -> None:
    """The stream of a redacted text restores the text."""
    redacted, values = redact(text)
    restorer, at, out = Restorer(values), 0, ""
    for cut in sorted({cut for cut in cuts if cut < len(redacted)}):
        out += restorer.feed(redacted[at:cut])
        at = cut
    assert out + restorer.feed(redacted[at:]) + restorer.close() == text


def test_only_what_may_become_a_placeholder_waits() -> None:
    """Ordinary brackets pass at once."""
    restorer = Restorer({"[EMAIL_1]": "ann@example.com"})
    assert restorer.feed("see [1] and [x") == "see [1] and [x"
    assert restorer.feed(" [EMA") == " "
    assert restorer.feed("TH]") == "[EMATH]"
    assert restorer.feed("[EMAIL_1") == ""
    assert restorer.close() == "[EMAIL_1"


@given(st.text())
def test_values_in_json_stay_json(value: str) -> None:
    """A value with quotes, line ends or anything else is written as a JSON string writes it."""
    arguments = '{"to":"[NOTE_1]"}'
    assert json.loads(restore(arguments, {"[NOTE_1]": value}, encode=as_json)) == {"to": value}


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (r"(a{1,20}){1,20}b", "ways"),
        (r"(?:a|a|b|ab){1,30}c", "ways"),
        (r"\d{1,64}\d{1,64}x", "ways"),
        (r"\w+@", "longer than"),
        (r".*", "empty"),
        (r"(", "not a regular expression"),
    ],
)
def test_patterns_that_could_run_long_are_refused(pattern: str, says: str) -> None:
    """With the reason, before any text is read."""
    with pytest.raises(ValueError, match=says):
        Redactor((), {"mine": pattern})


@pytest.mark.parametrize(
    "pattern",
    [r"EMP-\d{4,8}", r"[A-Z]{2,3}-\d{6}(?:-[A-Z]{1,4})?", r"\w{1,64}+@\w{1,64}+", r"(?i)acme|initech"],
)
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    """Bounded repeats, alternatives, possessive repeats."""
    assert Redactor((), {"mine": pattern}).find("") == []


@pytest.mark.parametrize(
    ("kinds", "patterns"), [(("emails",), {}), ((), {"Mine": "x"}), ((), {"email": "x"})]
)
def test_unknown_kinds_and_bad_names_are_refused(kinds: tuple[str, ...], patterns: dict[str, str]) -> None:
    """A mistyped kind would redact nothing."""
    with pytest.raises(ValueError, match="not '"):
        Redactor(kinds, patterns)


@pytest.mark.parametrize(
    "unit",
    ["a", "1", "1 ", "a@", "@a.", "eyJ", "sk-", "-----BEGIN PRIVATE KEY-----", "token=", "1.1.1.", "::", "a:", "+1 ", "[EMAIL_1", "DE89", "://a:", "(0"],
)  # fmt: skip
def test_no_text_makes_the_finders_run_long(unit: str) -> None:
    """100 kB of what each pattern begins with: work grows with the length, not with its square."""
    text = unit * (100_000 // len(unit))
    started = time.perf_counter()
    Redactor().values([text])
    assert time.perf_counter() - started < 3.0


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("+49 30 1234567 4111111111111111", "[PHONE_1] 4111111111111111"),
        ("+1 415 555 2671 94105", "[PHONE_1] 94105"),
        ("+3.14159265 3.5 and +37.7749295", "+3.14159265 3.5 and +37.7749295"),
        ("+12345678901234567890", "+12345678901234567890"),
        ("DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
        ("phone 4155552671, order 4155552671x", "phone [PHONE_1], order [PHONE_1]x"),
    ],
)
def test_numbers_beside_numbers(text: str, redacted: str) -> None:
    """A phone number ends where another number begins; a decimal and the rest of an account are none."""
    assert redact(text, ("phone",))[0] == redacted


def test_kinds_are_named() -> None:
    """The names are public: routes and the documentation use them."""
    assert set(KINDS) == {"secret", "iban", "card", "email", "ip", "phone"}
