"""Whether two answers say the same.

Errs towards no: a pair wrongly taken for different costs hits, one wrongly taken for the same serves wrong answers. Two answers agree
when they are the same words, or when their vectors nearly coincide and no guard sees what tells them apart; long ones only by their words.
"""

from __future__ import annotations

import numpy as np

from headrace.cache.guards import signature, veto
from headrace.cache.text import canonical
from headrace.encoder import Encoder, Vector

__all__ = ["Answer", "agree"]

ALIKE = 0.9
"""The least cosine of two answers that agree in other words. Not measured on answers of models: no public set of them could be had."""


class Answer:
    """One answer, prepared for comparing."""

    __slots__ = ("spelled", "text", "vector")

    def __init__(self, text: str, encoder: Encoder) -> None:
        self.text = text
        self.spelled = canonical(text)
        self.vector: Vector = encoder.encode(text)


def agree(a: Answer, b: Answer, encoder: Encoder) -> bool:
    """Whether `a` and `b` say the same; symmetric."""
    if a.spelled == b.spelled:
        return True
    if float(np.dot(a.vector, b.vector)) < ALIKE:
        return False
    return veto(signature(a.text, encoder.knows), signature(b.text, encoder.knows)) is None
