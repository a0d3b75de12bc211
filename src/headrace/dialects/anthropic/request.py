"""Requests: the chat, its messages and its tools."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from headrace.dialects.anthropic.block import encode_content, take_content
from headrace.dialects.anthropic.details import (
    NAME,
    details_of,
    finished,
    is_own,
    own_members,
    said_false,
    spelling,
    take_cache,
    take_text,
    telling_of,
    warn,
    warn_foreign,
)
from headrace.dialects.anthropic.thinking import decode_reasoning, own_thinking, sampling, translated_thinking
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
    inside,
    json,
    members_of,
    need,
    take,
    take_members,
)
from headrace.types import (
    Block,
    Chat,
    Details,
    Message,
    Opaque,
    Refusal,
    ResponseFormat,
    Role,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
)

__all__ = ["decode_chat", "encode_chat"]

DEFAULT_MAX_TOKENS = 4096
"""Tokens of output for a request from a dialect where the limit is optional. The least that any Claude model allows as its
largest output (Claude 3), so that no model refuses it."""
_STRS: msgspec.json.Decoder[tuple[str, ...] | None] = msgspec.json.Decoder(tuple[str, ...] | None)


def _decode_messages(items: list[Raw]) -> list[Message]:
    messages: list[Message] = []
    for number, raw in enumerate(items):
        path = f"messages[{number}]"
        members = members_of(raw, path)
        role = need(members, "role", STR, path)
        if "content" not in members:
            raise Wrong(inside(path, "content"), "is required")
        content = take_content(members, "content", path)
        details = details_of(members)
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
                        provider_details=Details(NAME, telling_of(members), {"role": "message"}),
                    )
                )
            case _:
                raise Wrong(inside(path, "role"), f"{role!r} is none of user, assistant, system")
    return messages


def _decode_tool(raw: Raw, path: str) -> Tool:
    members = members_of(raw, path)
    kind_raw = members.get("type")
    kind = take(members, "type", STR, path)
    if kind not in (None, "custom"):
        name = take_text(members, "name", path)
        return Tool(name=name, opaque=Opaque(dialect=NAME, kind=kind, raw=raw))
    if kind_raw is not None and kind is not None:
        members["type"] = kind_raw
    return Tool(
        name=need(members, "name", STR, path),
        description=take(members, "description", STR, path),
        parameters=members.pop("input_schema", None),
        strict=take(members, "strict", BOOL, path),
        cache=take_cache(members, path),
        provider_details=details_of(members),
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


def _take_format(holder: Members, name: str, path: str) -> ResponseFormat | None:
    """The form asked for; what of it is not typed stays in `holder` under its name."""
    wanted = take_members(holder, name, path)
    if not wanted:
        return None
    form = None
    if take(dict(wanted), "type", STR, inside(path, name)) == "json_schema":
        form = ResponseFormat(kind="json_schema", schema=wanted.pop("schema", None))
        del wanted["type"]
    if wanted:
        holder[name] = json(wanted)
    return form


def decode_chat(body: bytes) -> Chat:
    check_utf8(body)
    members = members_of(body, "body")
    model = need(members, "model", STR, "")
    system = take_content(members, "system", "")
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
    reasoning = decode_reasoning(nested["thinking"], take(config, "effort", STR, "output_config"))
    spelled = said_false(members, "stream")
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
    return msgspec.structs.replace(chat, provider_details=Details(NAME, telling_of(members), spelled))


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
        content = encode_content(tuple(self.blocks), warnings)
        if not content:
            warn(warnings, f"empty {self.role} message dropped")
            return None
        return {"role": self.role, "content": content, **self.members}


def _encode_messages(chat: Chat, warnings: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    """The top-level system (None if there is none) and the messages."""
    system: list[Block] = []
    turns: list[_Turn] = []
    native = is_own(chat)
    for message in chat.messages:
        warn_foreign(message.provider_details, "message", warnings)
        if message.name is not None:
            warn(warnings, f"name of a {message.role} message dropped")
        ours = message.provider_details is not None and message.provider_details.dialect == NAME
        own = own_members(message.provider_details)
        content = message.content
        if not native:
            # The API refuses most texts without a visible character, which other dialects take.
            content = tuple(block for block in content if not isinstance(block, Text) or block.text.strip())
        match message.role:
            case "system" | "developer" if not ours:
                if turns:
                    warn(warnings, f"{message.role} message inside the conversation moved to its start")
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
            warn(warnings, "content of a system message that is not text dropped")
    wire = [out for turn in turns if (out := turn.wire(warnings)) is not None]
    top = encode_content(tuple(texts), warnings) or None
    if not wire and top is not None:
        warn(warnings, "system text alone sent as a user message")
        return None, [{"role": "user", "content": top}]
    return top, wire


def _encode_tools(chat: Chat, warnings: list[str]) -> list[Any]:
    tools: list[Any] = []
    for tool in chat.tools:
        if tool.opaque is not None:
            if tool.opaque.dialect == NAME:
                tools.append(tool.opaque.raw)
            else:
                warn(
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
        finished(out, tool.cache, tool.provider_details, warnings)
        if "type" not in own_members(tool.provider_details):
            del out["type"]
        tools.append(out)
    return tools


def _encode_tool_choice(chat: Chat, have_tools: bool, warnings: list[str]) -> dict[str, Any]:
    choice, parallel = chat.tool_choice, chat.parallel_tool_calls
    if not have_tools:
        if choice is not None and choice.mode != "none" and not is_own(chat):
            warn(warnings, "tool_choice without tools dropped")
        if not is_own(chat):
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


def _encode_format(form: ResponseFormat | None, warnings: list[str]) -> dict[str, Any]:
    match form:
        case ResponseFormat(kind="json_schema", schema=schema) if schema is not None:
            return {"type": "json_schema", "schema": schema}
        case ResponseFormat(kind="json_object" | "json_schema"):
            warn(warnings, f"response_format {form.kind} without a schema dropped")
    return {}


def encode_chat(chat: Chat, warnings: list[str]) -> bytes:
    own = own_members(chat.provider_details)
    warn_foreign(chat.provider_details, "request", warnings)
    kept = {
        name: members_of(own[name], name) if name in own else {}
        for name in ("tool_choice", "thinking", "output_config", "metadata")
    }
    max_tokens = chat.max_tokens
    if max_tokens is None:
        max_tokens = DEFAULT_MAX_TOKENS
        warn(warnings, f"max_tokens is required and was not given: {max_tokens} sent")
    system, messages = _encode_messages(chat, warnings)
    tools = _encode_tools(chat, warnings)
    choice = {**kept["tool_choice"], **_encode_tool_choice(chat, bool(tools), warnings)}
    if is_own(chat):
        thinking, effort = own_thinking(chat, kept["thinking"], max_tokens, warnings)
    else:
        forced = choice.get("type") in ("any", "tool")
        thinking, effort = translated_thinking(chat, max_tokens, forced, warnings)
    config: dict[str, Any] = dict(kept["output_config"])
    if effort is not None:
        config["effort"] = effort
    old_form: dict[str, Any] = {}
    if form := _encode_format(chat.response_format, warnings):
        old = spelling(chat.provider_details, "response_format") is not None
        rest = own.get("output_format") if old else config.get("format")
        if rest is not None:
            form |= members_of(rest, "format")
        if old:
            old_form = form
        else:
            config["format"] = form
    metadata = {**kept["metadata"], **({} if chat.user is None else {"user_id": chat.user})}
    stop = [text for text in chat.stop if text.strip() or is_own(chat)]
    if len(stop) < len(chat.stop):
        warn(warnings, "stop sequences of white space dropped")
    for name, asked in (
        ("seed", chat.seed is not None),
        ("n", chat.n not in (None, 1)),
        ("frequency_penalty", bool(chat.frequency_penalty)),
        ("presence_penalty", bool(chat.presence_penalty)),
    ):
        if asked:
            warn(warnings, f"{name} dropped")
    out: dict[str, Any] = {"model": chat.model, "max_tokens": max_tokens}
    if system is not None:
        out["system"] = system
    out["messages"] = messages
    out |= sampling(chat, thinking.get("type") in ("enabled", "adaptive"), warnings)
    if chat.stream or spelling(chat.provider_details, "stream"):
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
    return encode(out)
