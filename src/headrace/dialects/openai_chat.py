"""OpenAI chat completions, in both directions, as OpenAI and the servers compatible with it speak them.

What the typed values have no place for is kept as raw JSON in `Details` and `Opaque` and written back when the target
speaks this dialect too. What cannot be carried to or from another dialect is named in the warnings.

The rules of the wire are those of the public API reference (chat completions) and of recorded traffic. Where compatible
servers differ, all are read: thinking as `reasoning_content` (DeepSeek, vLLM, llama.cpp, xAI), `reasoning` (OpenRouter, Groq,
Cerebras) or parts of type `thinking` (Mistral); usage at the end, in every chunk (xAI, Perplexity) or in `x_groq`; tool
calls without an index, or whose chunks repeat the id and the name; arguments as an object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from headrace.dialects.faults import read_error
from headrace.dialects.splice import members, splice
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

__all__ = ["EFFORT_BUDGETS", "OPENAI_CHAT", "OpenAIChat"]

NAME = "openai-chat"

EFFORT_BUDGETS = ((10_000, "high"), (5_000, "medium"), (0, "low"))
"""The effort word for a thinking budget of at least so many tokens: the thresholds of LiteLLM's Anthropic adapter, without its
`minimal`, which most models do not know."""

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_FINISH_WORD: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "pause": "stop",
    "other": "stop",
    "length": "length",
    "context_full": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}

# kind -> (type, code), as OpenAI sends them; `server_error` and no code for the rest. API reference, "Error codes".
_ERRORS: dict[str, tuple[str, str | None]] = {
    "invalid_request": ("invalid_request_error", None),
    "unsupported": ("invalid_request_error", "unsupported_parameter"),
    "model_not_found": ("invalid_request_error", "model_not_found"),
    "unauthorized": ("invalid_request_error", "invalid_api_key"),
    "forbidden": ("invalid_request_error", "permission_denied"),
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "context_too_long": ("invalid_request_error", "context_length_exceeded"),
    "content_filtered": ("invalid_request_error", "content_filter"),
    "refusal": ("invalid_request_error", "content_filter"),
    "rate_limited": ("requests", "rate_limit_exceeded"),
    "budget_exceeded": ("insufficient_quota", "insufficient_quota"),
    "quota_exhausted": ("insufficient_quota", "insufficient_quota"),
    "overloaded": ("server_error", "server_is_overloaded"),
    "deadline_exceeded": ("server_error", "deadline_exceeded"),
    "timeout": ("server_error", "timeout"),
    "shutting_down": ("server_error", "shutting_down"),
    "stream_broken": ("server_error", "stream_broken"),
    "all_targets_failed": ("server_error", "all_targets_failed"),
}

_encode = msgspec.json.Encoder().encode
_STR_OR_ITEMS: msgspec.json.Decoder[str | list[Raw] | None] = msgspec.json.Decoder(str | list[Raw] | None)
_STRS: msgspec.json.Decoder[str | tuple[str, ...] | None] = msgspec.json.Decoder(str | tuple[str, ...] | None)
_NUMBER: msgspec.json.Decoder[int | float | None] = msgspec.json.Decoder(int | float | None)
_TEXT = msgspec.json.Decoder(str)


# --- the wire: what is read on the hot path ---------------------------------------------------------------------------


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Peek(Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class _Function(Struct):
    name: str | None = None
    arguments: Raw = Raw()


class _CallPiece(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | list[_Part] | None = None


class _Delta(Struct):
    content: str | list[_Part] | None = None
    tool_calls: list[_CallPiece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Raw = Raw()
    refusal: str | None = None
    function_call: _Function | None = None


class _Choice(Struct):
    index: int | None = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    id: str | None = None
    choices: list[_Choice] | None = None
    created: int | float | None = None
    model: str | None = None
    object: str | None = None
    type: str | None = None
    usage: Raw = Raw()
    x_groq: Raw = Raw()
    error: Raw = Raw()


class _PromptDetails(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None

    def typed(self) -> Usage:
        prompt, completion = self.prompt_tokens or 0, self.completion_tokens or 0
        inside = self.prompt_tokens_details or _PromptDetails()
        thought = self.completion_tokens_details
        reasoning = 0 if thought is None else thought.reasoning_tokens or 0
        # xAI counts thinking beside the completion, Gemini in the total only. The total proves both.
        beside = (self.total_tokens or 0) - prompt - completion
        if beside > 0 and reasoning in (0, beside):
            completion += beside
            reasoning = beside
        # Parts are no larger than the whole, whatever a server says (Azure's Grok, OpenRouter's Gemini).
        read = min(inside.cached_tokens or self.prompt_cache_hit_tokens or 0, prompt)
        return Usage(
            input_tokens=prompt,
            output_tokens=completion,
            cache_read_tokens=read,
            cache_write_tokens=min(inside.cache_write_tokens or 0, prompt - read),
            reasoning_tokens=reasoning,
        )


class _Groq(Struct):
    usage: _Usage | None = None


_PEEK = msgspec.json.Decoder(_Peek)
_CHUNK = msgspec.json.Decoder(_Chunk)
_USAGE: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None)
_GROQ: msgspec.json.Decoder[_Groq | None] = msgspec.json.Decoder(_Groq | None)
_USAGE_MEMBERS = {
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "prompt_cache_hit_tokens",
}
_PARTS: msgspec.json.Decoder[str | list[_Part] | None] = msgspec.json.Decoder(str | list[_Part] | None)
_PLAIN = ("reasoning_content", "reasoning")
_CLAUDE = "anthropic-claude-v1"
"""OpenRouter's word for the form of reasoning details that only Claude reads again."""
_EMPTY = (b"null", b"{}", b"[]")
_NO_ERROR = (b"null", b"{}", b"[]", b'""', b"false")


def _finish(word: str) -> FinishReason:
    return _FINISH.get(word, "other")


def _details(rest: Members, spelled: dict[str, str] | None = None) -> Details | None:
    return Details(NAME, rest, spelled or {}) if rest or spelled else None


def _arguments(raw: Raw) -> str:
    """The arguments' text: OpenAI sends it as a string, some servers the object itself."""
    text = bytes(raw)
    if text in (b"", b"null"):
        return ""
    return _TEXT.decode(text) if text.startswith(b'"') else text.decode()


# --- decoding: requests and replies -----------------------------------------------------------------------------------


def _decode_parts(content: str | list[Raw] | None, path: str) -> list[Block]:
    if not content:
        return []
    if isinstance(content, str):
        return [Text(text=content)]
    return [_decode_part(raw, f"{path}[{index}]") for index, raw in enumerate(content)]


def _decode_part(raw: Raw, path: str) -> Block:
    part = members_of(raw, path)
    kind = need(part, "type", STR, path)
    match kind:
        case "text":
            text = need(part, "text", STR, path)
            cache, spelled = _take_cache(part)
            return Text(text=text, cache=cache, provider_details=_details(part, spelled))
        case "refusal":
            return Refusal(text=need(part, "refusal", STR, path), provider_details=_details(part))
        case "image_url":
            image = take_members(part, "image_url", path)
            if image is None:
                raise Wrong(f"{path}.image_url", "is required")
            url = need(image, "url", STR, f"{path}.image_url")
            detail = take(image, "detail", STR, f"{path}.image_url")
            _keep(part, "image_url", image)
            cache, spelled = _take_cache(part)
            media_type, payload = _data_url(url) or (None, None)
            return Image(
                media_type=media_type,
                data=payload,
                url=url if payload is None else None,
                detail=detail,
                cache=cache,
                provider_details=_details(part, spelled),
            )
        case "file":
            file = take_members(part, "file", path)
            if file is None:
                raise Wrong(f"{path}.file", "is required")
            data = take(file, "file_data", STR, f"{path}.file")
            file_id = take(file, "file_id", STR, f"{path}.file")
            name = take(file, "filename", STR, f"{path}.file")
            _keep(part, "file", file)
            cache, spelled = _take_cache(part)
            media_type, payload = _data_url(data or "") or (None, data)
            return Document(
                media_type=media_type,
                data=payload,
                file_id=file_id,
                name=name,
                cache=cache,
                provider_details=_details(part, spelled),
            )
        case "thinking" if "thinking" in part:
            thought = _spoken(take(part, "thinking", _PARTS, path))
            return Thinking(text=thought, provider_details=_details(part, {"thinking": "part"}))
        case _:
            return Opaque(dialect=NAME, kind=kind, raw=raw)


def _take_cache(members: Members) -> tuple[CacheHint | None, dict[str, str] | None]:
    """The cache breakpoint, as OpenRouter and others take it here for Anthropic's models, and the mark that it came so."""
    raw = members.get("cache_control")
    if raw is None:
        return None, None
    match msgspec.json.decode(raw):
        case {"type": "ephemeral", "ttl": str(ttl), **rest} if not rest:
            hint = CacheHint(ttl)
        case {"type": "ephemeral", **rest} if not rest:
            hint = CacheHint()
        case _:
            return None, None
    del members["cache_control"]
    return hint, {"cache": "cache_control"}


def _spoken(parts: str | list[_Part] | None) -> str:
    if isinstance(parts, str):
        return parts
    return "".join(part.text or "" for part in parts or ())


def _take_raw(members: Members, name: str) -> Raw | None:
    raw = members.pop(name, None)
    return None if raw is None or bytes(raw) == b"null" else raw


def _keep(outer: Members, name: str, rest: Members) -> None:
    """Members left over in an inner object stay under its name and are merged into it when it is written."""
    if rest:
        outer[name] = json(rest)


def _data_url(url: str) -> tuple[str | None, str] | None:
    """Media type and base64 text of a plain data URL."""
    head, found, data = url.partition(";base64,")
    if not found or not head.startswith("data:") or ";" in head or "," in head:
        return None
    return head[5:] or None, data


def _decode_said(said: Members, path: str) -> list[Block]:
    """The blocks of an assistant's message; takes them out of `said`."""
    blocks: list[Block] = [*_take_thinking(said, path)]
    blocks += _decode_parts(take(said, "content", _STR_OR_ITEMS, path), f"{path}.content")
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
        arguments = _arguments(function.pop("arguments", Raw()))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Wrong(f"{path}.arguments", str(error)) from None
    details = _details(function, {"call": "function_call"})
    return [ToolCall(id=name, name=name, arguments=arguments, provider_details=details)]


def _take_thinking(said: Members, path: str) -> list[Thinking]:
    """What was thought, in the one or two members of plain text and, where it is signed, in `reasoning_details`."""
    before = dict(said)
    plain = {name: text for name in _PLAIN if (text := take(said, name, STR, path))}
    signed = _take_details(said)
    texts = [thought.text for thought in signed]
    thought = next(iter(plain.values()), "")
    for name, text in list(plain.items()):
        if text != thought or (signed and text not in ("".join(texts), "\n".join(texts))):
            del plain[name]  # it says something else
            said[name] = before[name]
    spelled = {"thinking": "both" if len(plain) == len(_PLAIN) else next(iter(plain), "details")}
    if signed:
        return [_marked(thought, spelled) for thought in signed]
    if not plain:
        return []
    unsigned = Thinking(text=thought)
    return [unsigned if "reasoning_content" in plain and len(plain) == 1 else _marked(unsigned, spelled)]


def _marked(thought: Thinking, spelled: dict[str, str]) -> Thinking:
    before = thought.provider_details
    spelled = spelled if before is None else {**before.spelled, **spelled}
    return msgspec.structs.replace(thought, provider_details=Details(NAME, {}, spelled))


def _take_details(said: Members) -> list[Thinking]:
    """Thinking of Claude, signed or redacted, as OpenRouter spells it. Details of other models, and any that are not signed,
    stay in `said`. Pieces of a stream that were handed back unmerged are merged."""
    raw = said.get("reasoning_details")
    details = None if raw is None else msgspec.json.decode(raw)
    thoughts: list[Thinking] = []
    begun = ""
    for detail in details if isinstance(details, list) else ():
        match detail:
            case {"format": word} if word not in (None, _CLAUDE):
                return []
            case {"type": "reasoning.encrypted", "data": str(data), **rest} if (
                rest.get("format") == _CLAUDE and not begun
            ):
                thought = Thinking(redacted=data)
            case {"type": "reasoning.text", **rest}:
                text, signature = rest.pop("text", None) or "", rest.pop("signature", None)
                if not isinstance(text, str) or not isinstance(signature, str | None):
                    return []
                begun += text
                if not signature:
                    continue
                thought, begun = Thinking(text=begun, signature=signature), ""
            case _:
                return []
        thoughts.append(_marked(thought, {"detail": _encode(rest).decode()}))
    if begun or not thoughts:
        return []
    del said["reasoning_details"]
    return thoughts


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
        arguments = _arguments(function.pop("arguments", Raw()))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Wrong(f"{path}.function.arguments", str(error)) from None
    id_ = take(call, "id", STR, path) or f"call_{index}"
    call.pop("index", None)
    _keep(call, "function", function)
    return ToolCall(id=id_, name=name, arguments=arguments, provider_details=_details(call))


def _decode_message(raw: Raw, path: str) -> Message:
    message = members_of(raw, path)
    role = need(message, "role", STR, path)
    name = take(message, "name", STR, path)
    match role:
        case "system" | "developer" | "user":
            content = tuple(_decode_parts(take(message, "content", _STR_OR_ITEMS, path), f"{path}.content"))
            return Message(role=role, content=content, name=name, provider_details=_details(message))
        case "assistant":
            content = tuple(_decode_said(message, path))
            return Message(role="assistant", content=content, name=name, provider_details=_details(message))
        case "tool" | "function":
            content = tuple(_decode_parts(take(message, "content", _STR_OR_ITEMS, path), f"{path}.content"))
            if role == "tool":
                call_id, spelled = need(message, "tool_call_id", STR, path), None
            else:
                call_id, spelled = name or "", {"role": "function"}
            result = ToolResult(call_id=call_id, content=content)
            details = _details(message, spelled)
            return Message(role="tool", content=(result,), name=name, provider_details=details)
        case _:
            raise Wrong(f"{path}.role", f"{role!r} is not a role")


def _decode_tool(raw: Raw, path: str) -> Tool:
    tool = members_of(raw, path)
    kind = take(tool, "type", STR, path) or "function"
    if kind != "function":
        return Tool(name=kind, opaque=Opaque(dialect=NAME, kind=kind, raw=raw))
    function = take_members(tool, "function", path)
    if function is None:
        raise Wrong(f"{path}.function", "is required")
    path = f"{path}.function"
    name = need(function, "name", STR, path)
    description = take(function, "description", STR, path)
    strict = take(function, "strict", BOOL, path)
    parameters = _take_raw(function, "parameters")
    cache, spelled = _take_cache(tool)
    _keep(tool, "function", function)
    return Tool(
        name=name,
        description=description,
        parameters=parameters,
        strict=strict,
        cache=cache,
        provider_details=_details(tool, spelled),
    )


def _decode_chat(body: bytes) -> Chat:
    check_utf8(body)
    ask = members_of(body, "")
    model = need(ask, "model", STR, "")
    said = need(ask, "messages", ITEMS, "")
    messages = tuple(_decode_message(raw, f"messages[{index}]") for index, raw in enumerate(said))
    given = take(ask, "tools", ITEMS, "")
    tools = tuple(_decode_tool(raw, f"tools[{index}]") for index, raw in enumerate(given or ()))
    stop = take(ask, "stop", _STRS, "")
    effort = take(ask, "reasoning_effort", STR, "")
    reasoning = None if effort is None else Reasoning(enabled=effort != "none", effort=effort)
    old, new = take(ask, "max_tokens", INT, ""), take(ask, "max_completion_tokens", INT, "")
    spelled = {}
    if (old is not None or new is not None) and (new is None) != (reasoning is None):
        spelled["max_tokens"] = "max_tokens" if new is None else "max_completion_tokens"
    options = take_members(ask, "stream_options", "") or {}
    include_usage = take(options, "include_usage", BOOL, "stream_options")
    stream = take(ask, "stream", BOOL, "")
    tool_choice = _decode_tool_choice(ask, spelled)
    response_format = _decode_format(ask)
    _keep(ask, "stream_options", options)
    return Chat(
        model=model,
        messages=messages,
        max_tokens=_larger(old, new),
        temperature=take(ask, "temperature", FLOAT, ""),
        top_p=take(ask, "top_p", FLOAT, ""),
        stop=(stop,) if isinstance(stop, str) else stop or (),
        seed=take(ask, "seed", INT, ""),
        n=take(ask, "n", INT, ""),
        frequency_penalty=take(ask, "frequency_penalty", FLOAT, ""),
        presence_penalty=take(ask, "presence_penalty", FLOAT, ""),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=take(ask, "parallel_tool_calls", BOOL, ""),
        response_format=response_format,
        reasoning=reasoning,
        user=take(ask, "user", STR, ""),
        stream=stream or False,
        include_usage=bool(include_usage),
        provider_details=_details(ask, spelled),
    )


def _larger(old: int | None, new: int | None) -> int | None:
    """The limit when both spellings are there: servers differ in which they obey, so the one that may cost more."""
    if old is None or new is None:
        return new if old is None else old
    return max(old, new)


def _decode_tool_choice(ask: Members, spelled: dict[str, str]) -> ToolChoice | None:
    """The choice; one of a form that we do not know stays in `ask`."""
    raw = _take_raw(ask, "tool_choice")
    if raw is None:
        return None
    match msgspec.json.decode(raw):
        case "auto" | "none" | "required" as mode:
            return ToolChoice(mode=mode)
        case "any":
            spelled["tool_choice"] = "any"  # Mistral's word
            return ToolChoice(mode="required")
        case {"function": {"name": str(name)}}:
            return ToolChoice(mode="tool", name=name)
        case _:
            ask["tool_choice"] = raw
            return None


def _decode_format(ask: Members) -> ResponseFormat | None:
    """The format; one of a kind that we do not know stays in `ask`."""
    raw = ask.get("response_format")
    form = take_members(ask, "response_format", "")
    if form is None or raw is None:
        return None
    path = "response_format"
    kind = need(form, "type", STR, path)
    match kind:
        case "text" | "json_object":
            return ResponseFormat(kind=kind)
        case "json_schema" if "json_schema" in form:
            path = f"{path}.json_schema"
            inner = take_members(form, "json_schema", "response_format") or {}
            made = ResponseFormat(
                kind=kind,
                name=take(inner, "name", STR, path),
                schema=_take_raw(inner, "schema"),
                strict=take(inner, "strict", BOOL, path),
                description=take(inner, "description", STR, path),
            )
            _keep(ask, "response_format", inner)
            return made
        case _:
            ask["response_format"] = raw
            return None


def _decode_answer(body: bytes) -> Reply:
    check_utf8(body)
    answer = members_of(body, "")
    if _is_error(answer.get("error"), answer.get("object")):
        raise read_error(status=None, headers={}, body=body, dialect=NAME, now_wall=0.0)
    choices = need(answer, "choices", ITEMS, "")
    if not choices:
        raise Wrong("choices", "is empty")
    choice = members_of(choices[0], "choices[0]")
    word = take(choice, "finish_reason", STR, "choices[0]")
    said = take_members(choice, "message", "choices[0]")
    if said is None:
        # Azure leaves the message out of an answer that its filter withheld.
        if word is None:
            raise Wrong("choices[0].message", "is required")
        said = {}
    content = tuple(_decode_said(said, "choices[0].message"))
    usage = _take_usage(answer)
    created = take(answer, "created", _NUMBER, "")
    id_, model = take(answer, "id", STR, ""), take(answer, "model", STR, "")
    answer.pop("object", None)
    # What is left of the parts stays under their names, without the parts themselves; an empty member says nothing.
    _keep(choice, "message", _telling(_without(said, "role")))
    choice = _telling(_without(choice, "index"))
    others = choices[1:]
    if choice or others:
        answer["choices"] = json([choice, *others])
    return Reply(
        id=id_ or "",
        model=model or "",
        content=content,
        finish="other" if word is None else _finish(word),
        finish_raw=word,
        usage=usage,
        created=None if created is None else int(created),
        provider_details=_details(_telling(answer)),
    )


def _telling(members: Members) -> Members:
    return {name: raw for name, raw in members.items() if bytes(raw) not in _EMPTY}


def _take_usage(answer: Members) -> Usage | None:
    raw = _take_raw(answer, "usage")
    if raw is None:
        return None
    try:
        usage = _USAGE.decode(raw)
    except msgspec.ValidationError:
        answer["usage"] = raw
        return None
    rest = members_of(raw, "usage")
    _keep(answer, "usage", {name: value for name, value in rest.items() if name not in _USAGE_MEMBERS})
    return None if usage is None else usage.typed()


def _is_error(error: Raw | None, kind: Raw | None = None) -> bool:
    """Whether an answer with these members `error` and `object` is an error (older vLLM: `"object": "error"`)."""
    if error is not None and bytes(error) not in _NO_ERROR:
        return True
    return kind is not None and bytes(kind) == b'"error"'


# --- encoding: requests and replies -----------------------------------------------------------------------------------


class _Losses:
    """Names what cannot be carried, once each."""

    __slots__ = ("_warnings",)

    def __init__(self, warnings: list[str]) -> None:
        self._warnings = warnings

    def say(self, what: str) -> None:
        text = f"{NAME}: {what}"
        if text not in self._warnings:
            self._warnings.append(text)

    def own(self, details: Details | None, what: str) -> Members:
        """The members to write back; another dialect's are named."""
        if details is None:
            return {}
        if details.dialect == NAME:
            return details.members
        for name in details.members:
            self.say(f"{what} {name} dropped")
        return {}


def _spelled(details: Details | None, name: str, default: str) -> str:
    """How the dialect wrote the typed member `name` when this value came from it."""
    return default if details is None or details.dialect != NAME else details.spelled.get(name, default)


def _merge(inner: dict[str, Any], own: Members, name: str) -> dict[str, Any]:
    """`inner` with what `_keep` left for it, and `own` without that."""
    rest = own.get(name)
    return inner if rest is None else {**inner, **members_of(rest, name)}


def _without(own: Members, *names: str) -> Members:
    return {name: raw for name, raw in own.items() if name not in names}


def _present(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _encode_cache(block: Text | Image | Document | Tool, losses: _Losses) -> dict[str, Any]:
    """The breakpoint where it came in this dialect; OpenAI itself has none."""
    if block.cache is None:
        return {}
    if not _spelled(block.provider_details, "cache", ""):
        losses.say("cache hint dropped")
        return {}
    return {"cache_control": _present({"type": "ephemeral", "ttl": block.cache.ttl})}


def _encode_text(block: Text, losses: _Losses) -> dict[str, Any]:
    own = losses.own(block.provider_details, "text")
    return {"type": "text", "text": block.text, **_encode_cache(block, losses), **own}


def _encode_part(block: Block, role: Role, losses: _Losses) -> dict[str, Any] | Raw | None:
    """One part of a message's content; None where there is none for it."""
    match block:
        case Text():
            return _encode_text(block, losses)
        case Image() if role == "user":
            return _encode_image(block, losses)
        case Document() if role == "user":
            return _encode_document(block, losses)
        case Opaque(dialect=dialect, raw=raw) if dialect == NAME:
            return raw
        case Opaque(dialect=dialect, kind=kind):
            losses.say(f"{dialect} block {kind} dropped")
        case _:
            losses.say(f"{type(block).__name__.lower()} in a {role} message dropped")
    return None


def _encode_image(image: Image, losses: _Losses) -> dict[str, Any] | None:
    if image.data is not None:
        url = f"data:{image.media_type or ''};base64,{image.data}"
    elif image.url is not None:
        url = image.url
    else:
        losses.say("image by file id dropped")
        return None
    own = losses.own(image.provider_details, "image")
    inner = _merge(_present({"url": url, "detail": image.detail}), own, "image_url")
    cache = _encode_cache(image, losses)
    return {"type": "image_url", "image_url": inner, **cache, **_without(own, "image_url")}


def _encode_document(document: Document, losses: _Losses) -> dict[str, Any] | None:
    own = losses.own(document.provider_details, "document")
    if document.text is not None:
        losses.say("text document sent as a text part")
        head = f"{document.name}\n\n" if document.name else ""
        return {"type": "text", "text": head + document.text}
    if document.url is not None:
        losses.say("document by url dropped")
        return None
    data, name = document.data, document.name
    if data is not None and document.media_type is not None:
        data = f"data:{document.media_type};base64,{data}"
        # OpenAI refuses file data without a name; where a dialect has none, the type says what it may be called.
        name = name or f"document.{document.media_type.rpartition('/')[2]}"
    file = _merge(_present({"file_data": data, "file_id": document.file_id, "filename": name}), own, "file")
    return {"type": "file", "file": file, **_encode_cache(document, losses), **_without(own, "file")}


def _joined(parts: list[dict[str, Any] | Raw]) -> str | list[dict[str, Any] | Raw]:
    """Content: plain text as a string, all else as parts."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], dict) and len(parts[0]) == 2 and parts[0].get("text"):
        text = parts[0]["text"]
        assert isinstance(text, str)
        return text
    return parts


def _encode_call(call: ToolCall, losses: _Losses) -> dict[str, Any]:
    if call.cache is not None:
        losses.say("cache hint dropped")
    own = losses.own(call.provider_details, "tool call")
    function = _merge({"name": call.name, "arguments": call.arguments}, own, "function")
    return {"id": call.id, "type": "function", "function": function, **_without(own, "function")}


def _encode_said(blocks: Iterable[Block], losses: _Losses, *, answer: bool = False) -> dict[str, Any]:
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
                member = _spelled(block.provider_details, "thinking", "reasoning_content")
                if block.signature or block.redacted is not None:
                    rest = _spelled(block.provider_details, "detail", "")
                    if not answer and not rest:
                        losses.say(f"{'signed' if block.redacted is None else 'redacted'} thinking dropped")
                        continue
                    if parts or calls:
                        losses.say("thinking after other content moved before it")
                    details.append(_detail(block, msgspec.json.decode(rest) if rest else thoughts))
                thoughts += 1
                if member == "part":
                    spoken = [{"type": "text", "text": text}]
                    parts.append({"type": "thinking", "thinking": spoken})
                else:
                    for name in _PLAIN:
                        if text and member in (name, "both"):
                            plain.setdefault(name, []).append(text)
            case Refusal(text=text):
                losses.own(block.provider_details, "refusal")
                refusals.append(text)
            case ToolCall() if _spelled(block.provider_details, "call", "") == "function_call":
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
                part = _encode_part(block, "assistant", losses)
                if part is not None:
                    parts.append(part)
    content: Any = _joined(parts)
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


def _detail(thought: Thinking, rest: int | dict[str, Any]) -> dict[str, Any]:
    """Signed or redacted thinking as OpenRouter hands it out, so that a client which hands it back loses nothing. `rest`: the
    members that came with it, or its number."""
    if thought.redacted is not None:
        said = {"type": "reasoning.encrypted", "data": thought.redacted}
    else:
        said = {"type": "reasoning.text", "text": thought.text, "signature": thought.signature or ""}
    return {**said, **({"format": _CLAUDE, "index": rest} if isinstance(rest, int) else rest)}


def _encode_messages(messages: Iterable[Message], losses: _Losses) -> list[dict[str, Any]]:
    """The messages of the wire. Tool results become `tool` messages of text; what else they hold follows in a user's."""
    wire: list[dict[str, Any]] = []
    moved: list[dict[str, Any] | Raw] = []
    for message in messages:
        own = losses.own(message.provider_details, "message")
        named = {} if message.name is None else {"name": message.name}
        if message.role == "assistant":
            _flush(moved, wire)
            said = _encode_said(message.content, losses)
            wire.append({"role": "assistant", **said, **named, **own})
            continue
        results = [block for block in message.content if isinstance(block, ToolResult)]
        for result in results:
            head: dict[str, Any] = {"role": "tool", "tool_call_id": result.call_id}
            if _spelled(message.provider_details, "role", "tool") == "function":
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
            and (part := _encode_part(block, message.role, losses)) is not None
        ]
        if message.role == "user":
            if moved:
                parts, moved = moved + parts, []
        else:
            _flush(moved, wire)
        if parts or not results:
            wire.append({"role": message.role, "content": _joined(parts), **named, **own})
    _flush(moved, wire)
    return wire


def _flush(moved: list[dict[str, Any] | Raw], wire: list[dict[str, Any]]) -> None:
    if moved:
        wire.append({"role": "user", "content": list(moved)})
        moved.clear()


def _encode_result(result: ToolResult, moved: list[dict[str, Any] | Raw], losses: _Losses) -> Any:
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
            part = _encode_part(block, "user", losses)
            if part is not None:
                losses.say(f"{kind} in a tool result moved to a user message")
                moved.append(part)
                parts.append({"type": "text", "text": f"[{kind}: in the next user message]"})
        else:
            part = _encode_part(block, "tool", losses)
            if part is not None:
                parts.append(part)
    return _joined(parts)


def _encode_tool(tool: Tool, losses: _Losses) -> dict[str, Any] | Raw | None:
    if tool.opaque is not None:
        if tool.opaque.dialect == NAME:
            return tool.opaque.raw
        losses.say(f"{tool.opaque.dialect} tool {tool.name} dropped")
        return None
    own = losses.own(tool.provider_details, "tool")
    known = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    function = _merge(_present(known), own, "function")
    cache = _encode_cache(tool, losses)
    return {"type": "function", "function": function, **cache, **_without(own, "function")}


def _encode_format(form: ResponseFormat, own: Members) -> dict[str, Any]:
    if form.kind != "json_schema":
        return {"type": form.kind}
    known = {
        # OpenAI requires a name; dialects that have none need one that says nothing.
        "name": "answer" if form.name is None else form.name,
        "schema": form.schema,
        "strict": form.strict,
        "description": form.description,
    }
    return {"type": "json_schema", "json_schema": _merge(_present(known), own, "response_format")}


def _encode_effort(reasoning: Reasoning | None, losses: _Losses) -> str | None:
    if reasoning is None:
        return None
    if reasoning.effort is not None:
        return reasoning.effort
    if not reasoning.enabled:
        # Models that do not think refuse every effort, `none` included: it is written only where it came so.
        losses.say("thinking turned off dropped")
        return None
    budget = reasoning.budget_tokens
    if budget is None:
        return None
    effort = next(word for least, word in EFFORT_BUDGETS if budget >= least)
    losses.say(f"thinking budget of {budget} tokens sent as effort {effort}, which is approximate")
    return effort


def _encode_chat(chat: Chat, warnings: list[str]) -> bytes:
    losses = _Losses(warnings)
    own = losses.own(chat.provider_details, "request")
    if chat.top_k is not None:
        losses.say("top_k dropped")
    tools = [wire for tool in chat.tools if (wire := _encode_tool(tool, losses)) is not None]
    choice: Any = None
    parallel = chat.parallel_tool_calls
    if chat.tools and not tools:
        parallel = None
    elif chat.tool_choice is not None:
        choice = chat.tool_choice.mode
        if choice == "required":
            choice = _spelled(chat.provider_details, "tool_choice", choice)
        elif choice == "tool":
            choice = {"type": "function", "function": {"name": chat.tool_choice.name}}
    thinks = chat.reasoning is not None and chat.reasoning.enabled
    limit = "max_completion_tokens" if thinks else "max_tokens"
    limit = _spelled(chat.provider_details, "max_tokens", limit)
    options = {"include_usage": True} if chat.stream and chat.include_usage else {}
    ask: dict[str, Any] = {
        "model": chat.model,
        "messages": _encode_messages(chat.messages, losses),
        limit: chat.max_tokens,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "stop": list(chat.stop) or None,
        "seed": chat.seed,
        "n": chat.n,
        "frequency_penalty": chat.frequency_penalty,
        "presence_penalty": chat.presence_penalty,
        "tools": tools or None,
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
        "response_format": None
        if chat.response_format is None
        else _encode_format(chat.response_format, own),
        "reasoning_effort": _encode_effort(chat.reasoning, losses),
        "user": chat.user,
        "stream": True if chat.stream else None,
        "stream_options": (_merge(options, own, "stream_options") or None) if chat.stream else None,
    }
    rest = own if chat.response_format is None else _without(own, "response_format")
    return _encode({**_present(ask), **_without(rest, "stream_options")})


def _encode_usage(usage: Usage, own: Members) -> dict[str, Any]:
    inside: dict[str, int] = {"cached_tokens": usage.cache_read_tokens}
    if usage.cache_write_tokens:
        inside["cache_write_tokens"] = usage.cache_write_tokens
    known = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": inside,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    return _merge(known, own, "usage")


def _finish_word(reason: FinishReason, raw: str | None, *, refused: bool) -> str:
    if raw is not None and (_FINISH.get(raw) == reason or reason == "other"):
        return raw
    if reason == "refusal" and refused:
        return "stop"
    return _FINISH_WORD[reason]


def _encode_answer(reply: Reply, warnings: list[str]) -> bytes:
    losses = _Losses(warnings)
    own = losses.own(reply.provider_details, "reply")
    if reply.stop_sequence is not None:
        losses.say("stop sequence dropped")
    choices = [] if "choices" not in own else msgspec.json.decode(own["choices"], type=list[Members])
    choice = choices[0] if choices else {}
    said = {"role": "assistant", **_encode_said(reply.content, losses, answer=True)}
    said.setdefault("refusal", None)
    refused = any(isinstance(block, Refusal) for block in reply.content)
    first = {
        "index": 0,
        "message": _merge(said, choice, "message"),
        "finish_reason": _finish_word(reply.finish, reply.finish_raw, refused=refused),
        **_without(choice, "message"),
    }
    first.setdefault("logprobs", None)
    answer: dict[str, Any] = {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created or 0,
        "model": reply.model,
        "choices": [first, *choices[1:]],
        "usage": None if reply.usage is None else _encode_usage(reply.usage, own),
    }
    return _encode({**_present(answer), **_without(own, "choices", "usage")})


# --- streams ----------------------------------------------------------------------------------------------------------


def _usage_of(chunk: _Chunk) -> Usage | None:
    """The usage so far; counts of a form that nobody knows are no reason to break an answer."""
    try:
        usage = _USAGE.decode(chunk.usage) if chunk.usage else None
        if usage is None and chunk.x_groq:
            groq = _GROQ.decode(chunk.x_groq)
            usage = None if groq is None else groq.usage
    except msgspec.ValidationError:
        return None
    return None if usage is None else usage.typed()


class _Decoder:
    """Frames of one streamed answer.

    Blocks are numbered as they appear. Text, thinking and refusal follow one another, so the next closes the one before; tool
    calls may interleave and stay open until the model has finished.
    """

    __slots__ = (
        "_calls",
        "_done",
        "_finished",
        "_hide",
        "_kind",
        "_last_call",
        "_next",
        "_open",
        "_parser",
        "_said",
        "_started",
    )

    def __init__(self, *, hide_usage: bool) -> None:
        self._parser = SSEParser()
        self._hide = hide_usage
        self._started = self._finished = self._done = False
        self._next = 0  # the next block's index
        self._kind = ""  # of the open block that is no tool call
        self._said = 0  # and its index
        self._open: list[int] = []  # indices of open blocks
        self._calls: dict[int | str, tuple[int, str]] = {}  # the wire's index or id -> our index, id
        self._last_call = 0

    def feed(self, data: bytes) -> Batch:
        return self._read(self._parser.feed(data))

    def close(self) -> Batch:
        return self._read(self._parser.close())

    def _read(self, read: list[SSEEvent]) -> Batch:
        batch: Batch = []
        try:
            for event in read:
                if self._done:
                    break
                batch.append(self._frame(event))
        except ProviderError as error:
            error.frames = batch
            raise
        except UNREADABLE as error:
            broken = Malformed(f"a chunk cannot be read: {error}", body=event.data, dialect=NAME)
            broken.frames = batch
            raise broken from None
        return batch

    def _frame(self, event: SSEEvent) -> Frame:
        data = event.data
        if not data:
            return Frame((Ping(),), event.raw, NAME)
        if data[0] != 0x7B and data.strip() == b"[DONE]":
            self._done = True
            return Frame((*self._end(), End()), event.raw, NAME)
        chunk = _CHUNK.decode(data)
        choices = chunk.choices
        events: list[Event] = []
        if choices:
            for choice in choices:
                if not choice.index:
                    if not self._started:
                        self._start(chunk, events)
                    delta = choice.delta
                    if delta is not None:
                        self._grow(delta, events)
                    if choice.finish_reason is not None and not self._finished:
                        self._finished = True
                        events += self._stop_all()
                        events.append(Finish(_finish(choice.finish_reason), choice.finish_reason))
                    break
        if (
            (chunk.error and bytes(chunk.error) not in _NO_ERROR)
            or chunk.object == "error"
            or event.name == "error"
        ):
            raise read_error(status=None, headers={}, body=data, dialect=NAME, now_wall=0.0)
        usage = None
        if len(chunk.usage) > 4 or len(chunk.x_groq) > 4:
            usage = _usage_of(chunk)
        if usage is not None:
            events.append(UsageReport(usage))
        elif choices is None:
            events.append(OpaqueEvent(NAME, chunk.object or chunk.type or ""))
        hidden = self._hide and not choices and usage is not None
        return Frame(tuple(events), event.raw, NAME, hidden)

    def _start(self, chunk: _Chunk, events: list[Event]) -> None:
        self._started = True
        created = None if chunk.created is None else int(chunk.created)
        events.append(Start(chunk.id or "", chunk.model or "", created))

    def _grow(self, delta: _Delta, events: list[Event]) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            self._say("thinking", thought, events)
        if delta.reasoning_details:
            self._sign(delta.reasoning_details, events)
        content = delta.content
        if content:
            if isinstance(content, str):
                self._say("text", content, events)
            else:
                for part in content:
                    if part.type == "thinking":
                        self._say("thinking", _spoken(part.thinking), events)
                    elif part.text:
                        self._say("text", part.text, events)
        if delta.refusal:
            self._say("refusal", delta.refusal, events)
        if delta.tool_calls:
            for piece in delta.tool_calls:
                self._call(piece, events)
        elif delta.function_call is not None:
            self._call(_CallPiece(0, None, delta.function_call), events)

    def _say(self, kind: Literal["text", "thinking", "refusal"], text: str, events: list[Event]) -> None:
        if not text:
            return
        if self._kind != kind:
            self._stop_said(events)
            block: Block = Text(text="")
            if kind == "thinking":
                block = Thinking()
            elif kind == "refusal":
                block = Refusal(text="")
            self._kind = kind
            self._said = self._begin(block, events)
        events.append(Delta(self._said, kind, text))

    def _sign(self, details: Raw, events: list[Event]) -> None:
        """The signature comes once the thinking is said, with or without the text once more; redacted thinking at once."""
        for thought in _take_details({"reasoning_details": details}):
            thought = msgspec.structs.replace(thought, provider_details=None)
            if thought.redacted is not None:
                self._stop_said(events)
                self._kind, self._said = "redacted", self._begin(thought, events)
            else:
                if self._kind != "thinking":
                    self._stop_said(events)
                    self._kind, self._said = "thinking", self._begin(Thinking(), events)
                    if thought.text:
                        events.append(Delta(self._said, "thinking", thought.text))
                events.append(Delta(self._said, "signature", thought.signature or ""))
            self._stop_said(events)

    def _begin(self, block: Block, events: list[Event]) -> int:
        index = self._next
        self._next += 1
        self._open.append(index)
        events.append(BlockStart(index, block))
        return index

    def _stop_said(self, events: list[Event]) -> None:
        if self._kind:
            self._kind = ""
            self._open.remove(self._said)
            events.append(BlockStop(self._said))

    def _end(self) -> list[Event]:
        events = self._stop_all()
        if self._started and not self._finished:
            # The server says that it is done, but not why (some models of OpenAI, Snowflake, Hugging Face).
            events.append(Finish("tool_calls" if self._calls else "other"))
        return events

    def _stop_all(self) -> list[Event]:
        stops: list[Event] = [BlockStop(index) for index in sorted(self._open)]
        self._open.clear()
        self._kind = ""
        return stops

    def _call(self, piece: _CallPiece, events: list[Event]) -> None:
        function = piece.function or _Function()
        key = piece.index if piece.index is not None else piece.id or None
        known = self._calls.get(key) if key is not None else None
        if key is None and not function.name:
            # A piece without index, id and name goes on with the call before it.
            known = next((call for call in self._calls.values() if call[0] == self._last_call), None)
        if known is not None and piece.id and function.name and piece.id != known[1]:
            # Another call under an index that is taken: servers that number every call 0.
            known = None
        if known is None:
            self._stop_said(events)
            id_ = piece.id or f"call_{self._next}"
            index = self._begin(ToolCall(id=id_, name=function.name or "", arguments=""), events)
            known = (index, id_)
            self._calls[key if key is not None else id_] = known
        self._last_call = known[0]
        arguments = _arguments(function.arguments)
        if arguments:
            events.append(Delta(known[0], "arguments", arguments))


class _Encoder:
    """The chunks that spell an answer, as OpenAI sends them."""

    __slots__ = (
        "_calls",
        "_head",
        "_id",
        "_include_usage",
        "_model",
        "_refused",
        "_signature",
        "_tail",
        "_thought",
        "_thoughts",
        "_usage",
    )

    def __init__(self, *, include_usage: bool, model: str, id_: str) -> None:
        self._include_usage = include_usage
        self._model = model
        self._id = id_
        self._usage: Usage | None = None
        self._calls: dict[int, int] = {}  # our index -> the wire's
        self._refused = False
        self._thoughts = 0
        self._thought: list[str] = []
        self._signature = ""
        self._head = b""
        # With usage asked for, every chunk but the last says that it has none.
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._begin(Start("", ""))

    def _begin(self, start: Start) -> None:
        self._id = self._id or start.id
        self._model = self._model or start.model
        head = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": start.created or 0,
            "model": self._model,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['

    def feed(self, event: Event) -> bytes:
        match event:
            case Delta(kind="text", text=text):
                return self._chunk(b'{"content":' + _encode(text) + b"}")
            case Delta(kind="thinking", text=text):
                self._thought.append(text)
                return self._chunk(b'{"reasoning_content":' + _encode(text) + b"}")
            case Delta(index=index, kind="arguments", text=text):
                piece = {"index": self._calls.get(index, 0), "function": {"arguments": text}}
                return self._chunk(_encode({"tool_calls": [piece]}))
            case Delta(kind="signature", text=text):
                self._signature += text
                return b""
            case Delta(kind="refusal", text=text):
                self._refused = True
                return self._chunk(b'{"refusal":' + _encode(text) + b"}")
            case Start():
                self._begin(event)
                return self._chunk(b'{"role":"assistant","content":""}')
            case BlockStart(index=index, block=block):
                return self._block(index, block)
            case BlockStop() if self._signature:
                thought = Thinking(text="".join(self._thought), signature=self._signature)
                self._signature = ""
                return self._sign(thought)
            case Finish(reason=reason, raw=raw):
                word = _finish_word(reason, raw, refused=self._refused)
                return self._chunk(b"{}", _encode(word))
            case UsageReport(usage=usage):
                self._usage = usage
                return b""
            case Complete(reply=reply):
                return b"".join(self.feed(event) for event in reply_events(reply))
            case Ping():
                return b": ping\n\n"
            case _:
                return b""

    def _block(self, index: int, block: Block) -> bytes:
        match block:
            case ToolCall():
                self._calls[index] = number = len(self._calls)
                call = {
                    "index": number,
                    "id": block.id,
                    "type": "function",
                    "function": {"name": block.name, "arguments": block.arguments},
                }
                return self._chunk(_encode({"tool_calls": [call]}))
            case Text(text=text) if text:
                return self.feed(Delta(index, "text", text))
            case Thinking(redacted=None, text=text, signature=signature):
                self._thoughts += 1
                self._thought, self._signature = [], signature or ""
                return self.feed(Delta(index, "thinking", text)) if text else b""
            case Thinking():
                self._thoughts += 1
                return self._sign(block)
            case Refusal(text=text) if text:
                return self.feed(Delta(index, "refusal", text))
            case _:
                return b""

    def _sign(self, thought: Thinking) -> bytes:
        """The detail of thinking is sent whole: clients that collect the details of all chunks have it, and those that merge
        them by index too."""
        return self._chunk(_encode({"reasoning_details": [_detail(thought, self._thoughts - 1)]}))

    def _chunk(self, delta: bytes, finish: bytes = b"null") -> bytes:
        return (
            self._head
            + b'{"index":0,"delta":'
            + delta
            + b',"logprobs":null,"finish_reason":'
            + finish
            + b"}]"
            + self._tail
        )

    def end(self) -> bytes:
        usage = b""
        if self._include_usage and self._usage is not None:
            usage = self._head + b'],"usage":' + _encode(_encode_usage(self._usage, {})) + b"}\n\n"
        return usage + b"data: [DONE]\n\n"


# --- the dialect ------------------------------------------------------------------------------------------------------


class OpenAIChat:
    """The `openai-chat` dialect; see `headrace.handler.Dialect`."""

    name = NAME
    path = "/chat/completions"
    default_headers: Headers = ()

    def peek(self, body: bytes) -> Peek:
        """Both spellings of the output limit are read; with both, the larger counts."""
        peek = self._peek(body)
        options = peek.stream_options
        return Peek(
            model=peek.model,
            stream=peek.stream or False,
            wants_usage=options is not None and options.include_usage is True,
            max_tokens=_larger(peek.max_tokens, peek.max_completion_tokens),
        )

    def _peek(self, body: bytes) -> _Peek:
        try:
            check_utf8(body)
            return _PEEK.decode(body)
        except UNREADABLE as error:
            raise invalid_request(error) from None

    def decode_request(self, body: bytes) -> Chat:
        try:
            return _decode_chat(body)
        except (Wrong, *UNREADABLE) as error:
            raise invalid_request(error) from None

    def encode_request(self, chat: Chat, warnings: list[str]) -> bytes:
        return _encode_chat(chat, warnings)

    def splice(self, body: bytes, *, model: str, include_usage: bool, max_tokens: int | None) -> bytes:
        """The body has been peeked at. A limit is set under the name that the caller used, `max_tokens` without one."""
        changes = {"model": _encode(model)}
        present = ["model"]
        if max_tokens is not None or (include_usage and b'"stream_options"' in body):
            seen = self._peek(body)
            if seen.stream_options is not None and seen.stream_options.include_usage is True:
                include_usage = False
            if max_tokens is not None:
                limits = {"max_tokens": seen.max_tokens, "max_completion_tokens": seen.max_completion_tokens}
                given = [name for name, value in limits.items() if value is not None]
                present += given
                for name in given or ["max_tokens"]:
                    changes[name] = b"%d" % max_tokens
            if include_usage and seen.stream_options is not None:
                options = next(m for m in members(body) if m.name == "stream_options")
                asked = splice(body[options.start : options.end], {"include_usage": b"true"})
                return splice(body, {**changes, "stream_options": asked})
        if include_usage:
            changes["stream_options"] = b'{"include_usage":true}'
        return splice(body, changes, present=present)

    def decode_reply(self, body: bytes) -> Reply:
        try:
            return _decode_answer(body)
        except (Wrong, *UNREADABLE) as error:
            raise Malformed(f"not a chat completion: {error}", body=body, dialect=NAME) from None

    def encode_reply(self, reply: Reply, warnings: list[str]) -> bytes:
        return _encode_answer(reply, warnings)

    def decoder(self, *, hide_usage: bool) -> _Decoder:
        return _Decoder(hide_usage=hide_usage)

    def encoder(self, *, include_usage: bool, model: str, id: str) -> _Encoder:  # noqa: A002
        return _Encoder(include_usage=include_usage, model=model, id_=id)

    def encode_error(self, kind: str, message: str, *, status: int, request_id: str) -> bytes:
        type_, code = _ERRORS.get(kind, ("server_error" if status >= 500 else "invalid_request_error", None))
        error = {"message": message, "type": type_, "param": None, "code": code, "request_id": request_id}
        return _encode({"error": error})

    def encode_stream_error(self, kind: str, message: str, *, status: int, request_id: str) -> bytes:
        error = self.encode_error(kind, message, status=status, request_id=request_id)
        return b"data: " + error + b"\n\n"


OPENAI_CHAT = OpenAIChat()
