"""Edits of single members at the top of a JSON object; every other byte stays as it was.

Prompt caches, signatures and unknown members live by bytes that nobody touches: a body that is only to get another `model`
is not decoded and encoded again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from json.scanner import make_scanner
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from headrace.errors import InvalidRequest

__all__ = ["MAX_DEPTH", "Member", "members", "splice"]

MAX_DEPTH = 128
"""The deepest nesting that Python's parser is given: far above any real one (JSON Schemas of tools have some ten levels), far
below what overflows it. The fast decoder has a limit of its own."""


class Member(Struct, frozen=True, gc=False):
    """A member of the top object: its decoded name, and its value's bytes `body[start:end]`."""

    name: str
    start: int
    end: int


def members(body: bytes) -> list[Member]:
    """The members of the JSON object `body`, in order, duplicates included.

    Raises:
        InvalidRequest: `body` is not a JSON object, or nests too deep.
    """
    found = _walk(body)
    return _parse(body) if found is None else found


def _walk(body: bytes) -> list[Member] | None:
    """The members at the price of one decoding, or None where a duplicate or an escaped name leaves a doubt.

    A fast decoder says which members there are, but not where. The body must be exactly these, each once and in their order,
    with white space between them; then it can hold no other.
    """
    try:
        top = _TOP.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    at, found, next_key = 0, [], _FIRST_KEY
    for name, raw in top.items():
        key = next_key(body, at)
        if key is None or key[1] != name.encode():
            return None
        start = key.end()
        if not body.startswith(bytes(raw), start):
            return None
        at = start + len(raw)
        found.append(Member(name, start, at))
        next_key = _NEXT_KEY
    return found if _END(body, at) and found else None


def _parse(body: bytes) -> list[Member]:
    """The members of any JSON object, at the price of Python's parser."""
    _check_depth(body)
    # One character a byte, so that positions are those of the bytes; the structure of JSON is all ASCII.
    text = body.decode("latin-1")
    found: list[Member] = []
    at = _space(text, 0)
    if text[at : at + 1] != "{":
        raise InvalidRequest("the body is not a JSON object")
    at = _space(text, at + 1)
    if text[at : at + 1] != "}":
        while True:
            if text[at : at + 1] != '"':
                raise _not_json(at)
            key = at
            try:
                _, at = _scan(text, key)
                name = _name(body[key:at])
                at = _space(text, at)
                if text[at : at + 1] != ":":
                    raise _not_json(at)
                start = _space(text, at + 1)
                _, at = _scan(text, start)
            except StopIteration as stop:
                raise _not_json(stop.value) from None
            except ValueError as error:
                raise InvalidRequest(f"the body is not JSON: {error}") from None
            except RecursionError:
                raise _too_deep() from None
            found.append(Member(name, start, at))
            at = _space(text, at)
            if text[at : at + 1] != ",":
                break
            at = _space(text, at + 1)
        if text[at : at + 1] != "}":
            raise _not_json(at)
    if _space(text, at + 1) != len(text):
        raise _not_json(at + 1)
    return found


def splice(body: bytes, changes: Mapping[str, bytes], found: Sequence[Member] | None = None) -> bytes:
    """`body` with the top members in `changes` set to the JSON text given for each; nothing else moves.

    The value of a member that exists is exchanged where it stands; an absent one is appended.

    Args:
        changes: Names, in ASCII, and values as JSON text.
        found: The `members` of this very body, where they are at hand.

    Raises:
        InvalidRequest: `body` is not a JSON object, nests too deep, or has a member of `changes` twice.
    """
    if found is None:
        found = members(body)
    edits: list[tuple[int, int, bytes]] = []
    seen: set[str] = set()
    for member in found:
        if member.name in changes:
            if member.name in seen:
                raise InvalidRequest(f"the body has {member.name!r} twice", param=member.name)
            seen.add(member.name)
            edits.append((member.start, member.end, changes[member.name]))
    added = {name: value for name, value in changes.items() if name not in seen}
    if added:
        edits.append(_append(body, added, bool(found)))
    pieces: list[bytes] = []
    at = 0
    for start, end, value in edits:
        pieces += (body[at:start], value)
        at = end
    pieces.append(body[at:])
    return b"".join(pieces)


def _append(body: bytes, added: Mapping[str, bytes], after_others: bool) -> tuple[int, int, bytes]:
    close = body.rindex(b"}")
    end = len(body[:close].rstrip(b" \t\r\n")) if close and body[close - 1] in b" \t\r\n" else close
    text = b",".join(b'"%b":%b' % (name.encode("ascii"), value) for name, value in added.items())
    return end, end, b"," + text if after_others else text


_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FIRST_KEY = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*').match
_NEXT_KEY = re.compile(rb'[ \t\r\n]*,[ \t\r\n]*"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*').match
_END = re.compile(rb"[ \t\r\n]*\}[ \t\r\n]*").fullmatch
_SPACE = re.compile(r"[ \t\n\r]*")
# An unclosed string runs to the end, so that a hostile body is read once.
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers are left as text: their value is not needed, and one with a million digits should cost nothing.
_make_scanner: Any = make_scanner
_scan = _make_scanner(json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_constant))


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _name(quoted: bytes) -> str:
    name: str = json.loads(quoted) if b"\\" in quoted or not quoted.isascii() else quoted[1:-1].decode()
    return name


def _check_depth(body: bytes) -> None:
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for token in _STRUCTURE.finditer(body):
        first = body[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep()
        elif first != 0x22:
            depth -= 1


def _not_json(at: int) -> InvalidRequest:
    return InvalidRequest(f"the body is not JSON at byte {at}")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels")
