"""What the kept answers around a question say for one of them.

Where all that is near was answered alike, one more question there wants that answer too; where answers change from one near question to the
next, a small difference matters. Which answers agree was seen when they came (`headrace.cache.agreement`). Nearest-neighbour voting (T. Cover
and P. Hart, "Nearest neighbor pattern classification", IEEE Trans. Inf. Theory 13, 1967), with weights that fall with distance. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

__all__ = ["Standing", "side", "standing"]

_T = TypeVar("_T")

WIDTH = 0.2
"""The difference of cosines that lowers a vote by the factor e. Also 0.1 and 0.05 were tried; they let one near neighbour decide."""

NOBODY = math.exp((0.6 - 1.0) / WIDTH)
"""The vote for an answer that is not kept yet: that of one neighbour at cosine 0.6."""

CLEAR = 0.25
"""The margin beyond which more says nothing: where little is kept everything is far."""

LEAST = 0.05
"""Keeps the logarithm finite where there is no other answer."""


class Standing(NamedTuple):
    """What is around for one candidate.

    Attributes:
        cosine: The candidate's.
        share: The votes for its answer, of all and `NOBODY`'s; from 0 to 1.
        others: The logarithm of the votes for other answers.
        margin: Cosine of the nearest that agrees, less that of the nearest other answer; at most `CLEAR`.
        voters: How many agree, itself counted.
    """

    cosine: float
    share: float
    others: float
    margin: float
    voters: int


def side(answers: Sequence[_T], agreed: Sequence[bool]) -> _T | None:
    """The answer that most neighbours with which a new one agreed have, the nearest's of equals; None where for each answer half of its neighbours or
    more did not agree: one comparison that errs then moves nobody."""
    asked, found = (
        Counter(answers),
        Counter(answer for answer, yes in zip(answers, agreed, strict=True) if yes),
    )
    return next((answer for answer, count in found.most_common() if 2 * count > asked[answer]), None)


def standing(cosines: Sequence[float], agrees: Sequence[str], at: int) -> Standing:
    """Of the neighbour at position `at`. `cosines` are those of all neighbours, the largest first; `agrees` names what each one's answer is."""
    mine = others = 0.0
    voters = 0
    nearest = nearest_other = -1.0
    for cosine, answer in zip(cosines, agrees, strict=True):
        vote = math.exp((cosine - 1.0) / WIDTH)
        if answer == agrees[at]:
            voters += 1
            mine += vote
            nearest = max(nearest, cosine)
        else:
            others += vote
            nearest_other = max(nearest_other, cosine)
    return Standing(
        cosine=cosines[at],
        share=mine / (mine + others + NOBODY),
        others=math.log(others + LEAST),
        margin=min(CLEAR, nearest - nearest_other),
        voters=voters,
    )
