"""A pattern of the user's own, held to what no text can make run long.

Python's matcher goes back over every way in which a pattern can divide a text. Before a pattern is used its ways are counted: the
product of what its repeats and alternatives leave open, which bounds the work at each place of any text. Repeats that never go back
(`{1,40}+`, Python 3.11) leave nothing open.
"""

from __future__ import annotations

import re
from re import _constants as op  # type: ignore[attr-defined]  # the parser's own tree is the only one there is
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

__all__ = ["MAX_WAYS", "MAX_WIDTH", "compiled", "ways"]

MAX_WIDTH = 4_096
"""Characters that a match may have."""

MAX_WAYS = 1_000
"""Ways in which a pattern may divide a text: at some 20 ns a step, 0.2 s for the worst text of 10 kB."""


def compiled(pattern: str) -> re.Pattern[str]:
    """`pattern`, ready to use.

    Raises:
        ValueError: It is no regular expression, matches nothing at all, or could run long; the message says what to change.
    """
    try:
        tree = parser.parse(pattern)
        ready = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    least, most = tree.getwidth()
    if least == 0:
        raise ValueError("it matches the empty text, and so everywhere")
    if most > MAX_WIDTH:
        raise ValueError(
            f"its matches may be longer than {MAX_WIDTH} characters: write {{1,40}} in place of + and {{0,40}} in place of *"
        )
    found = _ways(tree)
    if found > MAX_WAYS:
        raise ValueError(
            f"it can divide a text in {found if found < 10**9 else 'too many'} ways, more than {MAX_WAYS}, and could run long: "
            "narrow its repeats, or write {1,40}+ where it need not go back"
        )
    return ready


def ways(pattern: str) -> int:
    """In how many ways `pattern`, which is one, may divide a text of `MAX_WIDTH` characters at one place; capped."""
    return _ways(parser.parse(pattern))


def _ways(tree: Any) -> int:
    """An upper bound of the ways in which `tree` matches at one place; capped, since it may be astronomical."""
    ways = 1
    for kind, value in tree:
        if kind is op.BRANCH:
            ways *= sum(_ways(branch) for branch in value[1])
        elif kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            low, high, body = value
            ways *= _repeats(_ways(body), int(low), min(int(high), MAX_WIDTH))
        elif kind is op.SUBPATTERN:
            ways *= _ways(value[3])
        elif kind in (op.ASSERT, op.ASSERT_NOT):
            ways *= _ways(value[1])
        elif kind is op.GROUPREF_EXISTS:
            ways *= _ways(value[1]) + (_ways(value[2]) if value[2] else 1)
        elif kind in (op.ATOMIC_GROUP, op.POSSESSIVE_REPEAT):
            # Its inside is tried once, whatever comes after; what that costs still counts.
            inside = value if kind is op.ATOMIC_GROUP else value[2]
            ways = max(ways, ways + _ways(inside) - 1)
        if ways > 10**9:
            return ways
    return ways


def _repeats(body: int, low: int, high: int) -> int:
    """The ways of `body` repeated `low` to `high` times."""
    if body == 1:
        return high - low + 1
    total = 0
    for times in range(low, high + 1):
        total += body**times
        if total > 10**9:
            break
    return total
