"""The chunks of a stream, read."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from headrace.dialects.faults import read_error
from headrace.dialects.openai_chat.details import NAME
from headrace.dialects.openai_chat.message import arguments_of
from headrace.dialects.openai_chat.reply import NO_ERROR, finish_of, usage_of
from headrace.dialects.openai_chat.thinking import SpokenPart, spoken, take_details
from headrace.dialects.sse import SSEEvent, SSEParser
from headrace.dialects.wire import UNREADABLE
from headrace.errors import Malformed, ProviderError
from headrace.types import (
    Batch,
    Block,
    BlockStart,
    BlockStop,
    Delta,
    End,
    Event,
    Finish,
    Frame,
    OpaqueEvent,
    Ping,
    Refusal,
    Start,
    Text,
    Thinking,
    ToolCall,
    UsageReport,
)

__all__ = ["Decoder"]


class _Function(Struct):
    name: str | None = None
    arguments: Raw = Raw()


class _CallPiece(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct):
    content: str | list[SpokenPart] | None = None
    tool_calls: list[_CallPiece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Raw = Raw()
    refusal: str | None = None
    function_call: _Function | None = None


class _Choice(Struct):
    index: int | None = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    id: str | None = None
    choices: list[_Choice] | None = None
    created: int | float | None = None
    model: str | None = None
    object: str | None = None
    type: str | None = None
    usage: Raw = Raw()
    x_groq: Raw = Raw()
    error: Raw = Raw()


_CHUNK = msgspec.json.Decoder(_Chunk)


class Decoder:
    """Frames of one streamed answer.

    Blocks are numbered as they appear. Text, thinking and refusal follow one another, so the next closes the one before; tool
    calls may interleave and stay open until the model has finished.
    """

    __slots__ = (
        "_calls",
        "_done",
        "_finished",
        "_hide",
        "_kind",
        "_last_call",
        "_next",
        "_open",
        "_parser",
        "_said",
        "_started",
    )

    def __init__(self, *, hide_usage: bool) -> None:
        self._parser = SSEParser()
        self._hide = hide_usage
        self._started = self._finished = self._done = False
        self._next = 0  # the next block's index
        self._kind = ""  # of the open block that is no tool call
        self._said = 0  # and its index
        self._open: list[int] = []  # indices of open blocks
        self._calls: dict[int | str, tuple[int, str]] = {}  # the wire's index or id -> our index, id
        self._last_call = 0

    def feed(self, data: bytes) -> Batch:
        return self._read(self._parser.feed(data))

    def close(self) -> Batch:
        return self._read(self._parser.close())

    def _read(self, read: list[SSEEvent]) -> Batch:
        batch: Batch = []
        try:
            for event in read:
                if self._done:
                    break
                batch.append(self._frame(event))
        except ProviderError as error:
            error.frames = batch
            raise
        except UNREADABLE as error:
            broken = Malformed(f"a chunk cannot be read: {error}", body=event.data, dialect=NAME)
            broken.frames = batch
            raise broken from None
        return batch

    def _frame(self, event: SSEEvent) -> Frame:
        data = event.data
        if not data:
            return Frame((Ping(),), event.raw, NAME)
        if data[0] != 0x7B and data.strip() == b"[DONE]":
            self._done = True
            return Frame((*self._end(), End()), event.raw, NAME)
        chunk = _CHUNK.decode(data)
        choices = chunk.choices
        events: list[Event] = []
        if choices:
            for choice in choices:
                if not choice.index:
                    if not self._started:
                        self._start(chunk, events)
                    delta = choice.delta
                    if delta is not None:
                        self._grow(delta, events)
                    if choice.finish_reason is not None and not self._finished:
                        self._finished = True
                        events += self._stop_all()
                        events.append(Finish(finish_of(choice.finish_reason), choice.finish_reason))
                    break
        if (
            (chunk.error and bytes(chunk.error) not in NO_ERROR)
            or chunk.object == "error"
            or event.name == "error"
        ):
            raise read_error(status=None, headers={}, body=data, dialect=NAME, now_wall=0.0)
        hidden = False
        if len(chunk.usage) > 4 or chunk.x_groq:
            usage = usage_of(chunk.usage, chunk.x_groq)
            if usage is not None:
                events.append(UsageReport(usage))
                hidden = self._hide and not choices
        if choices is None and not events:
            events.append(OpaqueEvent(NAME, chunk.object or chunk.type or ""))
        return Frame(tuple(events), event.raw, NAME, hidden)

    def _start(self, chunk: _Chunk, events: list[Event]) -> None:
        self._started = True
        created = None if chunk.created is None else int(chunk.created)
        events.append(Start(chunk.id or "", chunk.model or "", created))

    def _grow(self, delta: _Delta, events: list[Event]) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            self._say("thinking", thought, events)
        if delta.reasoning_details:
            self._sign(delta.reasoning_details, events)
        content = delta.content
        if content:
            if isinstance(content, str):
                self._say("text", content, events)
            else:
                for part in content:
                    if part.type == "thinking":
                        if text := spoken(part.thinking):
                            self._say("thinking", text, events)
                    elif part.text:
                        self._say("text", part.text, events)
        if delta.refusal:
            self._say("refusal", delta.refusal, events)
        if delta.tool_calls:
            for piece in delta.tool_calls:
                self._call(piece, events)
        elif delta.function_call is not None:
            self._call(_CallPiece(0, None, delta.function_call), events)

    def _say(self, kind: Literal["text", "thinking", "refusal"], text: str, events: list[Event]) -> None:
        if self._kind != kind:
            self._stop_said(events)
            block: Block = Text(text="")
            if kind == "thinking":
                block = Thinking()
            elif kind == "refusal":
                block = Refusal(text="")
            self._kind = kind
            self._said = self._begin(block, events)
        events.append(Delta(self._said, kind, text))

    def _sign(self, details: Raw, events: list[Event]) -> None:
        """The signature comes once the thinking is said, with or without the text once more; redacted thinking at once."""
        for thought in take_details({"reasoning_details": details}):
            thought = msgspec.structs.replace(thought, provider_details=None)
            if thought.redacted is not None:
                self._stop_said(events)
                self._kind, self._said = "redacted", self._begin(thought, events)
            else:
                if self._kind != "thinking":
                    self._stop_said(events)
                    self._kind, self._said = "thinking", self._begin(Thinking(), events)
                    if thought.text:
                        events.append(Delta(self._said, "thinking", thought.text))
                events.append(Delta(self._said, "signature", thought.signature or ""))
            self._stop_said(events)

    def _begin(self, block: Block, events: list[Event]) -> int:
        index = self._next
        self._next += 1
        self._open.append(index)
        events.append(BlockStart(index, block))
        return index

    def _stop_said(self, events: list[Event]) -> None:
        if self._kind:
            self._kind = ""
            self._open.remove(self._said)
            events.append(BlockStop(self._said))

    def _end(self) -> list[Event]:
        events = self._stop_all()
        if self._next and not self._finished:
            # The server has said something and is done, but not why (some models of OpenAI, Snowflake, Hugging Face).
            events.append(Finish("tool_calls" if self._calls else "other"))
        return events

    def _stop_all(self) -> list[Event]:
        stops: list[Event] = [BlockStop(index) for index in sorted(self._open)]
        self._open.clear()
        self._kind = ""
        return stops

    def _call(self, piece: _CallPiece, events: list[Event]) -> None:
        function = piece.function or _Function()
        key = piece.index if piece.index is not None else piece.id or None
        known = self._calls.get(key) if key is not None else None
        if key is None and not function.name:
            # A piece without index, id and name goes on with the call before it.
            known = next((call for call in self._calls.values() if call[0] == self._last_call), None)
        if known is not None and piece.id and function.name and piece.id != known[1]:
            # Another call under an index that is taken: servers that number every call 0.
            known = None
        if known is None:
            self._stop_said(events)
            id_ = piece.id or f"call_{self._next}"
            index = self._begin(ToolCall(id=id_, name=function.name or "", arguments=""), events)
            known = (index, id_)
            self._calls[key if key is not None else id_] = known
        self._last_call = known[0]
        arguments = arguments_of(function.arguments)
        if arguments:
            events.append(Delta(known[0], "arguments", arguments))
