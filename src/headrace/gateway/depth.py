"""How deeply a JSON text is nested, without building it."""

from __future__ import annotations

import re

from headrace.errors import BodyTooLarge

__all__ = ["check_depth"]

PEELED = 6

_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_depth(body: bytes, limit: int) -> None:
    """Raises `BodyTooLarge` when arrays and objects are nested deeper than `limit`.

    A body with no more than `limit` opening brackets cannot be; that is all that most requests cost here. Otherwise the
    innermost pairs are taken away a few times over, which leaves little of a wide body, and what is left is counted.
    """
    if body.count(b"{") + body.count(b"[") <= limit:
        return
    brackets = _STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS)
    peeled = 0
    while peeled < min(limit, PEELED):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        peeled += 1
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth + peeled > limit:
            raise BodyTooLarge(f"the JSON is nested deeper than the limit of {limit}")
