"""When a second target is asked beside a slow one: learned times of first content, and a limit on extra calls.

Decides and is pure: no clock, no I/O, no chance. The cascade asks it, and runs the race.

A target is slow when it has shown nothing for longer than all but `max_extra` of its latest answers took. So about that share of calls
would be doubled by chance alone, and the bucket holds it to that share whatever happens: in an outage every call is slow.

Source: J. Dean and L. A. Barroso, "The Tail at Scale", CACM 2013 (hedged requests, deferred until a high percentile of the expected latency).
"""

from __future__ import annotations

import math
from collections import deque

from headrace.types import Target

__all__ = ["BURST", "ENOUGH", "KEPT", "Hedging"]

KEPT = 200
"""Latest times that are kept of a target: at 5 % its ten slowest are beyond the quantile."""

ENOUGH = 20
"""Times without which a target is not hedged: of fewer, no 95th percentile is known."""

BURST = 10.0
"""Extra calls that may have been saved up; of the SRE practice of small floors, so that a quiet hour does not pay for a storm."""

TARGETS_KEPT = 1024


class _Times:
    """The latest times of one target."""

    __slots__ = ("_latest", "_quantiles")

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=KEPT)
        self._quantiles: dict[float, float] = {}

    def add(self, seconds: float) -> None:
        self._latest.append(seconds)
        self._quantiles.clear()

    def quantile(self, share: float) -> float | None:
        """The time that a `share` of them exceed; None while there are too few."""
        if len(self._latest) < ENOUGH:
            return None
        found = self._quantiles.get(share)
        if found is None:
            ordered = sorted(self._latest)
            found = ordered[max(0, math.ceil(len(ordered) * (1.0 - share)) - 1)]
            self._quantiles[share] = found
        return found


class Hedging:
    """The times of every target and the extra calls of every route, of this process. Seconds throughout."""

    __slots__ = ("_times", "_tokens")

    def __init__(self) -> None:
        self._times: dict[tuple[str, str, bool], _Times] = {}
        self._tokens: dict[str, float] = {}

    def seen(self, target: Target, stream: bool, seconds: float) -> None:
        """`target` showed its first content after so long; or had shown none after so long when another one won."""
        key = target.provider, target.model, stream
        times = self._times.get(key)
        if times is None:
            if len(self._times) >= TARGETS_KEPT:
                del self._times[next(iter(self._times))]
            times = self._times[key] = _Times()
        times.add(seconds)

    def patience(self, target: Target, stream: bool, max_extra: float) -> float | None:
        """How long to wait for `target` before another one is asked too; None while too little is known of it."""
        times = self._times.get((target.provider, target.model, stream))
        return None if times is None else times.quantile(max_extra)

    def earn(self, route: str, max_extra: float) -> None:
        """A call of `route` begins."""
        self._tokens[route] = min(BURST, self._tokens.get(route, 0.0) + max_extra)

    def spend(self, route: str) -> bool:
        """Whether an extra call may be made now; takes it if so."""
        held = self._tokens.get(route, 0.0)
        if held < 1.0:
            return False
        self._tokens[route] = held - 1.0
        return True
