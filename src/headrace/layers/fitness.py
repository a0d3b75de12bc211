"""Whether a target can serve a request at all, judged before it is asked, from what is known of its model; pure.

A model that lacks a feature is found out here and not by its provider's error; nothing is decoded of a request in the caller's bytes
whose words show that it does not use the feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from headrace.errors import ContextTooLong, HeadraceError, InvalidRequest, Unsupported
from headrace.handler import Request
from headrace.prices import Model
from headrace.tokens import estimate_chat
from headrace.types import Block, Chat, Image, Target, ToolResult

__all__ = ["Misfit", "misfit"]


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a target is passed over.

    Attributes:
        error: What the caller is told if nobody else can serve.
        certain: It would be in vain to ask. Else (a catalogue may err, a count is an estimate) the target is asked all the same when
            no level fits.
    """

    error: HeadraceError
    certain: bool = False


def misfit(target: Target, request: Request, model: Model) -> Misfit | None:
    """Why `model` cannot serve `request`; None if it can, for all that is known, or the request cannot be read (which its provider
    will say)."""
    certain = target.provider == "local"
    try:
        for feature, words in _FEATURES.items():
            if (
                getattr(model, feature) is False
                and _mentions(request, words)
                and _uses(feature, request, request.body.chat)
            ):
                return Misfit(Unsupported(f"{target} has no {_NAMES[feature]}"), certain)
        return _too_long(target, request, model)
    except InvalidRequest:
        return None


_FEATURES: dict[str, tuple[bytes, ...]] = {
    "tools": (b'"tools"',),
    "images": (b'"image',),
    "json_schema": (b'"json_schema"',),
}
"""Members of `Model`, and the words of which a request in either dialect has one if it uses the feature."""

_NAMES = {"tools": "tools", "images": "images", "json_schema": "JSON Schema"}


def _mentions(request: Request, words: tuple[bytes, ...]) -> bool:
    wire = request.body.wire
    return wire is None or any(word in wire for word in words)


def _uses(feature: str, request: Request, chat: Chat) -> bool:
    match feature:
        case "tools":
            return bool(chat.tools)
        case "images":
            return any(_is_image(block) for message in chat.messages for block in message.content)
        case _:  # the output layer asks in words for what a model has no mode for
            held = request.output is not None or request.route.repair
            schema = chat.response_format is not None and chat.response_format.kind == "json_schema"
            return schema and not held


def _is_image(block: Block) -> bool:
    return isinstance(block, Image) or (
        isinstance(block, ToolResult) and any(isinstance(inner, Image) for inner in block.content)
    )


def _too_long(target: Target, request: Request, model: Model) -> Misfit | None:
    """Where the route packs for the window, whatever the caller sends fits."""
    total = model.context_total or model.max_input
    if total is None or request.route.context is not None:
        return None
    most = min(model.max_input or total, total)
    wire = request.body.wire
    if len(wire if wire is not None else msgspec.json.encode(request.body.chat)) <= most:
        return None  # no token is shorter than a byte
    chat = request.body.chat
    likely = estimate_chat(chat).likely
    output = min((limit for limit in (chat.max_tokens, request.max_tokens) if limit is not None), default=0)
    if likely > most:
        return Misfit(ContextTooLong(f"{target} takes {most:,} tokens, the request has about {likely:,}"))
    if likely + output > total:
        said = f"the request has about {likely:,} and asks for {output:,} more"
        return Misfit(ContextTooLong(f"{target} takes {total:,} tokens, {said}"))
    return None
