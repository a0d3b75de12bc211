"""What a provider's rate-limit headers say is left: read from every answer, so that a limit is respected before it is hit. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

import msgspec

__all__ = ["LONGEST_S", "pause_after", "reset_in"]

LONGEST_S = 60.0
"""The longest pause that headers alone impose, in seconds: the limits that they tell are those of a minute, and a header may lie."""


class _Allowance(msgspec.Struct, frozen=True):
    """One allowance: the names of its headers. `refills`: it comes back bit by bit until `reset`, and not all at once then."""

    remaining: str
    limit: str
    reset: str
    refills: bool
    tokens: bool = False


def _family(pattern: str, kinds: tuple[str, ...], *, refills: bool) -> tuple[_Allowance, ...]:
    return tuple(
        _Allowance(
            pattern.format(what="remaining", kind=kind),
            pattern.format(what="limit", kind=kind),
            pattern.format(what="reset", kind=kind),
            refills,
            "tokens" in kind,
        )
        for kind in kinds
    )


ALLOWANCES: tuple[_Allowance, ...] = (
    # OpenAI ("the time until the rate limit resets to its initial state"), Azure, Groq, most compatible servers.
    *_family("x-ratelimit-{what}-{kind}", ("requests", "tokens"), refills=True),
    # Anthropic ("will be fully replenished", a token bucket).
    *_family(
        "anthropic-ratelimit-{kind}-{what}",
        ("requests", "tokens", "input-tokens", "output-tokens"),
        refills=True,
    ),
    # OpenRouter, Together; Replicate.
    _Allowance("x-ratelimit-remaining", "x-ratelimit-limit", "x-ratelimit-reset", refills=False),
    _Allowance("ratelimit-remaining", "ratelimit-limit", "ratelimit-reset", refills=False),
)
"""Providers that tell no reset (Mistral) are not here: nothing says when to ask again. `retry-after` on a good answer, which Anthropic
sends, is no stop sign either."""

_REMAINING = tuple((allowance.remaining, allowance) for allowance in ALLOWANCES)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def reset_in(text: str, now_wall: float) -> float | None:
    """Seconds until the moment that a reset header names: `8.64s`, `1m30s`, `6ms`, plain seconds, seconds or milliseconds since 1970,
    RFC 3339. None for anything else; never negative."""
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        if not 0 <= number < 1e15:
            return None
        if number > 1e11:
            number = number / 1000.0 - now_wall
        elif number > 1e9:
            number -= now_wall
        return max(0.0, number)
    parts = _DURATION.findall(text)
    if parts and "".join(value + unit for value, unit in parts) == text:
        return sum(float(value) * _UNITS[unit] for value, unit in parts)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now_wall) if moment.tzinfo is not None else None


def pause_after(headers: Mapping[str, str], *, now_wall: float, tokens: int) -> float | None:
    """Seconds for which another request like this one would be refused, by the headers of an answer; None while something is left, or
    where they do not say.

    Args:
        headers: Of the answer, names in lower case.
        now_wall: Seconds since 1970.
        tokens: What a request like this one takes, roughly.

    An allowance that refills bit by bit has room for the next request long before its reset: one request of a limit of 500 that
    resets in 60 s comes back after 0.12 s. An allowance counts as used up at exactly 0 of a limit above 0; Azure sends -1 and 0
    of nothing where it does not count.
    """
    pause: float | None = None
    for name, allowance in _REMAINING:
        if headers.get(name) != "0":
            continue
        left = reset_in(headers.get(allowance.reset, ""), now_wall)
        limit = headers.get(allowance.limit, "")
        if left is None or not limit.isdecimal() or int(limit[:18]) == 0:
            continue
        if allowance.refills:
            left *= min(1.0, (max(1, tokens) if allowance.tokens else 1) / int(limit[:18]))
        if left > 0:
            pause = max(pause or 0.0, min(left, LONGEST_S))
    return pause
