"""Packs every request of a route with a context policy for the window of the target at hand.

The layer keeps no conversation of its own: the caller sends all of it each time. What it remembers, in memory and bounded, and in the store where
there is a file, is how far a conversation has been planned, by tenant, route, target and a digest of everything said so far; a longer request with the
same beginning goes on from there, and sends the same bytes for it. What was forgotten is planned again from the start, with the same result
but for what nobody can know any more: which prefix bound thinking was thought behind, and what a model's summary said.

In the caller's dialect the messages that stay keep their bytes; only the member `messages` is exchanged. A request that needs no
change is handed on as the very object that came.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from headrace.call import Call
from headrace.context.abstract import Abstracts, believed, question
from headrace.context.documents import Library
from headrace.context.log import Log, as_bytes, next_digest, start_digest
from headrace.context.pack import Packed, pack
from headrace.context.plan import Period, Plan
from headrace.context.planner import foreseen, plan
from headrace.context.profile import Profile, input_limit
from headrace.context.turn import Turn
from headrace.dialects.turns import decode_turn, encode_turn, join, split
from headrace.errors import ContextTooLong, HeadraceError, InvalidRequest, StoreError
from headrace.handler import Body, ContextPolicy, Handler, Pending, Request, Stream
from headrace.prices import Model
from headrace.tokens import (
    Anchor,
    Correction,
    TextCounter,
    encoding_of,
    estimate_chat,
    estimate_message,
    estimate_text,
    exact_counter,
)
from headrace.types import Chat, Message, Reply, Target

if TYPE_CHECKING:
    from headrace.context.likeness import Likeness

__all__ = ["REMEMBERED", "Aside", "Context", "Lookup", "PlanStates"]

REMEMBERED = 2_048
"""Requests that a later one can go on from, over all conversations of a process; the one unused for longest goes first. All requests
of one conversation share its log, which takes some two megabytes for 600 turns, and three with the encoder."""

SMALLER = 0.75
"""What a provider's overflow leaves of the request: its count was above ours, by how much it seldom says."""

ABSTRACT_TIMEOUT_S = 120.0
"""Seconds for all attempts at a summary; nobody waits for it."""

FRESH = 3
"""Messages beyond what this process remembers for which the store is not asked: its own last answer and what the caller adds to it."""

LOOKED_BACK = 512
"""The newest beginnings of a request that are looked for in the store."""

_log = logging.getLogger("headrace.context")

Lookup = Callable[[str, str], Model | None]
"""Provider and model to its limits."""


class PlanStates(Protocol):
    """What is asked of a store."""

    def record_plan(self, key: bytes, state: bytes, *, now: float, until: float) -> None: ...

    async def find_plan(self, keys: Sequence[bytes]) -> tuple[int, bytes] | None: ...


class Aside(Protocol):
    """Asks a route or a model something of Headrace's own, on behalf of a request. Raises `HeadraceError`."""

    async def __call__(
        self, request: Request, model: str, chat: Chat, /, *, purpose: str, timeout_s: float
    ) -> Reply: ...


_Scope = tuple[str, str, str]
"""Tenant, route, target."""


@dataclass(slots=True)
class _Conversation:
    """A log, and the wire's bytes (or the digest's, of a typed request) of its turns."""

    log: Log
    raws: list[bytes]
    abstracts: Abstracts

    def fork(self, length: int) -> _Conversation:
        """The first `length` turns, to go on in another way."""
        return _Conversation(self.log.fork(length), self.raws[:length], self.abstracts.fork(length))


@dataclass(slots=True)
class _Known:
    """A request that was planned: the first `length` turns of a conversation, where that plan ended, when it was sent (wall time), what the
    provider counted, and for how many seconds its prompt cache holds."""

    conversation: _Conversation
    length: int
    period: Period
    sent: float
    anchor: Anchor | None = None
    cache_ttl: float = Profile().cache_ttl


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request taken apart: `frame` is the body without messages, None for a typed one; `head` the system prompt and the tools."""

    frame: bytes | None
    head: Chat
    seed: bytes
    keys: list[bytes]
    messages: tuple[Message, ...] = ()
    digests: list[str] = field(init=False)
    """Of everything up to each message."""

    def __post_init__(self) -> None:
        digest = start_digest(self.seed)
        digests = [(digest := next_digest(digest, key)).hex() for key in self.keys]
        object.__setattr__(self, "digests", digests)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where the plan of the first `length` messages ended, as another worker or an earlier process left it."""

    length: int
    period: Period


def _scope(request: Request, target: Target) -> _Scope:
    return (request.call.tenant or "", request.route.name, str(target))


def _asked(body: Body) -> _Asked:
    if body.wire is None or body.dialect is None:
        chat = body.chat
        head = msgspec.structs.replace(chat, messages=())
        seed = msgspec.json.encode([head.tools, head.response_format])
        return _Asked(None, head, seed, [as_bytes((message,)) for message in chat.messages], chat.messages)
    frame, raws = split(body.wire)
    head = body.dialect.decode_request(frame)
    seed = msgspec.json.encode([body.dialect.name, head.messages, head.tools, head.response_format])
    return _Asked(frame, head, seed, raws)


class Context:
    """The layer.

    Args:
        model: A target's limits, as the catalogue knows them.
        documents: By route name, read before.
        aside: Asks the summariser that a route names; None, and none is asked.
        likeness: Recalls by alike words too (`recall.shipped`).
        plans: Keeps how far conversations were planned, for other workers and after a restart; None, and only memory does.
    """

    def __init__(
        self,
        model: Lookup,
        documents: Mapping[str, Library] | None = None,
        aside: Aside | None = None,
        likeness: type[Likeness] | None = None,
        plans: PlanStates | None = None,
    ) -> None:
        self._plans = plans
        self._model = model
        self._aside = aside
        self._likeness = likeness
        self._preparing: set[asyncio.Task[None]] = set()
        self._documents = documents or {}
        self._known: OrderedDict[tuple[_Scope, str], _Known] = OrderedDict()
        self._corrections: dict[str, Correction] = {}

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            policy = request.route.context
            if policy is None or request.call.purpose != "answer":
                return inner(request)
            return self._within(inner, request, policy)

        return handle

    async def _within(self, inner: Handler, request: Request, policy: ContextPolicy) -> Stream:
        target = request.target
        assert target is not None
        asked = _asked(request.body)
        stored = await self._find(_scope(request, target), asked)
        try:
            return await inner(self._packed(request, policy, target, asked, stored))
        except ContextTooLong as error:
            limit = self._smaller(request.call, error)
            if limit is None:
                raise
        return await inner(self._packed(request, policy, target, asked, None, at_most=limit))

    def _smaller(self, call: Call, error: ContextTooLong) -> int | None:
        """The limit for the one further try after a provider's overflow; None when it was this layer that refused."""
        made = call.plan
        if not isinstance(made, Plan) or not call.attempts or call.attempts[-1].error is not error:
            return None
        limit = int(made.tokens * SMALLER)
        call.warn(f"context: {error.target} found the request too long; packed again for {limit} tokens")
        return limit

    def packed(self, request: Request, policy: ContextPolicy, target: Target) -> Request:
        """`request` as its plan says, which is left on the call; the same object where nothing changes.

        Raises:
            ContextTooLong: What must be sent does not fit the target.
            InvalidRequest: The body cannot be read.
        """
        return self._packed(request, policy, target, _asked(request.body), None)

    def _packed(
        self,
        request: Request,
        policy: ContextPolicy,
        target: Target,
        asked: _Asked,
        stored: _Stored | None,
        *,
        at_most: int | None = None,
    ) -> Request:
        """As `packed`. `at_most`: a limit in tokens below the policy's and the model's."""
        scope = _scope(request, target)
        count, exact = self._counter(target)
        conversation, period, known = self._conversation(scope, asked, request.body, count, stored)
        correction = self._corrections.setdefault(scope[2], Correction())
        factor = max(1.0, correction.factor or 1.0) if exact else correction.factor
        profile = self._profile(request, policy, target, asked.head, count, factor)
        if at_most is not None:
            limit = at_most if profile.limit is None else min(at_most, profile.limit)
            profile = msgspec.structs.replace(profile, limit=limit)
        if known is not None:
            age = max(0.0, request.call.started_wall - known.sent)
            profile = msgspec.structs.replace(profile, cache_age=age, cache_ttl=known.cache_ttl)
        log = conversation.log
        try:
            made = plan(
                log,
                policy,
                profile,
                period=period,
                anchor=None if known is None else known.anchor,
                documents=self._documents.get(request.route.name),
                summarise=conversation.abstracts if policy.summariser else None,
            )
        except ContextTooLong as error:
            error.target = scope[2]
            raise
        remembered = self._remember(scope, conversation, made.period, request.call.started_wall)
        if request.route.stores_content:
            now = request.call.started_wall
            until = now + request.route.retention_s
            self._store(scope, log, period or Period(), made.period, now=now, until=until)
        if policy.summariser and self._aside is not None:
            self._prepare(
                request, policy, foreseen(log, policy, profile, made.period), conversation.abstracts
            )
        sent = pack(log, made)
        call = request.call
        call.plan = made
        likely = estimate_chat(asked.head, count).likely + _likely(log, sent)
        call.on_end.append(lambda call: _learn(call, made, target, likely, correction, remembered))
        if not made.changed:
            return request
        call.warn(_said(made))
        return msgspec.structs.replace(request, body=_body(request.body, asked, conversation, sent))

    # --- summaries that a model writes ------------------------------------------------------------------------------------

    def _prepare(
        self, request: Request, policy: ContextPolicy, turns: tuple[Turn, ...], abstracts: Abstracts
    ) -> None:
        """Have the facts of `turns` written while nobody waits for them, once."""
        span = (turns[0].id, turns[-1].id) if turns else None
        if span is None or any(asked[0] == span[0] for asked in abstracts.asked):
            return
        abstracts.asked.add(span)
        task = asyncio.get_running_loop().create_task(self._abstract(request, policy, turns, abstracts))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    async def _abstract(
        self, request: Request, policy: ContextPolicy, turns: tuple[Turn, ...], abstracts: Abstracts
    ) -> None:
        assert self._aside is not None
        try:
            reply = await self._aside(
                request, policy.summariser, question(turns), purpose="summary", timeout_s=ABSTRACT_TIMEOUT_S
            )
            abstracts.add(turns[0].id, turns[-1].id, believed(reply, turns))
        except (HeadraceError, ValueError) as error:
            _log.warning(
                "no summary of turns %d to %d for %s: %s",
                turns[0].id,
                turns[-1].id,
                request.route.name,
                error,
            )
        except Exception:  # noqa: BLE001  (a summary is never worth a request)
            _log.exception(
                "no summary of turns %d to %d for %s", turns[0].id, turns[-1].id, request.route.name
            )

    async def aclose(self) -> None:
        """Give up the summaries that are being written; idempotent."""
        tasks = list(self._preparing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _counter(self, target: Target) -> tuple[TextCounter, bool]:
        """What counts text for `target`, and whether exactly."""
        encoding = encoding_of(target.provider, target.model)
        exact = None if encoding is None else exact_counter(encoding)
        return (estimate_text, False) if exact is None else (exact, True)

    def _profile(
        self,
        request: Request,
        policy: ContextPolicy,
        target: Target,
        head: Chat,
        count: TextCounter,
        factor: float | None,
    ) -> Profile:
        model = self._model(target.provider, target.model)
        limit = input_limit(
            policy,
            window=None if model is None else model.context_total,
            max_input=None if model is None else model.max_input,
            output=request.max_tokens if request.max_tokens is not None else head.max_tokens,
        )
        read, write = _cache_prices(model)
        profile = Profile(limit=limit, factor=factor, read=read, write=write)
        return msgspec.structs.replace(profile, fixed=profile.cost(estimate_chat(head, count)))

    # --- memory -------------------------------------------------------------------------------------------------------

    @property
    def remembered(self) -> Collection[tuple[_Scope, str]]:
        """The requests that a later one can go on from."""
        return self._known.keys()

    def _longest(self, scope: _Scope, asked: _Asked) -> tuple[_Known | None, int]:
        """The longest beginning of the request that is remembered, and its length."""
        for length in range(len(asked.digests), 0, -1):
            known = self._known.get((scope, asked.digests[length - 1]))
            if known is not None:
                return known, length
        return None, 0

    async def _find(self, scope: _Scope, asked: _Asked) -> _Stored | None:
        """What the store knows of the request beyond what this process does. A store that fails knows nothing."""
        digests = asked.digests
        _, length = self._longest(scope, asked)
        if self._plans is None or len(digests) - length <= FRESH:
            return None
        first = max(length, len(digests) - LOOKED_BACK)
        try:
            found = await self._plans.find_plan([_key(scope, digest) for digest in digests[first:]])
            if found is None:
                return None
            return _Stored(first + found[0] + 1, _read_period(zlib.decompress(found[1])))
        except (StoreError, msgspec.MsgspecError, zlib.error) as error:
            _log.warning("the store knows no plan: %s", error)
            return None

    def _store(
        self, scope: _Scope, log: Log, before: Period, after: Period, *, now: float, until: float
    ) -> None:
        """Keep a state that cannot be told from the conversation at little cost."""
        if self._plans is not None and (
            after.compactions != before.compactions
            or len(after.inserts) != len(before.inserts)
            or after.summary != before.summary
        ):
            state = zlib.compress(msgspec.json.encode(after), 1)
            self._plans.record_plan(_key(scope, log.turns[-1].digest), state, now=now, until=until)

    def _conversation(
        self, scope: _Scope, asked: _Asked, body: Body, count: TextCounter, stored: _Stored | None
    ) -> tuple[_Conversation, Period | None, _Known | None]:
        """The log of the request, gone on from the longest beginning that is remembered, where its plan ended, and what it goes on from."""
        known, length = self._longest(scope, asked)
        if known is None:
            log = Log(seed=asked.seed, count=count, likeness=self._likeness)
            conversation, period = _Conversation(log, [], Abstracts()), None
        else:
            conversation, period = known.conversation, known.period
            if len(conversation.log) > length:
                # The conversation went on in another way from here; this request gets a log of its own.
                conversation = conversation.fork(length)
        if stored is not None and stored.length > length:
            period, known = stored.period, None
        try:
            for position in range(length, len(asked.keys)):
                raw = asked.keys[position]
                said = asked.messages[position : position + 1]
                conversation.log.append(
                    said if body.dialect is None else decode_turn(body.dialect, raw), raw=raw
                )
                conversation.raws.append(raw)
        except InvalidRequest:
            _ = body.chat  # says which message it is
            raise
        return conversation, period, known

    def _remember(self, scope: _Scope, conversation: _Conversation, period: Period, sent: float) -> _Known:
        turns = conversation.log.turns
        known = _Known(conversation, len(turns), period, sent)
        if turns:
            key = (scope, turns[-1].digest)
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known


def _key(scope: _Scope, digest: str) -> bytes:
    """What a state is stored under: it says nothing of whom or what it is about."""
    return hashlib.blake2b(msgspec.json.encode([*scope, digest]), digest_size=16).digest()


_read_period = msgspec.json.Decoder(Period).decode


def _body(body: Body, asked: _Asked, conversation: _Conversation, sent: Sequence[Packed]) -> Body:
    """The body with the messages of a plan; those that are turns as they came keep their bytes."""
    if asked.frame is None or body.dialect is None:
        messages = tuple(message for part in sent for message in part.messages)
        return Body(chat=msgspec.structs.replace(asked.head, messages=messages))
    raws: list[bytes] = []
    for part in sent:
        if part.turn is not None:
            raws.append(conversation.raws[part.turn])
        else:
            raws += encode_turn(body.dialect, part.messages)
    return Body(wire=join(asked.frame, raws), dialect=body.dialect)


def _likely(log: Log, sent: Sequence[Packed]) -> int:
    return sum(
        log.turns[part.turn].tokens.likely
        if part.turn is not None
        else sum(estimate_message(message, log.count).likely for message in part.messages)
        for part in sent
    )


def _learn(
    call: Call, made: Plan, target: Target, likely: int, correction: Correction, known: _Known
) -> None:
    """Compare our count with the one that the provider reported for this plan, if it did."""
    if call.plan is not made:
        return  # packed again, smaller or for another target
    for attempt in reversed(call.attempts):
        if attempt.target == target:
            if attempt.usage is not None and attempt.outcome == "ok":
                reported = attempt.usage.input_tokens
                correction.observe(likely, reported)
                if reported > 0:
                    known.anchor = Anchor(reported, likely)
                if attempt.usage.cache_write_1h_tokens > 0:
                    known.cache_ttl = 3_600.0
            return


def _cache_prices(model: Model | None) -> tuple[float, float]:
    """What the prompt cache costs to read and to write, in prices of an input token; Anthropic's where nobody says."""
    prices = None if model is None else model.prices
    if prices is None or not prices.input:
        return Profile().read, Profile().write
    read = prices.input if prices.cache_read is None else prices.cache_read
    write = prices.input if prices.cache_write is None else prices.cache_write
    return float(read / prices.input), float(write / prices.input)


def _said(made: Plan) -> str:
    """The plan in one line, for the caller's warnings."""
    counts: dict[str, int] = {}
    for verdict in made.turns:
        counts[verdict.what] = counts.get(verdict.what, 0) + 1
    parts = ", ".join(f"{count} {what}" for what, count in counts.items())
    limit = "" if made.limit is None else f" of {made.limit}"
    turns = "1 turn" if len(made.turns) == 1 else f"{len(made.turns)} turns"
    return f"context: {turns} in {made.tokens} tokens{limit}: {parts}"
