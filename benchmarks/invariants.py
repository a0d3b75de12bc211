"""What every request must hold to, checked on the messages alone; shares no code with what makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from headrace.types import Image, Message, Text, Thinking, ToolCall, ToolResult

__all__ = ["lost_request", "misbound", "prefix_of", "seal", "violations"]


def violations(messages: Sequence[Message], *, cut: bool) -> list[str]:
    """What a provider would refuse; with `cut` (turns were evicted) also a first message that is not the user's."""
    found: list[str] = []
    waiting: list[str] = []
    answered: set[str] = set()
    spoken = [m for m in messages if m.role not in ("system", "developer")]
    if cut and spoken and spoken[0].role != "user":
        found.append(f"begins with {spoken[0].role}")
    for number, message in enumerate(messages):
        results = [block for block in message.content if isinstance(block, ToolResult)]
        if waiting and not results:
            found.append(f"{number}: calls {waiting} are not answered")
            waiting = []
        for result in results:
            if result.call_id in waiting:
                waiting.remove(result.call_id)
                answered.add(result.call_id)
            elif result.call_id in answered:
                found.append(f"{number}: {result.call_id} is answered twice")
            else:
                found.append(f"{number}: a result without its call {result.call_id}")
        if message.role == "tool" and not results:
            found.append(f"{number}: a tool message without a result")
        calls = [block.id for block in message.content if isinstance(block, ToolCall)]
        if calls:
            waiting, answered = list(calls), set()
        blank = all(isinstance(b, Text) and not b.text.strip() for b in message.content)
        if blank and message.role == "assistant":
            found.append(f"{number}: an empty message")
    if waiting:
        found.append(f"the end: calls {waiting} are not answered")
    return found


def lost_request(before: Sequence[Message], after: Sequence[Message]) -> bool:
    """Whether the newest user message of `before`, or what the model did after it, is not at the end of `after`."""

    def tail(messages: Sequence[Message]) -> list[Message]:
        users = [number for number, message in enumerate(messages) if message.role == "user"]
        return list(messages[users[-1] :]) if users else []

    asked, sent = tail(before), tail(after)
    if not asked:
        return False
    if not sent:
        return True
    words = [b.text for b in asked[0].content if isinstance(b, Text)]
    said = [b.text for b in sent[0].content if isinstance(b, Text)]
    if words and not (said and said[-1].endswith(words[-1])):
        return True
    images = [b for b in asked[0].content if isinstance(b, Image)]
    if [b for b in sent[0].content if isinstance(b, Image)] != images:
        return True
    made = [b.id for m in asked for b in m.content if isinstance(b, ToolCall)]
    return made != [b.id for m in sent for b in m.content if isinstance(b, ToolCall)]


def prefix_of(earlier: Sequence[Message], later: Sequence[Message]) -> bool:
    """Whether `later` begins with all of `earlier`."""
    return list(later[: len(earlier)]) == list(earlier)


def seal(prefix: Sequence[Message]) -> str:
    """What a provider that binds thinking to its prefix signs: everything before it."""
    kinds = [[type(b).__name__ for b in m.content] for m in prefix]
    return hashlib.sha256(msgspec.json.encode([kinds, list(prefix)])).hexdigest()


def misbound(messages: Sequence[Message], sealed: Callable[[Sequence[Message]], str] = seal) -> list[int]:
    """Messages with signed thinking whose signature is not the seal of what is before them."""
    return [
        number
        for number, message in enumerate(messages)
        for block in message.content
        if isinstance(block, Thinking)
        and block.signature is not None
        and block.signature != sealed(messages[:number])
    ]
