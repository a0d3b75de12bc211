"""The layer: one flight for a key in each process, one claim in the store over all of them."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from headrace.call import Cached, Call
from headrace.clock import Clock, Timer
from headrace.errors import (
    AnswerNotKept,
    DeadlineExceeded,
    HeadraceError,
    IdempotencyKeyReused,
    IdempotencyUnavailable,
    InvalidRequest,
    StillAnswering,
    StoreError,
)
from headrace.handler import Handler, Pending, Request, Route, Stream
from headrace.layers.idempotency.answer import decode, encode, replay
from headrace.singleflight import Flights, Passenger
from headrace.tickets import Claimed, Ticket
from headrace.types import Batch, Complete, End

__all__ = ["Idempotency", "fingerprint", "read_key"]

logger = logging.getLogger("headrace.idempotency")

LONGEST_KEY = 255
"""Characters of a key; Stripe's limit, which clients keep to."""

LARGEST_ANSWER = 8 << 20
"""Bytes of an answer that is kept."""

LOOK_S = (0.02, 0.25)
"""The first and the longest pause between two looks at what another process answers; it doubles in between."""

GRACE_S = 5.0
"""What a claim holds beyond the deadline of its request, so that an answer of the last moment is kept before another process takes over."""


class Answers(Protocol):
    """Where claims and answers are: a `headrace.store.Store`."""

    def key_hash(self, key: str) -> bytes: ...

    async def claim_answer(self, ticket: Ticket, now: float, until: float) -> Claimed: ...

    async def keep_answer(
        self, ticket: Ticket, body: bytes | None, *, now: float, until: float, most: int, why: str = ""
    ) -> bool: ...

    def release_answer(self, ticket: Ticket) -> None: ...

    def expire_answers(self, now: float) -> None: ...


class Idempotency:
    """Answers a request that has an `idempotency_key` once: for whoever repeats it, while it is under way and after.

    Args:
        retention_s: How long an answer is given again, in seconds; a route that keeps what it was asked for less time says so.
        max_bytes: Of all kept answers together; the oldest make room.
        route: The route of a name, for what another layer has chosen.
    """

    def __init__(
        self,
        clock: Clock,
        store: Answers,
        *,
        retention_s: float,
        max_bytes: int,
        route: Callable[[str], Route],
        new_token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.flights = Flights(clock)
        self._clock = clock
        self._store = store
        self._retention_s = retention_s
        self._max_bytes = max_bytes
        self._route = route
        self._new_token = new_token
        self._timer: Timer | None = None
        self._last_until = 0.0
        store.expire_answers(clock.wall())

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            key = request.idempotency_key
            return inner(request) if key is None else self._once(inner, request, key)

        return handle

    async def aclose(self) -> None:
        """Cancel what is under way; the next who asks for it begins anew."""
        if self._timer is not None:
            self._timer.cancel()
        await self.flights.aclose()

    async def _once(self, inner: Handler, request: Request, text: str) -> Stream:
        call = request.call
        # A list, so that no two scopes read alike; hashed under the store's secret, since keys may say what they are for.
        scope = msgspec.json.encode([call.tenant, call.key_id, read_key(text)]).decode()
        ticket = Ticket(
            key=self._store.key_hash(scope),
            fingerprint=fingerprint(request),
            token=self._new_token(),
            tenant=call.tenant,
            user=call.user,
        )
        seat = ticket.key + ticket.fingerprint
        under_way = seat in self.flights
        flown = _Flown(self, inner, ticket)
        try:
            passenger, leads = await self.flights.board(seat, request, flown, _landed, flown.is_paid_for)
        except DeadlineExceeded as error:
            if under_way and seat in self.flights:
                raise _still() from error
            raise
        if not leads:
            _followed(call, passenger)
        return passenger

    # --- what a flight asks of the store ------------------------------------------------------------------------------

    async def claim(self, ticket: Ticket, request: Request) -> Claimed:
        """Wait until the request is ours to answer, or was answered.

        Raises:
            IdempotencyKeyReused: The key came with another request.
            AnswerNotKept: It was answered, and the answer is not there.
            StillAnswering: Another process answers it, and the deadline is over.
            IdempotencyUnavailable: The store cannot say.
        """
        clock, pause = self._clock, LOOK_S[0]
        while True:
            wall, left = clock.wall(), request.deadline - clock.now()
            try:
                claimed = await self._store.claim_answer(ticket, wall, wall + max(0.0, left) + GRACE_S)
            except StoreError as error:
                raise IdempotencyUnavailable(
                    "whether this Idempotency-Key was answered before cannot be said now, and the request is not sent unseen: "
                    "ask again, or without the key",
                    retry_after_s=1.0,
                ) from error
            match claimed.state:
                case "other":
                    raise IdempotencyKeyReused(
                        "this Idempotency-Key came before with another request; a key is for one request, "
                        "repeated without any change: use a new key",
                    )
                case "gone":
                    raise _gone(claimed.why)
                case "theirs":
                    if left <= 0:
                        raise _still()
                    await clock.sleep(min(pause, left))
                    pause = min(LOOK_S[1], pause * 2)
                case _:
                    return claimed

    async def keep(self, ticket: Ticket, request: Request, batches: list[Batch]) -> None:
        """Keep a whole answer, before its end is handed over. What fails is told in a warning: the answer is the caller's, and paid for."""
        call, wall = request.call, self._clock.wall()
        routes = [request.route]
        if call.route not in ("", request.route.name):
            routes.append(self._route(call.route))
        body, why = None, ""
        if not all(route.stores_content for route in routes):
            why = 'the route keeps no content (content = "hash-only")'
        else:
            frames = [frame for batch in batches for frame in batch]
            try:
                body = encode(request, frames, now=self._clock.now(), wall=wall)
            except (HeadraceError, msgspec.MsgspecError, TypeError, ValueError):
                logger.exception("the answer to %s cannot be written down", call.id)
                why = "it cannot be written down"
        if body is not None and len(body) > LARGEST_ANSWER:
            body, why = None, f"it has more than {LARGEST_ANSWER} bytes"
        until = wall + min(self._retention_s, *(route.retention_s for route in routes))
        try:
            kept = await self._store.keep_answer(
                ticket, body, now=wall, until=until, most=self._max_bytes, why=why
            )
        except StoreError as error:
            logger.error("the answer to %s is not kept for its Idempotency-Key: %s", call.id, error)
            call.warn("the answer could not be kept: the same Idempotency-Key will ask, and pay, again")
            self.release(ticket)
            return
        if why or not kept:
            call.warn(f"the answer is not kept for its Idempotency-Key: {why or 'it was purged meanwhile'}")
        self._last_until = max(self._last_until, until)
        self._arm()

    def release(self, ticket: Ticket) -> None:
        self._store.release_answer(ticket)

    def _arm(self) -> None:
        if self._timer is None:
            left = self._last_until - self._clock.wall()
            self._timer = self._clock.call_at(self._clock.now() + max(0.0, left) + 1.0, self._expire)

    def _expire(self) -> None:
        self._timer = None
        wall = self._clock.wall()
        self._store.expire_answers(wall)
        if self._last_until > wall:
            self._arm()


_PRINTABLE = re.compile(r"[ -~]+")
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')


def read_key(text: str) -> str:
    """The key that the header's value `text` is: as it stands, or in the quotes of a structured field's string (RFC 9651), which the IETF's draft
    asks for. Pure.

    Raises:
        InvalidRequest: It is empty, longer than `LONGEST_KEY`, or has other characters than printable ASCII.
    """
    quoted = _STRING.fullmatch(text)
    key = text if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1])
    if not _PRINTABLE.fullmatch(key) or len(key) > LONGEST_KEY:
        problem = (
            "it is empty"
            if not key
            else f"it has {len(key)}"
            if len(key) > LONGEST_KEY
            else f"it has {next(c for c in key if not ' ' <= c <= '~')!r}"
        )
        raise InvalidRequest(
            f"an Idempotency-Key is 1 to {LONGEST_KEY} printable ASCII characters, such as a UUID; {problem}",
            param="idempotency_key",
        )
    return key


def fingerprint(request: Request) -> bytes:
    """What is asked, as 32 bytes: the body byte for byte and its dialect; of a program's request the route and every member. Pure."""
    body = request.body
    if body.wire is not None and body.dialect is not None:
        name, said = body.dialect.name, body.wire
    else:
        name, said = f" {request.route.name}", msgspec.json.encode(body.chat)
    return hashlib.sha256(b"%s\0%s" % (name.encode(), said)).digest()


def _still() -> StillAnswering:
    return StillAnswering(
        "the request with this Idempotency-Key is still under way: ask again with the same key",
        retry_after_s=1.0,
    )


def _gone(why: str) -> AnswerNotKept:
    return AnswerNotKept(
        f"the request with this Idempotency-Key was answered, and the answer is not there any more: {why}; "
        "to ask, and pay, again use a new key"
    )


def _landed(request: Request, batches: list[Batch]) -> None:
    """The answer is kept before the flight ends."""


def _followed(call: Call, passenger: Passenger) -> None:
    """Say that `call` gets the answer to another; what that cost is known at its end."""

    def saved(call: Call) -> None:
        leading = passenger.leading
        if call.status not in (None, 200):
            call.cache, call.cached = "bypass", None
            return
        call.cached = leading.cached if _is_replay(leading) else _given_again(leading, leading.cost)

    call.cache = "hit-idempotent"
    saved(call)
    call.on_end.insert(0, saved)


def _is_replay(call: Call) -> bool:
    return call.cached is not None and call.cached.tier == "idempotency"


def _given_again(asked: Call, cost: int | None) -> Cached:
    target = "" if asked.target is None else str(asked.target)
    return Cached(tier="idempotency", entry=asked.id, target=target, saved=cost)


class _Flown:
    """The handler of one flight: claims the request, and answers it or gives the answer again."""

    __slots__ = ("_inner", "_layer", "_mine", "ticket")

    def __init__(self, layer: Idempotency, inner: Handler, ticket: Ticket) -> None:
        self._layer = layer
        self._inner = inner
        self._mine = False
        self.ticket = ticket

    def is_paid_for(self) -> bool:
        """Whether somebody was asked: it goes on then, also where the caller has left, since he may come back for the answer."""
        return self._mine

    async def __call__(self, request: Request) -> Stream:
        try:
            claimed = await self._layer.claim(self.ticket, request)
            if claimed.state == "kept":
                return self._again(claimed.body, request)
            self._mine = True
            stream = await self._inner(request)
        except BaseException:
            # Also where it is not known whether the claim was granted: the store lets go of ours only.
            self._layer.release(self.ticket)
            raise
        return _Keeping(stream, self, request)

    def _again(self, body: bytes, request: Request) -> Stream:
        try:
            answered = decode(body)
            stream = replay(answered, request)
        except (HeadraceError, msgspec.MsgspecError, KeyError) as error:
            raise _gone("it cannot be read") from error
        call = request.call
        call.cache = "hit-idempotent"
        call.cached = Cached(
            tier="idempotency",
            entry=answered.call,
            target=answered.target,
            age_s=max(0.0, call.started_wall - answered.at),
            saved=answered.cost,
            saved_s=answered.took,
        )
        return stream

    async def keep(self, request: Request, batches: list[Batch]) -> None:
        await self._layer.keep(self.ticket, request, batches)

    def release(self) -> None:
        self._layer.release(self.ticket)


class _Keeping:
    """The answer on its way up. Its end is held until it is kept, so that nobody has an answer that would be paid for again."""

    __slots__ = ("_all", "_batches", "_flown", "_kept", "_ready", "_request", "_stream")

    def __init__(self, stream: Stream, flown: _Flown, request: Request) -> None:
        self._stream = stream
        self._batches = aiter(stream)
        self._flown = flown
        self._request = request
        self._all: list[Batch] = []
        self._ready: deque[Batch] = deque()
        self._kept = False

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self._ready:
            return self._ready.popleft()
        if self._kept:
            raise StopAsyncIteration
        batch = await anext(self._batches, None)
        if batch is not None:
            self._all.append(batch)
            if not _ends(batch):
                return batch
            # What follows an end costs no wait; only then its price is known.
            async for rest in self._batches:
                self._all.append(rest)
                self._ready.append(rest)
        await self._flown.keep(self._request, self._all)
        self._kept = True
        if batch is None:
            raise StopAsyncIteration
        return batch

    def abort(self, error: BaseException) -> None:
        """See `Stream`."""
        self._stream.abort(error)

    async def aclose(self) -> None:
        if not self._kept:
            self._flown.release()
        await self._stream.aclose()


def _ends(batch: Batch) -> bool:
    return any(isinstance(event, End | Complete) for frame in batch for event in frame.events)
