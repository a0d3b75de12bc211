"""The chunks of a stream, written."""

from __future__ import annotations

from headrace.dialects.openai_chat.reply import encode_usage, finish_word
from headrace.dialects.openai_chat.thinking import detail_of
from headrace.dialects.wire import encode
from headrace.handler import reply_events
from headrace.types import (
    Block,
    BlockStart,
    BlockStop,
    Complete,
    Delta,
    Event,
    Finish,
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


class Encoder:
    """The chunks that spell an answer, as OpenAI sends them."""

    __slots__ = (
        "_calls",
        "_head",
        "_id",
        "_include_usage",
        "_model",
        "_refused",
        "_signature",
        "_tail",
        "_thought",
        "_thoughts",
        "_usage",
        "_void",
    )

    def __init__(self, *, include_usage: bool, model: str, id_: str) -> None:
        self._include_usage = include_usage
        self._model = model
        self._id = id_
        self._usage: Usage | None = None
        self._calls: dict[int, int] = {}  # our index -> the wire's
        self._void = 0  # calls of answers that broke off
        self._refused = False
        self._thoughts = 0
        self._thought: list[str] = []
        self._signature = ""
        self._head = b""
        # With usage asked for, every chunk but the last says that it has none.
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._begin(Start("", ""))

    def _begin(self, start: Start) -> None:
        self._id = self._id or start.id
        self._model = self._model or start.model
        head = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": start.created or 0,
            "model": self._model,
        }
        self._head = b"data: " + encode(head)[:-1] + b',"choices":['

    def feed(self, event: Event) -> bytes:
        match event:
            case Delta(kind="text", text=text):
                return self._chunk(b'{"content":' + encode(text) + b"}")
            case Delta(kind="thinking", text=text):
                self._thought.append(text)
                return self._chunk(b'{"reasoning_content":' + encode(text) + b"}")
            case Delta(index=index, kind="arguments", text=text):
                piece = {"index": self._calls.get(index, 0), "function": {"arguments": text}}
                return self._chunk(encode({"tool_calls": [piece]}))
            case Delta(kind="signature", text=text):
                self._signature += text
                return b""
            case Delta(kind="refusal", text=text):
                self._refused = True
                return self._chunk(b'{"refusal":' + encode(text) + b"}")
            case Start():
                self._begin(event)
                return self._chunk(b'{"role":"assistant","content":""}')
            case BlockStart(index=index, block=block):
                return self._block(index, block)
            case BlockStop() if self._signature:
                thought = Thinking(text="".join(self._thought), signature=self._signature)
                self._signature = ""
                return self._sign(thought)
            case Finish(reason=reason, raw=raw):
                word = finish_word(reason, raw, refused=self._refused)
                return self._chunk(b"{}", encode(word))
            case UsageReport(usage=usage):
                self._usage = usage
                return b""
            case Complete(reply=reply):
                return b"".join(self.feed(event) for event in reply_events(reply))
            case Restart(target=target, cause=cause):
                self._void += len(self._calls)
                self._calls.clear()
                self._refused, self._usage = False, None
                told = encode({"restart": {"target": target, "cause": cause}})
                return self._head + b'],"headrace":' + told + self._tail
            case Ping():
                return b": ping\n\n"
            case _:
                return b""

    def _block(self, index: int, block: Block) -> bytes:
        match block:
            case ToolCall():
                self._calls[index] = number = self._void + len(self._calls)
                call = {
                    "index": number,
                    "id": block.id,
                    "type": "function",
                    "function": {"name": block.name, "arguments": block.arguments},
                }
                return self._chunk(encode({"tool_calls": [call]}))
            case Text(text=text) if text:
                return self.feed(Delta(index, "text", text))
            case Thinking(redacted=None, text=text, signature=signature):
                self._thoughts += 1
                self._thought, self._signature = [], signature or ""
                return self.feed(Delta(index, "thinking", text)) if text else b""
            case Thinking():
                self._thoughts += 1
                return self._sign(block)
            case Refusal(text=text) if text:
                return self.feed(Delta(index, "refusal", text))
            case _:
                return b""

    def _sign(self, thought: Thinking) -> bytes:
        """The detail of thinking is sent whole: clients that collect the details of all chunks have it, and those that merge
        them by index too."""
        return self._chunk(encode({"reasoning_details": [detail_of(thought, self._thoughts - 1)]}))

    def _chunk(self, delta: bytes, finish: bytes = b"null") -> bytes:
        return (
            self._head
            + b'{"index":0,"delta":'
            + delta
            + b',"logprobs":null,"finish_reason":'
            + finish
            + b"}]"
            + self._tail
        )

    def end(self) -> bytes:
        usage = b""
        if self._include_usage and self._usage is not None:
            usage = self._head + b'],"usage":' + encode(encode_usage(self._usage, {})) + b"}\n\n"
        return usage + b"data: [DONE]\n\n"
