"""Whether the share of wrong answers among those served from a threshold on is within what was promised: from audits, looked at after each.

Of two tests by betting (I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", J. R. Stat. Soc. B 86,
2024): a gambler who bets, at odds that are fair when the wrong share is exactly the promised one, grows rich only where it is not. By Ville's
inequality a fortune of 1/a from 1 happens with a chance of at most a, however often it is looked at. One gambler bets that the share is
lower (with bets fixed beforehand, mixed evenly); the other, who begins anew whenever the fortune falls below 1 (the CUSUM e-detector of J. Shin, A. Ramdas and A. Rinaldo,
"E-detectors", New England J. Stat. Data Sci. 2, 2024), that it is higher, or has become so. Of several thresholds the loosest is taken that can be reached by
certified ones in an order fixed beforehand, which needs no correction for their number (A. Angelopoulos et al., "Learn then test", 2021). Once audits
speak against the threshold that was known before, only a certified one serves. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Bound", "Ruling", "upper", "wealth"]

CHANCE = 0.05
"""Of certifying, between two resets, any threshold that does not keep the promise."""

STRICTER = 0.2
"""The part of `CHANCE` that is spent on thresholds stricter than the one that was known before."""

LESS = (0.0, 0.1, 0.25, 0.5, 0.75)
"""The wrong shares that are bet on, as parts of the promised one."""

MORE = 5.0
"""The wrong share that the other gambler bets on, as a multiple of the promised one."""

ALARM = 50.0
"""The fortune at which it counts as higher. Where it is not, an alarm comes after at least as many audits on average; one that was false
costs hits until the threshold is certified anew."""


def wealth(audits: int, wrong: int, limit: float) -> float:
    """The logarithm of what a gambler has, from 1, who bet on fewer wrong than `limit` (above 0, below 1)."""
    right = audits - wrong
    logs = [
        right * gain + (wrong * loss if wrong else 0.0)
        for gain, loss in _bets(limit)
        if loss > -math.inf or not wrong
    ]
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(LESS))


@lru_cache(256)
def _bets(limit: float) -> tuple[tuple[float, float], ...]:
    """For each of `LESS` the logarithms of what a right and a wrong answer make of the fortune."""
    return tuple(
        (math.log((1.0 - part * limit) / (1.0 - limit)), math.log(part) if part else -math.inf)
        for part in LESS
    )


def upper(audits: int, wrong: int, chance: float = CHANCE) -> float:
    """The bound that the wrong share is below with confidence 1 - `chance`, valid at all times at once: the least share that the gambler refutes."""
    low, high, enough = wrong / audits if audits else 1.0, 1.0, -math.log(chance)
    for _ in range(30):
        middle = (low + high) / 2
        if low == high or not 0.0 < middle < 1.0:
            break
        low, high = (low, middle) if wealth(audits, wrong, middle) >= enough else (middle, high)
    return high


class Ruling(NamedTuple):
    """What is served: from `tau` on, None for nothing by likeness. `audits` and `wrong` are of that threshold (of the strictest without
    one) since its last reset. `drifts` are alarms, of all thresholds. In `doubt`, from a wrong audit until right ones have outweighed it, every
    candidate is to be audited: a change is then noticed before much is served."""

    state: str
    tau: float | None
    serves: bool
    audits: int = 0
    wrong: int = 0
    drifts: int = 0
    doubt: bool = False

    @property
    def at_most(self) -> float:
        """What the wrong share is below, with confidence 95 %."""
        return upper(self.audits, self.wrong)


class _Evidence:
    """Of one threshold."""

    __slots__ = ("against", "audits", "certified", "refuted", "wrong")

    def __init__(self) -> None:
        self.audits = self.wrong = 0
        self.against = 0.0
        self.certified = self.refuted = False


class Bound:
    """The evidence on each threshold.

    Args:
        thresholds: Probabilities from which on may be served.
        prior: The one that holds until audits say otherwise; None if none was known for this promise.
        limit: The promised share, above 0 and below 1.
    """

    def __init__(self, thresholds: Iterable[float], prior: float | None, limit: float) -> None:
        if not 0.0 < limit < 1.0:
            raise ValueError(f"the share must be between 0 and 1, not {limit!r}")
        self.limit = limit
        self.prior = prior
        self.drifts = 0
        taus = sorted({*thresholds, *(() if prior is None else (prior,))}, reverse=True)
        self._of = {tau: _Evidence() for tau in taus}
        self._stricter = [tau for tau in taus if prior is None or tau > prior]
        self._looser = [tau for tau in taus if prior is not None and tau <= prior]
        higher = min(MORE * limit, (1.0 + limit) / 2)
        self._if_wrong = math.log(higher / limit)
        self._if_right = math.log((1.0 - higher) / (1.0 - limit))
        spent = STRICTER if prior is not None else 1.0
        self._enough = {
            tau: -math.log(CHANCE * (spent if tau in self._stricter else 1.0 - spent)) for tau in taus
        }
        self._ruling: Ruling | None = None

    @property
    def floor(self) -> float:
        """The least probability that is worth an audit; above 1 without thresholds."""
        return min(self._of, default=2.0)

    def learn(self, p: float, right: bool) -> None:
        """That an entry with the probability `p`, drawn by lot, had (`right`) or had not the fresh answer."""
        self._ruling = None
        for tau, evidence in self._of.items():
            if p < tau:
                continue
            evidence.audits += 1
            evidence.wrong += not right
            evidence.against = max(evidence.against, 0.0) + (self._if_right if right else self._if_wrong)
            if evidence.against >= math.log(ALARM):
                if not evidence.refuted:
                    self.drifts += 1
                evidence.audits = evidence.wrong = 0
                evidence.against = 0.0
                evidence.certified, evidence.refuted = False, True
            elif (
                right
                and not evidence.certified
                and wealth(evidence.audits, evidence.wrong, self.limit) >= self._enough[tau]
            ):
                evidence.certified, evidence.refuted = True, False

    def ruling(self) -> Ruling:
        """What holds now."""
        if self._ruling is None:
            self._ruling = self._rule()
        return self._ruling

    def _rule(self) -> Ruling:
        reached = [tau for chain in (self._looser, self._stricter) for tau in self._prefix(chain)]
        if reached:
            return self._of_threshold("certified", min(reached))
        if self.prior is not None and not self._of[self.prior].refuted:
            return self._of_threshold("prior", self.prior)
        strictest = max(self._of, default=None)
        if strictest is None:
            return Ruling("infeasible", None, serves=False)
        return self._of_threshold("infeasible", strictest)._replace(tau=None, serves=False)

    def _prefix(self, chain: Sequence[float]) -> list[float]:
        found: list[float] = []
        for tau in chain:
            if not self._of[tau].certified:
                break
            found.append(tau)
        return found

    def _of_threshold(self, state: str, tau: float) -> Ruling:
        evidence = self._of[tau]
        return Ruling(state, tau, True, evidence.audits, evidence.wrong, self.drifts, evidence.against > 0.0)
