"""How far a share of so few cases can be trusted. Pure."""

from __future__ import annotations

import math

__all__ = ["wilson"]


def wilson(good: int, all_: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share, 0 to 1; `z` 1.96 is 95 %.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not all_:
        return 0.0, 1.0
    share, square = good / all_, z * z / all_
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / all_ + square / (4 * all_)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
