"""What became of the requests that a cache was asked about, since the process began."""

from __future__ import annotations

from collections import Counter
from typing import Any

from headrace.call import Call, format_usd

__all__ = ["Counts"]


class Counts:
    """Counters; cheap enough for every request.

    Attributes:
        results: By `exact`, `canonical`, `semantic`, `flight`, `miss`, `bypass`.
        reasons: Why the cache was passed by, or why likeness was not asked.
        vetoes: Near entries that a guard turned down, by guard.
        states: What the semantic tier decided under: `prior`, `certified`, `infeasible`, `shadow`.
        audits: Comparisons of fresh answers with entries that would have been given: `right`, `wrong`.
        refused: Answers that were not kept, by reason.
        saved: Nano-dollars of the answers that were given again, where known; `saved_s` the seconds that they had taken.
    """

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.vetoes: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.audits: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.saved = 0
        self.saved_s = 0.0

    def note(self, call: Call) -> None:
        """Count `call`, whose `cached` is there."""
        cached = call.cached
        if cached is None:
            return
        self.results[cached.tier or call.cache] += 1
        if cached.why:
            self.reasons[cached.why] += 1
        self.vetoes.update(cached.vetoes)
        if cached.state:
            self.states[cached.state] += 1
        self.saved += cached.saved or 0
        self.saved_s += cached.saved_s

    def report(self) -> dict[str, Any]:
        """As plain values; money as a decimal string of US dollars."""
        return {
            "results": dict(self.results),
            "reasons": dict(self.reasons),
            "vetoes": dict(self.vetoes),
            "states": dict(self.states),
            "audits": dict(self.audits),
            "not_kept": dict(self.refused),
            "saved_usd": format_usd(self.saved),
            "saved_s": round(self.saved_s, 3),
        }
