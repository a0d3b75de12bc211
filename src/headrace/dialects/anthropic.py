"""Anthropic Messages, in both directions.

What the typed values have no place for is kept as raw JSON in `Details` and `Opaque` and written back when the target
speaks this dialect too, so that decoding and encoding a body gives the same JSON, but for null members, which are absent
ones. What cannot be carried to or from another dialect is named in the warnings.

The rules of the wire are those of the public API reference (Messages, streaming, errors) and of recorded traffic.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace.dialects.faults import read_error
from headrace.dialects.splice import splice
from headrace.dialects.sse import SSEEvent, SSEParser
from headrace.dialects.wire import (
    BOOL,
    FLOAT,
    INT,
    ITEMS,
    STR,
    UNREADABLE,
    Members,
    Wrong,
    check_utf8,
    invalid_request,
    json,
    members_of,
    need,
    take,
    take_members,
)
from headrace.errors import Malformed, ProviderError
from headrace.handler import Peek, reply_events
from headrace.types import (
    Batch,
    Block,
    BlockStart,
    BlockStop,
    CacheHint,
    Chat,
    Complete,
    Delta,
    Details,
    Document,
    End,
    Event,
    Finish,
    FinishReason,
    Frame,
    Headers,
    Image,
    Message,
    Opaque,
    OpaqueEvent,
    Ping,
    Reasoning,
    Refusal,
    Reply,
    ResponseFormat,
    Role,
    Start,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
    UsageReport,
)

__all__ = ["ANTHROPIC", "DEFAULT_MAX_TOKENS", "EFFORT_SHARES", "Anthropic"]

NAME = "anthropic"

DEFAULT_MAX_TOKENS = 4096
"""Tokens of output for a request from a dialect where the limit is optional. The least that any Claude model allows as its
largest output (Claude 3), so that no model refuses it."""

EFFORT_SHARES: Mapping[str, float] = {
    "minimal": 0.1,
    "low": 0.2,
    "medium": 0.5,
    "high": 0.8,
    "xhigh": 0.95,
    "max": 0.95,
}
"""The part of `max_tokens` that an effort word may think with on models that take a budget: the ratios that OpenRouter
documents for Anthropic models ("Reasoning tokens", effort levels)."""

MIN_BUDGET = 1024
"""Anthropic's least `thinking.budget_tokens`; it must also be below `max_tokens`."""

_ADAPTIVE_SINCE = (4, 6)
"""From this generation on the model thinks adaptively, steered by `output_config.effort`; budgets are deprecated on 4.6 and
refused by later ones."""
_BUDGET_SINCE = (3, 7)
_NO_SAMPLING_SINCE = (4, 7)
"""From this generation on `temperature`, `top_p` and `top_k` other than the defaults are refused, and budgets too."""

_GENERATION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_NO_SPACE = str.maketrans("", "", " \t\r\n")
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")

# A text that is the only block of an array, where the plain string would say the same.
_AS_BLOCK = Details(NAME, {}, {"text": "block"})

# Arguments that are no JSON object cannot stand in `input`. Under this name the model and the caller still see them.
_INVALID = "_invalid_json"

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
    "model_context_window_exceeded": "context_full",
}
# Members of other dialects' answers that tell about the service and not about the answer: nothing is lost with them.
_BOOKKEEPING = frozenset({"system_fingerprint", "service_tier", "usage", "x_groq", "request_id", "provider"})

_STOP_REASON: dict[FinishReason, str] = {
    **{finish: word for word, finish in _FINISH.items()},
    "content_filter": "refusal",
}

_ERROR_TYPES = {
    "invalid_request": "invalid_request_error",
    "unsupported": "invalid_request_error",
    "context_too_long": "invalid_request_error",
    "content_filtered": "invalid_request_error",
    "refusal": "invalid_request_error",
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "model_not_found": "not_found_error",
    "request_too_large": "request_too_large",
    "rate_limited": "rate_limit_error",
    "budget_exceeded": "billing_error",
    "deadline_exceeded": "timeout_error",
    "timeout": "timeout_error",
    "overloaded": "overloaded_error",
    "shutting_down": "overloaded_error",
}
_ERROR_TYPES_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_STRS: msgspec.json.Decoder[tuple[str, ...] | None] = msgspec.json.Decoder(tuple[str, ...] | None)
_CONTENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(str | list[Raw] | None)
_encode = msgspec.json.Encoder().encode


# --- the wire ---------------------------------------------------------------------------------------------------------


class _CacheCreation(Struct, frozen=True):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(Struct, frozen=True):
    thinking_tokens: int | None = None


class _Usage(Struct, frozen=True):
    """Every count is optional: reports come in parts."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None

    def typed(self) -> Usage:
        split = self.cache_creation or _CacheCreation()
        hour = split.ephemeral_1h_input_tokens or 0
        written = max(self.cache_creation_input_tokens or 0, hour + (split.ephemeral_5m_input_tokens or 0))
        read = self.cache_read_input_tokens or 0
        details = self.output_tokens_details
        return Usage(
            input_tokens=(self.input_tokens or 0) + read + written,
            output_tokens=self.output_tokens or 0,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=hour,
            reasoning_tokens=0 if details is None else details.thinking_tokens or 0,
        )


_USAGE: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None)


def _decode_usage(raw: Raw | None) -> Usage | None:
    """Counts of a form that nobody knows are no reason to lose an answer: they are not known."""
    try:
        usage = _USAGE.decode(raw) if raw else None
    except msgspec.ValidationError:
        return None
    return None if usage is None else usage.typed()


class _TextDelta(Struct, frozen=True, tag="text_delta"):
    text: str


class _ArgumentsDelta(Struct, frozen=True, tag="input_json_delta"):
    partial_json: str


class _ThinkingDelta(Struct, frozen=True, tag="thinking_delta"):
    thinking: str


class _SignatureDelta(Struct, frozen=True, tag="signature_delta"):
    signature: str


class _BlockDelta(Struct, frozen=True, tag="content_block_delta"):
    index: int
    delta: _TextDelta | _ArgumentsDelta | _ThinkingDelta | _SignatureDelta


class _AnyDelta(Struct, frozen=True):
    index: int
    delta: Raw


class _BlockStart(Struct, frozen=True, tag="content_block_start"):
    index: int
    content_block: Raw


class _BlockStop(Struct, frozen=True, tag="content_block_stop"):
    index: int


class _Head(Struct, frozen=True):
    id: str = ""
    model: str = ""
    usage: Raw = Raw()


class _MessageStart(Struct, frozen=True, tag="message_start"):
    message: _Head


class _Stop(Struct, frozen=True):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _MessageDelta(Struct, frozen=True, tag="message_delta"):
    delta: _Stop = _Stop()
    usage: Raw = Raw()


class _MessageStop(Struct, frozen=True, tag="message_stop"):
    pass


class _Ping(Struct, frozen=True, tag="ping"):
    pass


class _Error(Struct, frozen=True, tag="error"):
    pass


_EVENT: msgspec.json.Decoder[
    _BlockDelta | _BlockStart | _BlockStop | _MessageStart | _MessageDelta | _MessageStop | _Ping | _Error
] = msgspec.json.Decoder(
    _BlockDelta | _BlockStart | _BlockStop | _MessageStart | _MessageDelta | _MessageStop | _Ping | _Error
)
_ANY_DELTA = msgspec.json.Decoder(_AnyDelta)
_KNOWN_EVENTS = frozenset(
    {
        "content_block_delta",
        "content_block_start",
        "content_block_stop",
        "message_start",
        "message_delta",
        "message_stop",
    }
)


class _Glance(Struct, frozen=True):
    model: str
    stream: bool | None = None
    max_tokens: int | None = None


class _Budget(Struct, frozen=True):
    thinking: dict[str, Any] | None = None


_GLANCE = msgspec.json.Decoder(_Glance)
_BUDGET = msgspec.json.Decoder(_Budget)


# --- decoding: members of JSON objects ---------------------------------------------------------------------------------


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _text(members: Members, name: str, path: str) -> str:
    """Remove a text; empty when it is absent or null."""
    text = take(members, name, STR, path)
    return "" if text is None else text


def _take_cache(members: Members, path: str) -> CacheHint | None:
    """The breakpoint. One with members that we do not know stays among `members` too, and is written back from there."""
    raw = members.get("cache_control")
    control = take_members(members, "cache_control", path)
    if control is None or raw is None:
        return None
    path = _at(path, "cache_control")
    kind = take(control, "type", STR, path)
    hint = CacheHint(take(control, "ttl", STR, path))
    if control or kind != "ephemeral":
        members["cache_control"] = raw
    return hint


def _details(members: Members, spelled: dict[str, str] | None = None) -> Details | None:
    """What is left of an object; null members say nothing."""
    telling = _telling(members)
    return Details(NAME, telling, spelled or {}) if telling or spelled else None


def _telling(members: Members) -> Members:
    return {name: raw for name, raw in members.items() if bytes(raw) != b"null"} if members else members


def _spelled(details: Details | None, name: str) -> str | None:
    return details.spelled.get(name) if details is not None and details.dialect == NAME else None


def _said_false(members: Members, name: str) -> dict[str, str]:
    """The spelling of a default that was written out."""
    return {name: "false"} if bytes(members.get(name, b"")) == b"false" else {}


def _text_of(raw: Raw, path: str) -> str:
    """The JSON text itself."""
    try:
        return str(memoryview(raw), "utf-8")
    except UnicodeDecodeError:
        raise Wrong(path, "is not UTF-8") from None


# --- decoding: blocks --------------------------------------------------------------------------------------------------


def _decode_block(raw: Raw, path: str) -> Block:
    members = members_of(raw, path)
    kind = need(members, "type", STR, path)
    match kind:
        case "text":
            text = need(members, "text", STR, path)
            cache = _take_cache(members, path)
            return Text(text=text, cache=cache, provider_details=_details(members))
        case "image" | "document":
            return _decode_media(kind, members, path) or Opaque(dialect=NAME, kind=kind, raw=raw)
        case "tool_use":
            return ToolCall(
                id=need(members, "id", STR, path),
                name=need(members, "name", STR, path),
                arguments=_arguments(members.pop("input", Raw(b"{}")), _at(path, "input")),
                cache=_take_cache(members, path),
                provider_details=_details(members, _take_direct(members)),
            )
        case "tool_result":
            spelled = _said_false(members, "is_error")
            return ToolResult(
                call_id=need(members, "tool_use_id", STR, path),
                content=_take_content(members, "content", path),
                is_error=take(members, "is_error", BOOL, path) is True,
                cache=_take_cache(members, path),
                provider_details=_details(members, spelled),
            )
        case "thinking":
            return Thinking(
                text=_text(members, "thinking", path),
                signature=take(members, "signature", STR, path),
                provider_details=_details(members),
            )
        case "redacted_thinking":
            data = need(members, "data", STR, path)
            return Thinking(redacted=data, provider_details=_details(members))
        case _:
            return Opaque(dialect=NAME, kind=kind, raw=raw)


def _decode_media(kind: str, members: Members, path: str) -> Image | Document | None:
    """None for a source of a kind, or with members, that we have no place for."""
    source = take_members(members, "source", path)
    if source is None:
        raise Wrong(_at(path, "source"), "is required")
    where = _at(path, "source")
    known: dict[str, Any] = {}
    match take(source, "type", STR, where):
        case "base64":
            known["media_type"] = take(source, "media_type", STR, where)
            known["data"] = need(source, "data", STR, where)
        case "url":
            known["url"] = need(source, "url", STR, where)
        case "file":
            known["file_id"] = need(source, "file_id", STR, where)
        case "text" if kind == "document":
            known["media_type"] = take(source, "media_type", STR, where)
            known["text"] = need(source, "data", STR, where)
        case _:
            return None
    if source:
        return None
    cache = _take_cache(members, path)
    if kind == "image":
        return Image(**known, cache=cache, provider_details=_details(members))
    name = take(members, "title", STR, path)
    return Document(**known, name=name, cache=cache, provider_details=_details(members))


def _take_direct(members: Members) -> dict[str, str]:
    """The caller of a tool that is the model itself, which goes without saying: a spelling, not a member to warn about."""
    raw = members.get("caller")
    if raw is None or _text_of(raw, "caller").translate(_NO_SPACE) != '{"type":"direct"}':
        return {}
    del members["caller"]
    return {"caller": _text_of(raw, "caller")}


def _arguments(raw: Raw, path: str) -> str:
    text = _text_of(raw, path)
    if _INVALID in text:
        wrapped = members_of(raw, path)
        if len(wrapped) == 1 and (inner := take(wrapped, _INVALID, STR, path)) is not None:
            return inner
    return text


def _take_content(members: Members, name: str, path: str) -> tuple[Block, ...]:
    """A string or an array of blocks; empty when absent."""
    content: str | list[Raw] | None = take(members, name, _CONTENT, path)
    path = _at(path, name)
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(text=content),)
    blocks = tuple(_decode_block(raw, f"{path}[{index}]") for index, raw in enumerate(content))
    match blocks:
        case (Text(cache=None, provider_details=None) as only,):
            return (msgspec.structs.replace(only, provider_details=_AS_BLOCK),)
        case _:
            return blocks


# --- decoding: requests ------------------------------------------------------------------------------------------------


def _decode_messages(items: list[Raw]) -> list[Message]:
    messages: list[Message] = []
    for number, raw in enumerate(items):
        path = f"messages[{number}]"
        members = members_of(raw, path)
        role = need(members, "role", STR, path)
        if "content" not in members:
            raise Wrong(_at(path, "content"), "is required")
        content = _take_content(members, "content", path)
        details = _details(members)
        match role:
            case "user":
                # A `tool` message holds results only; an empty message still counts as one.
                runs: list[tuple[Role, list[Block]]] = []
                for block in content:
                    kind: Role = "tool" if isinstance(block, ToolResult) else "user"
                    if not runs or runs[-1][0] != kind:
                        runs.append((kind, []))
                    runs[-1][1].append(block)
                for run_role, blocks in runs or [("user", [])]:
                    messages.append(Message(role=run_role, content=tuple(blocks), provider_details=details))
                    details = None
            case "assistant":
                messages.append(Message(role="assistant", content=content, provider_details=details))
            case "system":
                # Marked as ours even without members: it goes back to where it stood, not into the top-level system.
                messages.append(
                    Message(
                        role="system",
                        content=content,
                        provider_details=Details(NAME, _telling(members), {"role": "message"}),
                    )
                )
            case _:
                raise Wrong(_at(path, "role"), f"{role!r} is none of user, assistant, system")
    return messages


def _decode_tool(raw: Raw, path: str) -> Tool:
    members = members_of(raw, path)
    kind_raw = members.get("type")
    kind = take(members, "type", STR, path)
    if kind not in (None, "custom"):
        name = _text(members, "name", path)
        return Tool(name=name, opaque=Opaque(dialect=NAME, kind=kind, raw=raw))
    if kind_raw is not None and kind is not None:
        members["type"] = kind_raw
    return Tool(
        name=need(members, "name", STR, path),
        description=take(members, "description", STR, path),
        parameters=members.pop("input_schema", None),
        strict=take(members, "strict", BOOL, path),
        cache=_take_cache(members, path),
        provider_details=_details(members),
    )


def _decode_tool_choice(members: Members) -> tuple[ToolChoice | None, bool | None]:
    """The choice and `parallel_tool_calls`; takes out of `members` what it understands."""
    path = "tool_choice"
    kind = take(dict(members), "type", STR, path)
    serial = take(members, "disable_parallel_tool_use", BOOL, path)
    parallel = None if serial is None else not serial
    match kind:
        case "auto" | "none":
            choice = ToolChoice(mode=kind)
        case "any":
            choice = ToolChoice(mode="required")
        case "tool":
            choice = ToolChoice(mode="tool", name=need(members, "name", STR, path))
        case _:
            return None, parallel
    del members["type"]
    return choice, parallel


def _decode_reasoning(thinking: Members, effort: str | None) -> Reasoning | None:
    """Takes out of `thinking` what it understands; its `type` stays for the kinds that are not typed (adaptive)."""
    path = "thinking"
    kind = take(dict(thinking), "type", STR, path)
    match kind:
        case None:
            return None if effort is None else Reasoning(effort=effort)
        case "enabled":
            budget = need(thinking, "budget_tokens", INT, path)
            del thinking["type"]
            return Reasoning(effort=effort, budget_tokens=budget)
        case "disabled":
            del thinking["type"]
            return Reasoning(enabled=False, effort=effort)
        case _:
            return Reasoning(effort=effort)


def _take_format(holder: Members, name: str, path: str) -> ResponseFormat | None:
    """The form asked for; what of it is not typed stays in `holder` under its name."""
    wanted = take_members(holder, name, path)
    if not wanted:
        return None
    form = None
    if take(dict(wanted), "type", STR, _at(path, name)) == "json_schema":
        form = ResponseFormat(kind="json_schema", schema=wanted.pop("schema", None))
        del wanted["type"]
    if wanted:
        holder[name] = json(wanted)
    return form


def _decode_chat(body: bytes) -> Chat:
    check_utf8(body)
    members = members_of(body, "body")
    model = need(members, "model", STR, "")
    system = _take_content(members, "system", "")
    items: list[Raw] = need(members, "messages", ITEMS, "")
    messages = _decode_messages(items)
    if system:
        messages.insert(0, Message(role="system", content=system))
    tools: list[Raw] | None = take(members, "tools", ITEMS, "")
    nested = {
        name: take_members(members, name, "") or {}
        for name in ("tool_choice", "thinking", "output_config", "metadata")
    }
    choice, parallel = _decode_tool_choice(nested["tool_choice"])
    config = nested["output_config"]
    reasoning = _decode_reasoning(nested["thinking"], take(config, "effort", STR, "output_config"))
    spelled = _said_false(members, "stream")
    form = _take_format(config, "format", "output_config")
    if form is None:
        form = _take_format(members, "output_format", "")
        if form is not None:
            spelled["response_format"] = "output_format"
    stop = take(members, "stop_sequences", _STRS, "")
    user = take(nested["metadata"], "user_id", STR, "metadata")
    chat = Chat(
        model=model,
        messages=tuple(messages),
        max_tokens=take(members, "max_tokens", INT, ""),
        temperature=take(members, "temperature", FLOAT, ""),
        top_p=take(members, "top_p", FLOAT, ""),
        top_k=take(members, "top_k", INT, ""),
        stop=stop or (),
        tools=tuple(_decode_tool(raw, f"tools[{number}]") for number, raw in enumerate(tools or ())),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        response_format=form,
        reasoning=reasoning,
        user=user,
        stream=take(members, "stream", BOOL, "") is True,
        include_usage=True,
    )
    members |= {name: json(rest) for name, rest in nested.items() if rest}
    # Even without members: it says where the chat comes from, and so which rules have been kept already.
    return msgspec.structs.replace(chat, provider_details=Details(NAME, _telling(members), spelled))


# --- encoding: blocks --------------------------------------------------------------------------------------------------


def _own(details: Details | None) -> Members:
    return details.members if details is not None and details.dialect == NAME else {}


def _warn_foreign(
    details: Details | None, where: str, warnings: list[str], *, silent: frozenset[str] = frozenset()
) -> None:
    if details is None or details.dialect == NAME:
        return
    for name, raw in details.members.items():
        if name not in silent and bytes(raw) != b"null":
            _warn(warnings, f"{where} {name} of {details.dialect} dropped")


def _warn(warnings: list[str], what: str) -> None:
    """Name a loss, once."""
    text = f"{NAME}: {what}"
    if text not in warnings:
        warnings.append(text)


def _finished(
    out: dict[str, Any], cache: CacheHint | None, details: Details | None, warnings: list[str]
) -> dict[str, Any]:
    """`out` with the breakpoint and the members that only we know."""
    _warn_foreign(details, out["type"], warnings)
    for name, raw in _own(details).items():
        if name != "cache_control":
            out[name] = raw
        elif cache is not None:
            out[name] = raw
            cache = None
    if cache is not None:
        out["cache_control"] = _control(cache)
    caller = _spelled(details, "caller")
    if caller is not None:
        out["caller"] = Raw(caller.encode())
    return out


def _control(cache: CacheHint) -> dict[str, Any]:
    return {"type": "ephemeral"} if cache.ttl is None else {"type": "ephemeral", "ttl": cache.ttl}


def _encode_block(block: Block, warnings: list[str], *, answer: bool = False) -> Any:
    """The wire form, or None for a block that is left out. `answer`: part of a reply, where clients read what the API
    itself would refuse in a request."""
    out: dict[str, Any]
    match block:
        case Text(text=text):
            if not text:
                return None
            return _finished({"type": "text", "text": text}, block.cache, block.provider_details, warnings)
        case Refusal(text=text):
            return _encode_block(Text(text=text, provider_details=block.provider_details), warnings)
        case ToolCall():
            out = {
                "type": "tool_use",
                # An answer keeps the id: it goes back to the server that made it, and some know their own form only.
                "id": block.id if answer else _wire_id(block.id),
                "name": block.name,
                "input": _input(block, warnings),
            }
            return _finished(out, block.cache, block.provider_details, warnings)
        case ToolResult():
            out = {"type": "tool_result", "tool_use_id": _wire_id(block.call_id)}
            if block.content:
                out["content"] = _encode_content(block.content, warnings)
            if block.is_error or _spelled(block.provider_details, "is_error"):
                out["is_error"] = block.is_error
            return _finished(out, block.cache, block.provider_details, warnings)
        case Thinking(redacted=str(data)):
            return _finished(
                {"type": "redacted_thinking", "data": data}, None, block.provider_details, warnings
            )
        case Thinking(text=text, signature=signature):
            if not signature and not answer:
                _warn(warnings, "thinking without a signature dropped")
                return None
            out = {"type": "thinking", "thinking": text, "signature": signature or ""}
            return _finished(out, None, block.provider_details, warnings)
        case Image():
            return _finished(
                {"type": "image", "source": _image_source(block, warnings)},
                block.cache,
                block.provider_details,
                warnings,
            )
        case Document():
            out = {"type": "document", "source": _document_source(block, warnings)}
            if block.name is not None:
                out["title"] = block.name
            return _finished(out, block.cache, block.provider_details, warnings)
        case Opaque(dialect=dialect, kind=kind, raw=raw):
            if dialect == NAME:
                return raw
            _warn(warnings, f"{dialect} block {kind} dropped")
            return None


def _wire_id(call_id: str) -> str:
    """Anthropic takes letters, digits, `_` and `-`; some servers put dots and colons into ids."""
    return _NOT_IN_IDS.sub("_", call_id)


def _input(call: ToolCall, warnings: list[str]) -> Raw:
    """The arguments as the object that `input` must be."""
    if not call.arguments.strip():
        return Raw(b"{}")
    try:
        members_of(call.arguments.encode(), "arguments")
    except Wrong:
        pass
    else:
        return Raw(call.arguments.encode())
    _warn(warnings, f"arguments of {call.name} are not a JSON object; sent as text in {_INVALID}")
    return json({_INVALID: call.arguments})


_MAGIC = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
"""How the base64 of the image formats that Anthropic takes begins."""


def _image_source(image: Image, warnings: list[str]) -> dict[str, Any]:
    if image.detail not in (None, "auto"):
        _warn(warnings, f"image detail {image.detail} dropped")
    if image.data is not None:
        kind = image.media_type
        if kind is None:
            kind = next((kind for magic, kind in _MAGIC.items() if image.data.startswith(magic)), "image/png")
        return {"type": "base64", "media_type": kind, "data": image.data}
    if image.url is not None:
        return {"type": "url", "url": image.url}
    return _file_source(image.file_id, warnings)


def _document_source(document: Document, warnings: list[str]) -> dict[str, Any]:
    kind = document.media_type
    if document.text is not None:
        return {"type": "text", "media_type": kind or "text/plain", "data": document.text}
    if document.data is not None:
        # Only PDFs go as base64; other texts go as text.
        if kind is not None and kind.startswith("text/"):
            try:
                text = base64.b64decode(document.data, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                pass
            else:
                return {"type": "text", "media_type": "text/plain", "data": text}
        return {"type": "base64", "media_type": kind or "application/pdf", "data": document.data}
    if document.url is not None:
        return {"type": "url", "url": document.url}
    return _file_source(document.file_id, warnings)


def _file_source(file_id: str | None, warnings: list[str]) -> dict[str, Any]:
    if file_id is not None and not file_id.startswith("file_"):
        _warn(warnings, f"file id {file_id} is not one of {NAME}; sent as it is")
    return {"type": "file", "file_id": file_id or ""}


def _encode_content(content: tuple[Block, ...], warnings: list[str]) -> Any:
    """A string for a lone plain text, else an array."""
    match content:
        case (Text(text=text, cache=None, provider_details=None),):
            return text
        case _:
            return [out for block in content if (out := _encode_block(block, warnings)) is not None]


# --- encoding: requests ------------------------------------------------------------------------------------------------


class _Turn:
    """A message on its way to the wire. `results`: how many tool results it begins with, which must come first."""

    __slots__ = ("blocks", "members", "results", "role")

    def __init__(self, role: str, members: Members) -> None:
        self.role = role
        self.blocks: list[Block] = []
        self.results = 0
        self.members = dict(members)

    def add(self, message: Message, content: tuple[Block, ...]) -> None:
        if message.role == "tool":
            self.blocks[self.results : self.results] = content
            self.results += len(content)
        else:
            self.blocks += content

    def wire(self, warnings: list[str]) -> dict[str, Any] | None:
        content = _encode_content(tuple(self.blocks), warnings)
        if not content:
            _warn(warnings, f"empty {self.role} message dropped")
            return None
        return {"role": self.role, "content": content, **self.members}


def _encode_messages(chat: Chat, warnings: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    """The top-level system (None if there is none) and the messages."""
    system: list[Block] = []
    turns: list[_Turn] = []
    native = _is_own(chat)
    for message in chat.messages:
        _warn_foreign(message.provider_details, "message", warnings)
        if message.name is not None:
            _warn(warnings, f"name of a {message.role} message dropped")
        ours = message.provider_details is not None and message.provider_details.dialect == NAME
        own = _own(message.provider_details)
        content = message.content
        if not native:
            # The API refuses most texts without a visible character, which other dialects take.
            content = tuple(block for block in content if not isinstance(block, Text) or block.text.strip())
        match message.role:
            case "system" | "developer" if not ours:
                if turns:
                    _warn(warnings, f"{message.role} message inside the conversation moved to its start")
                system += content
            case "system" | "developer":
                turns.append(_Turn("system", own))
                turns[-1].add(message, content)
            case "assistant":
                turns.append(_Turn("assistant", own))
                turns[-1].add(message, content)
            case role:
                # The results of one assistant turn are one message, and what the user says next comes after them.
                last = turns[-1] if turns and turns[-1].role == "user" else None
                if last is None or not (role == "tool" or last.results):
                    last = _Turn("user", {})
                    turns.append(last)
                last.add(message, content)
                last.members |= own
    texts: list[Block] = []
    for block in system:
        if isinstance(block, Text | Refusal) or (isinstance(block, Opaque) and block.dialect == NAME):
            texts.append(block)
        else:
            _warn(warnings, "content of a system message that is not text dropped")
    wire = [out for turn in turns if (out := turn.wire(warnings)) is not None]
    top = _encode_content(tuple(texts), warnings) or None
    if not wire and top is not None:
        _warn(warnings, "system text alone sent as a user message")
        return None, [{"role": "user", "content": top}]
    return top, wire


def _encode_tools(chat: Chat, warnings: list[str]) -> list[Any]:
    tools: list[Any] = []
    for tool in chat.tools:
        if tool.opaque is not None:
            if tool.opaque.dialect == NAME:
                tools.append(tool.opaque.raw)
            else:
                _warn(
                    warnings,
                    f"{tool.opaque.dialect} tool {tool.name or tool.opaque.kind} dropped",
                )
            continue
        out: dict[str, Any] = {"type": "tool", "name": tool.name}
        if tool.description is not None:
            out["description"] = tool.description
        out["input_schema"] = tool.parameters or Raw(b'{"type":"object","properties":{}}')
        if tool.strict is not None:
            out["strict"] = tool.strict
        _finished(out, tool.cache, tool.provider_details, warnings)
        if "type" not in _own(tool.provider_details):
            del out["type"]
        tools.append(out)
    return tools


def _encode_tool_choice(chat: Chat, have_tools: bool, warnings: list[str]) -> dict[str, Any]:
    choice, parallel = chat.tool_choice, chat.parallel_tool_calls
    if not have_tools:
        if choice is not None and choice.mode != "none" and not _is_own(chat):
            _warn(warnings, "tool_choice without tools dropped")
        if not _is_own(chat):
            return {}
    out: dict[str, Any] = {}
    match choice:
        case ToolChoice(mode="required"):
            out["type"] = "any"
        case ToolChoice(mode="tool", name=name):
            out |= {"type": "tool", "name": name or ""}
        case ToolChoice(mode=mode):
            out["type"] = mode
        case None if parallel is False:
            out["type"] = "auto"
        case None:
            return out
    if parallel is not None and out["type"] != "none":
        out["disable_parallel_tool_use"] = not parallel
    return out


def _is_own(chat: Chat) -> bool:
    return chat.provider_details is not None and chat.provider_details.dialect == NAME


def _generation(model: str) -> tuple[int, int] | None:
    """`(4, 5)` for `claude-sonnet-4-5-20250929`; None for a name that does not say."""
    found = _GENERATION.search(model)
    return None if found is None else (int(found[1]), int(found[2] or 0))


def _in_tool_loop(chat: Chat) -> bool:
    """Whether the model's last turn called tools and has no signed thinking, which thinking with a budget requires."""
    for message in reversed(chat.messages):
        if message.role == "user":
            return False
        if message.role == "assistant":
            kinds = message.content
            return any(isinstance(block, ToolCall) for block in kinds) and not any(
                isinstance(block, Thinking) and (block.signature or block.redacted) for block in kinds
            )
    return False


def _translated_thinking(
    chat: Chat, max_tokens: int, forced: bool, warnings: list[str]
) -> tuple[dict[str, Any], str | None]:
    """`thinking` and `output_config.effort` for a chat that says neither in our words."""
    wanted = chat.reasoning
    if wanted is None:
        return {}, None
    generation = _generation(chat.model)
    adaptive = generation is not None and generation >= _ADAPTIVE_SINCE
    if generation is not None and generation < _BUDGET_SINCE:
        if wanted.enabled:
            _warn(warnings, f"reasoning dropped: {chat.model} cannot think")
        return {}, None
    if not wanted.enabled or wanted.effort == "none":
        return {"type": "disabled"}, None
    effort = None
    if adaptive and wanted.effort is not None:
        effort = wanted.effort
        lower = {"minimal": "low", "xhigh": "high" if generation == _ADAPTIVE_SINCE else "xhigh"}.get(
            effort, effort
        )
        if lower != effort:
            _warn(warnings, f"reasoning effort {effort} sent as {lower}")
            effort = lower
    if forced:
        _warn(warnings, "thinking dropped: a tool is forced")
        return {}, effort
    if adaptive and (wanted.budget_tokens is None or (generation or (0, 0)) >= _NO_SAMPLING_SINCE):
        if wanted.budget_tokens is not None:
            _warn(warnings, f"thinking budget dropped: {chat.model} thinks adaptively")
        return {"type": "adaptive"}, effort
    budget = wanted.budget_tokens
    if budget is None:
        share = EFFORT_SHARES.get(wanted.effort or "medium")
        if share is None:
            _warn(warnings, f"reasoning effort {wanted.effort} is not known; sent as medium")
            share = EFFORT_SHARES["medium"]
        budget = max(MIN_BUDGET, int(max_tokens * share))
    if _in_tool_loop(chat):
        _warn(warnings, "thinking dropped: the tool calls in progress carry no signed thinking")
        return {}, effort
    return _with_budget({}, budget, max_tokens, warnings), effort


def _with_budget(
    thinking: dict[str, Any], budget: int, max_tokens: int, warnings: list[str]
) -> dict[str, Any]:
    """Thinking with a budget below `max_tokens`, or none where that leaves less than the least one."""
    if budget >= max_tokens:
        if max_tokens <= MIN_BUDGET:
            _warn(warnings, f"thinking dropped: max_tokens {max_tokens} leaves no room for it")
            return {}
        _warn(warnings, f"thinking budget {budget} lowered below max_tokens {max_tokens}")
        budget = max_tokens - 1
    return {"type": "enabled", "budget_tokens": budget, **thinking}


def _own_thinking(
    chat: Chat, kept: Members, max_tokens: int, warnings: list[str]
) -> tuple[dict[str, Any], str | None]:
    wanted = chat.reasoning
    thinking: dict[str, Any] = dict(kept)
    if wanted is None or "type" in kept:
        pass
    elif not wanted.enabled:
        thinking = {"type": "disabled", **kept}
    elif wanted.budget_tokens is not None:
        thinking = _with_budget(thinking, wanted.budget_tokens, max_tokens, warnings)
    return thinking, None if wanted is None else wanted.effort


def _sampling(chat: Chat, thinks: bool, warnings: list[str]) -> dict[str, Any]:
    """`temperature`, `top_p`, `top_k` as the model takes them."""
    temperature = chat.temperature
    if temperature is not None and temperature > 1:
        _warn(warnings, f"temperature {temperature:g} lowered to 1")
        temperature = 1.0
    given = {"temperature": temperature, "top_p": chat.top_p, "top_k": chat.top_k}
    out = {name: value for name, value in given.items() if value is not None}
    if _is_own(chat):
        return out
    generation = _generation(chat.model)
    fixed = generation is not None and generation >= _NO_SAMPLING_SINCE
    if fixed or thinks:
        why = f"{chat.model} does not take it" if fixed else "the model thinks"
        for name in list(out):
            if out.pop(name) != 1 or name == "top_k":
                _warn(warnings, f"{name} dropped: {why}")
    elif "temperature" in out and out.pop("top_p", 1) != 1:
        # Models since Claude 4.5 refuse both together.
        _warn(warnings, "top_p dropped: temperature is given")
    return out


def _encode_format(form: ResponseFormat | None, warnings: list[str]) -> dict[str, Any]:
    match form:
        case ResponseFormat(kind="json_schema", schema=schema) if schema is not None:
            return {"type": "json_schema", "schema": schema}
        case ResponseFormat(kind="json_object" | "json_schema"):
            _warn(warnings, f"response_format {form.kind} without a schema dropped")
    return {}


# --- encoding: answers -------------------------------------------------------------------------------------------------


def _finish(stop_reason: str | None) -> FinishReason:
    return "other" if stop_reason is None else _FINISH.get(stop_reason, "other")


def _stop_reason(finish: FinishReason, raw: str | None, has_calls: bool) -> str:
    """The provider's own word where it is one of ours and means `finish`, else our word for it. An answer with tool calls
    then says so, even if its server said `stop`: agents go by it."""
    if raw is not None and _finish(raw) == finish:
        return raw
    if finish == "stop" and has_calls:
        return "tool_use"
    return _STOP_REASON.get(finish, "end_turn")


def _encode_usage(usage: Usage) -> dict[str, Any]:
    written = usage.cache_write_tokens
    out: dict[str, Any] = {
        "input_tokens": max(0, usage.input_tokens - usage.cache_read_tokens - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if written:
        hour = usage.cache_write_1h_tokens
        out["cache_creation"] = {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        }
    if usage.reasoning_tokens:
        out["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return out


def _larger(old: Usage, new: Usage) -> Usage:
    """Two reports of one answer. Counts only grow; a report that leaves one out, or says 0, knows less."""
    return Usage(
        input_tokens=max(old.input_tokens, new.input_tokens),
        output_tokens=max(old.output_tokens, new.output_tokens),
        cache_read_tokens=max(old.cache_read_tokens, new.cache_read_tokens),
        cache_write_tokens=max(old.cache_write_tokens, new.cache_write_tokens),
        cache_write_1h_tokens=max(old.cache_write_1h_tokens, new.cache_write_1h_tokens),
        reasoning_tokens=max(old.reasoning_tokens, new.reasoning_tokens),
    )


def _with_id(call: ToolCall, message_id: str, index: int) -> ToolCall:
    """Some servers send calls without an id; results are matched by it, so it is made from the message's."""
    if call.id:
        return call
    return msgspec.structs.replace(call, id=f"toolu_{_wire_id(message_id)}_{index}")


# --- the dialect -------------------------------------------------------------------------------------------------------


class Anthropic:
    """The `Dialect` of Anthropic Messages; the base URL is `https://api.anthropic.com`."""

    __slots__ = ()

    name = NAME
    path = "/v1/messages"
    default_headers: Headers = (("anthropic-version", "2023-06-01"),)

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
            return _decode_chat(body)
        except (Wrong, *UNREADABLE) as error:
            raise invalid_request(error) from None

    def encode_request(self, chat: Chat, warnings: list[str]) -> bytes:
        own = _own(chat.provider_details)
        _warn_foreign(chat.provider_details, "request", warnings)
        kept = {
            name: members_of(own[name], name) if name in own else {}
            for name in ("tool_choice", "thinking", "output_config", "metadata")
        }
        max_tokens = chat.max_tokens
        if max_tokens is None:
            max_tokens = DEFAULT_MAX_TOKENS
            _warn(warnings, f"max_tokens is required and was not given: {max_tokens} sent")
        system, messages = _encode_messages(chat, warnings)
        tools = _encode_tools(chat, warnings)
        choice = {**kept["tool_choice"], **_encode_tool_choice(chat, bool(tools), warnings)}
        if _is_own(chat):
            thinking, effort = _own_thinking(chat, kept["thinking"], max_tokens, warnings)
        else:
            forced = choice.get("type") in ("any", "tool")
            thinking, effort = _translated_thinking(chat, max_tokens, forced, warnings)
        config: dict[str, Any] = dict(kept["output_config"])
        if effort is not None:
            config["effort"] = effort
        old_form: dict[str, Any] = {}
        if form := _encode_format(chat.response_format, warnings):
            old = _spelled(chat.provider_details, "response_format") is not None
            rest = own.get("output_format") if old else config.get("format")
            if rest is not None:
                form |= members_of(rest, "format")
            if old:
                old_form = form
            else:
                config["format"] = form
        metadata = {**kept["metadata"], **({} if chat.user is None else {"user_id": chat.user})}
        stop = [text for text in chat.stop if text.strip() or _is_own(chat)]
        if len(stop) < len(chat.stop):
            _warn(warnings, "stop sequences of white space dropped")
        for name, asked in (
            ("seed", chat.seed is not None),
            ("n", chat.n not in (None, 1)),
            ("frequency_penalty", bool(chat.frequency_penalty)),
            ("presence_penalty", bool(chat.presence_penalty)),
        ):
            if asked:
                _warn(warnings, f"{name} dropped")
        out: dict[str, Any] = {"model": chat.model, "max_tokens": max_tokens}
        if system is not None:
            out["system"] = system
        out["messages"] = messages
        out |= _sampling(chat, thinking.get("type") in ("enabled", "adaptive"), warnings)
        if chat.stream or _spelled(chat.provider_details, "stream"):
            out["stream"] = chat.stream
        for name, value in (
            ("stop_sequences", stop),
            ("tools", tools),
            ("tool_choice", choice),
            ("thinking", thinking),
            ("output_config", config),
            ("metadata", metadata),
            ("output_format", old_form),
        ):
            if value:
                out[name] = value
        for name, raw in own.items():
            if name not in kept:
                out.setdefault(name, raw)
        return _encode(out)

    def splice(self, body: bytes, *, model: str, include_usage: bool, max_tokens: int | None) -> bytes:
        """As the protocol says. A thinking budget that a new `max_tokens` would make invalid is lowered below it, or
        thinking turned off where that leaves less than `MIN_BUDGET`. Raises `InvalidRequest`."""
        changes = {"model": _encode(model)}
        self.peek(body)
        if max_tokens is not None:
            changes["max_tokens"] = _encode(max_tokens)
            if b"budget_tokens" in body:
                try:
                    thinking = _BUDGET.decode(body).thinking
                except UNREADABLE as error:
                    raise invalid_request(error) from None
                budget = None if thinking is None else thinking.get("budget_tokens")
                if thinking is not None and isinstance(budget, int) and budget >= max_tokens:
                    fits = max_tokens > MIN_BUDGET
                    lowered = {**thinking, "budget_tokens": max_tokens - 1} if fits else {"type": "disabled"}
                    changes["thinking"] = _encode(lowered)
        return splice(body, changes, present=("model",))

    def decode_reply(self, body: bytes) -> Reply:
        try:
            check_utf8(body)
            members = members_of(body, "body")
            if "error" in members:
                raise read_error(status=None, headers={}, body=body, dialect=NAME, now_wall=0.0)
            items: list[Raw] = need(members, "content", ITEMS, "")
            content = tuple(_decode_block(raw, f"content[{number}]") for number, raw in enumerate(items))
            said = members.pop("usage", None)
            usage = _decode_usage(said)
            spelled = {} if said is None or usage is None else {"usage": _text_of(said, "usage")}
            for constant in ("type", "role"):
                members.pop(constant, None)
            raw_reason = take(members, "stop_reason", STR, "")
            return Reply(
                id=_text(members, "id", ""),
                model=_text(members, "model", ""),
                content=content,
                finish=_finish(raw_reason),
                finish_raw=raw_reason,
                stop_sequence=take(members, "stop_sequence", STR, ""),
                usage=usage,
                provider_details=_details(members, spelled),
            )
        except (Wrong, *UNREADABLE) as error:
            raise Malformed(f"not an answer of {NAME}: {error}", body=body, dialect=NAME) from None

    def encode_reply(self, reply: Reply, warnings: list[str]) -> bytes:
        content: list[Any] = []
        for index, block in enumerate(reply.content):
            if isinstance(block, ToolCall):
                block = _with_id(block, reply.id, index)
            if (out := _encode_block(block, warnings, answer=True)) is not None:
                content.append(out)
        _warn_foreign(reply.provider_details, "answer", warnings, silent=_BOOKKEEPING)
        usage: Any = _encode_usage(reply.usage or Usage())
        said = _spelled(reply.provider_details, "usage")
        if said is not None:
            # The provider's own report goes out as it was, as long as nobody changed the counts.
            raw = Raw(said.encode())
            if _decode_usage(raw) == reply.usage:
                usage = raw
        return _encode(
            {
                "id": reply.id,
                "type": "message",
                "role": "assistant",
                "model": reply.model,
                "content": content,
                "stop_reason": _stop_reason(reply.finish, reply.finish_raw, bool(reply.tool_calls)),
                "stop_sequence": reply.stop_sequence,
                "usage": usage,
                **_own(reply.provider_details),
            }
        )

    def decoder(self, *, hide_usage: bool) -> _Decoder:
        """`hide_usage` changes nothing: usage is part of every stream of this dialect."""
        return _Decoder()

    def encoder(self, *, include_usage: bool, model: str, id: str) -> _Encoder:  # noqa: A002
        """`include_usage` changes nothing. `model` and `id` stand in until a `Start` says better."""
        return _Encoder(model=model, message_id=id)

    def encode_error(self, kind: str, message: str, *, status: int, request_id: str) -> bytes:
        return _encode(_error(kind, message, status, request_id))

    def encode_stream_error(self, kind: str, message: str, *, status: int, request_id: str) -> bytes:
        return _sse("error", _error(kind, message, status, request_id))


def _error(kind: str, message: str, status: int, request_id: str) -> dict[str, Any]:
    fallback = "invalid_request_error" if 400 <= status < 500 else "api_error"
    word = _ERROR_TYPES.get(kind) or _ERROR_TYPES_BY_STATUS.get(status, fallback)
    return {"type": "error", "error": {"type": word, "message": message}, "request_id": request_id}


# --- streams -----------------------------------------------------------------------------------------------------------


class _Decoder:
    """`StreamDecoder` for one streamed answer.

    A block that only this dialect knows is given out whole, when it is complete: its pieces mean nothing to anyone else.
    """

    __slots__ = ("_calls", "_cited", "_held", "_index", "_sse", "_usage")

    def __init__(self) -> None:
        self._sse = SSEParser()
        self._index: dict[int, int] = {}  # the wire's block numbers to ours
        self._calls: dict[int, str] = {}  # arguments that a call began with and that no piece has replaced
        self._held: dict[int, tuple[Opaque, list[Raw]]] = {}
        self._cited: dict[int, tuple[Members, list[Raw]]] = {}  # what else a text began with, and its citations
        self._usage = Usage()

    def feed(self, data: bytes) -> Batch:
        return self._frames(self._sse.feed(data))

    def close(self) -> Batch:
        return self._frames(self._sse.close())

    def _frames(self, events: list[SSEEvent]) -> Batch:
        frames: Batch = []
        for event in events:
            try:
                frames.append(self._frame(event))
            except ProviderError as error:
                error.frames = frames
                raise
            except (Wrong, *UNREADABLE) as error:
                broken = self._malformed(event, str(error))
                broken.frames = frames
                raise broken from None
        return frames

    def _frame(self, event: SSEEvent) -> Frame:
        raw = event.raw
        try:
            wire = _EVENT.decode(event.data)
        except msgspec.DecodeError as error:
            return self._unusual(event, error)
        if type(wire) is _BlockDelta:
            if wire.index in self._held:
                check_utf8(event.data)
                self._held[wire.index][1].append(_ANY_DELTA.decode(event.data).delta)
                return Frame((), raw, NAME)
            index = self._index.get(wire.index)
            if index is None:
                raise self._malformed(event, f"a piece of block {wire.index}, which has not begun")
            delta = wire.delta
            if type(delta) is _TextDelta:
                piece = Delta(index, "text", delta.text)
            elif type(delta) is _ArgumentsDelta:
                piece = Delta(index, "arguments", delta.partial_json)
                if piece.text:
                    self._calls.pop(wire.index, None)
            elif type(delta) is _ThinkingDelta:
                piece = Delta(index, "thinking", delta.thinking)
            else:
                assert type(delta) is _SignatureDelta
                piece = Delta(index, "signature", delta.signature)
            return Frame((piece,) if piece.text else (), raw, NAME)
        match wire:
            case _BlockStart():
                return Frame(self._block_start(event, wire), raw, NAME)
            case _BlockStop(index=number):
                return Frame(self._block_stop(event, number), raw, NAME)
            case _MessageStart(message=head):
                start = Start(head.id, head.model)
                return Frame((start, *self._report(head.usage)), raw, NAME)
            case _MessageDelta(delta=stop, usage=usage):
                reason = stop.stop_reason
                finish = () if reason is None else (Finish(_finish(reason), reason, stop.stop_sequence),)
                return Frame((*finish, *self._report(usage)), raw, NAME)
            case _MessageStop():
                return Frame((End(),), raw, NAME)
            case _Ping():
                return Frame((Ping(),), raw, NAME)
            case _:
                raise read_error(status=None, headers={}, body=event.data, dialect=NAME, now_wall=0.0)

    def _unusual(self, event: SSEEvent, error: msgspec.DecodeError) -> Frame:
        """Comments, `[DONE]`, events without `type`, and those that we do not know."""
        data, raw = event.data, event.raw
        if event.comment:
            return Frame((Ping(),), raw, NAME)
        check_utf8(data)
        if data.strip() == b"[DONE]":
            # Some gateways append it; the SDKs trip over it.
            return Frame((), raw, NAME, hidden=True)
        try:
            members = members_of(data, "data")
            kind = take(dict(members), "type", STR, "data")
        except Wrong:
            members, kind = {}, None
        if "error" in members or event.name == "error":
            raise read_error(status=None, headers={}, body=data, dialect=NAME, now_wall=0.0)
        if not members:
            raise self._malformed(event, str(error))
        if kind is None:
            if not event.name or "type" in members:
                return Frame((OpaqueEvent(NAME, event.name),), raw, NAME)
            named = _encode({"type": event.name, **members})
            return self._frame(SSEEvent(event.name, named, raw))
        if kind == "content_block_delta":
            piece = _ANY_DELTA.decode(data)
            if piece.index in self._held:
                self._held[piece.index][1].append(piece.delta)
                return Frame((), raw, NAME)
            index = self._index.get(piece.index)
            if index is None:
                raise self._malformed(event, f"a piece of block {piece.index}, which has not begun")
            if piece.index in self._cited:
                citation = members_of(piece.delta, "delta").get("citation")
                if citation is not None:
                    self._cited[piece.index][1].append(citation)
            return Frame((Delta(index, "opaque", _text_of(piece.delta, "delta")),), raw, NAME)
        if kind in _KNOWN_EVENTS:
            raise self._malformed(event, str(error))
        return Frame((OpaqueEvent(NAME, kind),), raw, NAME)

    def _malformed(self, event: SSEEvent, problem: str) -> Malformed:
        return Malformed(f"not a stream of {NAME}: {problem}", body=event.data, dialect=NAME)

    def _report(self, raw: Raw) -> tuple[UsageReport, ...]:
        usage = _decode_usage(raw)
        if usage is None:
            return ()
        self._usage = _larger(self._usage, usage)
        return (UsageReport(self._usage),)

    def _block_start(self, event: SSEEvent, wire: _BlockStart) -> tuple[Event, ...]:
        check_utf8(wire.content_block)
        block = _decode_block(wire.content_block, "content_block")
        index = self._index[wire.index] = len(self._index)
        first: list[Event] = []
        match block:
            case Opaque():
                self._held[wire.index] = (block, [])
                return ()
            case Text(text=text):
                begun: Block = msgspec.structs.replace(block, text="")
                first.append(Delta(index, "text", text))
                self._cited[wire.index] = _own(block.provider_details), []
            case Thinking(redacted=None):
                begun = msgspec.structs.replace(block, text="", signature=None)
                first += (
                    Delta(index, "thinking", block.text),
                    Delta(index, "signature", block.signature or ""),
                )
            case ToolCall(arguments=arguments):
                begun = msgspec.structs.replace(block, arguments="")
                self._calls[wire.index] = arguments
            case _:
                begun = block
        return (
            BlockStart(index, begun),
            *(piece for piece in first if isinstance(piece, Delta) and piece.text),
        )

    def _block_stop(self, event: SSEEvent, number: int) -> tuple[Event, ...]:
        index = self._index.get(number)
        if index is None:
            raise self._malformed(event, f"the end of block {number}, which has not begun")
        if number in self._held:
            block, pieces = self._held.pop(number)
            whole = _grown(block, pieces)
            if whole is not None:
                return BlockStart(index, whole), BlockStop(index)
            deltas = (Delta(index, "opaque", str(memoryview(piece), "utf-8", "replace")) for piece in pieces)
            return BlockStart(index, block), *deltas, BlockStop(index)
        before, cited = self._cited.pop(number, ({}, []))
        if cited:
            return (BlockStop(index, Details(NAME, {**before, "citations": json(cited)})),)
        arguments = self._calls.pop(number, None)
        if arguments is not None:
            return Delta(index, "arguments", arguments), BlockStop(index)
        return (BlockStop(index),)


def _grown(block: Opaque, pieces: list[Raw]) -> Opaque | None:
    """The block with its pieces put in; None if there is one that we do not know how to put in."""
    if not pieces:
        return block
    try:
        members = members_of(block.raw, "content_block")
        written: list[str] = []
        for piece in pieces:
            delta = members_of(piece, "delta")
            match need(delta, "type", STR, "delta"):
                case "input_json_delta":
                    written.append(_text(delta, "partial_json", "delta"))
                case "compaction_delta":
                    members |= delta
                case _:
                    return None
        if text := "".join(written):
            members_of(text.encode(), "input")
            members["input"] = Raw(text.encode())
    except Wrong:
        return None
    return Opaque(dialect=NAME, kind=block.kind, raw=json(members))


def _sse(name: str, data: Mapping[str, Any]) -> bytes:
    text = _encode(data)
    if b"\n" in text or b"\r" in text:
        # Raw members may have come with line breaks, which would end the line of the event.
        text = msgspec.json.format(text, indent=-1)
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text)


_DELTA_MEMBERS = {
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "arguments": ("input_json_delta", "partial_json"),
    "thinking": ("thinking_delta", "thinking"),
    "signature": ("signature_delta", "signature"),
}


class _Encoder:
    """`StreamEncoder` for one streamed answer.

    Clients of Anthropic expect one block after the other. Where the source has several open at once (parallel tool calls),
    the pieces of the later ones wait until the earlier one closes. `message_delta` waits for the end, since other dialects
    report usage only there; `message_start` waits for the first content, since it has the input tokens where they are known.
    """

    __slots__ = ("_calls", "_finish", "_id", "_model", "_numbers", "_open", "_started", "_usage", "_waiting")

    def __init__(self, *, model: str, message_id: str) -> None:
        self._model = model
        self._id = message_id
        self._started = False
        self._usage = Usage()
        self._finish: Finish | None = None
        self._calls = False
        self._numbers: dict[int, int] = {}  # the blocks that can be carried, to the wire's numbers
        self._open: int | None = None
        self._waiting: dict[
            int, list[bytes]
        ] = {}  # behind the open one, in order; the last piece is b"" once closed

    def feed(self, event: Event) -> bytes:
        match event:
            case Delta(index=index, kind=kind, text=text):
                number = self._numbers.get(index)
                if number is None or not text:
                    return b""
                if index == self._open:
                    return _delta(number, kind, text)
                return self._later(index, _delta(number, kind, text))
            case BlockStart():
                return self._block_start(event)
            case BlockStop(index=index):
                return self._block_stop(index)
            case Start():
                self._id, self._model = event.id or self._id, event.model or self._model
            case UsageReport(usage=usage):
                self._usage = usage
            case Finish():
                self._finish = event
            case Ping() if self._started:
                return _sse("ping", {"type": "ping"})
            case Complete(reply=reply):
                return b"".join(self.feed(part) for part in reply_events(reply))
            case _:
                pass
        return b""

    def end(self) -> bytes:
        out = [self._begin()]
        while self._open is not None:
            out.append(self._block_stop(self._open))
        finish = self._finish or Finish("stop")
        delta = {
            "stop_reason": _stop_reason(finish.reason, finish.raw, self._calls),
            "stop_sequence": finish.stop_sequence,
        }
        usage = _encode_usage(self._usage)
        out.append(_sse("message_delta", {"type": "message_delta", "delta": delta, "usage": usage}))
        out.append(_sse("message_stop", {"type": "message_stop"}))
        return b"".join(out)

    def _begin(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _encode_usage(self._usage),
        }
        return _sse("message_start", {"type": "message_start", "message": message})

    def _block_start(self, event: BlockStart) -> bytes:
        begun = self._begun(event.index, event.block)
        if begun is None:
            return b""
        block, pieces = begun
        number = self._numbers[event.index] = len(self._numbers)
        start = _sse(
            "content_block_start", {"type": "content_block_start", "index": number, "content_block": block}
        )
        out = start + b"".join(_delta(number, kind, text) for kind, text in pieces if text)
        if self._open is None:
            self._open = event.index
            return self._begin() + out
        self._waiting[event.index] = [out]
        return b""

    def _begun(self, index: int, block: Block) -> tuple[Any, list[tuple[str, str]]] | None:
        """The block as it begins on the wire and the pieces that follow at once; None for one that cannot be carried."""
        ignored: list[str] = []
        match block:
            case Text(text=text):
                return _finished({"type": "text", "text": ""}, None, block.provider_details, ignored), [
                    ("text", text)
                ]
            case Refusal(text=text):
                return {"type": "text", "text": ""}, [("text", text)]
            case ToolCall(arguments=arguments):
                self._calls = True
                empty = msgspec.structs.replace(_with_id(block, self._id, index), arguments="")
                return _encode_block(empty, ignored, answer=True), [("arguments", arguments)]
            case Thinking(redacted=None):
                empty_thinking = {"type": "thinking", "thinking": "", "signature": ""}
                return _finished(empty_thinking, None, block.provider_details, ignored), [
                    ("thinking", block.text),
                    ("signature", block.signature or ""),
                ]
            case Opaque(dialect=dialect, kind=kind, raw=raw) if dialect == NAME:
                if kind.endswith("tool_use"):
                    # As the API itself does it: the input comes in a piece.
                    members = members_of(raw, "content_block")
                    written = members.pop("input", None)
                    if written is not None and bytes(written) != b"{}":
                        return {**members, "input": {}}, [("arguments", str(memoryview(written), "utf-8"))]
                return raw, []
            case _:
                out = _encode_block(block, ignored, answer=True)
                return None if out is None else (out, [])

    def _block_stop(self, index: int) -> bytes:
        if index not in self._numbers:
            return b""
        if index != self._open:
            return self._later(index, b"")
        out = [self._stop(index)]
        self._open = None
        while self._waiting:
            following = next(iter(self._waiting))
            pieces = self._waiting.pop(following)
            out += pieces
            if pieces[-1]:
                self._open = following
                break
            out.append(self._stop(following))
        return b"".join(out)

    def _later(self, index: int, piece: bytes) -> bytes:
        if index in self._waiting:
            self._waiting[index].append(piece)
        return b""

    def _stop(self, index: int) -> bytes:
        return (
            b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
            % self._numbers[index]
        )


def _delta(number: int, kind: str, text: str) -> bytes:
    if kind == "opaque":
        return _sse(
            "content_block_delta",
            {"type": "content_block_delta", "index": number, "delta": Raw(text.encode())},
        )
    name, member = _DELTA_MEMBERS[kind]
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
        % (number, name.encode(), member.encode(), _encode(text))
    )


ANTHROPIC = Anthropic()
