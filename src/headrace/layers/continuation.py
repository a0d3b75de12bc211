"""Continues a plain text that broke off at the next target, as one stream.

Only for routes with `mid_stream = "continue"`. Two layers: `ContinueStreams` stands above the cascade, sees an answer break and asks the
levels behind it to go on; `GoOn` stands below, puts the text so far into the request in the way that the level's model takes, and
lets its words through from the seam on. A level whose words do not fit has failed, and the next one is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec

from headrace.call import Attempt
from headrace.clock import Clock
from headrace.errors import HeadraceError, InvalidOutput, InvalidRequest, Malformed, StreamBroken
from headrace.handler import Body, Handler, Request, Stream
from headrace.layers.seam import NoSeam, Seam, anchor
from headrace.tokens import estimate_chat, estimate_text
from headrace.types import (
    Batch,
    BlockStart,
    BlockStop,
    Chat,
    Delta,
    Details,
    Event,
    Finish,
    Frame,
    Message,
    Start,
    Target,
    Text,
    Thinking,
    Usage,
    UsageReport,
)

__all__ = ["ContinueStreams", "GoOn", "continued", "is_plain"]

ASKED = (
    "Your answer above was cut off in the middle of the text. Write the rest of it, as if it had never been cut: no introduction, no "
    "comment, nothing of what is above said again. Begin by repeating exactly these last words of it, and go straight on from "
    "there, in the middle of a word or a line if need be:\n\n"
)
"""To a model that takes no prefill. The words that it is told to repeat show where its text belongs (`seam.anchor`)."""


def is_plain(request: Request) -> bool:
    """Whether an answer to `request` can be continued at all: one plain text, not held to a form."""
    if request.output is not None or request.route.repair or request.choices != 1:
        return False
    try:
        form = request.body.chat.response_format
    except InvalidRequest:  # its own provider could read it, we cannot
        return False
    return form is None or form.kind == "text"


def continued(chat: Chat, said: str, *, prefill: bool, members: dict[str, msgspec.Raw] | None = None) -> Chat:
    """`chat` with the text so far; pure.

    Args:
        prefill: As the beginning of the model's own answer. Else as an answer of its own, and the user's wish that it go on.
        members: What an OpenAI-compatible provider wants to see on a message that is to be continued.

    White space at its end is left out: Anthropic refuses it, and no model needs it. Of an output limit the text so far is taken off.
    """
    text, words = said.rstrip(), "" if prefill else anchor(said)
    messages, before = chat.messages, ""
    if messages and messages[-1].role == "assistant":  # the caller's own prefill
        last = messages[-1].content
        before = "".join(block.text for block in last if isinstance(block, Text))
        messages = messages[:-1]
    details = Details("openai-chat", members) if prefill and members else None
    answer = Message(role="assistant", content=(Text(text=before + text),), provider_details=details)
    messages = (*messages, answer)
    if words:
        messages = (*messages, Message(role="user", content=(Text(text=ASKED + words),)))
    return msgspec.structs.replace(chat, messages=messages, max_tokens=left(chat.max_tokens, text, words))


def left(limit: int | None, said: str, again: str) -> int | None:
    """What remains of an output limit in tokens, 1 or more: without the text so far, and with what is to be repeated of it."""
    if limit is None:
        return None
    return max(1, limit - estimate_text(said).likely) + estimate_text(again).bound


# --- above the cascade ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContinueStreams:
    """Sees answers break, and asks the levels behind for the rest."""

    clock: Clock

    def __call__(self, inner: Handler) -> Handler:
        async def handle(request: Request) -> Stream:
            stream = await inner(request)
            if request.route.mid_stream != "continue" or not request.stream:
                return stream
            return _Continuing(stream, inner, request, self.clock)

        return handle


class _Continuing:
    """The stream of a request whose text may be continued: one start, one end, one text."""

    __slots__ = (
        "_again",
        "_block",
        "_clock",
        "_closed",
        "_counted",
        "_finished",
        "_inner",
        "_names",
        "_next",
        "_pieces",
        "_plain",
        "_request",
        "_stop",
        "_stream",
        "_usage",
    )

    def __init__(self, stream: Stream, inner: Handler, request: Request, clock: Clock) -> None:
        self._stream = stream
        self._inner = inner
        self._request = request
        self._clock = clock
        self._closed = False
        self._plain = True
        self._finished = False
        self._again = False  # whether another target goes on by now
        self._block: int | None = None  # the text that may be continued, in the caller's numbers
        self._names: dict[int, int] = {}  # the blocks of who goes on, in the caller's numbers
        self._next = 0
        self._pieces: list[str] = []
        self._stop: BlockStop | None = (
            None  # the text's end waits: who breaks off after it has no whole answer
        )
        self._usage = Usage()  # of those that broke off
        self._counted = 0  # characters of the text in it

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        while True:
            try:
                batch = await anext(aiter(self._stream))
            except StreamBroken as broken:
                await self._stream.aclose()
                await self._go_on(broken)
                continue
            batch = self._followed(batch)
            if batch:
                return batch

    # --- what passes --------------------------------------------------------------------------------------------------

    def _followed(self, batch: Batch) -> Batch:
        """Without the bytes of the wire: what two providers said is one message."""
        followed: Batch = []
        for frame in batch:
            events = tuple(event for told in frame.events for event in self._event(told))
            if events:
                followed.append(Frame(events, hidden=frame.hidden))
        return followed

    def _event(self, event: Event) -> tuple[Event, ...]:
        match event:
            case Start():
                return () if self._again else (event,)
            case BlockStart():
                return self._begun(event)
            case Delta(index=index):
                at = self._names.get(index)
                if at is None:
                    return ()
                if event.kind == "signature":
                    self._plain = False
                if at == self._block and event.kind == "text":
                    self._pieces.append(event.text)
                return (event,) if at == index else (msgspec.structs.replace(event, index=at),)
            case BlockStop(index=index):
                at = self._names.get(index)
                if at is None:
                    return ()
                stop = event if at == index else msgspec.structs.replace(event, index=at)
                if at == self._block:
                    self._stop = stop
                    return ()
                return (stop,)
            case Finish():
                self._finished = True
                return (*self._stopped(), event)
            case UsageReport(usage=usage):
                return (UsageReport(_sum(self._usage, usage)),) if self._again else (event,)
            case _:
                return (event,)

    def _begun(self, event: BlockStart) -> tuple[Event, ...]:
        block = event.block
        if self._again:
            if isinstance(block, Thinking):
                return ()  # the caller is in the middle of a text
            if (
                isinstance(block, Text)
                and event.index not in self._names
                and self._block not in self._names.values()
            ):
                assert self._block is not None
                self._names[event.index] = self._block
                if block.text:
                    self._pieces.append(block.text)
                    return (Delta(self._block, "text", block.text),)
                return ()
        at = self._names[event.index] = self._next
        self._next += 1
        stopped = self._stopped()
        if isinstance(block, Text) and self._block is None:
            self._block = at
            self._pieces.append(block.text)
        elif not isinstance(block, Thinking) or block.signature or block.redacted:
            self._plain = False
        return (*stopped, event if at == event.index else msgspec.structs.replace(event, index=at))

    def _stopped(self) -> tuple[Event, ...]:
        stop, self._stop = self._stop, None
        return () if stop is None else (stop,)

    # --- going on -----------------------------------------------------------------------------------------------------

    async def _go_on(self, broken: StreamBroken) -> None:
        """Another target's stream in place of the one that broke. Raises `broken` where nobody goes on."""
        request, attempt = self._request, self._request.call.answering
        said = "".join(self._pieces)
        rest = () if attempt is None else request.route.behind(attempt.target)
        late = self._closed or self._clock.now() >= request.deadline
        if attempt is None or not rest or late or self._finished or not self._plain or not said.strip():
            raise broken
        if not is_plain(request):
            raise broken
        self._count(attempt, said)
        route = msgspec.structs.replace(request.route, cascade=rest)
        request = msgspec.structs.replace(request, route=route, said=said, purpose="continue")
        try:
            stream = await self._inner(request)
        except HeadraceError as failed:
            raise broken from failed
        if self._closed:
            await stream.aclose()
            raise StopAsyncIteration
        self._request, self._stream, self._again, self._names = request, stream, True, {}
        self._stop = None if self._block is None else BlockStop(self._block)
        cause = "malformed" if broken.cause is None else broken.cause.kind
        request.call.warn(
            f"{attempt.target} broke off ({cause}) after {len(said)} characters, {request.call.target} went on"
        )

    def _count(self, attempt: Attempt, said: str) -> None:
        """The tokens of who broke off belong to the answer's. What its provider did not say is estimated."""
        told = attempt.usage or Usage()
        mine, self._counted = said[self._counted :], len(said)
        estimated = Usage(
            input_tokens=told.input_tokens or estimate_chat(self._request.body.chat).likely,
            output_tokens=max(told.output_tokens, estimate_text(mine).likely),
            cache_read_tokens=told.cache_read_tokens,
            cache_write_tokens=told.cache_write_tokens,
            cache_write_1h_tokens=told.cache_write_1h_tokens,
            reasoning_tokens=told.reasoning_tokens,
        )
        self._usage = _sum(self._usage, estimated)

    async def aclose(self) -> None:
        self._closed = True
        await self._stream.aclose()

    def abort(self, error: BaseException) -> None:
        """As the stream's own; an abort is an end like others, and another target may go on."""
        self._stream.abort(error)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in Usage.__struct_fields__})


# --- below the cascade ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GoOn:
    """Asks one level for the rest of a text, and returns once its words are known to fit.

    Args:
        clock: For the attempts' ends.
        prefill: Whether the target takes the text as the beginning of its own answer, and the members that its provider wants to see
            on such a message; None where it does not.
    """

    clock: Clock
    prefill: Callable[[Target, Request], dict[str, msgspec.Raw] | None]

    def __call__(self, inner: Handler) -> Handler:
        async def handle(request: Request) -> Stream:
            if not request.said:
                return await inner(request)
            return await self._rest(inner, request)

        return handle

    async def _rest(self, inner: Handler, request: Request) -> Stream:
        target = request.target
        assert target is not None
        members = self.prefill(target, request)
        chat = continued(request.body.chat, request.said, prefill=members is not None, members=members)
        dialect = request.body.dialect
        # In the caller's dialect his headers and his own members stay.
        body = (
            Body(chat=chat)
            if dialect is None
            else Body(wire=dialect.encode_request(chat, []), dialect=dialect)
        )
        words = "" if members is not None else anchor(request.said)
        limit = left(request.max_tokens, request.said, words)
        stream = await inner(msgspec.structs.replace(request, body=body, max_tokens=limit, judged=True))
        fitted = _Fitted(stream, Seam(request.said, exact=members is not None))
        try:
            await fitted.begin()
        except NoSeam as why:
            said = f"{target} did not go on where the text was cut: {why}"
            error = InvalidOutput(said, target=str(target), problem=str(why))
            await self._refused(stream, request, error)
            raise error from None
        except StreamBroken as broken:
            await stream.aclose()
            raise broken.cause if broken.cause is not None else Malformed(broken.message) from broken
        except BaseException:
            await stream.aclose()
            raise
        finally:
            # Whether it fits was for us to say; where it goes on, its end says the rest.
            for attempt in request.call.attempts:
                if attempt.target is target and attempt.outcome == "pending":
                    attempt.judged = True
                elif attempt.target is target and not attempt.judged:
                    attempt.judge()
        return fitted

    async def _refused(self, stream: Stream, request: Request, error: InvalidOutput) -> None:
        """The attempt has failed with `error`, at its end or before it."""
        for attempt in request.call.attempts:
            if attempt.target is request.target and attempt.outcome == "ok" and not attempt.judged:
                attempt.judge(error)
        stream.abort(error)
        try:
            async for _ in stream:
                pass
        except StreamBroken:
            pass
        finally:
            await stream.aclose()


class _Fitted:
    """A continuation from the seam on."""

    __slots__ = ("_block", "_ended", "_held", "_seam", "_stream")

    def __init__(self, stream: Stream, seam: Seam) -> None:
        self._stream = stream
        self._seam = seam
        self._block: int | None = None
        self._ended = False
        self._held: list[Batch] = []

    async def begin(self) -> None:
        """Read until it is known where it goes on. Raises `NoSeam`."""
        async for batch in self._stream:
            self._held.append(self._fitted(batch))
            if self._seam.fits:
                return

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        while True:
            batch = self._held.pop(0) if self._held else self._fitted(await anext(aiter(self._stream)))
            if batch:
                return batch

    def _fitted(self, batch: Batch) -> Batch:
        frames: Batch = []
        for frame in batch:
            events: list[Event] = []
            for event in frame.events:
                if isinstance(event, Delta) and event.index == self._block and event.kind == "text":
                    events += self._text(self._seam.feed(event.text))
                    continue
                if isinstance(event, BlockStart) and isinstance(event.block, Text) and self._block is None:
                    self._block = event.index
                elif self._ends_text(event) and not self._ended:
                    self._ended = True
                    events += self._text(self._seam.close())
                events.append(event)
            if events:
                frames.append(Frame(tuple(events), hidden=frame.hidden))
        return frames

    def _text(self, text: str) -> list[Event]:
        return [Delta(self._block, "text", text)] if text and self._block is not None else []

    def _ends_text(self, event: Event) -> bool:
        match event:
            case BlockStop(index=index):
                return index == self._block
            case BlockStart(block=block):
                return not isinstance(block, Thinking)
            case _:
                return isinstance(event, Finish)

    async def aclose(self) -> None:
        self._held.clear()
        await self._stream.aclose()

    def abort(self, error: BaseException) -> None:
        """As the stream's own: what is held is still read first."""
        self._stream.abort(error)
