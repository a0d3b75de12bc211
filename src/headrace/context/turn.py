"""One turn of a conversation, as its sender wrote it, with what plans ask of it; counted once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from headrace.tokens import Estimate, TextCounter, estimate_block, estimate_message
from headrace.types import (
    Block,
    Document,
    Image,
    Message,
    Opaque,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

__all__ = ["Turn", "is_bound", "make_turn", "text_of"]

_NOTHING = Estimate(0, 0)


class Turn(Struct, frozen=True, kw_only=True):
    """One turn, with what plans ask of it.

    Attributes:
        id: Its position in the log, from 0.
        digest: Identifies it together with everything before it.
        tokens: What it costs, with its framing; `thinking` the part of it that is bound thinking.
        label: What a reader should know of when or where it was said (a date), empty where nobody said so.
        role: `system` for the application's words, `assistant` for the model's, `user` where a user speaks in it, else `tool`.
        calls: Ids of the tool calls it makes; `results`: of the calls it answers.
        bound: It holds thinking that the provider ties to the exact text before it.
        compacted: It holds a provider's own summary of everything before it.
        empty: It has nothing but blank text.
    """

    id: int
    messages: tuple[Message, ...]
    digest: str
    tokens: Estimate
    thinking: Estimate = Estimate(0, 0)
    label: str = ""
    role: Literal["system", "user", "assistant", "tool"] = "user"
    calls: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    bound: bool = False
    compacted: bool = False
    empty: bool = False

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks, in order."""
        return (block for message in self.messages for block in message.content)

    @property
    def opens(self) -> bool:
        """Whether a request may begin with it: a user speaks and no result of an earlier call is in it."""
        return self.role == "user" and not self.results

    @property
    def text(self) -> str:
        """What can be read of it, one line a block."""
        return "\n".join(part for part in map(text_of, self.blocks) if part)

    @property
    def said(self) -> str:
        """The text blocks alone, one line each."""
        return "\n".join(block.text for block in self.blocks if isinstance(block, Text))


def is_bound(block: Block) -> bool:
    """Whether it is thinking that the provider ties to the exact text before it."""
    return isinstance(block, Thinking) and (block.signature is not None or block.redacted is not None)


def make_turn(id_: int, messages: tuple[Message, ...], digest: str, label: str, count: TextCounter) -> Turn:
    blocks = [block for message in messages for block in message.content]
    roles = {message.role for message in messages}
    role: Literal["system", "user", "assistant", "tool"] = "tool"
    if roles & {"system", "developer"}:
        role = "system"
    elif "assistant" in roles:
        role = "assistant"
    elif "user" in roles:
        role = "user"
    bound = tuple(block for block in blocks if is_bound(block))
    return Turn(
        id=id_,
        messages=messages,
        digest=digest,
        tokens=sum((estimate_message(message, count) for message in messages), _NOTHING),
        thinking=sum((estimate_block(block, count) for block in bound), _NOTHING),
        label=label,
        role=role,
        calls=tuple(block.id for block in blocks if isinstance(block, ToolCall)),
        results=tuple(block.call_id for block in blocks if isinstance(block, ToolResult)),
        bound=bool(bound),
        compacted=any(isinstance(block, Opaque) and block.kind == "compaction" for block in blocks),
        empty=all(isinstance(block, Text) and not block.text.strip() for block in blocks),
    )


def text_of(block: Block) -> str:
    """What can be read of a block: text, a call as `name(arguments)`, a result's text, a mark for what cannot be read."""
    match block:
        case Text(text=text) | Refusal(text=text):
            return text
        case ToolCall(name=name, arguments=arguments):
            return f"{name}({arguments})"
        case ToolResult(content=content):
            return "\n".join(part for part in map(text_of, content) if part)
        case Document(text=str(text)):
            return text
        case Image():
            return "[image]"
        case Document(name=name):
            return f"[document {name}]" if name else "[document]"
        case _:
            return ""
