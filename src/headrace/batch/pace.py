"""How many rows are asked at once, and when none is. Pure: it is told the time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pace"]

FIRST, MOST = 8, 64
"""Where `auto` begins, and the most it goes to: beyond it most accounts are limited by tokens a minute, not by waiting."""

PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""A pause after a refusal without a hint, and the longest that a hint may ask of the whole run."""


@dataclass(slots=True)
class Pace:
    """Additive increase, multiplicative decrease: one more after as many good answers as there are places, half after a rate limit.

    Attributes:
        fixed: A number of places that is kept, None for `auto`.
        limit: Rows that may be asked at once, at this moment.
        until: No row is begun before this time, on the clock's monotonic scale.
        why: What holds it back, in words; empty for nothing.

    Source: D. Chiu, R. Jain, "Analysis of the increase and decrease algorithms for congestion avoidance", 1989.
    """

    fixed: int | None = None
    limit: int = FIRST
    until: float = 0.0
    why: str = ""
    _good: int = 0
    _halved_at: float = float("-inf")

    def __post_init__(self) -> None:
        if self.fixed is not None:
            self.limit = self.fixed

    def good(self) -> None:
        """A row was answered without a rate limit on the way."""
        self._good += 1
        if self.fixed is None and self._good >= self.limit and self.limit < MOST:
            self.limit += 1
            self._good = 0
            self.why = ""

    def limited(self, now: float, wait_s: float | None, *, refused: bool) -> None:
        """A row met a rate limit; `wait_s` is what was asked for, `refused` that it has no answer yet.

        What was asked at the same time meets the same limit: it counts once a second.
        """
        if refused:
            wait = PAUSE_S if wait_s is None else min(wait_s, LONGEST_PAUSE_S)
            self.until = max(self.until, now + wait)
        if self.fixed is None and now - self._halved_at >= 1.0:
            self._halved_at = now
            self.limit = max(1, self.limit // 2)
            self._good = 0
        self.why = "rate limited"
