"""How this traffic differs from what the verifier learned from."""

from __future__ import annotations

import math

__all__ = ["Shift"]

SPREAD = 0.7
"""Standard deviation of the shift from one kind of traffic to another, in log-odds: three public sets differ from each other by up to 1."""

DOUBT = 2.0
"""Standard deviations of what was learned that are taken off before it may loosen."""

NEAR = -1.0
"""The least log-odds that teach: what is far from being served says nothing about what is."""


class Shift:
    """A correction of the verifier's log-odds, learned from misses: each brings a fresh answer, which agrees with the kept one that was nearly
    served or does not.

    One step of Newton's method an observation (Laplace's approximation, kept up as in an extended Kalman filter) around a
    normal prior at 0. Observations are of what was not served: the correction makes stricter as soon as they say so, and looser only by what
    is beyond doubt.
    """

    __slots__ = ("_mean", "_precision")

    def __init__(self) -> None:
        self._mean = 0.0
        self._precision = 1.0 / SPREAD**2

    @property
    def value(self) -> float:
        """What is to be added to the log-odds."""
        return min(self._mean, max(0.0, self._mean - DOUBT / math.sqrt(self._precision)))

    def learn(self, score: float, agreed: bool) -> None:
        """That the answer to a question with the uncorrected log-odds `score` for its candidate was (`agreed`) or was not the candidate's."""
        if score < NEAR:
            return
        p = 1.0 / (1.0 + math.exp(-(score + self._mean)))
        self._precision += p * (1.0 - p)
        self._mean += (agreed - p) / self._precision
