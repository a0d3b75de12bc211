"""Holds an answer that must have a form until it has it: judges, repairs, asks once more, and else sends the cascade on.

The form is the caller's own (`Request.output`), or where the route says `repair` the JSON Schema of the request. It is asked for in
the target's best mode (`headrace.output.ask`); a target that rejects the mode is asked in the next. The judgement is pure
(`headrace.output.judge`); nothing of an answer is released before it is valid, streamed or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace.call import Attempt
from headrace.clock import Clock
from headrace.errors import InvalidOutput, InvalidRequest, Malformed, ProviderRejected, StreamBroken
from headrace.guards.pattern import ways
from headrace.handler import Body, Handler, OneBatch, Pending, Request, Stream, assemble
from headrace.output import Judged, Means, Mismatch, Mode, Shape, judge, modes, phrase, shape_of
from headrace.output.ask import TOOL_NAME
from headrace.output.validate import patterns
from headrace.types import (
    Batch,
    Chat,
    Complete,
    Delta,
    FinishReason,
    Frame,
    Message,
    Refusal,
    Reply,
    Target,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ["Output"]

MAX_WAYS = 20_000_000
"""Ways in which a pattern of a caller's schema may divide a text: two repeats without an end in a row, 0.4 s for the worst text of 4,096
characters; nested ones, which a short text can keep busy for years, are far above it."""

TARGETS_KEPT = 1024
"""Targets whose rejected modes are remembered; callers may name any model."""

_ABOUT_THE_MODE = re.compile(
    r"response_format|json_schema|output_config|output_format|structured|schema|tool|function|grammar",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Output:
    """Raises `InvalidOutput` when the re-ask at this target was of no use either.

    Args:
        means: What a target can do.
        rejected: How many modes of a target are not tried any more.
    """

    clock: Clock
    means: Callable[[Target], Means]
    rejected: dict[Target, int] = field(default_factory=dict)

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            shape = _form(request)
            return inner(request) if shape is None else self._in_some_mode(inner, request, shape)

        return handle

    async def _in_some_mode(self, inner: Handler, request: Request, shape: Shape[Any]) -> Stream:
        target = request.target
        assert target is not None
        means = self.means(target)
        possible = modes(means, request.body.chat)
        first = min(self.rejected.get(target, 0), len(possible) - 1)
        for number, mode in enumerate(possible[first:], first):
            try:
                return await self._ask(inner, request, shape, mode, means)
            except ProviderRejected as error:
                if number == len(possible) - 1 or _ABOUT_THE_MODE.search(error.message) is None:
                    raise
                if len(self.rejected) >= TARGETS_KEPT:
                    self.rejected.clear()
                self.rejected[target] = number + 1
                request.call.warn(f"{target} rejected the {mode.value} mode of output: {error.message}")
        raise AssertionError("the last mode returns or raises")

    async def _ask(
        self, inner: Handler, request: Request, shape: Shape[Any], mode: Mode, means: Means
    ) -> Stream:
        """One question, and one more if its answer is not valid, or its stream broke."""
        asked = msgspec.structs.replace(_worded(request, shape, mode, means), judged=True)
        for last in (False, True):
            try:
                frames = await self._gathered(inner, asked, mode)
                return OneBatch(self._judged(frames, asked, shape, mode))
            except StreamBroken as broken:
                # Nothing was released, so that this is an ordinary failure.
                cause = broken.cause if broken.cause is not None else Malformed(broken.message)
                if last or self.clock.now() >= request.deadline:
                    raise cause from broken
                asked = msgspec.structs.replace(asked, purpose="reask")
            except _Invalid as invalid:
                if last or self.clock.now() >= request.deadline:
                    raise invalid.error from None
                again = _again(asked.body.chat, invalid.reply, invalid.error.received, mode, invalid.error)
                asked = msgspec.structs.replace(asked, body=Body(chat=again), purpose="reask")
            finally:
                if (attempt := _attempt(request)) is not None:
                    attempt.judge()
        raise AssertionError("the second question returns or raises")

    @staticmethod
    def _judged(frames: Batch, request: Request, shape: Shape[Any], mode: Mode) -> Batch:
        """What is released of a whole answer. Raises `_Invalid`."""
        call, target = request.call, request.target
        reply = assemble([event for frame in frames for event in frame.events])
        if _is_no_answer(reply):
            return _released(frames, reply, mode)
        text = _said(reply, mode)
        try:
            judged = judge(text, shape, cut=reply.finish in ("length", "context_full"))
        except Mismatch as mismatch:
            error = InvalidOutput(
                f"{target} did not give what was asked for: {mismatch}",
                target=str(target),
                received=text,
                problem=str(mismatch),
            )
            # It was paid for, and it bought nothing.
            if (attempt := _attempt(request)) is not None:
                attempt.judge(error)
            raise _Invalid(error, reply) from None
        if judged.steps:
            call.warn(f"the answer of {target} was repaired: {', '.join(judged.steps)}")
        if judged.text == reply.text and mode is not Mode.TOOL:
            return frames
        return [Frame((Complete(_put_right(reply, judged)),))]

    async def _gathered(self, inner: Handler, request: Request, mode: Mode) -> Batch:
        watch, kind = request.watch, "arguments" if mode is Mode.TOOL else "text"
        if watch is not None:
            watch(None)
        stream = await inner(request)
        frames: Batch = []
        try:
            async for batch in stream:
                frames += batch
                if watch is not None:
                    for frame in batch:
                        for event in frame.events:
                            if type(event) is Delta and event.kind == kind:
                                watch(event.text)
        finally:
            await stream.aclose()
        return frames


def _attempt(request: Request) -> Attempt | None:
    """The latest at this target; another target may have been asked beside it."""
    return next((a for a in reversed(request.call.attempts) if a.target == request.target), None)


def _form(request: Request) -> Shape[Any] | None:
    """What the answer is held to; None for nothing."""
    if request.output is not None:
        assert isinstance(request.output, Shape)
        return request.output
    if not request.route.repair:
        return None
    chat = request.body.chat
    form = chat.response_format
    if form is None or form.schema is None:
        return None
    if chat.n is not None and chat.n > 1:
        request.call.warn(f"{chat.n} answers were asked for: they are not judged by the schema")
        return None
    try:
        shape: Shape[Any] = shape_of(msgspec.json.decode(form.schema, type=dict[str, Any]))
    except (InvalidRequest, msgspec.MsgspecError) as error:
        request.call.warn(f"the answer is not judged by the schema: {error}")
        return None
    for pattern in patterns(shape.schema):
        if ways(pattern) > MAX_WAYS:
            request.call.warn(
                f"the answer is not judged by the schema: the pattern {pattern!r:.80} could run for long"
            )
            return None
    return None if shape.wrapped else shape


def _worded(request: Request, shape: Shape[Any], mode: Mode, means: Means) -> Request:
    """The request, asking for the form. The caller's own bytes are left alone where they ask for it in this very mode."""
    body = request.body
    own = request.output is None and body.dialect is not None and body.dialect.name == means.dialect
    if own and mode is Mode.NATIVE:
        return request
    return msgspec.structs.replace(request, body=Body(chat=phrase(body.chat, shape, mode, means)))


def _is_no_answer(reply: Reply) -> bool:
    """A refusal, or the model asks for the caller's own tools first: nothing to judge."""
    if reply.finish in ("refusal", "content_filter"):
        return True
    return any(
        isinstance(block, Refusal) or (isinstance(block, ToolCall) and block.name != TOOL_NAME)
        for block in reply.content
    )


def _released(frames: Batch, reply: Reply, mode: Mode) -> Batch:
    if mode is not Mode.TOOL:
        return frames
    kept = tuple(b for b in reply.content if not (isinstance(b, ToolCall) and b.name == TOOL_NAME))
    return [Frame((Complete(msgspec.structs.replace(reply, content=kept)),))]


def _said(reply: Reply, mode: Mode) -> str:
    if mode is Mode.TOOL and reply.tool_calls:
        return "\n".join(call.arguments for call in reply.tool_calls)
    return reply.text


def _put_right(reply: Reply, judged: Judged[Any]) -> Reply:
    """The reply with the valid value as its only text."""
    others = tuple(block for block in reply.content if not isinstance(block, Text | ToolCall))
    finish: FinishReason = "stop" if reply.finish == "tool_calls" else reply.finish
    return msgspec.structs.replace(
        reply,
        content=(*others, Text(text=judged.text)),
        finish=finish,
        finish_raw=reply.finish_raw if finish == reply.finish else None,
    )


def _again(chat: Chat, reply: Reply, text: str, mode: Mode, error: InvalidOutput) -> Chat:
    """The question once more, with what was wrong with its answer."""
    fault = f"The answer is not valid: {error.problem}\nAnswer again, with the whole corrected value and nothing else."
    said: tuple[Message, ...]
    if mode is Mode.TOOL and reply.tool_calls:
        results = tuple(
            ToolResult(call_id=call.id, content=(Text(text=fault),), is_error=True)
            for call in reply.tool_calls
        )
        said = (Message(role="assistant", content=reply.tool_calls), Message(role="tool", content=results))
    else:
        said = (Message(role="user", content=(Text(text=fault),)),)
        if text.strip():
            said = (Message(role="assistant", content=(Text(text=text),)), *said)
    return msgspec.structs.replace(chat, messages=(*chat.messages, *said))


class _Invalid(Exception):
    """An answer that has not its form."""

    def __init__(self, error: InvalidOutput, reply: Reply) -> None:
        super().__init__(error.message)
        self.error = error
        self.reply = reply
