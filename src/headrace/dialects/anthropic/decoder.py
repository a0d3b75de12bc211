"""The events of a stream, read."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from headrace.dialects.anthropic.block import decode_block
from headrace.dialects.anthropic.details import NAME, own_members, take_text, text_of
from headrace.dialects.anthropic.reply import decode_usage, finish_of
from headrace.dialects.faults import read_error
from headrace.dialects.sse import SSEEvent, SSEParser
from headrace.dialects.wire import (
    STR,
    UNREADABLE,
    Members,
    Wrong,
    check_utf8,
    encode,
    json,
    members_of,
    need,
    take,
)
from headrace.errors import Malformed, ProviderError
from headrace.types import (
    Batch,
    Block,
    BlockStart,
    BlockStop,
    Delta,
    Details,
    End,
    Event,
    Finish,
    Frame,
    Opaque,
    OpaqueEvent,
    Ping,
    Start,
    Text,
    Thinking,
    ToolCall,
    Usage,
    UsageReport,
)

__all__ = ["Decoder"]


class _TextDelta(Struct, frozen=True, tag="text_delta"):
    text: str


class _ArgumentsDelta(Struct, frozen=True, tag="input_json_delta"):
    partial_json: str


class _ThinkingDelta(Struct, frozen=True, tag="thinking_delta"):
    thinking: str


class _SignatureDelta(Struct, frozen=True, tag="signature_delta"):
    signature: str


class _BlockDelta(Struct, frozen=True, tag="content_block_delta"):
    index: int
    delta: _TextDelta | _ArgumentsDelta | _ThinkingDelta | _SignatureDelta


class _AnyDelta(Struct, frozen=True):
    index: int
    delta: Raw


class _BlockStart(Struct, frozen=True, tag="content_block_start"):
    index: int
    content_block: Raw


class _BlockStop(Struct, frozen=True, tag="content_block_stop"):
    index: int


class _Head(Struct, frozen=True):
    id: str = ""
    model: str = ""
    usage: Raw = Raw()


class _MessageStart(Struct, frozen=True, tag="message_start"):
    message: _Head


class _Stop(Struct, frozen=True):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _MessageDelta(Struct, frozen=True, tag="message_delta"):
    delta: _Stop = _Stop()
    usage: Raw = Raw()


class _MessageStop(Struct, frozen=True, tag="message_stop"):
    pass


class _Ping(Struct, frozen=True, tag="ping"):
    pass


class _Error(Struct, frozen=True, tag="error"):
    pass


_EVENT: msgspec.json.Decoder[
    _BlockDelta | _BlockStart | _BlockStop | _MessageStart | _MessageDelta | _MessageStop | _Ping | _Error
] = msgspec.json.Decoder(
    _BlockDelta | _BlockStart | _BlockStop | _MessageStart | _MessageDelta | _MessageStop | _Ping | _Error
)
_ANY_DELTA = msgspec.json.Decoder(_AnyDelta)
_KNOWN_EVENTS = frozenset(
    {
        "content_block_delta",
        "content_block_start",
        "content_block_stop",
        "message_start",
        "message_delta",
        "message_stop",
    }
)


def _larger(old: Usage, new: Usage) -> Usage:
    """Two reports of one answer. Counts only grow; a report that leaves one out, or says 0, knows less."""
    return Usage(
        input_tokens=max(old.input_tokens, new.input_tokens),
        output_tokens=max(old.output_tokens, new.output_tokens),
        cache_read_tokens=max(old.cache_read_tokens, new.cache_read_tokens),
        cache_write_tokens=max(old.cache_write_tokens, new.cache_write_tokens),
        cache_write_1h_tokens=max(old.cache_write_1h_tokens, new.cache_write_1h_tokens),
        reasoning_tokens=max(old.reasoning_tokens, new.reasoning_tokens),
    )


class Decoder:
    """`StreamDecoder` for one streamed answer.

    A block that only this dialect knows is given out whole, when it is complete: its pieces mean nothing to anyone else.
    """

    __slots__ = ("_calls", "_cited", "_held", "_index", "_sse", "_usage")

    def __init__(self) -> None:
        self._sse = SSEParser()
        self._index: dict[int, int] = {}  # the wire's block numbers to ours
        self._calls: dict[int, str] = {}  # arguments that a call began with and that no piece has replaced
        self._held: dict[int, tuple[Opaque, list[Raw]]] = {}
        self._cited: dict[
            int, tuple[Members, list[Raw]]
        ] = {}  # what else a text began with, and its citations
        self._usage = Usage()

    def feed(self, data: bytes) -> Batch:
        return self._frames(self._sse.feed(data))

    def close(self) -> Batch:
        return self._frames(self._sse.close())

    def _frames(self, events: list[SSEEvent]) -> Batch:
        frames: Batch = []
        for event in events:
            try:
                frames.append(self._frame(event))
            except ProviderError as error:
                error.frames = frames
                raise
            except (Wrong, *UNREADABLE) as error:
                broken = self._malformed(event, str(error))
                broken.frames = frames
                raise broken from None
        return frames

    def _frame(self, event: SSEEvent) -> Frame:
        raw = event.raw
        try:
            wire = _EVENT.decode(event.data)
        except msgspec.DecodeError as error:
            return self._unusual(event, error)
        if type(wire) is _BlockDelta:
            if wire.index in self._held:
                check_utf8(event.data)
                self._held[wire.index][1].append(_ANY_DELTA.decode(event.data).delta)
                return Frame((), raw, NAME)
            index = self._index.get(wire.index)
            if index is None:
                raise self._malformed(event, f"a piece of block {wire.index}, which has not begun")
            delta = wire.delta
            if type(delta) is _TextDelta:
                piece = Delta(index, "text", delta.text)
            elif type(delta) is _ArgumentsDelta:
                piece = Delta(index, "arguments", delta.partial_json)
                if piece.text:
                    self._calls.pop(wire.index, None)
            elif type(delta) is _ThinkingDelta:
                piece = Delta(index, "thinking", delta.thinking)
            else:
                assert type(delta) is _SignatureDelta
                piece = Delta(index, "signature", delta.signature)
            return Frame((piece,) if piece.text else (), raw, NAME)
        match wire:
            case _BlockStart():
                return Frame(self._block_start(event, wire), raw, NAME)
            case _BlockStop(index=number):
                return Frame(self._block_stop(event, number), raw, NAME)
            case _MessageStart(message=head):
                start = Start(head.id, head.model)
                return Frame((start, *self._report(head.usage)), raw, NAME)
            case _MessageDelta(delta=stop, usage=usage):
                reason = stop.stop_reason
                finish = () if reason is None else (Finish(finish_of(reason), reason, stop.stop_sequence),)
                return Frame((*finish, *self._report(usage)), raw, NAME)
            case _MessageStop():
                return Frame((End(),), raw, NAME)
            case _Ping():
                return Frame((Ping(),), raw, NAME)
            case _:
                raise read_error(status=None, headers={}, body=event.data, dialect=NAME, now_wall=0.0)

    def _unusual(self, event: SSEEvent, error: msgspec.DecodeError) -> Frame:
        """Comments, `[DONE]`, events without `type`, and those that we do not know."""
        data, raw = event.data, event.raw
        if event.comment:
            return Frame((Ping(),), raw, NAME)
        check_utf8(data)
        if data.strip() == b"[DONE]":
            # Some gateways append it; the SDKs trip over it.
            return Frame((), raw, NAME, hidden=True)
        try:
            members = members_of(data, "data")
            kind = take(dict(members), "type", STR, "data")
        except Wrong:
            members, kind = {}, None
        if "error" in members or event.name == "error":
            raise read_error(status=None, headers={}, body=data, dialect=NAME, now_wall=0.0)
        if not members:
            raise self._malformed(event, str(error))
        if kind is None:
            if not event.name or "type" in members:
                return Frame((OpaqueEvent(NAME, event.name),), raw, NAME)
            named = encode({"type": event.name, **members})
            return self._frame(SSEEvent(event.name, named, raw))
        if kind == "content_block_delta":
            piece = _ANY_DELTA.decode(data)
            if piece.index in self._held:
                self._held[piece.index][1].append(piece.delta)
                return Frame((), raw, NAME)
            index = self._index.get(piece.index)
            if index is None:
                raise self._malformed(event, f"a piece of block {piece.index}, which has not begun")
            if piece.index in self._cited:
                citation = members_of(piece.delta, "delta").get("citation")
                if citation is not None:
                    self._cited[piece.index][1].append(citation)
            return Frame((Delta(index, "opaque", text_of(piece.delta, "delta")),), raw, NAME)
        if kind in _KNOWN_EVENTS:
            raise self._malformed(event, str(error))
        return Frame((OpaqueEvent(NAME, kind),), raw, NAME)

    def _malformed(self, event: SSEEvent, problem: str) -> Malformed:
        return Malformed(f"not a stream of {NAME}: {problem}", body=event.data, dialect=NAME)

    def _report(self, raw: Raw) -> tuple[UsageReport, ...]:
        usage = decode_usage(raw)
        if usage is None:
            return ()
        self._usage = _larger(self._usage, usage)
        return (UsageReport(self._usage),)

    def _block_start(self, event: SSEEvent, wire: _BlockStart) -> tuple[Event, ...]:
        check_utf8(wire.content_block)
        block = decode_block(wire.content_block, "content_block")
        index = self._index[wire.index] = len(self._index)
        first: list[Event] = []
        match block:
            case Opaque():
                self._held[wire.index] = (block, [])
                return ()
            case Text(text=text):
                begun: Block = msgspec.structs.replace(block, text="")
                first.append(Delta(index, "text", text))
                self._cited[wire.index] = own_members(block.provider_details), []
            case Thinking(redacted=None):
                begun = msgspec.structs.replace(block, text="", signature=None)
                first += (
                    Delta(index, "thinking", block.text),
                    Delta(index, "signature", block.signature or ""),
                )
            case ToolCall(arguments=arguments):
                begun = msgspec.structs.replace(block, arguments="")
                self._calls[wire.index] = arguments
            case _:
                begun = block
        return (
            BlockStart(index, begun),
            *(piece for piece in first if isinstance(piece, Delta) and piece.text),
        )

    def _block_stop(self, event: SSEEvent, number: int) -> tuple[Event, ...]:
        index = self._index.get(number)
        if index is None:
            raise self._malformed(event, f"the end of block {number}, which has not begun")
        if number in self._held:
            block, pieces = self._held.pop(number)
            whole = _grown(block, pieces)
            if whole is not None:
                return BlockStart(index, whole), BlockStop(index)
            deltas = (Delta(index, "opaque", str(memoryview(piece), "utf-8", "replace")) for piece in pieces)
            return BlockStart(index, block), *deltas, BlockStop(index)
        before, cited = self._cited.pop(number, ({}, []))
        if cited:
            return (BlockStop(index, Details(NAME, {**before, "citations": json(cited)})),)
        arguments = self._calls.pop(number, None)
        if arguments is not None:
            return Delta(index, "arguments", arguments), BlockStop(index)
        return (BlockStop(index),)


def _grown(block: Opaque, pieces: list[Raw]) -> Opaque | None:
    """The block with its pieces put in; None if there is one that we do not know how to put in."""
    if not pieces:
        return block
    try:
        members = members_of(block.raw, "content_block")
        written: list[str] = []
        for piece in pieces:
            delta = members_of(piece, "delta")
            match need(delta, "type", STR, "delta"):
                case "input_json_delta":
                    written.append(take_text(delta, "partial_json", "delta"))
                case "compaction_delta":
                    members |= delta
                case _:
                    return None
        if text := "".join(written):
            members_of(text.encode(), "input")
            members["input"] = Raw(text.encode())
    except Wrong:
        return None
    return Opaque(dialect=NAME, kind=block.kind, raw=json(members))
