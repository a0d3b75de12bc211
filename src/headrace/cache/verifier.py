"""How likely it is that a question wants the answer of a kept one: a small learned model over what can be counted.

A logistic regression over the pair (words, content, cosine) and over what is around it (`headrace.cache.neighbourhood`). Richer models
(boosted trees over the same and more features) found no more at the same share of wrong answers on sets that they had not seen.
Trained and calibrated by `scripts/train_verifier.py`. It judges what the guards let through and cannot overrule them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from headrace.cache.guards import Signature
from headrace.cache.lexicon import SYNONYMS
from headrace.cache.neighbourhood import Standing
from headrace.encoder import Encoder, Vector

_T = TypeVar("_T")

__all__ = ["FEATURES", "Verifier", "features", "probability"]

DATA = Path(__file__).parent / "data" / "verifier.json"

FEATURES = ("cosine", "words_shared", "content_matched", "unmatched_alone", "share", "others", "margin")
"""Sentence cosine; words in common of all; the weight of content words that have a like one on the other side, of the side that has less
of it; what of that weight is not matched for each neighbour that agrees, negated; then what `Standing` says of the neighbours."""

SYNONYM = 0.9
"""The likeness of two words of one group of synonyms."""


def features(a: Signature, b: Signature, around: Standing, encoder: Encoder) -> tuple[float, ...]:
    """The numbers that `FEATURES` names; symmetric in `a` and `b`."""
    matched = _content_matched(a, b, encoder)
    return (
        around.cosine,
        _shared(set(a.words), set(b.words)),
        matched,
        (matched - 1.0) / around.voters,
        around.share,
        around.others,
        around.margin,
    )


def _shared(a: set[_T], b: set[_T]) -> float:
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def _content_matched(a: Signature, b: Signature, encoder: Encoder) -> float:
    if not a.content or not b.content:
        return 0.0
    va: Vector = np.array([encoder.word(word) for word in a.surface])
    vb: Vector = np.array([encoder.word(word) for word in b.surface])
    weight_a = np.maximum(np.sqrt((va * va).sum(axis=1)), 1e-6)
    weight_b = np.maximum(np.sqrt((vb * vb).sum(axis=1)), 1e-6)
    like = np.minimum((va @ vb.T) / (weight_a[:, None] * weight_b), 0.99)
    for i, x in enumerate(a.content):
        group = SYNONYMS.get(x, -1)
        for j, y in enumerate(b.content):
            if x == y:
                like[i, j] = 1.0
            elif group >= 0 and SYNONYMS.get(y) == group:
                like[i, j] = max(like[i, j], SYNONYM)
    return min(
        float(weight_a @ like.max(axis=1)) / float(weight_a.sum()),
        float(weight_b @ like.max(axis=0)) / float(weight_b.sum()),
    )


class Verifier:
    """The regression with the thresholds that the training script found.

    Args:
        weights: One a feature.
        thresholds: Share of wrong answers to the least probability that keeps it on sets that were not trained on.
    """

    def __init__(
        self, weights: Sequence[float], bias: float, thresholds: Mapping[float, float], version: str
    ) -> None:
        if len(weights) != len(FEATURES):
            raise ValueError(f"a verifier has {len(FEATURES)} weights")
        self.weights = tuple(weights)
        self.bias = bias
        self.thresholds = dict(sorted(thresholds.items()))
        self.version = version

    @classmethod
    def load(cls, path: Path = DATA) -> Verifier:
        """From a file that the training script wrote; by default the shipped one."""
        data = path.read_bytes()
        kept = json.loads(data)
        if tuple(kept["weights"]) != FEATURES:
            raise ValueError("the verifier was trained for other features")
        thresholds = {
            float(share): row["tau"] for share, row in kept["thresholds"].items() if row is not None
        }
        return cls(
            list(kept["weights"].values()), kept["bias"], thresholds, hashlib.sha256(data).hexdigest()[:12]
        )

    def tau(self, max_wrong: float) -> float | None:
        """The least probability that is served for `max_wrong`: that of the next stricter share that is known; None without one."""
        known = [tau for share, tau in self.thresholds.items() if share <= max_wrong + 1e-12]
        return known[-1] if known else None

    def score(self, row: Sequence[float]) -> float:
        """The log-odds that the pair with these features wants the same answer."""
        return self.bias + sum(weight * value for weight, value in zip(self.weights, row, strict=True))


def probability(score: float) -> float:
    """Of the log-odds `score`."""
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, score))))
