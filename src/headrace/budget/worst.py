"""What an attempt can cost at most, before it is sent; pure.

Upper-bound input (`headrace.tokens`) at the dearest input price, and the output limit at the dearest output price. Without an
output limit there is no bound: under a hard budget one is written into the request (`output_limit`).
"""

from __future__ import annotations

import re

import msgspec

from headrace.call import Nanodollars
from headrace.handler import Body, Request
from headrace.prices import Model
from headrace.tokens import estimate_chat

__all__ = ["DEFAULT_OUTPUT", "OutputLimit", "Worst", "at_most", "input_bound", "output_limit", "worst_case"]

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
    return Worst(tokens, model.at_most(input_bound, said, hour=_may_write_for_an_hour(body)))


HIDDEN_TOKENS = 1_000
"""More than what a provider puts before a request of its own accord: Anthropic's prompt for tools has up to 675 tokens."""

_ELSEWHERE = re.compile(
    rb'"(image|image_url|input_image|document|file|file_id|input_file|input_audio|inline_?data|file_?data'
    rb'|previous_response_id|conversation)"',
    re.IGNORECASE,
)
"""What may stand in a request in few bytes and cost many tokens."""


def at_most(model: Model | None, request: Request) -> Nanodollars | None:
    """The most that the request's attempt can cost, without reading its body: far above the likely cost. None where there is no price, or
    no bound.

    No tokenizer makes more tokens of a text than it has bytes in UTF-8, and their framing is shorter than JSON's.
    """
    if model is None or model.prices is None:
        return None
    body, asked, choices = request.body, request.asked_tokens, request.choices
    window = model.max_input or model.context_total
    if body.wire is None:
        tokens: int | None = input_bound(body)
        asked, choices = body.chat.max_tokens, max(1, body.chat.n or 1)
    elif _ELSEWHERE.search(body.wire):
        tokens = window
    else:
        tokens = len(body.wire) + HIDDEN_TOKENS
    limits = [limit for limit in (asked, request.max_tokens, model.max_output) if limit is not None]
    if tokens is None or not limits:
        return None
    return model.at_most(tokens if window is None else min(tokens, window), min(limits) * choices)


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
