"""`POST /v1/messages/count_tokens`: asked of the provider where it has such an endpoint, estimated otherwise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from headrace.access import require
from headrace.clock import timeout_at
from headrace.errors import HeadraceError, Malformed
from headrace.gateway.depth import check_depth
from headrace.handler import Body
from headrace.tokens import estimate_chat

if TYPE_CHECKING:
    from headrace.engine import Engine
    from headrace.gateway.http import Exchange
    from headrace.handler import Dialect

__all__ = ["count_tokens"]

logger = logging.getLogger("headrace.gateway")

FORWARDED = ("anthropic-beta", "anthropic-version")


class _Counted(msgspec.Struct):
    input_tokens: int


async def count_tokens(
    engine: Engine, dialect: Dialect, exchange: Exchange, allowed: frozenset[str]
) -> tuple[int, bytes]:
    """The input tokens of the request in `exchange`, and headers that say how they were counted.

    The first target of the model's route decides: one that speaks Anthropic is asked (it is free of charge there); for any
    other, and when it cannot be asked, the estimate's upper bound is given, with a warning header.

    Raises:
        RequestError: The body is not a Messages request, its model is not known or not allowed.
    """
    body = exchange.body
    check_depth(body, engine.settings.gateway.max_depth)
    route = engine.route(dialect.peek(body).model, dialect.name)
    require(allowed, route.name)
    if route.guard is not None and engine.guard is not None:
        body = engine.guard.redacted(Body(wire=body, dialect=dialect), route.guard)[0].wire or body
    target = route.cascade[0]
    upstream = engine.upstream(target.provider)
    if upstream.dialect is dialect:
        headers = tuple((name, exchange.headers[name]) for name in FORWARDED if name in exchange.headers)
        spliced = dialect.splice(body, model=target.model, include_usage=False, max_tokens=None)
        try:
            async with timeout_at(engine.clock, engine.clock.now() + route.first_content_s):
                answer = await upstream.post("/count_tokens", spliced, headers, connect_s=route.connect_s)
            return _decode(answer), b""
        except TimeoutError:
            logger.info("%s does not count tokens within %g s; estimating", target, route.first_content_s)
        except HeadraceError as error:
            logger.info("%s does not count tokens (%s); estimating", target, error.kind)
    return estimate_chat(
        dialect.decode_request(body)
    ).bound, b"x-headrace-warnings: input_tokens is an estimate (upper bound)\r\n"


def _decode(answer: bytes) -> int:
    try:
        return msgspec.json.decode(answer, type=_Counted).input_tokens
    except msgspec.DecodeError as error:
        raise Malformed("the provider's token count cannot be read") from error
