"""Whole answers: their finish, their usage, their content."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace.dialects.anthropic.block import decode_block, encode_block, wire_id
from headrace.dialects.anthropic.details import (
    NAME,
    details_of,
    own_members,
    spelling,
    take_text,
    text_of,
    warn_foreign,
)
from headrace.dialects.faults import read_error
from headrace.dialects.wire import ITEMS, STR, check_utf8, encode, members_of, need, take
from headrace.types import FinishReason, Reply, ToolCall, Usage

__all__ = [
    "decode_answer",
    "decode_usage",
    "encode_answer",
    "encode_usage",
    "finish_of",
    "stop_word",
    "with_id",
]

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


def decode_usage(raw: Raw | None) -> Usage | None:
    """Counts of a form that nobody knows are no reason to lose an answer: they are not known."""
    try:
        usage = _USAGE.decode(raw) if raw else None
    except msgspec.ValidationError:
        return None
    return None if usage is None else usage.typed()


def finish_of(stop_reason: str | None) -> FinishReason:
    return "other" if stop_reason is None else _FINISH.get(stop_reason, "other")


def stop_word(finish: FinishReason, raw: str | None, has_calls: bool) -> str:
    """The provider's own word where it is one of ours and means `finish`, else our word for it. An answer with tool calls
    then says so, even if its server said `stop`: agents go by it."""
    if raw is not None and finish_of(raw) == finish:
        return raw
    if finish == "stop" and has_calls:
        return "tool_use"
    return _STOP_REASON.get(finish, "end_turn")


def encode_usage(usage: Usage) -> dict[str, Any]:
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


def with_id(call: ToolCall, message_id: str, index: int) -> ToolCall:
    """Some servers send calls without an id; results are matched by it, so it is made from the message's."""
    if call.id:
        return call
    return msgspec.structs.replace(call, id=f"toolu_{wire_id(message_id)}_{index}")


def decode_answer(body: bytes) -> Reply:
    check_utf8(body)
    members = members_of(body, "body")
    if "error" in members:
        raise read_error(status=None, headers={}, body=body, dialect=NAME, now_wall=0.0)
    items: list[Raw] = need(members, "content", ITEMS, "")
    content = tuple(decode_block(raw, f"content[{number}]") for number, raw in enumerate(items))
    said = members.pop("usage", None)
    usage = decode_usage(said)
    spelled = {} if said is None or usage is None else {"usage": text_of(said, "usage")}
    for constant in ("type", "role"):
        members.pop(constant, None)
    raw_reason = take(members, "stop_reason", STR, "")
    return Reply(
        id=take_text(members, "id", ""),
        model=take_text(members, "model", ""),
        content=content,
        finish=finish_of(raw_reason),
        finish_raw=raw_reason,
        stop_sequence=take(members, "stop_sequence", STR, ""),
        usage=usage,
        provider_details=details_of(members, spelled),
    )


def encode_answer(reply: Reply, warnings: list[str]) -> bytes:
    content: list[Any] = []
    for index, block in enumerate(reply.content):
        if isinstance(block, ToolCall):
            block = with_id(block, reply.id, index)
        if (out := encode_block(block, warnings, answer=True)) is not None:
            content.append(out)
    warn_foreign(reply.provider_details, "answer", warnings, silent=_BOOKKEEPING)
    usage: Any = encode_usage(reply.usage or Usage())
    said = spelling(reply.provider_details, "usage")
    if said is not None:
        # The provider's own report goes out as it was, as long as nobody changed the counts.
        raw = Raw(said.encode())
        if decode_usage(raw) == reply.usage:
            usage = raw
    return encode(
        {
            "id": reply.id,
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": content,
            "stop_reason": stop_word(reply.finish, reply.finish_raw, bool(reply.tool_calls)),
            "stop_sequence": reply.stop_sequence,
            "usage": usage,
            **own_members(reply.provider_details),
        }
    )
