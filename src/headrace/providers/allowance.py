"""What a provider's rate-limit headers say is left: read from every answer, so that a limit is respected before it is hit. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

import msgspec

__all__ = ["ALLOWANCES", "LONGEST_S", "Allowance", "pause_after", "reset_in"]

LONGEST_S = 60.0
"""The longest pause that headers alone impose, in seconds: the limits that they tell are those of a minute, and a header may lie."""


MINUTE, HOUR, DAY, MONTH = 60.0, 3_600.0, 86_400.0, 2_592_000.0


class Allowance(msgspec.Struct, frozen=True):
    """One allowance: the names of its headers.

    Attributes:
        window_s: How long it lasts where no header tells its reset: the name says it.
        refills: It comes back bit by bit until its reset, and not all at once then.
        tokens: It is counted in tokens.
        millis: A header that only Azure sends; beside it a plain number as the reset is milliseconds (1 of 120 requests a minute
            taken: 500; 14 of 120,000 tokens: 7).
    """

    remaining: str
    limit: str
    reset: str
    refills: bool
    tokens: bool = False
    window_s: float | None = None
    millis: str = ""


def _openai(kind: str) -> Allowance:
    return Allowance(
        f"x-ratelimit-remaining-{kind}",
        f"x-ratelimit-limit-{kind}",
        f"x-ratelimit-reset-{kind}",
        refills=True,
        tokens=kind.startswith("tokens"),
        millis=f"x-ratelimit-renewalperiod-{kind}",
    )


def _anthropic(kind: str) -> Allowance:
    name = f"anthropic-ratelimit-{kind}"
    return Allowance(
        f"{name}-remaining", f"{name}-limit", f"{name}-reset", refills=True, tokens=kind.endswith("tokens")
    )


def _windowed(kind: str, window_s: float, family: str = "x-ratelimit") -> Allowance:
    """Without a reset. A minute's is taken for one that refills; a longer one that is used up is gone for longer than anybody waits."""
    return Allowance(
        f"{family}-remaining-{kind}",
        f"{family}-limit-{kind}",
        "",
        refills=window_s <= MINUTE,
        tokens="tokens" in kind or family.endswith("bysize"),
        window_s=window_s,
    )


_OPENAI = ("requests", "tokens", "tokens_usage_based", "tokens-usage-based", "input-images")
_ANTHROPIC = ("requests", "tokens", "input-tokens", "output-tokens")

ALLOWANCES: tuple[Allowance, ...] = (
    # OpenAI ("the time until the rate limit resets to its initial state"), Azure, Groq, Portkey, Together, most compatible servers.
    *(_openai(kind) for kind in _OPENAI),
    # Anthropic ("will be fully replenished", a token bucket).
    *(_anthropic(kind) for kind in _ANTHROPIC),
    # OpenRouter, Together; Replicate.
    Allowance("x-ratelimit-remaining", "x-ratelimit-limit", "x-ratelimit-reset", refills=False),
    Allowance("ratelimit-remaining", "ratelimit-limit", "ratelimit-reset", refills=False),
    # Mistral, today's names and those before.
    _windowed("req-60-second", MINUTE),
    _windowed("req-minute", MINUTE),
    _windowed("tokens-month", MONTH),
    _windowed("minute", MINUTE, "x-ratelimitbysize"),
    _windowed("month", MONTH, "x-ratelimitbysize"),
    Allowance("ratelimitbysize-remaining", "ratelimitbysize-limit", "ratelimitbysize-reset", False, True),
    # Cerebras; the minute's tokens are Mistral's too.
    *(
        _windowed(f"{what}-{name}", window_s)
        for what in ("requests", "tokens")
        for name, window_s in (("minute", MINUTE), ("hour", HOUR), ("day", DAY))
    ),
)
"""Every name that a recorded answer has; Hugging Face's `ratelimit` is read apart, since it is a list. Gemini tells nothing, and
`retry-after` on a good answer, which Anthropic sends, is no stop sign."""

_BY_REMAINING = {allowance.remaining: allowance for allowance in ALLOWANCES}
_STRUCTURED = re.compile(r";r=(\d{1,18});t=(\d{1,9})")
"""An item of `RateLimit` in the IETF's draft: `"api";r=999;t=295`, what is left and the seconds to the reset."""

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
    resets in 60 s comes back after 0.12 s, and of tokens only what the request lacks. A limit of 0, or none, means that
    nothing is counted there: Azure sends -1 and 0.
    """
    pause: float | None = None
    for name, text in headers.items():
        allowance = _BY_REMAINING.get(name)
        if allowance is not None:
            wait = _wait(allowance, text, headers, now_wall, tokens)
        elif name == "ratelimit":
            wait = max((float(t) for left, t in _STRUCTURED.findall(text) if int(left) == 0), default=None)
        else:
            continue
        if wait is not None and wait > 0:
            pause = max(pause or 0.0, min(wait, LONGEST_S))
    return pause


def _wait(
    allowance: Allowance, text: str, headers: Mapping[str, str], now_wall: float, tokens: int
) -> float | None:
    """Seconds until `allowance` has room again, None while it has."""
    if not text.isdecimal():
        return None
    left, needed = int(text[:18]), max(1, tokens) if allowance.tokens and allowance.refills else 1
    if left >= needed:
        return None
    reset = reset_in(headers.get(allowance.reset, ""), now_wall) if allowance.reset else allowance.window_s
    if reset is None or not allowance.refills:
        return reset
    if allowance.millis in headers and headers[allowance.reset].isdecimal():
        reset /= 1000.0
    limit = headers.get(allowance.limit, "")
    if not limit.isdecimal() or (most := int(limit[:18])) <= left:
        return None
    if not allowance.reset:  # the window's length, not the time until it is full again
        return reset * min(1.0, (needed - left) / most)
    return reset * min(1.0, (needed - left) / (most - left))
