"""Messages of each role, of requests and answers alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from headrace.dialects.openai_chat.details import NAME, Losses, details_of, keep, merge, spelling, without
from headrace.dialects.openai_chat.part import decode_parts, encode_part, joined
from headrace.dialects.openai_chat.thinking import PLAIN, detail_of, take_thinking
from headrace.dialects.wire import ITEMS, STR, Members, Wrong, members_of, need, take, take_members
from headrace.types import Block, Document, Image, Message, Opaque, Refusal, Thinking, ToolCall, ToolResult

__all__ = ["arguments_of", "decode_message", "decode_said", "encode_messages", "encode_said"]

_STR_OR_ITEMS: msgspec.json.Decoder[str | list[Raw] | None] = msgspec.json.Decoder(str | list[Raw] | None)
_TEXT = msgspec.json.Decoder(str)


def arguments_of(raw: Raw) -> str:
    """The arguments' text: OpenAI sends it as a string, some servers the object itself."""
    text = bytes(raw)
    if text in (b"", b"null"):
        return ""
    return _TEXT.decode(text) if text.startswith(b'"') else text.decode()


def decode_said(said: Members, path: str) -> list[Block]:
    """The blocks of an assistant's message; takes them out of `said`."""
    blocks: list[Block] = [*take_thinking(said, path)]
    blocks += decode_parts(take(said, "content", _STR_OR_ITEMS, path), f"{path}.content")
    refusal = take(said, "refusal", STR, path)
    if refusal:
        blocks.append(Refusal(text=refusal))
    calls = take(said, "tool_calls", ITEMS, path)
    for index, raw in enumerate(calls or ()):
        blocks.append(_decode_call(raw, f"{path}.tool_calls[{index}]", len(blocks)))
    if not calls:
        blocks += _decode_function_call(said, path)
    return blocks


def _decode_function_call(said: Members, path: str) -> list[Block]:
    """The one call of the time before `tool_calls`. Its result names the function, so that the name is the call's id."""
    raw = said.get("function_call")
    function = take_members(said, "function_call", path)
    if raw is None or function is None:
        return []
    path = f"{path}.function_call"
    name = take(function, "name", STR, path)
    if not name:  # Snowflake sends an empty one with every answer
        said["function_call"] = raw
        return []
    try:
        arguments = arguments_of(function.pop("arguments", Raw()))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Wrong(f"{path}.arguments", str(error)) from None
    details = details_of(function, {"call": "function_call"})
    return [ToolCall(id=name, name=name, arguments=arguments, provider_details=details)]


def _decode_call(raw: Raw, path: str, index: int) -> Block:
    call = members_of(raw, path)
    kind = take(call, "type", STR, path) or "function"
    if kind != "function":
        return Opaque(dialect=NAME, kind=f"tool_call.{kind}", raw=raw)
    function = take_members(call, "function", path)
    if function is None:
        raise Wrong(f"{path}.function", "is required")
    name = need(function, "name", STR, f"{path}.function")
    try:
        arguments = arguments_of(function.pop("arguments", Raw()))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Wrong(f"{path}.function.arguments", str(error)) from None
    id_ = take(call, "id", STR, path) or f"call_{index}"
    call.pop("index", None)
    keep(call, "function", function)
    return ToolCall(id=id_, name=name, arguments=arguments, provider_details=details_of(call))


def decode_message(raw: Raw, path: str) -> Message:
    message = members_of(raw, path)
    role = need(message, "role", STR, path)
    name = take(message, "name", STR, path)
    match role:
        case "system" | "developer" | "user":
            content = tuple(decode_parts(take(message, "content", _STR_OR_ITEMS, path), f"{path}.content"))
            return Message(role=role, content=content, name=name, provider_details=details_of(message))
        case "assistant":
            content = tuple(decode_said(message, path))
            return Message(role="assistant", content=content, name=name, provider_details=details_of(message))
        case "tool" | "function":
            content = tuple(decode_parts(take(message, "content", _STR_OR_ITEMS, path), f"{path}.content"))
            if role == "tool":
                call_id, spelled = need(message, "tool_call_id", STR, path), None
            else:
                call_id, spelled = name or "", {"role": "function"}
            result = ToolResult(call_id=call_id, content=content)
            details = details_of(message, spelled)
            return Message(role="tool", content=(result,), name=name, provider_details=details)
        case _:
            raise Wrong(f"{path}.role", f"{role!r} is not a role")


def _encode_call(call: ToolCall, losses: Losses) -> dict[str, Any]:
    if call.cache is not None:
        losses.say("cache hint dropped")
    own = losses.own(call.provider_details, "tool call")
    function = merge({"name": call.name, "arguments": call.arguments}, own, "function")
    return {"id": call.id, "type": "function", "function": function, **without(own, "function")}


def encode_said(blocks: Iterable[Block], losses: Losses, *, answer: bool = False) -> dict[str, Any]:
    """The members of an assistant's message but its role. An `answer` has its thinking signed, for the client to hand it
    back, and its text as one string, as the API itself answers; a request only has what its caller wrote so."""
    parts: list[dict[str, Any] | Raw] = []
    calls: list[dict[str, Any] | Raw] = []
    plain: dict[str, list[str]] = {}
    details: list[dict[str, Any]] = []
    refusals: list[str] = []
    thoughts = 0
    function: dict[str, Any] | None = None
    for block in blocks:
        match block:
            case Thinking(text=text):
                losses.own(block.provider_details, "thinking")
                member = spelling(block.provider_details, "thinking", "reasoning_content")
                if block.signature or block.redacted is not None:
                    rest = spelling(block.provider_details, "detail", "")
                    if not answer and not rest:
                        losses.say(f"{'signed' if block.redacted is None else 'redacted'} thinking dropped")
                        continue
                    if parts or calls:
                        losses.say("thinking after other content moved before it")
                    details.append(detail_of(block, msgspec.json.decode(rest) if rest else thoughts))
                thoughts += 1
                if member == "part":
                    spoken = [{"type": "text", "text": text}]
                    parts.append({"type": "thinking", "thinking": spoken})
                else:
                    for name in PLAIN:
                        if text and member in (name, "both"):
                            plain.setdefault(name, []).append(text)
            case Refusal(text=text):
                losses.own(block.provider_details, "refusal")
                refusals.append(text)
            case ToolCall() if spelling(block.provider_details, "call", "") == "function_call":
                own = losses.own(block.provider_details, "tool call")
                function = {"name": block.name, "arguments": block.arguments, **own}
            case ToolCall():
                calls.append(_encode_call(block, losses))
            case Opaque(dialect=dialect, kind=kind, raw=raw) if dialect == NAME and kind.startswith(
                "tool_call."
            ):
                calls.append(raw)
            case _:
                if calls:
                    losses.say("content after a tool call moved before it")
                part = encode_part(block, "assistant", losses)
                if part is not None:
                    parts.append(part)
    content: Any = joined(parts)
    if answer and all(isinstance(part, dict) and part.keys() == {"type", "text"} for part in parts):
        content = "".join(part["text"] for part in parts if isinstance(part, dict))
    said: dict[str, Any] = {
        "content": content or None if calls or function or refusals or thoughts else content
    }
    if refusals:
        said["refusal"] = "".join(refusals)
    for member, texts in plain.items():
        said[member] = "\n".join(texts)
    if details:
        said["reasoning_details"] = details
    if calls:
        said["tool_calls"] = calls
    if function is not None:
        said["function_call"] = function
    return said


def encode_messages(messages: Iterable[Message], losses: Losses) -> list[dict[str, Any]]:
    """The messages of the wire. Tool results become `tool` messages of text; what else they hold follows in a user's."""
    wire: list[dict[str, Any]] = []
    moved: list[dict[str, Any] | Raw] = []
    for message in messages:
        own = losses.own(message.provider_details, "message")
        named = {} if message.name is None else {"name": message.name}
        if message.role == "assistant":
            _flush(moved, wire)
            said = encode_said(message.content, losses)
            wire.append({"role": "assistant", **said, **named, **own})
            continue
        results = [block for block in message.content if isinstance(block, ToolResult)]
        for result in results:
            head: dict[str, Any] = {"role": "tool", "tool_call_id": result.call_id}
            if spelling(message.provider_details, "role", "tool") == "function":
                head = {"role": "function"}
            if message.role == "tool":
                head |= named
            content = _encode_result(result, moved, losses)
            wire.append({**head, "content": content, **(own if message.role == "tool" else {})})
        if message.role == "tool":
            continue
        parts = [
            part
            for block in message.content
            if not isinstance(block, ToolResult)
            and (part := encode_part(block, message.role, losses)) is not None
        ]
        if message.role == "user":
            if moved:
                parts, moved = moved + parts, []
        else:
            _flush(moved, wire)
        if parts or not results:
            wire.append({"role": message.role, "content": joined(parts), **named, **own})
    _flush(moved, wire)
    return wire


def _flush(moved: list[dict[str, Any] | Raw], wire: list[dict[str, Any]]) -> None:
    if moved:
        wire.append({"role": "user", "content": list(moved)})
        moved.clear()


def _encode_result(result: ToolResult, moved: list[dict[str, Any] | Raw], losses: Losses) -> Any:
    """The content of a `tool` message, which is text; other blocks go to `moved`, with a note in their place."""
    if result.cache is not None:
        losses.say("cache hint dropped")
    if result.is_error:
        losses.say("is_error of a tool result dropped")
    losses.own(result.provider_details, "tool result")
    parts: list[dict[str, Any] | Raw] = []
    for block in result.content:
        if isinstance(block, Image | Document):
            kind = type(block).__name__.lower()
            part = encode_part(block, "user", losses)
            if part is not None:
                losses.say(f"{kind} in a tool result moved to a user message")
                moved.append(part)
                parts.append({"type": "text", "text": f"[{kind}: in the next user message]"})
        else:
            part = encode_part(block, "tool", losses)
            if part is not None:
                parts.append(part)
    return joined(parts)
