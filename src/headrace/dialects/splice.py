"""Edits of single members at the top of a JSON object; every other byte stays as it was.

Prompt caches, signatures and unknown members live by bytes that nobody touches: a body that is only to get another `model`
is not decoded and encoded again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from json.scanner import make_scanner
from typing import Any, NoReturn

from msgspec import Struct

from headrace.errors import InvalidRequest

__all__ = ["MAX_DEPTH", "Member", "members", "splice"]

MAX_DEPTH = 128
"""The deepest nesting of a body: far above any real one (JSON Schemas of tools have some ten levels), far below what
overflows a recursive parser."""


class Member(Struct, frozen=True, gc=False):
    """A member of the top object: its decoded name, and its value's bytes `body[start:end]`."""

    name: str
    start: int
    end: int


def members(body: bytes) -> list[Member]:
    """The members of the JSON object `body`, in order, duplicates included.

    Raises:
        InvalidRequest: `body` is not a JSON object, or nests deeper than `MAX_DEPTH`.
    """
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


def splice(body: bytes, changes: Mapping[str, bytes], *, present: Collection[str] = ()) -> bytes:
    """`body` with the top members in `changes` set to the JSON text given for each; nothing else moves.

    The value of a member that exists is exchanged where it stands; an absent one is appended.

    Args:
        changes: Names, in ASCII, and values as JSON text.
        present: Members that a decoder has found at the top of this very body, which is thereby known to be a JSON object.
            Changing nothing but these, and members whose name occurs nowhere, costs no parse.

    Raises:
        InvalidRequest: `body` is not a JSON object, nests deeper than `MAX_DEPTH`, or has a member of `changes` twice.
    """
    edits = _quick(body, changes, present) if present else None
    if edits is None:
        edits = _exact(body, changes)
    pieces: list[bytes] = []
    at = 0
    for start, end, value in sorted(edits):
        pieces += (body[at:start], value)
        at = end
    pieces.append(body[at:])
    return b"".join(pieces)


_Edit = tuple[int, int, bytes]


def _exact(body: bytes, changes: Mapping[str, bytes]) -> list[_Edit]:
    found = members(body)
    edits: list[_Edit] = []
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
    return edits


def _quick(body: bytes, changes: Mapping[str, bytes], present: Collection[str]) -> list[_Edit] | None:
    """The edits without a parse, or None where the bytes alone leave a doubt.

    The body is valid JSON. Quotes inside strings are escaped, so `"model"` with `{` or `,` before it and `:` behind it is a
    key. When that is the only `"model"` and no name in the body is spelled with escapes, it is the top one that a decoder
    found.
    """
    if b"\\u00" in body and _ESCAPED_LETTER.search(body):
        return None
    edits: list[_Edit] = []
    added: dict[str, bytes] = {}
    for name, value in changes.items():
        quoted = b'"%b"' % name.encode("ascii")
        at = body.find(quoted)
        if name not in present:
            if at >= 0:
                return None
            added[name] = value
            continue
        match = _SCALAR.match(body, at + len(quoted)) if at >= 0 else None
        if match is None or body.find(quoted, match.end()) >= 0:
            return None
        before = body[max(0, at - _NEAR) : at].rstrip(b" \t\r\n")
        if not before.endswith((b"{", b",")):
            return None
        edits.append((match.start(1), match.end(1), value))
    if added:
        edits.append(_append(body, added, True))
    return edits


def _append(body: bytes, added: Mapping[str, bytes], after_others: bool) -> _Edit:
    close = body.rindex(b"}")
    end = len(body[:close].rstrip(b" \t\r\n")) if close and body[close - 1] in b" \t\r\n" else close
    text = b",".join(b'"%b":%b' % (name.encode("ascii"), value) for name, value in added.items())
    return end, end, b"," + text if after_others else text


_NEAR = 64
_SCALAR = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*("[^"\\]*"|[-+.\w]+)')
# Letters and the underscore: what our names are made of. Encoders that escape write other characters so.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:[67]|5[fF])")
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
