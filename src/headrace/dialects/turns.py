"""A body taken apart at its messages and put together again, so that those that stay keep their bytes.

Holds for the dialects whose conversation is the member `messages` (openai-chat, anthropic).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from headrace.dialects.splice import members, splice
from headrace.errors import InvalidRequest
from headrace.handler import Dialect
from headrace.types import Chat, Details, Message

__all__ = ["decode_turn", "encode_turn", "join", "split"]

_ITEMS = msgspec.json.Decoder(list[Raw])


class _Encoded(msgspec.Struct):
    messages: list[Raw]


_ENCODED = msgspec.json.Decoder(_Encoded)


def split(body: bytes) -> tuple[bytes, list[bytes]]:
    """`body` with an empty array in place of its messages, and the JSON text of each message.

    Raises:
        InvalidRequest: It is not an object with an array `messages`, or nests too deep.
    """
    frame = splice(body, {"messages": b"[]"})
    for member in members(body):
        if member.name == "messages":
            try:
                return frame, [bytes(raw) for raw in _ITEMS.decode(body[member.start : member.end])]
            except msgspec.DecodeError as error:
                raise InvalidRequest(f"messages: {error}", param="messages") from None
    raise InvalidRequest("messages is required", param="messages")


def join(frame: bytes, messages: Sequence[bytes]) -> bytes:
    """The body that `split` takes apart into `frame` and `messages`."""
    return splice(frame, {"messages": b"[%b]" % b",".join(messages)})


def decode_turn(dialect: Dialect, raw: bytes) -> tuple[Message, ...]:
    """The typed messages that one message of the wire is. Raises `InvalidRequest`, naming `messages[0]` whichever it was."""
    return dialect.decode_request(b'{"model":"","messages":[%b]}' % raw).messages


def encode_turn(dialect: Dialect, messages: Sequence[Message]) -> list[bytes]:
    """The JSON text of messages of the wire for `messages`, which came from this dialect or hold text and tool results alone."""
    # Marked as the dialect's own, so that no rule for translated chats is applied a second time.
    chat = Chat(model="", messages=tuple(messages), provider_details=Details(dialect.name, {}))
    return [bytes(raw) for raw in _ENCODED.decode(dialect.encode_request(chat, [])).messages]
