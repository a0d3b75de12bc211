"""The encoder's part in recall: alike words are found, words alone still are, and without NumPy nothing changes."""

from __future__ import annotations

import sys

import pytest

from headrace.context.likeness import Likeness
from headrace.context.recall import Index, shipped

SAID = [
    "The weather is lovely today.",
    "My physician told me to rest for a week.",
    "We painted the fence green.",
    "The invoice 4711 is still open.",
    "Our train leaves at nine.",
]


def index(likeness: type[Likeness] | None) -> Index:
    """The turns of `SAID`."""
    made = Index(None if likeness is None else likeness())
    for number, text in enumerate(SAID):
        made.add(number, text)
    return made


def test_a_turn_is_found_by_words_like_those_of_the_question() -> None:
    """No word of the question is in the turn; words alone find nothing, and nothing would be quoted."""
    question = "Which doctor gave advice?"
    assert index(None).search(question) == []
    found = index(Likeness)
    hits = found.search(question)
    assert hits[0].turn == 1
    assert found.calls_for(question, hits[0].turn)
    assert not found.calls_for("Doctors give advice.", hits[0].turn)


def test_the_very_word_still_counts_most() -> None:
    """An identifier, of which an encoder knows nothing, is found by itself."""
    assert index(Likeness).search("What about 4711?")[0].turn == 3


def test_scores_are_between_none_and_both() -> None:
    """Each likeness is on the scale from the least alike turn to the most; a question without a known word has none."""
    likeness = Likeness()
    for text in SAID * 40:  # more than are made room for at first
        likeness.add(text)
    scores = likeness.to("Which doctor gave advice?")
    assert len(scores) == 200
    assert 0 <= min(scores) < 0.5 < max(scores) <= 2
    assert likeness.to("") == []
    assert Likeness().to("doctor") == []


def test_without_numpy_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is no error: words alone decide."""
    shipped.cache_clear()
    monkeypatch.setitem(sys.modules, "headrace.context.likeness", None)
    assert shipped() is None
    shipped.cache_clear()
    monkeypatch.undo()
    assert shipped() is Likeness
