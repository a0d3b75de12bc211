"""What an answer says, in words that both dialects have; read from what the official SDKs made of it, not by our own code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["View", "anthropic_message", "of_anthropic", "of_openai", "openai_completion"]

OPENAI_STOPS = {
    "stop": "stop",
    "eos": "stop",  # Together
    "end_turn": "stop",  # seen of Azure's and OpenRouter's Claude
    "length": "length",
    "model_length": "length",  # Mistral
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "refused",
}
ANTHROPIC_STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refused",
}


WRAPPED = "_invalid_json"
"""The member under which the gateway shows arguments that are not JSON, where the dialect has a place for objects only."""


@dataclass(frozen=True, slots=True)
class View:
    """An answer.

    Attributes:
        calls: Name and arguments of each tool call; arguments that are JSON are compared as such.
        usage: Input (cached or not), output (thinking included), cached input; None where the answer has no usage.
        stop: `stop`, `length`, `tool_calls`, `refused`, or the provider's own word where only its dialect has one.
        features: What else is in the answer and may have no place in the other dialect.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    usage: tuple[int, int, int] | None = None
    stop: str = ""
    features: frozenset[str] = field(default=frozenset(), compare=False)


def _canonical(arguments: str) -> str:
    """Arguments as one spelling of their JSON; no arguments are an empty object."""
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        return arguments
    return json.dumps(value, sort_keys=True)


def _is_json(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except ValueError:
        return False
    return True


def _stop(word: str, words: dict[str, str], calls: list[tuple[str, str]]) -> str:
    """What ended the answer. Some servers say `stop`, or nothing, for an answer with tool calls; agents go by the calls."""
    stop = words.get(word, word) or "stop"
    return "tool_calls" if calls and stop == "stop" else stop


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def openai_completion(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The completion that `chunks` add up to, first choice only; `choices` says with how many others it came."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "refusal": ""}
    calls: list[dict[str, Any]] = []
    details: list[Any] = []
    annotations: list[Any] = []
    whole: dict[str, Any] = {}
    finish = None
    others: set[int] = set()
    logprobs: list[Any] = []
    usage = None
    for chunk in chunks:
        groq = (chunk.get("x_groq") or {}).get("usage")
        usage = chunk.get("usage") or groq or usage
        whole |= {name: value for name, value in chunk.items() if name in ("citations", "search_results")}
        for choice in chunk.get("choices") or []:
            if choice.get("index"):
                others.add(choice["index"])
                continue
            delta = choice.get("delta") or {}
            parts = delta.get("content") or ""
            if isinstance(parts, str):
                message["content"] += parts
            else:
                text, thinking = _parts(parts)
                message["content"] += text
                message["reasoning"] += thinking
            message["reasoning"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
            message["refusal"] += delta.get("refusal") or ""
            details += delta.get("reasoning_details") or []
            annotations += delta.get("annotations") or []
            for name in ("audio", "images"):
                if delta.get(name):
                    message[name] = delta[name]
            if choice.get("logprobs"):
                logprobs.append(choice["logprobs"])
            if function := delta.get("function_call"):
                message.setdefault("function_call", {"name": "", "arguments": ""})
                for name in ("name", "arguments"):
                    message["function_call"][name] += function.get(name) or ""
            for piece in delta.get("tool_calls") or []:
                _grow(calls, piece)
            finish = choice.get("finish_reason") or finish
    message |= {"tool_calls": calls, "reasoning_details": details, "annotations": annotations}
    first = {"message": message, "finish_reason": finish, "logprobs": logprobs}
    return {**whole, "choices": [first, *others], "usage": usage}


def _grow(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    index, id_ = piece.get("index"), piece.get("id")
    function = piece.get("function") or {}
    for call in reversed(calls):
        if call["index"] == index and (not id_ or not call["id"] or id_ == call["id"]):
            break
    else:
        call = {"index": index, "id": id_, "function": {"name": "", "arguments": ""}}
        calls.append(call)
    call["id"] = call["id"] or id_
    call["function"]["name"] = call["function"]["name"] or function.get("name") or ""
    arguments = function.get("arguments") or ""
    call["function"]["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)


def _parts(parts: list[Any]) -> tuple[str, str]:
    text = thinking = ""
    for part in parts:
        match part:
            case {"type": "text", "text": str(said)}:
                text += said
            case {"type": "thinking", "thinking": str(thought)}:
                thinking += thought
            case {"type": "thinking", "thinking": list(thoughts)}:
                thinking += "".join(thought.get("text") or "" for thought in thoughts)
            case _:
                pass
    return text, thinking


def of_openai(completion: dict[str, Any]) -> View:
    """The view of a chat completion, as a dictionary."""
    choices = completion.get("choices") or [{}]
    first = choices[0]
    message = first.get("message") or {}
    content = message.get("content") or ""
    text, thinking = (content, "") if isinstance(content, str) else _parts(content)
    thinking += message.get("reasoning_content") or message.get("reasoning") or ""
    functions = [call.get("function") or {} for call in message.get("tool_calls") or []]
    functions += [message.get("function_call") or {}]
    calls = [(call["name"], _arguments(call.get("arguments"))) for call in functions if call.get("name")]
    features = {
        "more than one choice": len(choices) > 1,
        "logprobs": _has_logprobs(first.get("logprobs")),
        "audio": bool((message.get("audio") or {}).get("id")),
        "arguments that are not JSON": not all(_is_json(arguments) for _, arguments in calls),
        "images in the answer": bool(message.get("images")),
        "citations": bool(
            message.get("annotations") or completion.get("citations") or completion.get("search_results")
        ),
        "thinking signature": any(
            detail.get("signature") or detail.get("data") for detail in message.get("reasoning_details") or []
        ),
        "tools that the provider ran": bool(message.get("executed_tools")),
    }
    word = first.get("finish_reason") or ""
    return View(
        text=text + (message.get("refusal") or ""),
        thinking=thinking,
        calls=tuple(calls),
        usage=_openai_usage(completion.get("usage")),
        stop=_stop(word, OPENAI_STOPS, calls),
        features=frozenset(name for name, there in features.items() if there),
    )


def _has_logprobs(value: Any) -> bool:
    found = value if isinstance(value, list) else [value or {}]
    return any(one.get("content") or one.get("refusal") or one.get("tokens") for one in found)


def _arguments(value: Any) -> str:
    return _canonical(value if isinstance(value, str) else json.dumps(value or {}))


def _openai_usage(usage: dict[str, Any] | None) -> tuple[int, int, int] | None:
    if not usage or usage.get("prompt_tokens") is None:
        return None
    prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    # xAI and Gemini count thinking beside the completion; then the total is more than the sum.
    output = max(completion, (usage.get("total_tokens") or 0) - prompt)
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0
    return prompt, output, min(cached, prompt)  # Azure's Grok says more than there was


# --- Anthropic --------------------------------------------------------------------------------------------------------


def anthropic_message(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The message that `events` add up to."""
    message: dict[str, Any] = {"content": [], "usage": {}}
    blocks: dict[int, dict[str, Any]] = {}
    for event in events:
        match event:
            case {"type": "message_start", "message": start}:
                message = {**start, "usage": dict(start.get("usage") or {})}
            case {"type": "content_block_start", "index": index, "content_block": block}:
                blocks[index] = {**block, "citations": list(block.get("citations") or []), "json": ""}
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                block = blocks[index]
                match delta:
                    case {"type": "text_delta", "text": text}:
                        block["text"] = (block.get("text") or "") + text
                    case {"type": "input_json_delta", "partial_json": text}:
                        block["json"] += text
                    case {"type": "thinking_delta", "thinking": text}:
                        block["thinking"] = (block.get("thinking") or "") + text
                    case {"type": "signature_delta", "signature": text}:
                        block["signature"] = (block.get("signature") or "") + text
                    case {"type": "citations_delta", "citation": citation}:
                        block["citations"].append(citation)
                    case _:
                        pass
            case {"type": "message_delta", "delta": delta}:
                message |= {name: value for name, value in delta.items() if value is not None}
                reported = event.get("usage") or {}
                message["usage"] |= {name: value for name, value in reported.items() if value}
            case _:
                pass
    message["content"] = [blocks[index] for index in sorted(blocks)]
    return message


def of_anthropic(message: dict[str, Any]) -> View:
    """The view of a message, as a dictionary."""
    text = thinking = ""
    calls: list[tuple[str, str]] = []
    features: set[str] = set()
    for block in message.get("content") or []:
        match block.get("type"):
            case "text":
                text += block.get("text") or ""
                if block.get("citations"):
                    features.add("citations")
            case "thinking":
                thinking += block.get("thinking") or ""
                if block.get("signature"):
                    features.add("thinking signature")
            case "redacted_thinking":
                features.add("thinking signature")
            case "tool_use":
                arguments = block.get("json") or json.dumps(block.get("input") or {})
                if _is_json(arguments) and list(wrapped := json.loads(arguments)) == [WRAPPED]:
                    arguments = wrapped[WRAPPED]
                calls.append((block.get("name") or "", _canonical(arguments)))
            case _:
                features.add("tools that the provider ran")
    word = message.get("stop_reason") or ""
    if word == "stop_sequence":
        features.add("which stop sequence ended it")
    return View(
        text=text,
        thinking=thinking,
        calls=tuple(calls),
        usage=_anthropic_usage(message.get("usage")),
        stop=_stop(word, ANTHROPIC_STOPS, calls),
        features=frozenset(features),
    )


def _anthropic_usage(usage: dict[str, Any] | None) -> tuple[int, int, int] | None:
    if not usage or usage.get("input_tokens") is None:
        return None
    cached = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    return usage["input_tokens"] + cached + written, usage.get("output_tokens") or 0, cached
