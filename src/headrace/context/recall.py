"""Finding turns that are no longer sent by their words, and with NumPy by what words are alike: no model is asked.

A turn is scored twice with BM25: by its own terms and by its own with those of the turn before it, since an answer seldom
repeats the words of its question. The two are put on one scale, added, and each turn gets a share of its better neighbour's
score. Where the `semantic` extra is installed the encoder that ships adds two more (`likeness`). What all that is worth is measured by `benchmarks/context_recall.py`.
"""

from __future__ import annotations

import functools
import heapq
import math
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from headrace.context.stem import terms

if TYPE_CHECKING:
    from headrace.context.likeness import Likeness

__all__ = ["Hit", "Index", "Passage", "asks", "choose", "shipped"]

K1, B = 1.5, 0.75
"""BM25's saturation and length weight: the usual values (Robertson and Zaragoza, 2009, section 3.1)."""

OWN, WITH_PREVIOUS, NEIGHBOUR = 1.0, 1.0, 0.3
"""Weights of a turn's own score, of its score together with the turn before, and of its better neighbour's sum."""

ALIKE, NEIGHBOUR_ALIKE = 0.7, 0.5
"""With the encoder: the weight of each of its two likenesses, and of the better neighbour's sum."""

QUERY_TERMS = 64
"""The rarest terms of a question that are looked up; a pasted file would make every turn a hit."""


COVERED, COVERED_ASKING = 0.5, 0.1
"""The share of a turn's words, by what each tells, that its best match must have for anything to be quoted. Of the turns of five LoCoMo
dialogues a third pass, of the questions on them all but 3 in 1,000."""

_QUESTION = re.compile("[?\uff1f\u061f\u037e]")


class Hit(Struct, frozen=True):
    """A turn that was found; `score` has no unit and compares hits of one question only. `length`: its terms."""

    turn: int
    score: float
    length: int = 0


class _Field:
    """One inverted index: term to (document, occurrences)."""

    __slots__ = ("_norms", "lengths", "postings", "total")

    def __init__(self) -> None:
        self.postings: dict[str, tuple[array[int], array[int]]] = {}
        self.lengths: array[int] = array("L")
        self.total = 0
        self._norms: array[float] = array("d")

    def add(self, words: Sequence[str]) -> None:
        number = len(self.lengths)
        for word, count in Counter(words).items():
            documents, counts = self.postings.setdefault(word, (array("L"), array("L")))
            documents.append(number)
            counts.append(count)
        self.lengths.append(len(words))
        self.total += len(words)

    def scores(self, weights: dict[str, float]) -> dict[int, float]:
        """BM25 of every document that has one of the terms, scaled so that the best is 1."""
        if len(self._norms) != len(self.lengths):
            mean = self.total / (len(self.lengths) or 1) or 1.0
            self._norms = array("d", (K1 * (1 - B + B * length / mean) for length in self.lengths))
        found: dict[int, float] = {}
        norms, had = self._norms, found.get
        for word, weight in weights.items():
            documents, counts = self.postings.get(word, ((), ()))
            weight *= K1 + 1
            for number, count in zip(documents, counts, strict=True):
                found[number] = had(number, 0.0) + weight * count / (count + norms[number])
        best = max(found.values(), default=0.0)
        return {number: score / best for number, score in found.items()} if best > 0 else {}

    def holds(self, word: str, number: int) -> bool:
        """Whether the document has the term."""
        documents = self.postings[word][0]
        at = bisect_left(documents, number)
        return at < len(documents) and documents[at] == number


class Index:
    """The turns that may be recalled, in order; adding one costs its own length."""

    __slots__ = ("_both", "_ids", "_last", "_likeness", "_own")

    def __init__(self, likeness: Likeness | None = None) -> None:
        """`likeness`: the encoder's part, still empty."""
        self._likeness = likeness
        self._own = _Field()
        self._both = _Field()
        self._ids: list[int] = []
        self._last: list[str] = []

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def upto(self) -> int:
        """The turn that comes after those in it."""
        return self._ids[-1] + 1 if self._ids else 0

    def add(self, turn: int, text: str) -> None:
        """Index a turn; the one added before it is its previous turn."""
        words = terms(text)
        self._ids.append(turn)
        self._own.add(words)
        self._both.add([*self._last, *words])
        self._last = words
        if self._likeness is not None:
            self._likeness.add(text)

    def _rarity(self, word: str) -> float:
        """What a term tells: much where few turns have it (the inverse document frequency of BM25)."""
        held = self._own.postings.get(word)
        having = 0 if held is None else len(held[0])
        return math.log(1 + (len(self._ids) - having + 0.5) / (having + 0.5))

    def search(self, question: str, *, without: Collection[int] = ()) -> list[Hit]:
        """The turns that have a term of `question`, or a neighbour that has; best first, ties by age, oldest first."""
        weights = {
            word: self._rarity(word) * min(count, 2)
            for word, count in Counter(terms(question)).items()
            if word in self._own.postings
        }
        if len(weights) > QUERY_TERMS:
            weights = dict(heapq.nlargest(QUERY_TERMS, weights.items(), key=lambda row: (row[1], row[0])))
        sums: dict[int, float] = {}
        for field, share in ((self._own, OWN), (self._both, WITH_PREVIOUS)):
            for number, score in field.scores(weights).items():
                sums[number] = sums.get(number, 0.0) + share * score
        share = NEIGHBOUR
        if self._likeness is not None:
            share = NEIGHBOUR_ALIKE
            for number, score in enumerate(self._likeness.to(question)):
                sums[number] = sums.get(number, 0.0) + ALIKE * score
        near = {number + step for number in sums for step in (-1, 0, 1)}
        had, ids, size = sums.get, self._ids, len(self._ids)
        found = [
            (-had(number, 0.0) - share * max(had(number - 1, 0.0), had(number + 1, 0.0)), number)
            for number in near
            if 0 <= number < size
        ]
        found.sort()
        lengths = self._own.lengths
        return [
            Hit(ids[number], -score, lengths[number]) for score, number in found if ids[number] not in without
        ]

    def calls_for(self, question: str, turn: int) -> bool:
        """Whether what `turn` and its neighbours have of the words of `question` is worth quoting: much of them where it asks
        nothing, some where it does."""
        words = set(terms(question))
        if self._likeness is not None and asks(question):
            return True
        number = bisect_left(self._ids, turn)
        near = range(max(0, number - 1), min(len(self._ids), number + 2))
        whole = had = 0.0
        for word in words:
            rarity = self._rarity(word)
            whole += rarity
            if word in self._own.postings and any(self._own.holds(word, at) for at in near):
                had += rarity
        return had > 0 and had >= whole * (COVERED_ASKING if asks(question) else COVERED)


@functools.cache
def shipped() -> type[Likeness] | None:
    """What makes an index know alike words too; None where the `semantic` extra is not installed."""
    try:
        from headrace.context.likeness import Likeness
    except ModuleNotFoundError:
        return None
    return Likeness


def asks(text: str) -> bool:
    """Whether there is a question mark in it, of any script."""
    return _QUESTION.search(text) is not None


SURE, LONGER = 1_500, 0.25
"""Tokens that the best hits get; of those behind them longer ones are preferred, by this power of their terms: they hold more."""

MISSES = 256
"""Hits in a row that do not fit, after which no smaller one is looked for."""


class Passage(Struct, frozen=True):
    """A run of neighbouring turns that is quoted together; `score` is its best turn's."""

    turns: tuple[int, ...]
    score: float


def choose(
    hits: Sequence[Hit], room: int, cost: Callable[[int, int], int], header: Callable[[int], int]
) -> tuple[Passage, ...]:
    """The hits that fit into `room` tokens, best first, grouped into passages; pure.

    Args:
        cost: Tokens of one quoted turn; where they are above the second argument, anything above it will do.
        header: Tokens of the line before a passage that begins with a turn; a turn next to one that is taken already saves it.

    A hit that does not fit is left out and smaller ones behind it are still tried, as long as there is room for a small one and not
    `MISSES` in a row did not fit.
    Passages stand in the order in which they are sent: by age, but the second best first and the best last, since models read the
    edges of a text best (Liu et al., "Lost in the Middle", 2023).
    """
    taken: dict[int, float] = {}
    left, misses = room, 0
    queue, sure = list(hits), False
    for number, hit in enumerate(queue):
        if not sure and room - left >= SURE:
            sure = True
            queue[number:] = sorted(queue[number:], key=lambda hit: -hit.score * (hit.length + 4) ** LONGER)
            hit = queue[number]
        turn = hit.turn
        gap = _gap(turn, taken, header)
        price = cost(turn, left - gap) + gap
        if price <= left:
            taken[turn] = hit.score
            left -= price
            misses = 0
        else:
            misses += 1
            if left < 16 or misses >= MISSES:
                break
    passages: list[Passage] = []
    for turn in sorted(taken):
        if passages and passages[-1].turns[-1] == turn - 1:
            last = passages.pop()
            passages.append(Passage((*last.turns, turn), max(last.score, taken[turn])))
        else:
            passages.append(Passage((turn,), taken[turn]))
    if len(passages) > 2:
        ranked = sorted(passages, key=lambda passage: (-passage.score, passage.turns))
        first, last = ranked[1], ranked[0]
        middle = [passage for passage in passages if passage is not first and passage is not last]
        passages = [first, *middle, last]
    elif len(passages) == 2 and passages[0].score > passages[1].score:
        passages.reverse()
    return tuple(passages)


def _gap(turn: int, taken: Collection[int], header: Callable[[int], int]) -> int:
    """What taking `turn` adds in headers: one for a new passage, none beside one, less one where it joins two."""
    before, after = turn - 1 in taken, turn + 1 in taken
    if before and after:
        return -header(turn + 1)
    if before:
        return 0
    return header(turn) - (header(turn + 1) if after else 0)
