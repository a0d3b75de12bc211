"""The model endpoints: one request of a dialect through the engine and back, whole or streamed.

In the caller's own dialect the provider's bytes are relayed as they came; across dialects the events are encoded again. The
shape of every error is the caller's dialect's, before the first byte and after it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from headrace.call import Call, Nanodollars, format_usd
from headrace.errors import (
    AllTargetsFailed,
    BudgetExceeded,
    HeadraceError,
    InvalidRequest,
    ProviderError,
    RateLimited,
    Refused,
    ShuttingDown,
    StreamBroken,
)
from headrace.gateway.conversations import HEADER, Conversations, HeldStream
from headrace.gateway.depth import check_depth
from headrace.gateway.ratelimit import limit_headers
from headrace.handler import Body, Dialect, Request, Stream, assemble
from headrace.types import Complete, End, Frame, Headers

if TYPE_CHECKING:
    from headrace.access import KeyRole
    from headrace.clock import Clock, Timer
    from headrace.engine import Engine
    from headrace.gateway.auth import Identity, Keyring
    from headrace.gateway.http import Exchange

__all__ = ["Answering", "error_headers"]

logger = logging.getLogger("headrace.gateway")

FORWARDED = ("anthropic-beta", "anthropic-version", "openai-beta")
"""The caller's headers that a provider of the same dialect is to see. Credentials and cookies never are."""

JSON_TYPE = b"content-type: application/json\r\n"
STREAM_TYPE = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)


KEEP_ALIVE = b": keep-alive\n\n"


class Answering:
    """Answers `POST` requests to the model endpoints, of keys with the `roles` that each call states.

    Args:
        max_depth: Deepest nesting of JSON in a request.
        keep_alive_s: Seconds of silence after which a streamed response is opened, and a comment sent.
    """

    def __init__(self, engine: Engine, keyring: Keyring, *, max_depth: int, keep_alive_s: float) -> None:
        self.engine = engine
        self.keyring = keyring
        self.max_depth = max_depth
        self.keep_alive_s = keep_alive_s
        self.draining = False
        self.conversations = Conversations(engine)

    async def __call__(self, exchange: Exchange, dialect: Dialect, roles: frozenset[KeyRole]) -> None:
        engine = self.engine
        call = engine.new_call(dialect=dialect.name)
        status = 499
        try:
            stream, request = await self._ask(exchange, dialect, call, roles)
            answer = _relay if request.stream else _whole

            def ended() -> None:
                # Before the last byte is handed over: what a client has whole is in the ledger, whatever dies then.
                call.end(200, engine.clock.now())

            status = await answer(exchange, dialect, call, request, stream, ended)
        except HeadraceError as error:
            status = error.http_status
            if exchange.started:
                exchange.finish(_last_words(dialect, call, error, told=0))
            else:
                _refuse(exchange, dialect, call, error)
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except Exception:
            status = 500
            logger.exception("request %s failed in Headrace itself", call.id)
            if exchange.started:
                raise
            _refuse(
                exchange,
                dialect,
                call,
                HeadraceError("internal error; the log has the details under this request's id"),
            )
        finally:
            call.end(status, engine.clock.now())

    async def _ask(
        self, exchange: Exchange, dialect: Dialect, call: Call, roles: frozenset[KeyRole]
    ) -> tuple[Stream, Request]:
        headers = exchange.headers
        identity = await self.keyring.admit(headers, roles)
        if self.draining:
            raise ShuttingDown("this gateway is shutting down", retry_after_s=1.0)
        body = exchange.body
        check_depth(body, self.max_depth)
        peek = dialect.peek(body)
        call.model, call.stream = peek.model, peek.stream
        if peek.stream:
            call.on_end.append(_KeepAlive(self.engine.clock, exchange, call, self.keep_alive_s).stop)
        _identify(call, identity, headers)
        route = self.engine.route(peek.model, dialect.name)
        call.route = route.name
        turns = None
        if HEADER in headers:
            turns = await self.conversations.open(headers, identity.terms.tenant, dialect, route)
            call.conversation = turns.id
            call.on_end.append(lambda _: turns.release())
            if peek.n > 1:
                raise InvalidRequest(f"n must be 1 in a conversation that is held, not {peek.n}", param="n")
            body = turns.whole(body, until=self.engine.clock.wall() + route.retention_s)
        request = Request(
            body=Body(wire=body, dialect=dialect),
            route=route,
            call=call,
            stream=peek.stream,
            wants_usage=peek.wants_usage,
            max_tokens=route.output_limit(peek.max_tokens),
            asked_tokens=peek.max_tokens,
            choices=peek.n,
            headers=_forwarded(headers),
            cache_control=headers.get("cache-control", ""),
            idempotency_key=headers.get("idempotency-key"),
            timeout_s=_timeout(headers),
            allowed=identity.allowed,
            budgets=identity.terms.budgets,
            limits=identity.terms.limits,
            max_cost=_max_cost(headers),
            max_total_tokens=_max_total_tokens(headers),
        )
        stream = await self.engine.handle(request)
        return (stream if turns is None else HeldStream(stream, turns)), request


def _identify(call: Call, identity: Identity, headers: Mapping[str, str]) -> None:
    call.key_id = identity.key_id
    call.tenant = identity.terms.tenant
    call.team = identity.terms.team
    # A key's own user is whose budget it spends: the caller does not choose another.
    call.user = identity.terms.user or headers.get("x-headrace-user") or None
    tags = headers.get("x-headrace-tags")
    if tags:
        call.tags = _tags(tags)


def _tags(text: str) -> dict[str, str]:
    """`team=search, experiment=7` as a dictionary; a word without `=` is a tag with an empty value."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _forwarded(headers: Mapping[str, str]) -> Headers:
    return tuple((name, headers[name]) for name in FORWARDED if name in headers)


def _timeout(headers: Mapping[str, str]) -> float | None:
    text = headers.get("x-headrace-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86_400:
        raise InvalidRequest(f"x-headrace-timeout must be seconds above 0 and at most 86400, not {text!r}")
    return seconds


def _max_cost(headers: Mapping[str, str]) -> Nanodollars | None:
    text = headers.get("x-headrace-max-cost-usd")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text, re.ASCII):
        raise InvalidRequest(
            f"x-headrace-max-cost-usd must be US dollars with at most 9 decimals, such as 0.05, not {text[:40]!r}"
        )
    whole, _, part = text.partition(".")
    return int(whole) * 1_000_000_000 + int(part.ljust(9, "0"))


def _max_total_tokens(headers: Mapping[str, str]) -> int | None:
    text = headers.get("x-headrace-max-total-tokens")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII):
        raise InvalidRequest(
            f"x-headrace-max-total-tokens must be input and output tokens together, such as 20000, not {text[:40]!r}"
        )
    return int(text)


# --- a whole answer ---------------------------------------------------------------------------------------------------


async def _whole(
    exchange: Exchange,
    dialect: Dialect,
    call: Call,
    request: Request,
    stream: Stream,
    ended: Callable[[], None],
) -> int:
    frames: list[Frame] = []
    try:
        async for batch in stream:
            frames += batch
    finally:
        await stream.aclose()
    if (
        len(frames) == 1
        and frames[0].raw is not None
        and frames[0].dialect == dialect.name
        and _is_whole(frames[0])
    ):
        body = frames[0].raw
    else:
        body = dialect.encode_reply(
            assemble([event for frame in frames for event in frame.events]), call.warnings
        )
    head = JSON_TYPE + _answer_headers(call, whole=True)
    ended()
    exchange.respond(200, head, body)
    return 200


def _answer_headers(call: Call, *, whole: bool) -> bytes:
    """The headers that say who answered; the cost only of a whole answer, for of a stream it is not known yet."""
    lines = [f"x-headrace-attempts: {call.sent}\r\n"]
    if target := _answered_by(call):
        lines.append(f"x-headrace-target: {_clean(target)}\r\n")
    if whole:
        lines.append(f"x-headrace-cost-usd: {format_usd(call.cost)}\r\n")
    if call.cached is not None:
        if call.cached.tier == "idempotency":
            lines.append("idempotent-replayed: true\r\n")
        lines.append(f"x-headrace-cache: {call.cache}\r\n")
        if detail := call.cached.detail():
            lines.append(f"x-headrace-cache-detail: {_clean(detail)}\r\n")
    if call.limits:
        lines += limit_headers(call.dialect, call.limits, call.started_wall)
    if call.warnings:
        lines.append(f"x-headrace-warnings: {_clean('; '.join(call.warnings))}\r\n")
    return _id_headers(call) + "".join(lines).encode("latin-1", "replace")


def _id_headers(call: Call) -> bytes:
    held = f"{HEADER}: {call.conversation}\r\n" if call.conversation else ""
    return f"x-request-id: {call.id}\r\nrequest-id: {call.id}\r\n{held}".encode("latin-1", "replace")


def _clean(text: str) -> str:
    """`text` as a header value: one line of printable ASCII, at most 2,000 characters."""
    if len(text) <= 2000 and text.isascii() and text.isprintable():
        return text
    return "".join(c if " " <= c <= "~" else "?" for c in text[:2000])


# --- a stream ---------------------------------------------------------------------------------------------------------


async def _relay(
    exchange: Exchange,
    dialect: Dialect,
    call: Call,
    request: Request,
    stream: Stream,
    ended: Callable[[], None],
) -> int:
    """Returns the status for the ledger: what a stream that broke would have had, had it not begun with 200."""
    told = 0 if exchange.started else len(call.warnings)
    if not exchange.started:
        exchange.start(200, STREAM_TYPE + _answer_headers(call, whole=False))
    encoder = None
    terminated = False
    # A restart must number the blocks of the next answer on, so there the bytes are always our own.
    verbatim = dialect.name if request.route.mid_stream != "restart" else None
    try:
        async for batch in stream:
            pieces: list[bytes] = []
            for frame in batch:
                if frame.raw is not None and frame.dialect == verbatim and not _is_whole(frame):
                    if frame.events and type(frame.events[-1]) is End:
                        terminated = True
                        pieces.append(_receipt(call, told=told))
                    if not frame.hidden:
                        pieces.append(frame.raw)
                else:
                    if encoder is None:
                        encoder = dialect.encoder(
                            include_usage=request.wants_usage, model=_answered_by(call), id=call.id
                        )
                    pieces += [encoder.feed(event) for event in frame.events if type(event) is not End]
            if terminated:
                ended()
            writing = exchange.write(b"".join(pieces))
            del (
                batch,
                frame,
                pieces,
            )  # what waits for a slow client is its bytes, not what they were made from
            await writing
        if terminated:
            exchange.finish()
        else:
            # Of a stream of the provider's own bytes only the terminator can be missing.
            ended()
            exchange.finish(
                _receipt(call, told=told) + (dialect.terminator if encoder is None else encoder.end())
            )
        return 200
    except HeadraceError as error:
        broken = error if isinstance(error, StreamBroken) else StreamBroken(error.message)
        exchange.finish(_last_words(dialect, call, broken, told=told))
        return broken.http_status
    finally:
        await stream.aclose()


def _last_words(dialect: Dialect, call: Call, error: HeadraceError, *, told: int) -> bytes:
    """How a streamed response ends that has begun and has no whole answer."""
    said = dialect.encode_stream_error(
        error.kind, error.message, status=error.http_status, request_id=call.id
    )
    return _receipt(call, told=told) + said


class _KeepAlive:
    """Sends a comment whenever a streamed response has been silent for a while, so that nothing on the way to the client takes it
    for dead. Before the answer has begun the first comment opens the response: from then on an error can only be an event,
    and what the headers would have said stands in the receipt.

    One timer a stream; the writer only counts its writes.
    """

    __slots__ = ("_call", "_clock", "_every_s", "_exchange", "_seen", "_timer")

    def __init__(self, clock: Clock, exchange: Exchange, call: Call, every_s: float) -> None:
        self._clock = clock
        self._exchange = exchange
        self._call = call
        self._every_s = every_s
        self._seen = 0
        self._timer: Timer = clock.call_at(clock.now() + every_s, self._fire)

    def _fire(self) -> None:
        exchange = self._exchange
        try:
            if not exchange.started:
                exchange.start(200, STREAM_TYPE + _id_headers(self._call))
            if exchange.pieces == self._seen:
                exchange.interject(KEEP_ALIVE)
        except ConnectionResetError:
            return
        self._seen = exchange.pieces
        self._timer = self._clock.call_at(self._clock.now() + self._every_s, self._fire)

    def stop(self, call: Call) -> None:
        """The response is over."""
        self._timer.cancel()


def _answered_by(call: Call) -> str:
    """Who answers, empty where the answer itself says it (from the cache)."""
    target = call.target
    return "" if target is None else str(target)


def _is_whole(frame: Frame) -> bool:
    return len(frame.events) == 1 and type(frame.events[0]) is Complete


def _receipt(call: Call, *, told: int) -> bytes:
    """What a stream cannot say in its headers, as a comment: who answered, after how many attempts, at what cost; and the warnings
    behind the first `told`, which the headers had."""
    text = json.dumps(
        {
            "request_id": call.id,
            "target": _answered_by(call),
            "attempts": call.sent,
            "cost_usd": format_usd(call.cost),
            **({"warnings": call.warnings[told:]} if call.warnings[told:] else {}),
        }
    )
    return f": headrace {text}\n\n".encode()


# --- errors -----------------------------------------------------------------------------------------------------------


def _refuse(exchange: Exchange, dialect: Dialect, call: Call, error: HeadraceError) -> None:
    status = error.http_status
    if (
        isinstance(error, ProviderError)
        and error.dialect == dialect.name
        and error.http
        and _is_object(error.body)
    ):
        status, body = error.http, error.body
    else:
        body = dialect.encode_error(
            error.kind, error.message, status=status, request_id=call.id, param=error.param
        )
    exchange.respond(status, JSON_TYPE + error_headers(error) + _answer_headers(call, whole=True), body)


def _is_object(body: bytes) -> bool:
    """Whether a provider's error is its own: not the page of a proxy before it, and not cut."""
    try:
        return type(msgspec.json.decode(body)) is dict
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def error_headers(error: HeadraceError) -> bytes:
    """Tells the official SDKs whether to ask again: what the cascade has spent is not retried by the client too.

    `x-headrace-error` is the kind in one word: a 401 of a provider (`all_targets_failed`) is not one of ours (`unauthorized`).
    """
    lines = [f"x-headrace-error: {error.kind}\r\n"]
    wait = getattr(error, "retry_after_s", None)
    final = isinstance(error, AllTargetsFailed | BudgetExceeded | ProviderError) or not isinstance(
        error, Refused
    )
    if final or (isinstance(error, RateLimited) and wait is None):
        lines.append("x-should-retry: false\r\n")
    if wait is not None:
        lines.append(f"retry-after: {max(0, -int(-wait // 1))}\r\n")
    return "".join(lines).encode()
