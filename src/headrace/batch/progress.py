"""How far a batch is: figures, and one line of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TextIO

from headrace.call import Nanodollars, format_usd

__all__ = ["Drawn", "Meter", "Progress"]

WINDOW_S = 30.0
"""The rate is that of so many seconds: long enough to be calm, short enough to follow a rate limit."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a run.

    Attributes:
        total: None where nobody knows. `done` counts rows of earlier runs too, and so does `cost`.
        rate: Rows a second, over the last half minute. `eta_s`: seconds that are left at this rate, None where unknown.
        cost, forecast: Nano-dollars so far and at the end; None where a price is unknown, or nothing is done yet.
        at_once: Rows under way; `limit` how many may be; `why` what holds it back.
    """

    done: int
    total: int | None
    ok: int
    failed: int
    rate: float
    eta_s: float | None
    cost: Nanodollars | None
    forecast: Nanodollars | None
    at_once: int
    limit: int
    why: str = ""

    def line(self, width: int = 20) -> str:
        """`[####----] 40/100  ok 39  failed 1  5.2/s  $0.12 of about $0.30  0:12 left  8 at once`."""
        parts = []
        if self.total:
            filled = width * self.done // self.total
            parts.append(f"[{'#' * filled}{'-' * (width - filled)}] {self.done}/{self.total}")
        else:
            parts.append(f"{self.done} rows")
        parts.append(f"ok {self.ok}")
        if self.failed:
            parts.append(f"failed {self.failed}")
        parts.append(f"{self.rate:.1f}/s")
        if self.cost is not None:
            about = "" if self.forecast is None else f" of about ${_short(self.forecast)}"
            parts.append(f"${_short(self.cost)}{about}")
        if self.eta_s is not None:
            minutes, seconds = divmod(round(self.eta_s), 60)
            hours, minutes = divmod(minutes, 60)
            left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
            parts.append(f"{left} left")
        parts.append(f"{self.at_once} at once" + (f" ({self.why})" if self.why else ""))
        return "  ".join(parts)


def _short(amount: Nanodollars) -> str:
    """Four digits after the point are enough to look at."""
    return format_usd(round(amount, -5))


class Meter:
    """The rate of rows, from what was done when."""

    __slots__ = ("_began", "_seen")

    def __init__(self, now: float) -> None:
        self._began = now
        self._seen: deque[tuple[float, int]] = deque([(now, 0)])

    def rate(self, now: float, done: int) -> float:
        """Rows a second; `done` counts those of this run."""
        seen = self._seen
        if now - seen[-1][0] >= 0.5:
            seen.append((now, done))
        while len(seen) > 2 and now - seen[0][0] > WINDOW_S:
            seen.popleft()
        then, before = seen[0]
        return (done - before) / (now - then) if now > then else 0.0


class Drawn:
    """Writes the line: over itself on a terminal, else a new one every `every_s` seconds of the clock that calls it."""

    __slots__ = ("_every_s", "_last", "_stream", "_terminal")

    def __init__(self, stream: TextIO, *, every_s: float = 10.0) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._every_s = 0.1 if self._terminal else every_s
        self._last = float("-inf")

    def show(self, progress: Progress, now: float, last: bool) -> None:
        """Write it, if it is time to, or the `last` one."""
        if not last and now - self._last < self._every_s:
            return
        self._last = now
        if self._terminal:
            self._stream.write(f"\r\x1b[K{progress.line()}" + ("\n" if last else ""))
        else:
            self._stream.write(progress.line() + "\n")
        self._stream.flush()
