"""Strings inside JSON text, exchanged where they stand; every other byte stays as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

__all__ = ["rewrite"]

_TOKEN = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"([ \t\r\n]*:)?|[\[{]|[\]}]', re.DOTALL)


def rewrite(body: bytes, change: Callable[[Sequence[str], str, bool], str]) -> bytes:
    """`body`, which is JSON, with the strings that `change` gives.

    Args:
        change: Told of each string where it stands: the names of the members that lead to it, outermost first (an array has
            an empty one, and a name leads to itself), its text, and whether it is a member's name. What it gives is written.
    """
    pieces: list[bytes] = []
    path: list[str] = []
    at = 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first == 0x22:
            text, is_name = _read(token[1]), token[2] is not None
            if is_name and path:
                path[-1] = text
            changed = change(path, text, is_name)
            if changed != text:
                pieces += (body[at : token.start()], _written(changed))
                at = token.end(1) + 1
        elif first in b"[{":
            path.append("")
        elif path:
            path.pop()
    if not pieces:
        return body
    pieces.append(body[at:])
    return b"".join(pieces)


def _read(quoted: bytes) -> str:
    text = quoted.decode("utf-8", "surrogateescape")
    if "\\" not in text:
        return text
    try:
        read: str = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return text
    return read


def _written(text: str) -> bytes:
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(text).encode()
