"""JSON objects of a wire, read member by member: what is known is taken out typed, what is left is kept as it came."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from headrace.errors import InvalidRequest

__all__ = [
    "BOOL",
    "FLOAT",
    "INT",
    "ITEMS",
    "STR",
    "UNREADABLE",
    "Members",
    "Wrong",
    "check_utf8",
    "encode",
    "inside",
    "invalid_request",
    "json",
    "members_of",
    "need",
    "take",
    "take_members",
]

T = TypeVar("T")

Members = dict[str, Raw]
"""An object whose values are not read yet."""

STR: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
INT: msgspec.json.Decoder[int | None] = msgspec.json.Decoder(int | None)
FLOAT: msgspec.json.Decoder[float | None] = msgspec.json.Decoder(float | None)
BOOL: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)
ITEMS: msgspec.json.Decoder[list[Raw] | None] = msgspec.json.Decoder(list[Raw] | None)
_OBJECT: msgspec.json.Decoder[Members] = msgspec.json.Decoder(Members)
_OBJECT_OR_NULL: msgspec.json.Decoder[Members | None] = msgspec.json.Decoder(Members | None)
encode = msgspec.json.Encoder().encode

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading JSON from a stranger may raise."""

_AT = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")


class Wrong(Exception):
    """What stands at `path` (`messages[0].content`) is not what it must be; a dialect makes it the error of its side."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path


def check_utf8(data: bytes | Raw) -> None:
    """msgspec looks at no text that it does not decode: what is kept raw is checked here. Raises `UnicodeDecodeError`."""
    data = bytes(data)
    if not data.isascii():
        data.decode()


def invalid_request(error: Exception) -> InvalidRequest:
    """The caller's body is not what it must be, as `Wrong` or msgspec say; the member's name is cut out of their words."""
    if isinstance(error, Wrong):
        return InvalidRequest(str(error), param=error.path or None)
    text = str(error)
    at = _AT.search(text)
    if at is not None and at[1]:
        return InvalidRequest(f"{at[1]}: {text[: at.start()]}", param=at[1])
    missing = _MISSING.search(text)
    if missing is not None:
        return InvalidRequest(f"{missing[1]}: is required", param=missing[1])
    if isinstance(error, RecursionError):
        text = "it nests too deep"
    return InvalidRequest(f"the body cannot be read: {text}")


def members_of(raw: Raw | bytes, path: str) -> Members:
    """The members of the object `raw`. Raises `Wrong`."""
    return _decode(_OBJECT, raw, path)


def inside(path: str, name: str) -> str:
    """Where the member `name` of the object at `path` is."""
    return f"{path}.{name}" if path else name


def take(members: Members, name: str, decoder: msgspec.json.Decoder[T], path: str) -> T | None:
    """Remove a member; None when it is absent or null. Raises `Wrong`."""
    raw = members.pop(name, None)
    return None if raw is None else _decode(decoder, raw, inside(path, name))


def need(members: Members, name: str, decoder: msgspec.json.Decoder[T | None], path: str) -> T:
    """Remove a member that must be there. Raises `Wrong`."""
    value = take(members, name, decoder, path)
    if value is None:
        raise Wrong(inside(path, name), "is required")
    return value


def take_members(members: Members, name: str, path: str) -> Members | None:
    """Remove a member that is an object; None when it is absent or null. Raises `Wrong`."""
    return take(members, name, _OBJECT_OR_NULL, path)


def json(value: Any) -> Raw:
    """`value` as JSON text."""
    return Raw(encode(value))


def _decode(decoder: msgspec.json.Decoder[T], raw: Raw | bytes, path: str) -> T:
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise Wrong(path, "nests too deep") from None
    except UNREADABLE as error:
        raise Wrong(path, str(error)) from None
