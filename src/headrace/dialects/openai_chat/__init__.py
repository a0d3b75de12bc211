"""OpenAI chat completions, in both directions, as OpenAI and the servers compatible with it speak them.

What the typed values have no place for is kept as raw JSON in `Details` and `Opaque` and written back when the target
speaks this dialect too. What cannot be carried to or from another dialect is named in the warnings.

The rules of the wire are those of the public API reference (chat completions) and of recorded traffic. Where compatible
servers differ, all are read: thinking as `reasoning_content` (DeepSeek, vLLM, llama.cpp, xAI), `reasoning` (OpenRouter, Groq,
Cerebras) or parts of type `thinking` (Mistral); usage at the end, in every chunk (xAI, Perplexity) or in `x_groq`; tool
calls without an index, or whose chunks repeat the id and the name; arguments as an object.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from headrace.dialects.openai_chat.decoder import Decoder
from headrace.dialects.openai_chat.details import NAME
from headrace.dialects.openai_chat.encoder import Encoder
from headrace.dialects.openai_chat.errors import envelope
from headrace.dialects.openai_chat.reply import decode_answer, encode_answer
from headrace.dialects.openai_chat.request import EFFORT_BUDGETS, decode_chat, encode_chat, larger
from headrace.dialects.splice import members, splice
from headrace.dialects.wire import UNREADABLE, Wrong, check_utf8, encode, invalid_request
from headrace.errors import Malformed
from headrace.handler import Peek
from headrace.types import Chat, Headers, Reply

__all__ = ["EFFORT_BUDGETS", "OPENAI_CHAT", "OpenAIChat"]


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Peek(Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


_PEEK = msgspec.json.Decoder(_Peek)
_LIMITS = {"max_tokens", "max_completion_tokens"}
_SPLICED = {*_LIMITS, "stream_options"}


class OpenAIChat:
    """The `openai-chat` dialect; see `headrace.handler.Dialect`."""

    name = NAME
    path = "/chat/completions"
    default_headers: Headers = ()
    terminator = b"data: [DONE]\n\n"

    def peek(self, body: bytes) -> Peek:
        """Both spellings of the output limit are read; with both, the larger counts."""
        try:
            check_utf8(body)
            peek = _PEEK.decode(body)
        except UNREADABLE as error:
            raise invalid_request(error) from None
        options = peek.stream_options
        return Peek(
            model=peek.model,
            stream=peek.stream or False,
            wants_usage=options is not None and options.include_usage is True,
            max_tokens=larger(peek.max_tokens, peek.max_completion_tokens),
            n=max(1, peek.n or 1),
        )

    def decode_request(self, body: bytes) -> Chat:
        try:
            return decode_chat(body)
        except (Wrong, *UNREADABLE) as error:
            raise invalid_request(error) from None

    def encode_request(self, chat: Chat, warnings: list[str]) -> bytes:
        return encode_chat(chat, warnings)

    def splice(self, body: bytes, *, model: str, include_usage: bool, max_tokens: int | None) -> bytes:
        """The body has been peeked at. A limit is set under the name that the caller used, `max_tokens` without one."""
        changes = {"model": encode(model)}
        found = members(body)
        given = {
            member.name: value
            for member in found
            if member.name in _SPLICED and (value := body[member.start : member.end]) != b"null"
        }
        if max_tokens is not None:
            for name in _LIMITS & given.keys() or ("max_tokens",):
                changes[name] = b"%d" % max_tokens
        if include_usage:
            options = given.get("stream_options")
            asked = {"include_usage": b"true"}
            changes["stream_options"] = (
                b'{"include_usage":true}' if options is None else splice(options, asked)
            )
        return splice(body, changes, found)

    def decode_reply(self, body: bytes) -> Reply:
        try:
            return decode_answer(body)
        except (Wrong, *UNREADABLE) as error:
            raise Malformed(f"not a chat completion: {error}", body=body, dialect=NAME) from None

    def encode_reply(self, reply: Reply, warnings: list[str]) -> bytes:
        return encode_answer(reply, warnings)

    def decoder(self, *, hide_usage: bool) -> Decoder:
        return Decoder(hide_usage=hide_usage)

    def encoder(self, *, include_usage: bool, model: str, id: str) -> Encoder:  # noqa: A002
        return Encoder(include_usage=include_usage, model=model, id_=id)

    def encode_error(
        self, kind: str, message: str, *, status: int, request_id: str, param: str | None = None
    ) -> bytes:
        return encode(envelope(kind, message, status, request_id, param))

    def encode_stream_error(self, kind: str, message: str, *, status: int, request_id: str) -> bytes:
        error = self.encode_error(kind, message, status=status, request_id=request_id)
        return b"data: " + error + b"\n\n"


OPENAI_CHAT = OpenAIChat()
