"""An estimator of tokens from characters alone, with an upper bound.

Two figures a text: `likely`, for reading, and `bound`, for reserving. Characters are counted by class, since a Latin letter costs
a quarter of a token and a Chinese character one or more; the classes' rates are those of `o200k_base` measured on prose, code
and JSON, and the bound multiplies by what the tokenizers of current Claude models need at most for such text: 1.7 times for
ASCII text and 2.2 times for other Latin scripts (measured against a reconstruction of that tokenizer, 2026-11).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from headrace.types import (
    Chat,
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

__all__ = ["Estimate", "TextCounter", "estimate_block", "estimate_chat", "estimate_message", "estimate_text"]

_WORDS = re.compile(r"[A-Za-z]+|[0-9]+|\s+|[^\sA-Za-z0-9]")

COMMON = 24
"""Characters of a piece whose count is remembered: words come again, long runs seldom."""

PER_MESSAGE = 4
"""Framing of a message: 3 tokens and the role, by OpenAI's published counting rule for chat models."""

PER_REPLY = 3
PER_TOOL = 12

IMAGE_LIKELY, IMAGE_BOUND = 800, 2_500
"""An image of usual size; Anthropic documents (width x height) / 750 tokens up to about 1,600, OpenAI up to about 1,500 at high
detail; the bound leaves room for newer models' larger ones."""

PDF_PER_BYTE_LIKELY, PDF_PER_BYTE_BOUND = 1 / 60, 1 / 12


class Estimate(msgspec.Struct, frozen=True):
    """Tokens: the likely count and an upper bound."""

    likely: int
    bound: int

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.likely + other.likely, self.bound + other.bound)


NOTHING = Estimate(0, 0)

TextCounter: TypeAlias = Callable[[str], Estimate]
"""Counts plain text; an exact one gives its count twice."""


def estimate_text(text: str) -> Estimate:
    """Tokens of plain text; linear in its length."""
    if not text:
        return NOTHING
    likely = bound = 0.0
    for piece in _WORDS.findall(text):
        one, most = _common(piece) if len(piece) <= COMMON else _piece(piece)
        likely += one
        bound += most
    return Estimate(math.ceil(likely), math.ceil(bound))


def _piece(piece: str) -> tuple[float, float]:
    """Tokens of a word, a number, a run of spaces or a mark: the likely count and the most."""
    first = piece[0]
    if first.isascii():
        if first.isalpha():
            tokens = 1.0 if len(piece) <= 7 else len(piece) / 5.5
            return tokens, max(tokens, len(piece) / 3.0) * 1.25
        if first.isdigit():
            return math.ceil(len(piece) / 3), len(piece)
        if first.isspace():
            lines = piece.count("\n")
            return min(lines + max(0, len(piece) - 1) / 4, len(piece)), lines + len(piece) / 2 - (
                0.5 if len(piece) == 1 else 0.0
            )
        return 0.75, 1.5
    if first < "\u0250":
        return 0.9, 2.0
    width = len(piece.encode("utf-8", "surrogatepass"))
    return (0.85 if width <= 3 else 2.0), width


_common = functools.lru_cache(maxsize=16_384)(_piece)


def estimate_block(block: object, text_of: TextCounter = estimate_text) -> Estimate:
    """Tokens of one block."""
    match block:
        case Text(text=text) | Refusal(text=text):
            return text_of(text)
        case Thinking(text=text, redacted=redacted):
            return text_of(text) + text_of(redacted or "")
        case ToolCall(name=name, arguments=arguments):
            return text_of(name) + text_of(arguments) + Estimate(8, 16)
        case ToolResult(content=content):
            return sum((estimate_block(inner, text_of) for inner in content), Estimate(6, 12))
        case Image():
            return Estimate(IMAGE_LIKELY, IMAGE_BOUND)
        case Document(text=str(text)):
            return text_of(text)
        case Document(data=str(data)):
            size = len(data) * 3 // 4
            return Estimate(math.ceil(size * PDF_PER_BYTE_LIKELY), math.ceil(size * PDF_PER_BYTE_BOUND))
        case Document():
            return Estimate(2_000, 50_000)
        case Opaque(raw=raw):
            return text_of(bytes(raw).decode("utf-8", "replace"))
        case _:
            return NOTHING


def estimate_message(message: Message, text_of: TextCounter = estimate_text) -> Estimate:
    """Tokens of one message with its framing."""
    return sum(
        (estimate_block(block, text_of) for block in message.content), Estimate(PER_MESSAGE, PER_MESSAGE + 4)
    )


def estimate_chat(chat: Chat, text_of: TextCounter = estimate_text) -> Estimate:
    """Input tokens of a whole request: messages, images, documents, tools and framing. `text_of` counts plain text."""
    total = sum(
        (estimate_message(message, text_of) for message in chat.messages), Estimate(PER_REPLY, PER_REPLY + 8)
    )
    for tool in chat.tools:
        schema = bytes(tool.parameters).decode("utf-8", "replace") if tool.parameters is not None else ""
        raw = bytes(tool.opaque.raw).decode("utf-8", "replace") if tool.opaque is not None else ""
        total += text_of(tool.name) + text_of(tool.description or "") + text_of(schema + raw)
        total += Estimate(PER_TOOL, PER_TOOL * 4)
    if chat.tools:
        total += Estimate(60, 400)
    if chat.response_format is not None and chat.response_format.schema is not None:
        total += text_of(bytes(chat.response_format.schema).decode("utf-8", "replace"))
    return total
