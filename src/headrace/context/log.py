"""The conversation as it was said: an append-only list of turns, each counted once.

A turn is one message as its sender wrote it (one element of the wire's `messages`; Anthropic's user messages may hold results
and text, and so several typed messages). Nothing ever changes a turn: plans say what is sent of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from headrace.context.recall import Index
from headrace.tokens import Estimate, TextCounter, estimate_block, estimate_message, estimate_text
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

__all__ = ["Log", "Turn", "is_bound", "next_digest", "start_digest", "text_of"]

_encode = msgspec.json.Encoder().encode
_NOTHING = Estimate(0, 0)

QUOTE_CHARS = 1_200
"""The longest part of a turn that is recalled: some 300 tokens; tool outputs are longer and say little in their middle."""


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


def _turn(id_: int, messages: tuple[Message, ...], digest: str, label: str, count: TextCounter) -> Turn:
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


class Log:
    """Turns in order, with running sums. Appending costs the new turn alone.

    Args:
        seed: What stands before the first turn on the wire (system, tools): part of every digest.
        count: Counts text; the plan counts what it adds with the same function.
    """

    __slots__ = ("_digest", "_index", "_quotes", "_seed", "_shared", "count", "turns")

    def __init__(self, *, seed: bytes = b"", count: TextCounter = estimate_text) -> None:
        self.turns: list[Turn] = []
        self.count = count
        self._seed = seed
        self._digest = start_digest(seed)
        self._index = Index()
        self._shared = False
        self._quotes: dict[int, tuple[str, Estimate]] = {}

    @classmethod
    def of(cls, messages: Sequence[Message], *, count: TextCounter = estimate_text) -> Log:
        """A log with one turn a message."""
        log = cls(count=count)
        for message in messages:
            log.append((message,))
        return log

    def __len__(self) -> int:
        return len(self.turns)

    def append(self, messages: Sequence[Message], *, raw: bytes | None = None, label: str = "") -> Turn:
        """Add a turn; `raw` is its form on the wire, if it has one, and then decides its digest."""
        self._digest = next_digest(self._digest, as_bytes(messages) if raw is None else raw)
        turn = _turn(len(self.turns), tuple(messages), self._digest.hex(), label, self.count)
        self.turns.append(turn)
        return turn

    def fork(self, length: int) -> Log:
        """A log of its own with the first `length` turns; nothing is counted again, and what is indexed stays so."""
        log = Log(seed=self._seed, count=self.count)
        log.turns = self.turns[:length]
        log._quotes = {turn: quote for turn, quote in self._quotes.items() if turn < length}
        if self._index.upto <= length:
            log._index, log._shared, self._shared = self._index, True, True
        if length:
            log._digest = bytes.fromhex(log.turns[-1].digest)
        return log

    def index(self, length: int) -> Index:
        """What can be recalled of the first `length` turns; grows with `length`, made anew where it shrinks or is another's too."""
        if self._index.upto > length or (self._shared and self._index.upto < length):
            self._index, self._shared = Index(), False
        for turn in self.turns[self._index.upto : length]:
            self._index.add(turn.id, "" if turn.role == "system" else turn.text)
        return self._index

    def quote(self, turn: int) -> tuple[str, Estimate]:
        """The line that recalls a turn, and its tokens."""
        found = self._quotes.get(turn)
        if found is None:
            said = self.turns[turn]
            text = said.text
            if len(text) > QUOTE_CHARS:
                text = f"{text[:QUOTE_CHARS].rstrip()}…"
            line = f"#{turn} {said.role}: {text}\n"
            found = self._quotes[turn] = (line, self.count(line))
        return found


def start_digest(seed: bytes) -> bytes:
    """The digest of no turns."""
    return hashlib.blake2b(seed, digest_size=16).digest()


def as_bytes(messages: Sequence[Message]) -> bytes:
    """Bytes that differ where the messages do."""
    return _encode([[type(block).__name__ for m in messages for block in m.content], messages])


def next_digest(digest: bytes, raw: bytes) -> bytes:
    """The rolling digest after `raw`."""
    return hashlib.blake2b(raw, key=digest, digest_size=16).digest()
