"""Every text of a request or an answer, and the same with other texts; in the wire's own bytes and typed alike.

Texts are what a person or a program wrote and a model reads, or the other way round: messages, system prompts, tool results, tool
arguments, descriptions. Ids, roles, signatures, base64 and addresses of images are none, and signed thinking must travel as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
from msgspec import Raw

from headrace.dialects.literals import rewrite
from headrace.handler import Body
from headrace.types import (
    Block,
    Chat,
    Details,
    Document,
    Message,
    Opaque,
    Refusal,
    Reply,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)

__all__ = [
    "ARGUMENTS",
    "FREE",
    "TEXT_MEMBERS",
    "THOUGHTS",
    "Change",
    "change_body",
    "change_details",
    "change_raw",
    "change_reply",
    "in_json",
    "member",
]

Change: TypeAlias = Callable[[str, str], str]
"""A text to the one in its place, the same one where nothing changes. The second argument is the name of the argument that it is the value
of, empty for all other texts."""

ARGUMENTS = frozenset({"arguments", "partial_json"})
"""Members whose text is itself JSON: what a function is called with."""

THOUGHTS = frozenset({"thinking", "reasoning", "reasoning_content", "reasoning_details"})
"""Members with thinking."""

TEXT_MEMBERS = frozenset({"content", "text", "refusal", *ARGUMENTS})
"""Members that a stream grows piece by piece."""

FREE = frozenset({"input", "args"})
"""Members whose inside is the caller's own: arguments as an object. There every name and every string is a text."""

_STRUCTURE = frozenset(
    [
        "call_id",
        "detail",
        "effort",
        "encrypted_content",
        "file_data",
        "file_id",
        "fileUri",
        "format",
        "id",
        "media_type",
        "mimeType",
        "model",
        "name",
        "object",
        "pattern",
        "role",
        "service_tier",
        "signature",
        "status",
        "thoughtSignature",
        "tool_call_id",
        "tool_use_id",
        "ttl",
        "type",
        "url",
    ]
)

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")


def member(path: Sequence[str]) -> str:
    """The name of the member in which the string at `path` stands, also in an array."""
    return next((name for name in reversed(path) if name), "")


def change_body(body: Body, change: Change, thought: Change | None = None) -> Body:
    """`body` with its texts changed; the same object where none is. `change` is told the texts in their order, and `thought`, where
    it is given, those that are unsigned thinking."""
    thought = thought or change
    if body.wire is not None and body.dialect is not None:
        wire = change_raw(body.wire, change, thought)
        return body if wire is body.wire else Body(wire=wire, dialect=body.dialect)
    chat = _chat(body.chat, change, thought)
    return body if chat is body.chat else Body(chat=chat)


def change_raw(raw: bytes, change: Change, thought: Change | None = None) -> bytes:
    """The JSON text of a request, or a part of one, with its texts changed."""
    signed = b'"signature"' in raw

    def changed(path: Sequence[str], text: str, is_name: bool) -> str:
        free = not FREE.isdisjoint(path[1:])
        if is_name:
            return change(text, "") if free and path[-1] not in FREE else text
        name = member(path)
        if free:
            return change(text, name)
        if name in _STRUCTURE or (name == "data" and _BASE64.fullmatch(text)):
            return text
        if not THOUGHTS.isdisjoint(path):
            bound = signed and ("thinking" in path or "reasoning_details" in path)
            return text if bound else (thought or change)(text, "")
        return in_json(text, change) if name in ARGUMENTS else change(text, "")

    return rewrite(raw, changed)


def in_json(text: str, change: Change) -> str:
    """`text`, which should be JSON, with its strings changed; as one text where it is not JSON."""
    if text in ("", "{}"):
        return text
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return change(text, "")

    def changed(path: Sequence[str], string: str, is_name: bool) -> str:
        return change(string, "" if is_name else member(path))

    return rewrite(text.encode(), changed).decode()


def change_reply(reply: Reply, change: Change, in_arguments: Change) -> Reply:
    """`reply` with its texts changed, but for thinking. Those of arguments are JSON text, which `in_arguments` changes."""
    content = tuple(_answered(block, change, in_arguments) for block in reply.content)
    return msgspec.structs.replace(reply, content=content)


def _answered(block: Block, change: Change, in_arguments: Change) -> Block:
    match block:
        case Thinking():
            return block
        case ToolCall(arguments=arguments):
            return msgspec.structs.replace(block, arguments=in_arguments(arguments, ""))
        case _:
            return _block(block, change, change)


# --- typed ------------------------------------------------------------------------------------------------------------


def _chat(chat: Chat, change: Change, thought: Change) -> Chat:
    format_ = chat.response_format
    if format_ is not None and format_.schema is not None:
        format_ = msgspec.structs.replace(format_, schema=_raw(format_.schema, change))
    changed = msgspec.structs.replace(
        chat,
        messages=tuple(_message(message, change, thought) for message in chat.messages),
        tools=tuple(_tool(tool, change) for tool in chat.tools),
        stop=tuple(change(text, "") for text in chat.stop),
        response_format=format_,
        user=chat.user if chat.user is None else change(chat.user, ""),
        provider_details=change_details(chat.provider_details, change),
    )
    return chat if changed == chat else changed


def _message(message: Message, change: Change, thought: Change) -> Message:
    return msgspec.structs.replace(
        message,
        content=tuple(_block(block, change, thought) for block in message.content),
        name=message.name if message.name is None else change(message.name, ""),
        provider_details=change_details(message.provider_details, change),
    )


def _block(block: Block, change: Change, thought: Change) -> Block:
    match block:
        case Text(text=text, provider_details=details):
            return msgspec.structs.replace(
                block, text=change(text, ""), provider_details=change_details(details, change)
            )
        case Refusal(text=text):
            return msgspec.structs.replace(block, text=change(text, ""))
        case ToolCall(arguments=arguments):
            return msgspec.structs.replace(block, arguments=in_json(arguments, change))
        case ToolResult(content=content):
            return msgspec.structs.replace(
                block, content=tuple(_block(part, change, thought) for part in content)
            )
        case Document(text=text, name=name):
            return msgspec.structs.replace(
                block,
                text=text if text is None else change(text, ""),
                name=name if name is None else change(name, ""),
            )
        case Thinking(text=text, signature=None, redacted=None):
            return msgspec.structs.replace(block, text=thought(text, ""))
        case Opaque(raw=raw):
            return msgspec.structs.replace(block, raw=_raw(raw, change))
        case _:
            return block


def _tool(tool: Tool, change: Change) -> Tool:
    return msgspec.structs.replace(
        tool,
        description=tool.description if tool.description is None else change(tool.description, ""),
        parameters=tool.parameters if tool.parameters is None else _raw(tool.parameters, change),
        provider_details=change_details(tool.provider_details, change),
    )


def change_details(details: Details | None, change: Change) -> Details | None:
    """Members of one dialect alone, with their texts changed."""
    if details is None:
        return None
    members = {name: _raw(raw, change) for name, raw in details.members.items()}
    return msgspec.structs.replace(details, members=members)


def _raw(raw: Raw, change: Change) -> Raw:
    given = bytes(raw)
    changed = change_raw(given, change)
    return raw if changed is given else Raw(changed)
