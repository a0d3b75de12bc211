"""What comes back: a whole answer, or one as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

import msgspec

from headrace.call import Attempt, Call, format_usd
from headrace.context import Plan
from headrace.errors import InvalidOutput, ModelRefused, StreamBroken, StreamRestarted
from headrace.handler import Stream, assemble, reply_events
from headrace.output import Mismatch, Shape
from headrace.output.partial import Partial
from headrace.output.schema import WRAPPER
from headrace.tools import ToolRun
from headrace.types import (
    Block,
    Complete,
    Delta,
    Event,
    FinishReason,
    Refusal,
    Reply,
    Restart,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from headrace.rounds import Rounds

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["Answer", "AnswerStream", "Opened", "Taken", "read_value"]


class Taken(tuple[Attempt, ...]):
    """The way an answer came: every attempt, in order. `str` gives one line of it."""

    __slots__ = ()

    def __str__(self) -> str:
        def said(attempt: Attempt) -> str:
            what = attempt.error_kind or attempt.outcome
            status = f"{attempt.http} " if attempt.error_kind and attempt.http else ""
            return f"{attempt.target}: {status}{what} ({attempt.duration_s or 0.0:.1f} s)"

        return " -> ".join(said(attempt) for attempt in self)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A whole answer. `str(answer)` is its text.

    Attributes:
        rounds: The answers before this one that asked for tools, where `tools` were functions; cost and attempts count them in.
        tool_runs: What was run for them, in order.
        rejected: The answers of `first_good`'s choices before this one that were not good; `before` has the calls of these choices, and of
            those that failed. Cost and attempts count them in.
    """

    reply: Reply
    call: Call
    read: tuple[T] | None = None
    rounds: tuple[Answer[Any], ...] = ()
    tool_runs: tuple[ToolRun, ...] = ()
    rejected: tuple[Answer[Any], ...] = ()
    before: tuple[Call, ...] = ()

    @property
    def value(self) -> T:
        """What `output=` asked for, valid.

        Raises:
            RuntimeError: Nothing was asked for.
        """
        if self.read is None:
            raise RuntimeError("this answer has no value: ask with output=")
        return self.read[0]

    @property
    def prompt_version(self) -> str | None:
        """Which version of a prompt asked: its name and the hash of its content; None without one."""
        return self.call.tags.get("prompt")

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.reply.text

    @property
    def thinking(self) -> str:
        """What the model thought, where it says so."""
        return self.reply.thinking

    @property
    def content(self) -> tuple[Block, ...]:
        """All blocks, in order."""
        return self.reply.content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The functions that the model asks for, and that nobody has run; `tool_runs` has those that were."""
        return self.reply.tool_calls

    @property
    def finish(self) -> FinishReason:
        """Why it stopped; `length` means that it was cut by the output limit."""
        return self.reply.finish

    @property
    def model(self) -> str:
        """Who answered, in the provider's own words."""
        return self.reply.model

    @property
    def usage(self) -> Usage | None:
        """Tokens of the attempt that answered; None if the provider reported none."""
        return self.reply.usage

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every request that was made for it, as in the ledger."""
        return (*self.before, *(answer.call for answer in self.rounds), self.call)

    @property
    def cost(self) -> int | None:
        """Nano-dollars over all attempts; None if a price is unknown."""
        costs = [call.cost for call in self.calls]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def cost_usd(self) -> str:
        """`cost` as exact decimal US dollars, or `unknown`."""
        return format_usd(self.cost)

    @property
    def estimated(self) -> bool:
        """Whether some attempt's cost is an upper bound, since its provider did not say what it charged for."""
        return any(attempt.estimated for attempt in self.attempts)

    @property
    def route(self) -> Taken:
        """Who failed, why and for how long, and who answered."""
        return Taken(self.attempts)

    @property
    def attempts(self) -> list[Attempt]:
        """Every request to a provider that was made."""
        return [attempt for call in self.calls for attempt in call.attempts]

    @property
    def plan(self) -> Plan | None:
        """What of a long conversation was sent, and why; None where the route does not pack. See docs/context.md."""
        plan = self.call.plan
        return plan if isinstance(plan, Plan) else None

    @property
    def warnings(self) -> list[str]:
        """What could not be carried to the target that answered."""
        return self.call.warnings

    @property
    def id(self) -> str:
        """The request's id, as in the ledger."""
        return self.call.id

    def __str__(self) -> str:
        return self.reply.text


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream with the record of its call."""

    stream: Stream
    call: Call


def read_value(reply: Reply, shape: Shape[T], call: Call) -> tuple[T]:
    """The value of an answer that the stack has judged.

    Raises:
        ModelRefused: The model declined.
        InvalidOutput: It calls tools instead, or comes from a cache that holds something else.
    """
    target = "" if call.target is None else str(call.target)
    if reply.finish in ("refusal", "content_filter") or any(isinstance(b, Refusal) for b in reply.content):
        raise ModelRefused(f"the model declined: {reply.finish_raw or reply.finish}", target=target)
    try:
        return (shape.decode(reply.text),)
    except Mismatch as error:
        raise InvalidOutput(
            f"{target} did not give what was asked for: {error}",
            target=target,
            received=reply.text,
            problem=str(error),
        ) from None


class AnswerStream(Generic[T]):
    """An answer as it comes. Iterate for its text; leave early and the provider's connection is closed.

    Use as ``async with client.stream(...) as answer``. A stream that ends without being whole raises `StreamBroken`, with the
    text so far on `received`. With `output=` the text comes when it is valid; `partials` has it before. Where `tools` are functions,
    the model's answers of all rounds come one after the other, and the functions run between them.

    On a route with `mid_stream = "restart"` an answer that breaks off may begin anew: iterating for text then raises
    `StreamRestarted` once, which voids what came before, and iterating again gives the new answer. `events` has the marker instead.
    """

    def __init__(
        self,
        rounds: Callable[[], Coroutine[Any, Any, Rounds[T]]],
        shape: Callable[[], Shape[T] | None],
    ) -> None:
        self._ask = rounds
        self._form = shape
        self._shape: Shape[T] | None = None
        self._rounds: Rounds[T] | None = None
        self._opening: asyncio.Task[Opened] | None = None
        self._pieces: asyncio.Queue[str | _Over | None] = asyncio.Queue()
        self._stream: Stream | None = None
        self._call: Call | None = None
        self._events: list[Event] = []
        self._whole = False
        self._left = False

    async def __aenter__(self) -> Self:
        self._shape = self._form()
        self._rounds = await self._ask()
        await self._begin(self._rounds)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def whole(self) -> bool:
        """Whether the answer has come to its end, so that `final` is all of it."""
        return self._whole

    async def aclose(self) -> None:
        """Stop and release everything; idempotent."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            if not opening.cancelled() and opening.exception() is None:
                self._stream, self._call = opening.result().stream, opening.result().call
        if self._stream is not None:
            await self._stream.aclose()
        if self._call is not None and self._rounds is not None:
            self._rounds.end(self._call, 200 if self._whole else 499)

    async def _begin(self, rounds: Rounds[T]) -> None:
        """Ask. An answer with a form is waited for in the background, so that its pieces can be watched."""
        self._events, self._left = [], False
        if self._shape is None:
            opened = await rounds.ask(stream=True)
            self._stream, self._call = opened.stream, opened.call
        else:
            self._stream = self._call = None
            self._opening = asyncio.create_task(rounds.ask(stream=True, watch=self._pieces.put_nowait))
            self._opening.add_done_callback(lambda _: self._pieces.put_nowait(_Over.OVER))

    async def _opened(self) -> None:
        """The answer has its form, or has failed."""
        opening, self._opening = self._opening, None
        if opening is not None:
            try:
                opened = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.cancel()
                raise
            self._stream, self._call = opened.stream, opened.call

    async def partials(self) -> AsyncIterator[Any]:
        """The value of `output=` as it grows: plain JSON values, provisional until the last, which is the valid one.

        Strings grow, numbers and words appear when they are complete; an answer that is asked for again begins anew. Without
        ``async with`` around it, this opens the stream and closes it.

        Raises:
            RuntimeError: No `output=` was asked for.
        """
        entered = self._rounds is None
        if entered:
            await self.__aenter__()
        try:
            if self._shape is None:
                raise RuntimeError("partials are of an answer that was asked for with output=")
            last = None
            while True:
                partial, over = Partial(), self._opening is None
                while not over:
                    piece = await self._pieces.get()
                    if piece is _Over.OVER:
                        over = True
                    elif piece is None:
                        partial = Partial()
                    elif (
                        value := _unwrapped(partial.feed(piece), self._shape)
                    ) is not None and value != last:
                        last = value
                        yield value
                while await self._step() is not None:
                    pass
                if not await self._go_on():
                    break
            whole = _plain(self.final.text)
            if whole != last:
                yield whole
        finally:
            if entered:
                await self.aclose()

    async def __anext__(self) -> str:
        while True:
            pieces: list[str] = []
            for event in await self._next_events():
                if isinstance(event, Delta) and event.kind == "text":
                    pieces.append(event.text)
                elif isinstance(event, Restart):  # alone in its batch
                    raise self._restarted(event)
            if text := "".join(pieces):
                return text

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    def _restarted(self, marker: Restart) -> StreamRestarted:
        return StreamRestarted(
            f"the answer broke off ({marker.cause}) and begins anew at {marker.target}: "
            "forget the text so far and iterate again",
            target=marker.target,
            received=assemble(self._events[:-1]).text,
            reason=marker.cause,
        )

    async def events(self) -> AsyncIterator[Event]:
        """Everything: blocks, tool calls, thinking, usage; of all rounds, each beginning with its `Start`; and `Restart`, which voids
        what came before it."""
        while True:
            try:
                batch = await self._next_events()
            except StopAsyncIteration:
                return
            for event in batch:
                yield event

    async def _next_events(self) -> list[Event]:
        while (events := await self._step()) is None:
            if not await self._go_on():
                raise StopAsyncIteration
        return events

    async def _step(self) -> list[Event] | None:
        """The next events of this round; None at its end."""
        await self._opened()
        if self._stream is None or self._call is None or self._rounds is None:
            raise RuntimeError("a stream is used as 'async with client.stream(...) as answer'")
        try:
            batch = await anext(aiter(self._stream))
        except StopAsyncIteration:
            self._rounds.end(self._call, 200)
            return None
        except StreamBroken as error:
            error.received = assemble(self._events).text
            self._rounds.end(self._call, error.http_status)
            raise
        events: list[Event] = []
        for frame in batch:
            for event in frame.events:
                events += reply_events(event.reply) if isinstance(event, Complete) else [event]
        self._events += events
        return events

    async def _go_on(self) -> bool:
        """After a round: run the functions that it calls and begin another; False where it was the last."""
        assert self._rounds is not None and self._call is not None
        if self._left:
            return False
        self._left = True  # whatever happens below, nothing is run twice for one round
        reply = assemble(self._events)
        if reply.tool_calls and await self._rounds.go_on(self._rounds.answer(reply, self._call)):
            await self._begin(self._rounds)
            return True
        self._whole = True
        return False

    @property
    def tool_runs(self) -> tuple[ToolRun, ...]:
        """What was run so far."""
        return () if self._rounds is None else tuple(self._rounds.runs)

    @property
    def final(self) -> Answer[T]:
        """The whole answer, once the stream has ended.

        Raises:
            RuntimeError: It has not.
            ModelRefused: A value was asked for, and the model declined.
        """
        if not self._whole or self._call is None or self._rounds is None:
            raise RuntimeError("the answer is not whole yet: read the stream to its end first")
        return self._rounds.answer(assemble(self._events), self._call)


class _Over(Enum):
    """Nothing more is watched: the answer has its form, or has failed."""

    OVER = "over"


def _unwrapped(value: Any, shape: Shape[Any]) -> Any:
    return value.get(WRAPPER) if shape.wrapped and isinstance(value, dict) else value


def _plain(text: str) -> Any:
    return msgspec.json.decode(text)
