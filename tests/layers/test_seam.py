"""Where one text goes on in another: recorded answers cut everywhere, continued well and badly."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.layers.seam import NoSeam, Seam, anchor, join

RIVER = """The river rises in the high moor, where rain falls on two days of three. From there it runs south for 40 \
kilometres, past a mill that has been grinding corn since 1742.

Three things made the mill famous:

1. Its wheel, which is older than the building.
2. Its miller, who kept a diary of the weather for fifty-one years.
3. Its ghost, "the grey lady," whom nobody has seen twice.

In winter the pond freezes over and the children skate on it; in summer it is green."""
CODE = """Use a heap:

```python
def smallest(values, count):
    heap = []
    for value in values:
        heapq.heappush(heap, -value)
        if len(heap) > count:
            heapq.heappop(heap)
    return sorted(-value for value in heap)
```

It takes O(n log k) time."""
TEXTS = (RIVER, CODE)
REWORDED = "High up on the moor is where it comes from, a place of rain. It then flows to the south, and an old mill stands there."


def spaced(text: str) -> str:
    """The text with each white space as one space."""
    return " ".join(text.split())


def cuts(text: str) -> list[int]:
    """Every second place but the very ends, mid-word ones too."""
    return list(range(1, len(text), 2))


def sentence_of(said: str) -> int:
    """Where the last sentence or line of `said` begins."""
    return max((match.end() for match in re.finditer(r"[.!?:]\s+|\n", said.rstrip())), default=0)


def continuations(text: str, cut: int, *, exact: bool) -> dict[str, str]:
    """What second providers make of `text`, cut there."""
    said, rest = text[:cut], text[cut:]
    asked = text[said.rindex(anchor(said)) :] if anchor(said) else text
    well = text[len(said.rstrip()) :] if exact else asked
    return {
        "well": well,
        "last sentence": text[sentence_of(said) :],
        "over": text,
        "preamble": f"Sure, here is the rest:\n\n{asked}",
        "announced": f"Here is the complete answer again:\n\n{text}",
        "preamble, no repetition": f"Sure, here is the rest: {rest}",
    }


@pytest.mark.parametrize("exact", [True, False], ids=["prefill", "asked"])
@pytest.mark.parametrize("text", TEXTS, ids=["prose", "code"])
def test_a_recorded_answer_cut_everywhere(text: str, exact: bool) -> None:
    """The whole text as it was, or an error; in a prefill and in an asked-for continuation alike. Who does as asked nearly always fits."""
    fits: Counter[str] = Counter()
    for cut in cuts(text):
        for name, more in continuations(text, cut, exact=exact).items():
            try:
                added = join(text[:cut], more, exact=exact)
            except NoSeam:
                continue
            assert spaced(text[:cut] + added) == spaced(text), (name, text[:cut][-30:], more[:30])
            fits[name] += 1
    assert fits["well"] >= 0.9 * len(cuts(text))
    assert fits["over"] >= 0.8 * len(cuts(text))
    assert fits["preamble"] >= 0.8 * len(cuts(text)) or exact
    assert fits["preamble, no repetition"] == 0


@pytest.mark.parametrize("cut", range(20, len(RIVER), 7))
def test_other_words_are_no_continuation(cut: int) -> None:
    """Whoever was asked to repeat the end and words it anew has not shown where it goes on."""
    with pytest.raises(NoSeam):
        join(RIVER[:cut], REWORDED)


def test_a_prefilled_model_that_tells_it_again_is_refused() -> None:
    """Word for word and then otherwise, with the same words in another order, or as a new sentence in the middle of one."""
    said = "The river rises in the high moor, where rain falls on two days of three. From there it"
    for more in (
        "The river rises in the high moor, but it is dry there and nobody knows why.",
        "From the high moor, where rain falls two days of three, rises the river and goes south.",
        "It runs south.",
    ):
        with pytest.raises(NoSeam):
            join(said, more, exact=True)
    with pytest.raises(NoSeam, match="another way"):
        join(
            said + " ends. ",
            "The river rises in the high meadows, nobody ever visited because everything flooded.",
            exact=True,
        )


@pytest.mark.parametrize(
    ("said", "more", "whole"),
    [
        ("The quick bro", "wn fox", "The quick brown fox"),
        ("The quick brown", " fox", "The quick brown fox"),
        ("The quick brown ", " fox", "The quick brown fox"),
        ("The quick brown ", "fox", "The quick brown fox"),
        ("It is 4", "2.", "It is 42."),
        ("a list:\n", "\n\n- one", "a list:\n\n- one"),
        ("f(g(x)", ") = 1", "f(g(x)) = 1"),
        ("in the", ", er, middle", "in the, er, middle"),
    ],
)
def test_the_space_at_the_seam_of_a_prefill(said: str, more: str, whole: str) -> None:
    """None is added within a word, none is given twice."""
    assert said + join(said, more, exact=True) == whole


@pytest.mark.parametrize(
    ("said", "more", "added"),
    [
        ("I think that the quick bro", "that the quick brown fox", "wn fox"),
        ("I think that the quick brown ", "that the Quick  brown fox", "fox"),
        ("he said \u201cnever again\u201d and", 'said "never again" and left', " left"),
        ("I", "I think so", " think so"),
    ],
)
def test_a_repetition_is_taken_off(said: str, more: str, added: str) -> None:
    """Also one in the middle of a word, with other white space, case or quotes."""
    assert join(said, more) == added


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("It was very", " very good"),
        ("I see a fo", "fox"),
        ("an a", "ardvark"),
        ("so:\n`", "``\n"),
        ("la la la la la la la la", "la la la la la la la la la"),
        ("one, two", ""),
    ],
)
def test_what_fits_in_two_ways_does_not_fit(said: str, more: str) -> None:
    """An error is better than a guess: doubled words, a song, and nothing at all from who was asked to repeat."""
    exact = said != "one, two"
    with pytest.raises(NoSeam):
        join(said, more, exact=exact)


def test_a_finished_text_needs_no_more() -> None:
    """A prefilled model that has nothing to add says so."""
    assert join("All of it.", "", exact=True) == ""


WORDS = st.lists(
    st.sampled_from(
        ["alder", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "yew"]
    ),
    min_size=1,
    max_size=40,
)
TEXT = st.text("ab \n.:-1A\u6c34\u2019", max_size=60)


@given(said=TEXT, more=TEXT, exact=st.booleans(), data=st.data())
def test_the_pieces_do_not_matter(said: str, more: str, exact: bool, data: st.DataObject) -> None:
    """However a continuation is cut into pieces, the same is added, or none of them fits; what is added is always the end of it, but
    for white space."""
    try:
        whole: str | None = join(said, more, exact=exact)
    except NoSeam:
        whole = None
    at = sorted(data.draw(st.lists(st.integers(0, len(more)), max_size=6)))
    pieces = [more[a:b] for a, b in zip([0, *at], [*at, len(more)], strict=True)]
    try:
        seam = Seam(said, exact=exact)
        added: str | None = "".join([*map(seam.feed, pieces), seam.close()])
    except NoSeam:
        added = None
    assert added == whole
    if whole is not None:
        assert more.endswith(whole)


@given(words=WORDS, cut=st.integers(1, 200), back=st.integers(0, 39))
def test_no_word_is_doubled(words: list[str], cut: int, back: int) -> None:
    """Whatever of the text is repeated before the rest, the whole is the text or an error."""
    text = " ".join(f"{word}{number}" for number, word in enumerate(words))
    said = text[: 1 + cut % len(text)]
    starts = [match.start() for match in re.finditer(r"\S+", said)]
    more = text[starts[-1 - back % len(starts)] :]
    for exact in (True, False):
        with suppress(NoSeam):
            assert said + join(said, more, exact=exact) == text


def test_the_anchor_is_the_end_of_the_text() -> None:
    """A few words, within the last line where that has enough."""
    for cut in range(1, len(RIVER)):
        said = RIVER[:cut]
        assert said.rstrip().endswith(anchor(said))
        assert 1 <= len(anchor(said).split()) <= 8
    assert anchor("one\ntwo three four five six") == "two three four five six"
