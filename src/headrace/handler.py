"""The one abstraction: a handler takes a request and gives a stream; a layer makes a handler from a handler.

A provider, a cache hit, a cascade, the gateway's upstream and a test's fake are all handlers.

The commit point: ``await handler(request)`` returns when the first *content* is in hand: not `message_start`, not a ping,
not an empty delta. Until then a layer may retry or ask the next target; from then on the stream goes on, or ends in a typed
error. A truncated answer never ends cleanly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeAlias

import msgspec

from headrace.call import Attempt, Call, Nanodollars
from headrace.types import (
    Batch,
    Block,
    BlockStart,
    BlockStop,
    Budget,
    Chat,
    Complete,
    Delta,
    Deployment,
    Details,
    End,
    Event,
    Finish,
    Headers,
    Limits,
    Opaque,
    Refusal,
    Reply,
    Restart,
    Start,
    Target,
    Text,
    Thinking,
    ToolCall,
    Usage,
    UsageReport,
)

__all__ = [
    "AnswerPolicy",
    "Body",
    "CachePolicy",
    "ContextPolicy",
    "Dialect",
    "GuardPolicy",
    "Handler",
    "Layer",
    "OneBatch",
    "Peek",
    "Pending",
    "Request",
    "Route",
    "Rule",
    "Stream",
    "StreamDecoder",
    "StreamEncoder",
    "assemble",
    "collect",
    "is_content",
    "reply_events",
    "stack",
]


class StreamDecoder(Protocol):
    """Turns the bytes of one streamed answer into frames; one object per stream; no I/O."""

    def feed(self, data: bytes) -> Batch:
        """The frames that `data` completes, in order; may be empty. Any split of the bytes gives the same frames.

        Raises:
            ProviderError: The stream carries an error event (classified) or something that is not the protocol
                (`Malformed`). Frames completed before it in the same call are not lost: they are on
                `error.frames` (a list) when there were any.
        """

    def close(self) -> Batch:
        """The bytes have ended. The frames of a last event without its blank line; then nothing more is fed."""


class StreamEncoder(Protocol):
    """Turns events into the bytes of one streamed answer in a dialect; one object per stream; no I/O."""

    def feed(self, event: Event) -> bytes:
        """The bytes for `event`, possibly empty, possibly several server-sent events. `Complete` becomes a whole stream
        up to but without the terminal marker."""

    def end(self) -> bytes:
        """The terminal marker and whatever must still come before it. Only after a complete answer."""


class Peek(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway must know of a body before anything else; the rest stays unread.

    `wants_usage`: the caller asked for usage in the stream (always so in dialects that always send it). `max_tokens` is the
    output limit that the caller set for each of `n` choices, None without one.
    """

    model: str
    stream: bool = False
    wants_usage: bool = False
    max_tokens: int | None = None
    n: int = 1


class Dialect(Protocol):
    """One wire format in both directions; pure functions, no I/O. `path` is where a provider takes it, below its base URL."""

    name: str
    path: str
    default_headers: Headers
    """Sent where the caller sent none of that name (`anthropic-version`)."""
    terminator: bytes
    """What ends a whole stream: `[DONE]`, `message_stop`."""

    def peek(self, body: bytes) -> Peek:
        """The few members that routing needs, without decoding the rest. Raises `InvalidRequest` naming the member at
        fault: not an object, not UTF-8, `model` missing or not a string."""

    def decode_request(self, body: bytes) -> Chat:
        """Raises `InvalidRequest` naming the member at fault."""

    def encode_request(self, chat: Chat, warnings: list[str]) -> bytes:
        """What cannot be carried is named in `warnings`."""

    def splice(self, body: bytes, *, model: str, include_usage: bool, max_tokens: int | None) -> bytes:
        """The caller's bytes with `model` exchanged; with `include_usage`, the member that asks for usage at the end of
        a stream is added where it is absent (nothing to do in dialects that always send it); with `max_tokens`, the
        output limit is set. Every other byte stays."""

    def decode_reply(self, body: bytes) -> Reply:
        """Raises `Malformed` when it is not one (HTML, cut JSON, empty), or the classified error when a 200 carries one."""

    def encode_reply(self, reply: Reply, warnings: list[str]) -> bytes: ...

    def decoder(self, *, hide_usage: bool) -> StreamDecoder:
        """`hide_usage` marks the usage frame `hidden`: the caller did not ask for it."""

    def encoder(self, *, include_usage: bool, model: str, id: str) -> StreamEncoder: ...  # noqa: A002

    def encode_error(
        self, kind: str, message: str, *, status: int, request_id: str, param: str | None = None
    ) -> bytes:
        """An error body in the dialect's own envelope; `kind` is `HeadraceError.kind`, `param` the member at fault."""

    def encode_stream_error(self, kind: str, message: str, *, status: int, request_id: str) -> bytes:
        """One terminal event that this dialect's SDK raises as an error. No clean terminal marker follows it."""


class Body:
    """What the caller asked, in its own bytes or typed; each form made from the other at most once.

    Immutable. `dialect` is None for a body that was made typed, in the library.
    """

    __slots__ = ("_chat", "_encoded", "dialect", "wire")

    def __init__(
        self, *, chat: Chat | None = None, wire: bytes | None = None, dialect: Dialect | None = None
    ) -> None:
        assert (wire is None) == (dialect is None), "wire bytes come with their dialect"
        assert chat is not None or wire is not None
        self._chat = chat
        self._encoded: tuple[str, bytes, list[str]] | None = None
        self.wire = wire
        self.dialect = dialect

    @property
    def chat(self) -> Chat:
        """The typed form, decoded on first use. Raises `InvalidRequest`."""
        if self._chat is None:
            assert self.dialect is not None and self.wire is not None
            self._chat = self.dialect.decode_request(self.wire)
        return self._chat

    def outgoing(
        self, dialect: Dialect, *, model: str, stream: bool, max_tokens: int | None = None
    ) -> tuple[bytes, list[str]]:
        """The bytes for a target that speaks `dialect`, and what could not be carried."""
        if self.dialect is dialect and self.wire is not None:
            return dialect.splice(self.wire, model=model, include_usage=stream, max_tokens=max_tokens), []
        warnings: list[str] = []
        chat = self.chat
        changes: dict[str, object] = {"model": model, "stream": stream, "include_usage": stream}
        if max_tokens is not None:
            changes["max_tokens"] = max_tokens
        return dialect.encode_request(msgspec.structs.replace(chat, **changes), warnings), warnings


class CachePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a route allows the cache; all durations in seconds.

    Attributes:
        semantic: Answers may be served to questions that are worded differently.
        max_wrong: The share of answers so served that may be wrong, from 0 (none are served) to 0.5.
        audit: The share of answers found by likeness that are asked for anyway, by lot, to learn how many are right.
        shadow: None is served by likeness; all that would be are asked for and compared.
        ttl_s: How long an answer lives; `volatile_ttl_s` one to a question about weather, news or "today"; `fallback_ttl_s` one
            that came from below the first level of the cascade.
        max_temperature: A request that states a higher temperature wants variety and is not answered from the cache.
        max_entry_bytes: The longest answer that is kept.
        lookup_s: What a lookup may take; a slower one is a miss. `hook_s` is the same for parts of one's own (`headrace.cache.aid`).
        judge: Who is asked whether an entry answers the question, where the shipped parts found none: a route or `provider/model`.
        rewrite: `package.module:function`, which makes a last turn stand alone.
    """

    semantic: bool = False
    max_wrong: float = 0.01
    audit: float = 0.02
    shadow: bool = False
    ttl_s: float = 86_400.0
    volatile_ttl_s: float = 60.0
    fallback_ttl_s: float = 300.0
    max_temperature: float = 0.0
    max_entry_bytes: int = 1 << 20
    lookup_s: float = 0.005
    hook_s: float = 2.0
    judge: str | None = None
    rewrite: str | None = None


class ContextPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a route packs conversations; see `headrace.context` and docs/context.md.

    `budget` is the most input tokens of a request, None for what the target's window leaves. All others are shares, 0 to 1:
    `trigger` and `target` of what remains of the budget once system, tools and pins are in it, `summary`, `recall` and
    `documents` of the same, `recall_turn` of the sections of recall and documents for one turn, `margin` of the window. `output` is
    kept free for the answer, in tokens, where the request says nothing; `keep_results` are the newest tool outputs that stay
    whole. `document_paths` are text files. `summariser` is the route or model that writes the summaries, empty for none. The first `pins` turns of the user always stay, word for word.
    """

    budget: int | None = None
    trigger: float = 0.85
    target: float = 0.45
    summary: float = 0.15
    recall: float = 0.2
    documents: float = 0.1
    recall_turn: float = 0.15
    margin: float = 0.02
    output: int = 4096
    keep_results: int = 3
    document_paths: tuple[str, ...] = ()
    summariser: str = ""
    pins: int = 0


class AnswerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What must not come back on a route.

    Attributes:
        secrets: Keys, tokens and passwords are not let through.
        allow_links: Domains that links may lead to, with those below them; None for all. `deny_links` are those that they may not.
        max_characters: The longest text; None for no limit.
        action: `block` an answer with any of these, or `flag` it.
        whole: A stream is held until all of it has been looked at, instead of word by word.
    """

    secrets: bool = False
    allow_links: tuple[str, ...] | None = None
    deny_links: tuple[str, ...] = ()
    max_characters: int | None = None
    action: str = "block"
    whole: bool = False


class GuardPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a route keeps from leaving, from being believed, and from coming back; see docs/guards.md.

    Attributes:
        redact: Kinds of values (`headrace.guards.KINDS`); `patterns` are further ones, names and regular expressions.
        action: What becomes of a request that has some: `redact` them (and put them back in the answer), `block` it, or `flag`
            it, with a warning.
        injections: What becomes of a request whose text from outside speaks to the model: `off`, `flag` or `block`.
        judge: Who is asked for an opinion, a route or a name given to the client; empty for nobody. `judge_answers`: also of the
            answer, which is then held until it is whole. `judge_fails`: `block` or `pass` when there is no opinion.
    """

    redact: tuple[str, ...] = ()
    patterns: tuple[tuple[str, str], ...] = ()
    action: str = "redact"
    injections: str = "off"
    answer: AnswerPolicy | None = None
    judge: str = ""
    judge_answers: bool = False
    judge_fails: str = "block"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A request for which all that is given here holds goes to the route or model `use`.

    `longer_than` and `shorter_than` are likely input tokens, `languages` ISO 639-1 codes of the newest user text, `tag` a name and its value, `budget_below`
    the share (0 to 1) that is left of the tightest budget that holds for it.
    """

    use: str
    longer_than: int | None = None
    shorter_than: int | None = None
    languages: frozenset[str] = frozenset()
    tag: tuple[str, str] | None = None
    tools: bool | None = None
    budget_below: float | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A named cascade with its rules; all durations in seconds.

    Attributes:
        deadline_s: Spans attempts, sleeps and everything else.
        max_wait_s: A longer wait goes to the next level at once; only the last level waits longer.
        max_output_tokens: An output limit to write into requests that have none or a larger one.
        on_refusal: `stop` or `next`.
        breaker: Whether circuits are heeded and counted in.
        mid_stream: What becomes of an answer that breaks off: `error`, `hold` (the first `hold_tokens`, or for `hold_s` where that is
            above 0, are kept back), `restart` or `continue`.
        hedge: The share of extra calls that slow targets may cost, 0 for none.
        priority: `high`, `normal` or `low`: who is served first where a deployment has no more slots.
        tool_calls: `stream`, or `whole` (a streamed call is released when its arguments are complete).
        context: None: conversations are sent as they are.
        budgets, limits: All requests of the route in their windows, and how fast they may come.
        retention_s: How long what was asked and answered may be kept in a file; at all only with `stores_content`.
        max_cost, max_total_tokens: Bound one request over all its attempts.
        downgrade: An attempt that does not fit a budget goes on to the next target.
        repair: Answers with a JSON Schema are held until they are valid.
        parts: The routes, with budgets or limits, of which this cascade was put together: theirs hold too.
    """

    name: str
    cascade: tuple[Target, ...]
    deadline_s: float = 600.0
    connect_s: float = 5.0
    first_content_s: float = 60.0
    between_events_s: float = 60.0
    max_wait_s: float = 5.0
    max_output_tokens: int | None = None
    on_refusal: str = "stop"
    breaker: bool = True
    mid_stream: str = "error"
    hold_tokens: int = 64
    hold_s: float = 0.0
    hedge: float = 0.0
    priority: str = "normal"
    tool_calls: str = "stream"
    context: ContextPolicy | None = None
    cache: CachePolicy | None = None
    guard: GuardPolicy | None = None
    budgets: tuple[Budget, ...] = ()
    limits: Limits | None = None
    retention_s: float = 30 * 86_400.0
    stores_content: bool = True
    max_cost: Nanodollars | None = None
    max_total_tokens: int | None = None
    downgrade: bool = False
    repair: bool = False
    rules: tuple[Rule, ...] = ()
    parts: tuple[Route, ...] = ()

    def behind(self, target: Target) -> tuple[Target, ...]:
        """The levels after the one of `target`: that very one, since a cascade may name a model twice."""
        for level, other in enumerate(self.cascade):
            if other is target:
                return self.cascade[level + 1 :]
        return self.cascade[self.cascade.index(target) + 1 :] if target in self.cascade else ()

    def output_limit(self, asked: int | None) -> int | None:
        """The limit to impose on a request that itself asks for at most `asked` tokens; None where there is nothing to do."""
        limit = self.max_output_tokens
        return None if limit is None or (asked is not None and asked <= limit) else limit


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request on its way through the stack.

    Attributes:
        deadline, commit_by: When nobody cares any more, and when a level that is not the last must have begun to answer: times on the
            clock's monotonic scale.
        headers: The caller's that a provider of the same dialect is to see (`anthropic-beta`, ...).
        timeout_s: What the caller asked for.
        max_tokens: An output limit that Headrace itself imposes, None for none.
        asked_tokens: The caller's own limit for each of its `choices`.
        cache_control, idempotency_key: The values of the caller's headers of these names.
        redacted: What placeholders in the body stand for, where a guard has put some there: two callers' may be alike and stand for
            different values.
        allowed: The routes and models that the caller's key may ask for (`headrace.access`), empty for all.
        budgets, limits: Those of the caller's key.
        max_cost, max_total_tokens: What the caller lets this request use at most.
        pots: The budgets that the program itself opened around it.
        aside_of: The routes of the requests on whose behalf Headrace itself asks this; their budgets hold too.
        account: What the budget layer made of all of these.
        judged: Whether the answer is of use is said by a layer above (`Attempt.judge`).
        output: The form that the answer is held to (a `headrace.output.Shape`).
        watch: Hears the answer's pieces before it is judged, and None when it begins anew.
        purpose: Why this attempt is made; empty for the call's own reason.
        said: The text of an answer that broke off and is to be continued.
        target, attempt, deployment: Set by the cascade, the retry and the balance layer.
    """

    body: Body
    route: Route
    call: Call
    stream: bool
    deadline: float = float("inf")
    commit_by: float = float("inf")
    headers: Headers = ()
    wants_usage: bool = False
    timeout_s: float | None = None
    max_tokens: int | None = None
    asked_tokens: int | None = None
    choices: int = 1
    cache_control: str = ""
    idempotency_key: str | None = None
    redacted: Mapping[str, str] = {}
    allowed: frozenset[str] = frozenset()
    budgets: tuple[Budget, ...] = ()
    limits: Limits | None = None
    max_cost: Nanodollars | None = None
    max_total_tokens: int | None = None
    pots: tuple[object, ...] = ()
    aside_of: tuple[Route, ...] = ()
    account: object | None = None
    judged: bool = False
    output: object | None = None
    watch: Callable[[str | None], None] | None = None
    purpose: str = ""
    said: str = ""
    last_level: bool = True
    target: Target | None = None
    deployment: Deployment | None = None
    attempt: Attempt | None = None


class Stream(Protocol):
    """One answer, as batches of frames.

    `aclose` is idempotent, safe before the first batch, and releases everything; a reader waiting in another task then gets
    `StopAsyncIteration` or the error that `abort` was given.
    """

    def __aiter__(self) -> AsyncIterator[Batch]: ...

    async def aclose(self) -> None: ...

    def abort(self, error: BaseException) -> None:
        """End now: whoever waits for the next batch gets `error`. Does nothing once the stream has ended."""


Pending: TypeAlias = Coroutine[Any, Any, Stream]
"""A request on its way: what calling a handler gives, to be awaited at once. A layer with nothing to do returns that of the handler
below, so that it costs a call and no frame that every wake-up passes through."""


class Handler(Protocol):
    """Anything that answers a request."""

    async def __call__(self, request: Request, /) -> Stream: ...


Layer: TypeAlias = Callable[[Handler], Handler]


def stack(*layers: Layer, handler: Handler) -> Handler:
    """Fold `layers` around `handler`; the first one is outermost."""
    for layer in reversed(layers):
        handler = layer(handler)
    return handler


class OneBatch:
    """A stream that has all it will ever say: a buffered answer, a cache hit."""

    __slots__ = ("_batch",)

    def __init__(self, batch: Batch) -> None:
        self._batch: Batch | None = batch

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self._batch is None:
            raise StopAsyncIteration
        batch, self._batch = self._batch, None
        return batch

    async def aclose(self) -> None:
        self._batch = None

    def abort(self, error: BaseException) -> None:
        """Nothing to abort: the answer is whole."""


def is_content(event: Event) -> bool:
    """Whether `event` commits the answer.

    Text, thinking, tool calls and refusals do; a start, a ping, usage and an empty delta do not. An answer that finishes
    without a word is committed by its `Finish`.
    """
    match event:
        case Delta(text=text):
            return text != ""
        case BlockStart(block=block):
            return isinstance(block, ToolCall | Opaque) or (
                isinstance(block, Thinking) and block.redacted is not None
            )
        case Finish() | Complete() | End():
            return True
        case _:
            return False


def assemble(events: list[Event]) -> Reply:
    """The whole answer that `events` spell; pure. A `Complete` among them is that answer; a `Restart` voids what came before."""
    id_ = model = ""
    created: int | None = None
    blocks: dict[int, Block] = {}
    pieces: dict[int, dict[str, list[str]]] = {}
    finish = Finish("other")
    usage: Usage | None = None
    for event in events:
        match event:
            case Complete(reply=reply):
                return reply
            case Start():
                id_, model, created = event.id or id_, event.model or model, event.created or created
            case BlockStart(index=index, block=block):
                blocks[index] = block
            case Delta(index=index, kind=kind, text=text):
                pieces.setdefault(index, {}).setdefault(kind, []).append(text)
            case BlockStop(index=index, provider_details=Details() as details) if index in blocks:
                blocks[index] = msgspec.structs.replace(blocks[index], provider_details=details)
            case Finish():
                finish = event
            case UsageReport(usage=usage):
                pass
            case Restart():
                id_ = model = ""
                created = usage = None
                blocks, pieces, finish = {}, {}, Finish("other")
            case _:
                pass
    content = tuple(_grown(blocks[index], pieces.get(index, {})) for index in sorted(blocks))
    return Reply(
        id=id_,
        model=model,
        created=created,
        content=content,
        finish=finish.reason,
        finish_raw=finish.raw,
        stop_sequence=finish.stop_sequence,
        usage=usage,
    )


def _grown(block: Block, pieces: dict[str, list[str]]) -> Block:
    joined = {kind: "".join(texts) for kind, texts in pieces.items()}
    match block:
        case Text() if "text" in joined:
            return msgspec.structs.replace(block, text=block.text + joined["text"])
        case ToolCall() if "arguments" in joined:
            return msgspec.structs.replace(block, arguments=block.arguments + joined["arguments"])
        case Refusal() if "refusal" in joined:
            return msgspec.structs.replace(block, text=block.text + joined["refusal"])
        case Thinking():
            signature = joined.get("signature")
            return msgspec.structs.replace(
                block,
                text=block.text + joined.get("thinking", ""),
                signature=block.signature if signature is None else (block.signature or "") + signature,
            )
        case _:
            return block


def reply_events(reply: Reply) -> list[Event]:
    """The events that spell `reply`: `assemble(reply_events(r))` is `r`, as far as events can say it; pure."""
    events: list[Event] = [Start(reply.id, reply.model, reply.created)]
    for index, block in enumerate(reply.content):
        match block:
            case Text(text=text):
                empty: Block = msgspec.structs.replace(block, text="")
                deltas: list[Event] = [Delta(index, "text", text)]
            case ToolCall(arguments=text):
                empty, deltas = (
                    msgspec.structs.replace(block, arguments=""),
                    [Delta(index, "arguments", text)],
                )
            case Refusal(text=text):
                empty, deltas = msgspec.structs.replace(block, text=""), [Delta(index, "refusal", text)]
            case Thinking(redacted=None):
                empty = msgspec.structs.replace(block, text="", signature=None)
                deltas = [Delta(index, "thinking", block.text)]
                if block.signature is not None:
                    deltas.append(Delta(index, "signature", block.signature))
            case _:
                empty, deltas = block, []
        events += [
            BlockStart(index, empty),
            *(d for d in deltas if not isinstance(d, Delta) or d.text),
            BlockStop(index),
        ]
    events.append(Finish(reply.finish, reply.finish_raw, reply.stop_sequence))
    if reply.usage is not None:
        events.append(UsageReport(reply.usage))
    events.append(End())
    return events


async def collect(stream: Stream) -> Reply:
    """Read `stream` to its end and close it: the whole answer. Raises what the stream raises."""
    events: list[Event] = []
    try:
        async for batch in stream:
            for frame in batch:
                events += frame.events
    finally:
        await stream.aclose()
    return assemble(events)
