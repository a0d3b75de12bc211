"""The members that only this dialect knows: kept where they stood, written back, named where they are lost."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from headrace.dialects.wire import Members, json, members_of
from headrace.types import Details

__all__ = [
    "NAME",
    "Losses",
    "details_of",
    "keep",
    "merge",
    "present",
    "spelling",
    "take_raw",
    "telling_of",
    "without",
]

NAME = "openai-chat"
_EMPTY = (b"null", b"{}", b"[]")


def details_of(rest: Members, spelled: dict[str, str] | None = None) -> Details | None:
    return Details(NAME, rest, spelled or {}) if rest or spelled else None


def take_raw(members: Members, name: str) -> Raw | None:
    raw = members.pop(name, None)
    return None if raw is None or bytes(raw) == b"null" else raw


def keep(outer: Members, name: str, rest: Members) -> None:
    """Members left over in an inner object stay under its name and are merged into it when it is written."""
    if rest:
        outer[name] = json(rest)


def telling_of(members: Members) -> Members:
    return {name: raw for name, raw in members.items() if bytes(raw) not in _EMPTY}


class Losses:
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


def spelling(details: Details | None, name: str, default: str) -> str:
    """How the dialect wrote the typed member `name` when this value came from it."""
    return default if details is None or details.dialect != NAME else details.spelled.get(name, default)


def merge(inner: dict[str, Any], own: Members, name: str) -> dict[str, Any]:
    """`inner` with what `keep` left for it, and `own` without that."""
    rest = own.get(name)
    return inner if rest is None else {**inner, **members_of(rest, name)}


def without(own: Members, *names: str) -> Members:
    return {name: raw for name, raw in own.items() if name not in names}


def present(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
