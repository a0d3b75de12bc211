"""What an attempt can cost at most, before it is sent; pure.

Upper-bound input (`headrace.tokens`) at the dearest input price, and the output limit at the dearest output price. Without an
output limit there is no bound: under a hard budget one is written into the request (`output_limit`).
"""

from __future__ import annotations

import msgspec

from headrace.call import Nanodollars
from headrace.handler import Body
from headrace.prices import Model
from headrace.tokens import estimate_chat
from headrace.types import Usage

__all__ = ["DEFAULT_OUTPUT", "OutputLimit", "Worst", "input_bound", "output_limit", "worst_case"]

DEFAULT_OUTPUT = 8_192
"""Tokens of output under a hard budget when neither the caller nor the route says: what most models of 2024 could give at most,
and far above the usual answer."""


class OutputLimit(msgspec.Struct, frozen=True):
    """`tokens` bound the output of one choice (None: nothing does); `written` must be put into the request for that to be
    true (None: it is true already)."""

    tokens: int | None
    written: int | None


def output_limit(
    asked: int | None, route: int | None, model: int | None, *, default: int | None = None
) -> OutputLimit:
    """The smallest of the limits of the caller, the route and the model.

    Args:
        asked, route, model: Tokens; None for no limit, or an unknown one.
        default: In place of the route's where neither caller nor route has one; None leaves the request alone.
    """
    if asked is None and route is None:
        route = default
    if route is None or (asked is not None and asked <= route):
        known = [limit for limit in (asked, model) if limit is not None]
        return OutputLimit(min(known, default=None), None)
    # More than a model gives is a mistake to ask for; many providers refuse it.
    tokens = route if model is None else min(route, model)
    return OutputLimit(tokens, tokens)


class Worst(msgspec.Struct, frozen=True):
    """The most that an attempt can take: tokens of input and output, and nano-dollars (None: no price, or no limit)."""

    tokens: int
    cost: Nanodollars | None


def worst_case(model: Model | None, body: Body, input_bound: int, output: int | None) -> Worst:
    """The bound for one attempt.

    Args:
        input_bound: See `input_bound`.
        output: Tokens of one choice at most; all `n` of them are counted. None: not bounded, so neither is the cost.
    """
    said = (output or 0) * max(1, body.chat.n or 1)
    tokens = input_bound + said
    if model is None or model.prices is None or output is None:
        return Worst(tokens, None)
    hour = _may_write_for_an_hour(body)
    inputs = (
        Usage(input_tokens=input_bound),
        Usage(input_tokens=input_bound, cache_write_tokens=input_bound),
        Usage(
            input_tokens=input_bound,
            cache_write_tokens=input_bound if hour else 0,
            cache_write_1h_tokens=input_bound if hour else 0,
        ),
    )
    dearest = max(
        model.cost(msgspec.structs.replace(usage, output_tokens=said, reasoning_tokens=thought)) or 0
        for usage in inputs
        for thought in (0, said)
    )
    return Worst(tokens, dearest)


def input_bound(body: Body) -> int:
    """Tokens that the request's input can be at most. Reads the whole body: ask once a request."""
    return estimate_chat(body.chat).bound


def _may_write_for_an_hour(body: Body) -> bool:
    """Whether some cache breakpoint could ask for an hour; twice the price of input is reserved only then."""
    if body.wire is not None:
        return b"cache_control" in body.wire and b"1h" in body.wire
    chat = body.chat
    blocks = (block for message in chat.messages for block in message.content)
    hints = (getattr(item, "cache", None) for item in (*blocks, *chat.tools))
    return any(hint is not None and hint.ttl == "1h" for hint in hints)
