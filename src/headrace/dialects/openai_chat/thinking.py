"""What a model thought, in the spellings of the servers: plain members, parts, and signed details."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from headrace.dialects.openai_chat.details import NAME
from headrace.dialects.wire import STR, Members, encode, take
from headrace.types import Details, Thinking

__all__ = ["PARTS", "PLAIN", "SpokenPart", "detail_of", "spoken", "take_details", "take_thinking"]


class SpokenPart(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | list[SpokenPart] | None = None


PARTS: msgspec.json.Decoder[str | list[SpokenPart] | None] = msgspec.json.Decoder(
    str | list[SpokenPart] | None
)
PLAIN = ("reasoning_content", "reasoning")
_CLAUDE = "anthropic-claude-v1"
"""OpenRouter's word for the form of reasoning details that only Claude reads again."""


def spoken(parts: str | list[SpokenPart] | None) -> str:
    if isinstance(parts, str):
        return parts
    return "".join(part.text or "" for part in parts or ())


def take_thinking(said: Members, path: str) -> list[Thinking]:
    """What was thought, in the one or two members of plain text and, where it is signed, in `reasoning_details`."""
    before = dict(said)
    plain = {name: text for name in PLAIN if (text := take(said, name, STR, path))}
    signed = take_details(said)
    texts = [thought.text for thought in signed]
    thought = next(iter(plain.values()), "")
    for name, text in list(plain.items()):
        if text != thought or (signed and text not in ("".join(texts), "\n".join(texts))):
            del plain[name]  # it says something else
            said[name] = before[name]
    spelled = {"thinking": "both" if len(plain) == len(PLAIN) else next(iter(plain), "details")}
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


def take_details(said: Members) -> list[Thinking]:
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
        thoughts.append(_marked(thought, {"detail": encode(rest).decode()}))
    if begun or not thoughts:
        return []
    del said["reasoning_details"]
    return thoughts


def detail_of(thought: Thinking, rest: int | dict[str, Any]) -> dict[str, Any]:
    """Signed or redacted thinking as OpenRouter hands it out, so that a client which hands it back loses nothing. `rest`: the
    members that came with it, or its number."""
    if thought.redacted is not None:
        said = {"type": "reasoning.encrypted", "data": thought.redacted}
    else:
        said = {"type": "reasoning.text", "text": thought.text, "signature": thought.signature or ""}
    return {**said, **({"format": _CLAUDE, "index": rest} if isinstance(rest, int) else rest)}
