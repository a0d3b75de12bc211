"""OpenAI embeddings, in the terms of a chat: the inputs are one user message with a block each, the vectors are the answer's blocks.

So an embedding goes through the same stack as every other request: keys, budgets, retries, fallbacks, ledger. What is not a text (tokens) and
every other member travel as raw JSON. Wire: OpenAI API reference, "Create embeddings".
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from headrace.dialects.openai_chat import OpenAIChat
from headrace.dialects.splice import members, splice
from headrace.dialects.wire import UNREADABLE, check_utf8, encode, invalid_request
from headrace.errors import InvalidRequest, Malformed
from headrace.handler import Peek
from headrace.types import Block, Chat, Details, Message, Opaque, Reply, Text, Usage

__all__ = ["EMBEDDINGS", "NAME", "OpenAIEmbeddings"]

NAME = "openai-embeddings"


class _Item(Struct):
    embedding: Raw
    index: int = 0


class _Usage(Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Answer(Struct):
    data: list[_Item]
    model: str = ""
    usage: _Usage | None = None


class _Peek(Struct):
    model: str
    stream: bool | None = None


_PEEK = msgspec.json.Decoder(_Peek)
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_ANSWER = msgspec.json.Decoder(_Answer)
_INPUT = msgspec.json.Decoder(str | list[Raw])


class OpenAIEmbeddings(OpenAIChat):
    """The `openai-embeddings` dialect; see `headrace.handler.Dialect`. Nothing of it is streamed."""

    name = NAME
    path = "/embeddings"

    def peek(self, body: bytes) -> Peek:
        try:
            check_utf8(body)
            peek = _PEEK.decode(body)
        except UNREADABLE as error:
            raise invalid_request(error) from None
        if peek.stream:
            raise InvalidRequest("embeddings are not streamed: leave out stream", param="stream")
        return Peek(model=peek.model, max_tokens=0)

    def decode_request(self, body: bytes) -> Chat:
        try:
            given = _MEMBERS.decode(body)
            model = msgspec.json.decode(given.pop("model"), type=str)
            inputs = _INPUT.decode(given.pop("input"))
        except KeyError as error:
            raise InvalidRequest(f"{error.args[0]} is missing", param=str(error.args[0])) from None
        except UNREADABLE as error:
            raise invalid_request(error) from None
        blocks = [Text(text=inputs)] if isinstance(inputs, str) else _blocks(inputs)
        if not blocks:
            raise InvalidRequest("input is empty: give a text or a list of them", param="input")
        return Chat(
            model=model,
            messages=(Message(role="user", content=tuple(blocks)),),
            max_tokens=0,
            provider_details=Details(NAME, given) if given else None,
        )

    def encode_request(self, chat: Chat, warnings: list[str]) -> bytes:
        inputs: list[str | Raw] = []
        for message in chat.messages:
            for block in message.content:
                if isinstance(block, Text):
                    inputs.append(block.text)
                elif isinstance(block, Opaque) and block.dialect == NAME:
                    inputs.append(block.raw)
                else:
                    warnings.append(f"{type(block).__name__.lower()} (embeddings)")
        details = chat.provider_details
        others = details.members if details is not None and details.dialect == NAME else {}
        return encode({"model": chat.model, "input": inputs, **others})

    def splice(self, body: bytes, *, model: str, include_usage: bool, max_tokens: int | None) -> bytes:
        return splice(body, {"model": encode(model)}, members(body))

    def decode_reply(self, body: bytes) -> Reply:
        try:
            answer = _ANSWER.decode(body)
        except UNREADABLE as error:
            raise Malformed(f"not embeddings: {error}", body=body, dialect=NAME) from None
        items = sorted(answer.data, key=lambda item: item.index)
        usage = answer.usage
        return Reply(
            model=answer.model,
            content=tuple(Opaque(dialect=NAME, kind="embedding", raw=item.embedding) for item in items),
            usage=None if usage is None else Usage(input_tokens=usage.prompt_tokens or usage.total_tokens),
        )

    def encode_reply(self, reply: Reply, warnings: list[str]) -> bytes:
        tokens = 0 if reply.usage is None else reply.usage.input_tokens
        data = [
            {"object": "embedding", "index": index, "embedding": block.raw}
            for index, block in enumerate(reply.content)
            if isinstance(block, Opaque)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return encode({"object": "list", "data": data, "model": reply.model, "usage": usage})


def _blocks(inputs: list[Raw]) -> list[Block]:
    """Texts as texts; tokens as they are. A list of numbers is one input."""
    if inputs and bytes(inputs[0])[:1] not in b'"[':
        whole = b"[" + b",".join(bytes(one) for one in inputs) + b"]"
        return [Opaque(dialect=NAME, kind="tokens", raw=Raw(whole))]
    return [
        Text(text=msgspec.json.decode(one, type=str))
        if bytes(one)[:1] == b'"'
        else Opaque(dialect=NAME, kind="tokens", raw=one)
        for one in inputs
    ]


EMBEDDINGS = OpenAIEmbeddings()
