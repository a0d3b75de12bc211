"""Anthropic Messages, in both directions.

What the typed values have no place for is kept as raw JSON in `Details` and `Opaque` and written back when the target
speaks this dialect too, so that decoding and encoding a body gives the same JSON, but for null members, which are absent
ones. What cannot be carried to or from another dialect is named in the warnings.

The rules of the wire are those of the public API reference (Messages, streaming, errors) and of recorded traffic.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from headrace.dialects.anthropic.decoder import Decoder
from headrace.dialects.anthropic.details import NAME, server_event
from headrace.dialects.anthropic.encoder import Encoder
from headrace.dialects.anthropic.errors import envelope
from headrace.dialects.anthropic.reply import decode_answer, encode_answer
from headrace.dialects.anthropic.request import DEFAULT_MAX_TOKENS, decode_chat, encode_chat
from headrace.dialects.anthropic.thinking import EFFORT_SHARES, MIN_BUDGET
from headrace.dialects.splice import members, splice
from headrace.dialects.wire import UNREADABLE, Wrong, check_utf8, encode, invalid_request
from headrace.errors import Malformed
from headrace.handler import Peek
from headrace.types import Chat, Headers, Reply

__all__ = ["ANTHROPIC", "DEFAULT_MAX_TOKENS", "EFFORT_SHARES", "Anthropic"]


class _Glance(Struct, frozen=True):
    model: str
    stream: bool | None = None
    max_tokens: int | None = None


_GLANCE = msgspec.json.Decoder(_Glance)
_THINKING: msgspec.json.Decoder[dict[str, Any] | None] = msgspec.json.Decoder(dict[str, Any] | None)


def _lowered(raw: bytes, max_tokens: int) -> dict[str, bytes]:
    """The change of `thinking` that a limit asks for, if any."""
    try:
        thinking = _THINKING.decode(raw) or {}
    except UNREADABLE as error:
        raise invalid_request(error) from None
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < max_tokens:
        return {}
    fits = max_tokens > MIN_BUDGET
    return {
        "thinking": encode({**thinking, "budget_tokens": max_tokens - 1} if fits else {"type": "disabled"})
    }


class Anthropic:
    """The `Dialect` of Anthropic Messages; the base URL is `https://api.anthropic.com`."""

    __slots__ = ()

    name = NAME
    path = "/v1/messages"
    default_headers: Headers = (("anthropic-version", "2023-06-01"),)
    terminator = server_event("message_stop", {"type": "message_stop"})

    def peek(self, body: bytes) -> Peek:
        """What the gateway must know before it decodes: the usage always comes. Raises `InvalidRequest`."""
        try:
            check_utf8(body)
            seen = _GLANCE.decode(body)
        except UNREADABLE as error:
            raise invalid_request(error) from None
        return Peek(model=seen.model, stream=bool(seen.stream), wants_usage=True, max_tokens=seen.max_tokens)

    def decode_request(self, body: bytes) -> Chat:
        try:
            return decode_chat(body)
        except (Wrong, *UNREADABLE) as error:
            raise invalid_request(error) from None

    def encode_request(self, chat: Chat, warnings: list[str]) -> bytes:
        return encode_chat(chat, warnings)

    def splice(self, body: bytes, *, model: str, include_usage: bool, max_tokens: int | None) -> bytes:
        """As the protocol says. A thinking budget that a new `max_tokens` would make invalid is lowered below it, or
        thinking turned off where that leaves less than `MIN_BUDGET`. Raises `InvalidRequest`."""
        changes = {"model": encode(model)}
        found = members(body)
        if max_tokens is not None:
            changes["max_tokens"] = b"%d" % max_tokens
            for member in found:
                if member.name == "thinking":
                    changes |= _lowered(body[member.start : member.end], max_tokens)
        return splice(body, changes, found)

    def decode_reply(self, body: bytes) -> Reply:
        try:
            return decode_answer(body)
        except (Wrong, *UNREADABLE) as error:
            raise Malformed(f"not an answer of {NAME}: {error}", body=body, dialect=NAME) from None

    def encode_reply(self, reply: Reply, warnings: list[str]) -> bytes:
        return encode_answer(reply, warnings)

    def decoder(self, *, hide_usage: bool) -> Decoder:
        """`hide_usage` changes nothing: usage is part of every stream of this dialect."""
        return Decoder()

    def encoder(self, *, include_usage: bool, model: str, id: str) -> Encoder:  # noqa: A002
        """`include_usage` changes nothing. `model` and `id` stand in until a `Start` says better."""
        return Encoder(model=model, message_id=id)

    def encode_error(
        self, kind: str, message: str, *, status: int, request_id: str, param: str | None = None
    ) -> bytes:
        return encode(envelope(kind, message, status, request_id))

    def encode_stream_error(self, kind: str, message: str, *, status: int, request_id: str) -> bytes:
        return server_event("error", envelope(kind, message, status, request_id))


ANTHROPIC = Anthropic()
