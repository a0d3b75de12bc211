"""How much a model is to think, and which parameters go with that; the rules differ by generation of Claude."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headrace.dialects.anthropic.details import is_own, warn
from headrace.dialects.wire import INT, STR, Members, need, take
from headrace.types import Chat, Reasoning, Thinking, ToolCall

__all__ = ["MIN_BUDGET", "decode_reasoning", "own_thinking", "sampling", "translated_thinking"]

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


def decode_reasoning(thinking: Members, effort: str | None) -> Reasoning | None:
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


def translated_thinking(
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
            warn(warnings, f"reasoning dropped: {chat.model} cannot think")
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
            warn(warnings, f"reasoning effort {effort} sent as {lower}")
            effort = lower
    if forced:
        warn(warnings, "thinking dropped: a tool is forced")
        return {}, effort
    if adaptive and (wanted.budget_tokens is None or (generation or (0, 0)) >= _NO_SAMPLING_SINCE):
        if wanted.budget_tokens is not None:
            warn(warnings, f"thinking budget dropped: {chat.model} thinks adaptively")
        return {"type": "adaptive"}, effort
    budget = wanted.budget_tokens
    if budget is None:
        share = EFFORT_SHARES.get(wanted.effort or "medium")
        if share is None:
            warn(warnings, f"reasoning effort {wanted.effort} is not known; sent as medium")
            share = EFFORT_SHARES["medium"]
        budget = max(MIN_BUDGET, int(max_tokens * share))
    if _in_tool_loop(chat):
        warn(warnings, "thinking dropped: the tool calls in progress carry no signed thinking")
        return {}, effort
    return _with_budget({}, budget, max_tokens, warnings), effort


def _with_budget(
    thinking: dict[str, Any], budget: int, max_tokens: int, warnings: list[str]
) -> dict[str, Any]:
    """Thinking with a budget below `max_tokens`, or none where that leaves less than the least one."""
    if budget >= max_tokens:
        if max_tokens <= MIN_BUDGET:
            warn(warnings, f"thinking dropped: max_tokens {max_tokens} leaves no room for it")
            return {}
        warn(warnings, f"thinking budget {budget} lowered below max_tokens {max_tokens}")
        budget = max_tokens - 1
    return {"type": "enabled", "budget_tokens": budget, **thinking}


def own_thinking(
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


def sampling(chat: Chat, thinks: bool, warnings: list[str]) -> dict[str, Any]:
    """`temperature`, `top_p`, `top_k` as the model takes them."""
    temperature = chat.temperature
    if temperature is not None and temperature > 1:
        warn(warnings, f"temperature {temperature:g} lowered to 1")
        temperature = 1.0
    given = {"temperature": temperature, "top_p": chat.top_p, "top_k": chat.top_k}
    out = {name: value for name, value in given.items() if value is not None}
    if is_own(chat):
        return out
    generation = _generation(chat.model)
    fixed = generation is not None and generation >= _NO_SAMPLING_SINCE
    if fixed or thinks:
        why = f"{chat.model} does not take it" if fixed else "the model thinks"
        for name in list(out):
            if out.pop(name) != 1 or name == "top_k":
                warn(warnings, f"{name} dropped: {why}")
    elif "temperature" in out and out.pop("top_p", 1) != 1:
        # Models since Claude 4.5 refuse both together.
        warn(warnings, "top_p dropped: temperature is given")
    return out
