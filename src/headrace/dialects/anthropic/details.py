"""The members that only this dialect knows: kept where they stood, written back, named where they are lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from headrace.dialects.wire import STR, Members, Wrong, encode, inside, take, take_members
from headrace.types import CacheHint, Chat, Details

__all__ = [
    "NAME",
    "details_of",
    "finished",
    "is_own",
    "own_members",
    "said_false",
    "server_event",
    "spelling",
    "take_cache",
    "take_text",
    "telling_of",
    "text_of",
    "warn",
    "warn_foreign",
]

NAME = "anthropic"


def take_text(members: Members, name: str, path: str) -> str:
    """Remove a text; empty when it is absent or null."""
    text = take(members, name, STR, path)
    return "" if text is None else text


def take_cache(members: Members, path: str) -> CacheHint | None:
    """The breakpoint. One with members that we do not know stays among `members` too, and is written back from there."""
    raw = members.get("cache_control")
    control = take_members(members, "cache_control", path)
    if control is None or raw is None:
        return None
    path = inside(path, "cache_control")
    kind = take(control, "type", STR, path)
    hint = CacheHint(take(control, "ttl", STR, path))
    if control or kind != "ephemeral":
        members["cache_control"] = raw
    return hint


def details_of(members: Members, spelled: dict[str, str] | None = None) -> Details | None:
    """What is left of an object; null members say nothing."""
    telling = telling_of(members)
    return Details(NAME, telling, spelled or {}) if telling or spelled else None


def telling_of(members: Members) -> Members:
    return {name: raw for name, raw in members.items() if bytes(raw) != b"null"} if members else members


def spelling(details: Details | None, name: str) -> str | None:
    return details.spelled.get(name) if details is not None and details.dialect == NAME else None


def said_false(members: Members, name: str) -> dict[str, str]:
    """The spelling of a default that was written out."""
    return {name: "false"} if bytes(members.get(name, b"")) == b"false" else {}


def text_of(raw: Raw, path: str) -> str:
    """The JSON text itself."""
    try:
        return str(memoryview(raw), "utf-8")
    except UnicodeDecodeError:
        raise Wrong(path, "is not UTF-8") from None


def own_members(details: Details | None) -> Members:
    return details.members if details is not None and details.dialect == NAME else {}


def warn_foreign(
    details: Details | None, where: str, warnings: list[str], *, silent: frozenset[str] = frozenset()
) -> None:
    if details is None or details.dialect == NAME:
        return
    for name, raw in details.members.items():
        if name not in silent and bytes(raw) != b"null":
            warn(warnings, f"{where} {name} of {details.dialect} dropped")


def warn(warnings: list[str], what: str) -> None:
    """Name a loss, once."""
    text = f"{NAME}: {what}"
    if text not in warnings:
        warnings.append(text)


def finished(
    out: dict[str, Any], cache: CacheHint | None, details: Details | None, warnings: list[str]
) -> dict[str, Any]:
    """`out` with the breakpoint and the members that only we know."""
    warn_foreign(details, out["type"], warnings)
    for name, raw in own_members(details).items():
        if name != "cache_control":
            out[name] = raw
        elif cache is not None:
            out[name] = raw
            cache = None
    if cache is not None:
        out["cache_control"] = _control(cache)
    caller = spelling(details, "caller")
    if caller is not None:
        out["caller"] = Raw(caller.encode())
    return out


def _control(cache: CacheHint) -> dict[str, Any]:
    return {"type": "ephemeral"} if cache.ttl is None else {"type": "ephemeral", "ttl": cache.ttl}


def is_own(chat: Chat) -> bool:
    return chat.provider_details is not None and chat.provider_details.dialect == NAME


def server_event(name: str, data: Mapping[str, Any]) -> bytes:
    text = encode(data)
    if b"\n" in text or b"\r" in text:
        # Raw members may have come with line breaks, which would end the line of the event.
        text = msgspec.json.format(text, indent=-1)
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text)
