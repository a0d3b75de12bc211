"""Whole answers: their finish, their usage, what the first choice says."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from headrace.dialects.faults import read_error
from headrace.dialects.openai_chat.details import (
    NAME,
    Losses,
    details_of,
    keep,
    merge,
    present,
    take_raw,
    telling_of,
    without,
)
from headrace.dialects.openai_chat.message import decode_said, encode_said
from headrace.dialects.wire import (
    ITEMS,
    STR,
    Members,
    Wrong,
    check_utf8,
    encode,
    json,
    members_of,
    need,
    take,
    take_members,
)
from headrace.types import FinishReason, Refusal, Reply, Text, Usage

__all__ = [
    "NO_ERROR",
    "decode_answer",
    "encode_answer",
    "encode_usage",
    "finish_of",
    "finish_word",
    "is_error",
    "usage_of",
]

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
_NUMBER: msgspec.json.Decoder[int | float | None] = msgspec.json.Decoder(int | float | None)


class _PromptDetails(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: int | None = None
    image_tokens: int | None = None


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
        outside = self.completion_tokens_details or _CompletionDetails()
        reasoning = outside.reasoning_tokens or 0
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
            image_tokens=min(outside.image_tokens or 0, max(0, completion - reasoning)),
        )


class _UsualUsage(_Usage, forbid_unknown_fields=True):
    pass


class _UsualSaid(Struct, forbid_unknown_fields=True):
    role: Raw = Raw()
    content: str | None = None
    refusal: None = None
    annotations: tuple[()] = ()


class _UsualChoice(Struct, forbid_unknown_fields=True):
    message: _UsualSaid
    index: Raw = Raw()
    finish_reason: str | None = None
    logprobs: None = None


class _Usual(Struct, forbid_unknown_fields=True):
    """What most answers are: one choice that says something, and no member but these."""

    choices: tuple[_UsualChoice]
    id: str | None = None
    object: Literal["chat.completion"] | None = None
    created: int | None = None
    model: str | None = None
    usage: _UsualUsage | None = None
    service_tier: Raw = Raw()
    system_fingerprint: Raw = Raw()

    def reply(self) -> Reply:
        (choice,) = self.choices
        content, word = choice.message.content, choice.finish_reason
        rest: Members = {}
        if self.service_tier:
            rest["service_tier"] = self.service_tier
        if self.system_fingerprint:
            rest["system_fingerprint"] = self.system_fingerprint
        return Reply(
            id=self.id or "",
            model=self.model or "",
            content=(Text(text=content),) if content else (),
            finish="other" if word is None else finish_of(word),
            finish_raw=word,
            usage=None if self.usage is None else self.usage.typed(),
            created=self.created,
            provider_details=details_of(telling_of(rest)),
        )


class _Groq(Struct):
    usage: _Usage | None = None


_USAGE: msgspec.json.Decoder[_Usage | None] = msgspec.json.Decoder(_Usage | None)
_USUAL: msgspec.json.Decoder[_Usual] = msgspec.json.Decoder(_Usual)
_GROQ: msgspec.json.Decoder[_Groq | None] = msgspec.json.Decoder(_Groq | None)
_USAGE_MEMBERS = {
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "prompt_cache_hit_tokens",
}
NO_ERROR = (b"null", b"{}", b"[]", b'""', b"false")


def finish_of(word: str) -> FinishReason:
    return _FINISH.get(word, "other")


def decode_answer(body: bytes) -> Reply:
    check_utf8(body)
    try:
        return _USUAL.decode(body).reply()  # in one pass, several times as fast as member by member
    except (msgspec.DecodeError, RecursionError):
        return _decode_by_member(body)


def _decode_by_member(body: bytes) -> Reply:
    """Any answer, with whatever it has; or what is wrong with it."""
    answer = members_of(body, "")
    if is_error(answer.get("error"), answer.get("object")):
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
    content = tuple(decode_said(said, "choices[0].message"))
    usage = _take_usage(answer)
    created = take(answer, "created", _NUMBER, "")
    id_, model = take(answer, "id", STR, ""), take(answer, "model", STR, "")
    answer.pop("object", None)
    # What is left of the parts stays under their names, without the parts themselves; an empty member says nothing.
    keep(choice, "message", telling_of(without(said, "role")))
    choice = telling_of(without(choice, "index"))
    others = choices[1:]
    if choice or others:
        answer["choices"] = json([choice, *others])
    return Reply(
        id=id_ or "",
        model=model or "",
        content=content,
        finish="other" if word is None else finish_of(word),
        finish_raw=word,
        usage=usage,
        created=None if created is None else int(created),
        provider_details=details_of(telling_of(answer)),
    )


def _take_usage(answer: Members) -> Usage | None:
    raw = take_raw(answer, "usage")
    if raw is None:
        return None
    try:
        usage = _USAGE.decode(raw)
    except msgspec.ValidationError:
        answer["usage"] = raw
        return None
    rest = members_of(raw, "usage")
    keep(answer, "usage", {name: value for name, value in rest.items() if name not in _USAGE_MEMBERS})
    return None if usage is None else usage.typed()


def is_error(error: Raw | None, kind: Raw | None = None) -> bool:
    """Whether an answer with these members `error` and `object` is an error (older vLLM: `"object": "error"`)."""
    if error is not None and bytes(error) not in NO_ERROR:
        return True
    return kind is not None and bytes(kind) == b'"error"'


def encode_usage(usage: Usage, own: Members) -> dict[str, Any]:
    outside: dict[str, int] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.image_tokens:
        outside["image_tokens"] = usage.image_tokens
    inside: dict[str, int] = {"cached_tokens": usage.cache_read_tokens}
    if usage.cache_write_tokens:
        inside["cache_write_tokens"] = usage.cache_write_tokens
    known = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": inside,
        "completion_tokens_details": outside,
    }
    return merge(known, own, "usage")


def finish_word(reason: FinishReason, raw: str | None, *, refused: bool) -> str:
    if raw is not None and (_FINISH.get(raw) == reason or reason == "other"):
        return raw
    if reason == "refusal" and refused:
        return "stop"
    return _FINISH_WORD[reason]


def encode_answer(reply: Reply, warnings: list[str]) -> bytes:
    losses = Losses(warnings)
    own = losses.own(reply.provider_details, "reply")
    if reply.stop_sequence is not None:
        losses.say("stop sequence dropped")
    choices = [] if "choices" not in own else msgspec.json.decode(own["choices"], type=list[Members])
    choice = choices[0] if choices else {}
    said = {"role": "assistant", **encode_said(reply.content, losses, answer=True)}
    said.setdefault("refusal", None)
    refused = any(isinstance(block, Refusal) for block in reply.content)
    first = {
        "index": 0,
        "message": merge(said, choice, "message"),
        "finish_reason": finish_word(reply.finish, reply.finish_raw, refused=refused),
        **without(choice, "message"),
    }
    first.setdefault("logprobs", None)
    answer: dict[str, Any] = {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created or 0,
        "model": reply.model,
        "choices": [first, *choices[1:]],
        "usage": None if reply.usage is None else encode_usage(reply.usage, own),
    }
    return encode({**present(answer), **without(own, "choices", "usage")})


def usage_of(said: Raw, of_groq: Raw) -> Usage | None:
    """The usage so far; counts of a form that nobody knows are no reason to break an answer."""
    try:
        usage = _USAGE.decode(said) if said else None
        if usage is None and of_groq:
            groq = _GROQ.decode(of_groq)
            usage = None if groq is None else groq.usage
    except msgspec.ValidationError:
        return None
    return None if usage is None else usage.typed()
