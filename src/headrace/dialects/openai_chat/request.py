"""Requests: the chat with its tools and parameters."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from headrace.dialects.openai_chat.details import (
    NAME,
    Losses,
    details_of,
    keep,
    merge,
    present,
    spelling,
    take_raw,
    without,
)
from headrace.dialects.openai_chat.message import decode_message, encode_messages
from headrace.dialects.openai_chat.part import encode_cache, take_cache
from headrace.dialects.wire import (
    BOOL,
    FLOAT,
    INT,
    ITEMS,
    STR,
    Members,
    Wrong,
    check_utf8,
    encode,
    members_of,
    need,
    take,
    take_members,
)
from headrace.types import Chat, Opaque, Reasoning, ResponseFormat, Tool, ToolChoice

__all__ = ["decode_chat", "encode_chat", "larger"]

EFFORT_BUDGETS = ((10_000, "high"), (5_000, "medium"), (0, "low"))
"""The effort word for a thinking budget of at least so many tokens: the thresholds of LiteLLM's Anthropic adapter, without its
`minimal`, which most models do not know."""
_STRS: msgspec.json.Decoder[str | tuple[str, ...] | None] = msgspec.json.Decoder(str | tuple[str, ...] | None)


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
    parameters = take_raw(function, "parameters")
    cache, spelled = take_cache(tool)
    keep(tool, "function", function)
    return Tool(
        name=name,
        description=description,
        parameters=parameters,
        strict=strict,
        cache=cache,
        provider_details=details_of(tool, spelled),
    )


def decode_chat(body: bytes) -> Chat:
    check_utf8(body)
    ask = members_of(body, "")
    model = need(ask, "model", STR, "")
    said = need(ask, "messages", ITEMS, "")
    messages = tuple(decode_message(raw, f"messages[{index}]") for index, raw in enumerate(said))
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
    keep(ask, "stream_options", options)
    return Chat(
        model=model,
        messages=messages,
        max_tokens=larger(old, new),
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
        provider_details=details_of(ask, spelled),
    )


def larger(old: int | None, new: int | None) -> int | None:
    """The limit when both spellings are there: servers differ in which they obey, so the one that may cost more."""
    if old is None or new is None:
        return new if old is None else old
    return max(old, new)


def _decode_tool_choice(ask: Members, spelled: dict[str, str]) -> ToolChoice | None:
    """The choice; one of a form that we do not know stays in `ask`."""
    raw = take_raw(ask, "tool_choice")
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
                schema=take_raw(inner, "schema"),
                strict=take(inner, "strict", BOOL, path),
                description=take(inner, "description", STR, path),
            )
            keep(ask, "response_format", inner)
            return made
        case _:
            ask["response_format"] = raw
            return None


def _encode_tool(tool: Tool, losses: Losses) -> dict[str, Any] | Raw | None:
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
    function = merge(present(known), own, "function")
    cache = encode_cache(tool, losses)
    return {"type": "function", "function": function, **cache, **without(own, "function")}


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
    return {"type": "json_schema", "json_schema": merge(present(known), own, "response_format")}


def _encode_effort(reasoning: Reasoning | None, losses: Losses) -> str | None:
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


def encode_chat(chat: Chat, warnings: list[str]) -> bytes:
    losses = Losses(warnings)
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
            choice = spelling(chat.provider_details, "tool_choice", choice)
        elif choice == "tool":
            choice = {"type": "function", "function": {"name": chat.tool_choice.name}}
    thinks = chat.reasoning is not None and chat.reasoning.enabled
    limit = "max_completion_tokens" if thinks else "max_tokens"
    limit = spelling(chat.provider_details, "max_tokens", limit)
    options = {"include_usage": True} if chat.stream and chat.include_usage else {}
    ask: dict[str, Any] = {
        "model": chat.model,
        "messages": encode_messages(chat.messages, losses),
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
        "stream_options": (merge(options, own, "stream_options") or None) if chat.stream else None,
    }
    rest = own if chat.response_format is None else without(own, "response_format")
    return encode({**present(ask), **without(rest, "stream_options")})
