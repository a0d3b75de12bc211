"""Finding turns that are no longer sent, by their words alone: no model, no dependency.

A turn is scored twice with BM25: by its own terms and by its own with those of the turn before it, since an answer seldom
repeats the words of its question. The two are put on one scale, added, and each turn gets a share of its better neighbour's
score. What that is worth is measured by `benchmarks/context_recall.py`.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from msgspec import Struct

from headrace.context.stem import terms

__all__ = ["Hit", "Index", "Passage", "choose"]

K1, B = 1.5, 0.75
"""BM25's saturation and length weight: the usual values (Robertson and Zaragoza, 2009, section 3.1)."""

OWN, WITH_PREVIOUS, NEIGHBOUR = 1.0, 1.0, 0.3
"""Weights of a turn's own score, of its score together with the turn before, and of its better neighbour's sum."""

QUERY_TERMS = 64
"""The rarest terms of a question that are looked up; a pasted file would make every turn a hit."""


class Hit(Struct, frozen=True):
    """A turn that was found; `score` has no unit and compares hits of one question only."""

    turn: int
    score: float


class _Field:
    """One inverted index: term to (document, occurrences)."""

    __slots__ = ("lengths", "postings", "total")

    def __init__(self) -> None:
        self.postings: dict[str, tuple[array[int], array[int]]] = {}
        self.lengths: array[int] = array("L")
        self.total = 0

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
        found: dict[int, float] = {}
        lengths = self.lengths
        norm = B * len(lengths) / (self.total or 1)
        for word, weight in weights.items():
            documents, counts = self.postings.get(word, ((), ()))
            for number, count in zip(documents, counts, strict=True):
                part = weight * count * (K1 + 1) / (count + K1 * (1 - B + norm * lengths[number]))
                found[number] = found.get(number, 0.0) + part
        best = max(found.values(), default=0.0)
        return {number: score / best for number, score in found.items()} if best > 0 else {}


class Index:
    """The turns that may be recalled, in order; adding one costs its own length."""

    __slots__ = ("_both", "_ids", "_last", "_own")

    def __init__(self) -> None:
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

    def search(self, question: str, *, without: Collection[int] = ()) -> list[Hit]:
        """The turns that have a term of `question`, or a neighbour that has; best first, ties by age, oldest first."""
        asked = Counter(terms(question))
        size = len(self._ids)
        weights: dict[str, float] = {}
        for word, count in asked.items():
            held = self._own.postings.get(word)
            if held is not None:
                rarity = math.log(1 + (size - len(held[0]) + 0.5) / (len(held[0]) + 0.5))
                weights[word] = rarity * min(count, 2)
        if len(weights) > QUERY_TERMS:
            weights = dict(heapq.nlargest(QUERY_TERMS, weights.items(), key=lambda row: (row[1], row[0])))
        sums = [0.0] * (size + 2)  # one empty place at each end, so that every turn has two neighbours
        for field, share in ((self._own, OWN), (self._both, WITH_PREVIOUS)):
            for number, score in field.scores(weights).items():
                sums[number + 1] += share * score
        hits = []
        for number, turn in enumerate(self._ids):
            near = max(sums[number + 2], sums[number])
            score = sums[number + 1] + NEIGHBOUR * near
            if score > 0 and turn not in without:
                hits.append(Hit(turn, score))
        hits.sort(key=lambda hit: (-hit.score, hit.turn))
        return hits


class Passage(Struct, frozen=True):
    """A run of neighbouring turns that is quoted together; `score` is its best turn's."""

    turns: tuple[int, ...]
    score: float


def choose(
    hits: Sequence[Hit], room: int, cost: Callable[[int], int], header: Callable[[int], int]
) -> tuple[Passage, ...]:
    """The hits that fit into `room` tokens, best first, grouped into passages; pure.

    Args:
        cost: Tokens of one quoted turn.
        header: Tokens of the line before a passage that begins with a turn; a turn next to one that is taken already saves it.

    A hit that does not fit is left out and smaller ones behind it are still tried, as long as there is room for a small one.
    Passages stand in the order in which they are sent: by age, but the second best first and the best last, since models read the
    edges of a text best (Liu et al., "Lost in the Middle", 2023).
    """
    taken: dict[int, float] = {}
    left = room
    for hit in hits:
        turn = hit.turn
        price = cost(turn) + _gap(turn, taken, header)
        if price <= left:
            taken[turn] = hit.score
            left -= price
        elif left < 16:
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
