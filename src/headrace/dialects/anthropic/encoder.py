"""The events of a stream, written."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from headrace.dialects.anthropic.block import encode_block
from headrace.dialects.anthropic.details import NAME, finished, server_event
from headrace.dialects.anthropic.reply import encode_usage, stop_word, with_id
from headrace.dialects.wire import encode, members_of
from headrace.handler import reply_events
from headrace.types import (
    Block,
    BlockStart,
    BlockStop,
    Complete,
    Delta,
    Event,
    Finish,
    Opaque,
    Ping,
    Refusal,
    Restart,
    Start,
    Text,
    Thinking,
    ToolCall,
    Usage,
    UsageReport,
)

__all__ = ["Encoder"]

_DELTA_MEMBERS = {
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "arguments": ("input_json_delta", "partial_json"),
    "thinking": ("thinking_delta", "thinking"),
    "signature": ("signature_delta", "signature"),
}


class Encoder:
    """`StreamEncoder` for one streamed answer.

    Clients of Anthropic expect one block after the other. Where the source has several open at once (parallel tool calls),
    the pieces of the later ones wait until the earlier one closes. `message_delta` waits for the end, since other dialects
    report usage only there; `message_start` waits for the first content, since it has the input tokens where they are known.
    """

    __slots__ = (
        "_calls",
        "_finish",
        "_id",
        "_model",
        "_numbers",
        "_open",
        "_started",
        "_usage",
        "_void",
        "_waiting",
    )

    def __init__(self, *, model: str, message_id: str) -> None:
        self._model = model
        self._id = message_id
        self._started = False
        self._usage = Usage()
        self._finish: Finish | None = None
        self._calls = False
        self._numbers: dict[int, int] = {}  # the blocks that can be carried, to the wire's numbers
        self._void = 0  # blocks of answers that broke off
        self._open: int | None = None
        self._waiting: dict[
            int, list[bytes]
        ] = {}  # behind the open one, in order; the last piece is b"" once closed

    def feed(self, event: Event) -> bytes:
        match event:
            case Delta(index=index, kind=kind, text=text):
                number = self._numbers.get(index)
                if number is None or not text:
                    return b""
                if index == self._open:
                    return _delta(number, kind, text)
                return self._later(index, _delta(number, kind, text))
            case BlockStart():
                return self._block_start(event)
            case BlockStop(index=index):
                return self._block_stop(index)
            case Start():
                self._id, self._model = event.id or self._id, event.model or self._model
            case UsageReport(usage=usage):
                self._usage = usage
            case Finish():
                self._finish = event
            case Ping() if self._started:
                return server_event("ping", {"type": "ping"})
            case Complete(reply=reply):
                return b"".join(self.feed(part) for part in reply_events(reply))
            case Restart() if self._started:
                return self._restart(event)
            case _:
                pass
        return b""

    def end(self) -> bytes:
        out = [self._begin()]
        while self._open is not None:
            out.append(self._block_stop(self._open))
        finish = self._finish or Finish("stop")
        delta = {
            "stop_reason": stop_word(finish.reason, finish.raw, self._calls),
            "stop_sequence": finish.stop_sequence,
        }
        usage = encode_usage(self._usage)
        out.append(server_event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage}))
        out.append(server_event("message_stop", {"type": "message_stop"}))
        return b"".join(out)

    def _restart(self, restart: Restart) -> bytes:
        """Closes what is open; the next answer's blocks are numbered on, as clients expect of one message. Clients skip the names of
        events that they do not know."""
        out = []
        while self._open is not None:
            out.append(self._block_stop(self._open))
        self._void += len(self._numbers)
        self._numbers.clear()
        self._finish, self._calls = None, False
        told = {"type": "headrace_restart", "target": restart.target, "cause": restart.cause}
        return b"".join(out) + server_event("headrace_restart", told)

    def _begin(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": encode_usage(self._usage),
        }
        return server_event("message_start", {"type": "message_start", "message": message})

    def _block_start(self, event: BlockStart) -> bytes:
        begun = self._begun(event.index, event.block)
        if begun is None:
            return b""
        block, pieces = begun
        number = self._numbers[event.index] = self._void + len(self._numbers)
        start = server_event(
            "content_block_start", {"type": "content_block_start", "index": number, "content_block": block}
        )
        out = start + b"".join(_delta(number, kind, text) for kind, text in pieces if text)
        if self._open is None:
            self._open = event.index
            return self._begin() + out
        self._waiting[event.index] = [out]
        return b""

    def _begun(self, index: int, block: Block) -> tuple[Any, list[tuple[str, str]]] | None:
        """The block as it begins on the wire and the pieces that follow at once; None for one that cannot be carried."""
        ignored: list[str] = []
        match block:
            case Text(text=text):
                return finished({"type": "text", "text": ""}, None, block.provider_details, ignored), [
                    ("text", text)
                ]
            case Refusal(text=text):
                return {"type": "text", "text": ""}, [("text", text)]
            case ToolCall(arguments=arguments):
                self._calls = True
                empty = msgspec.structs.replace(with_id(block, self._id, index), arguments="")
                return encode_block(empty, ignored, answer=True), [("arguments", arguments)]
            case Thinking(redacted=None):
                empty_thinking = {"type": "thinking", "thinking": "", "signature": ""}
                return finished(empty_thinking, None, block.provider_details, ignored), [
                    ("thinking", block.text),
                    ("signature", block.signature or ""),
                ]
            case Opaque(dialect=dialect, kind=kind, raw=raw) if dialect == NAME:
                if kind.endswith("tool_use"):
                    # As the API itself does it: the input comes in a piece.
                    members = members_of(raw, "content_block")
                    written = members.pop("input", None)
                    if written is not None and bytes(written) != b"{}":
                        return {**members, "input": {}}, [("arguments", str(memoryview(written), "utf-8"))]
                return raw, []
            case _:
                out = encode_block(block, ignored, answer=True)
                return None if out is None else (out, [])

    def _block_stop(self, index: int) -> bytes:
        if index not in self._numbers:
            return b""
        if index != self._open:
            return self._later(index, b"")
        out = [self._stop(index)]
        self._open = None
        while self._waiting:
            following = next(iter(self._waiting))
            pieces = self._waiting.pop(following)
            out += pieces
            if pieces[-1]:
                self._open = following
                break
            out.append(self._stop(following))
        return b"".join(out)

    def _later(self, index: int, piece: bytes) -> bytes:
        if index in self._waiting:
            self._waiting[index].append(piece)
        return b""

    def _stop(self, index: int) -> bytes:
        return (
            b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
            % self._numbers[index]
        )


def _delta(number: int, kind: str, text: str) -> bytes:
    if kind == "opaque":
        return server_event(
            "content_block_delta",
            {"type": "content_block_delta", "index": number, "delta": Raw(text.encode())},
        )
    name, member = _DELTA_MEMBERS[kind]
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
        % (number, name.encode(), member.encode(), encode(text))
    )
