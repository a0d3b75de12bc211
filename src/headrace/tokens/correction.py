"""What providers' own counts teach about ours, one object a model."""

from __future__ import annotations

import math

from headrace.tokens.estimate import Estimate

__all__ = ["Correction"]

FEW = 3
"""Observations below which only the upper bound is trusted."""

WEIGHT = 0.1
"""Of a new observation; some thirty make the old ones fade, so that a provider's change of tokenizer is followed."""

STEP = 1 / 20
"""The factor moves in steps, upwards, so that plans do not change with every observation."""


class Correction:
    """The ratio of reported to likely tokens: its moving mean and deviation.

    `factor` is mean + 3 deviations, in steps of 1/20, or None while there are too few observations. A request of another kind than
    those seen may exceed it; the estimate's own bound stays the ceiling of what is claimed.
    """

    __slots__ = ("_deviation", "_mean", "_seen")

    def __init__(self) -> None:
        self._seen = 0
        self._mean = 0.0
        self._deviation = 0.0

    def observe(self, likely: int, reported: int) -> None:
        """A request that we thought to be `likely` tokens was billed as `reported`. Senseless counts (0 or less) are ignored."""
        if likely <= 0 or reported <= 0:
            return
        ratio = reported / likely
        if self._seen == 0:
            self._mean, self._deviation = ratio, 0.05 * ratio
        else:
            self._deviation += WEIGHT * (abs(ratio - self._mean) - self._deviation)
            self._mean += WEIGHT * (ratio - self._mean)
        self._seen += 1

    @property
    def factor(self) -> float | None:
        """What to multiply a likely count with, or None: use the bound."""
        if self._seen < FEW:
            return None
        return math.ceil((self._mean + 3 * self._deviation) / STEP) * STEP

    def __call__(self, estimate: Estimate) -> int:
        """The count to plan with."""
        factor = self.factor
        return estimate.bound if factor is None else min(estimate.bound, math.ceil(estimate.likely * factor))
