"""The SQL of conversations: turns by their place, only ever added, each function inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from headrace.errors import StoreError

__all__ = ["append", "gone_on", "turns"]


def append(connection: sqlite3.Connection, conversation: str, first: int, new: Sequence[bytes]) -> None:
    """Add turns from place `first` on, which must be the next one.

    Raises:
        StoreError: It is not: somebody else went on with the conversation.
    """
    (held,) = connection.execute(
        "SELECT count(*) FROM conversation_turns WHERE conversation = ?", (conversation,)
    ).fetchone()
    if held != first:
        raise StoreError(gone_on(conversation, held, first))
    connection.executemany(
        "INSERT INTO conversation_turns (conversation, place, turn) VALUES (?, ?, ?)",
        [(conversation, first + number, turn) for number, turn in enumerate(new)],
    )


def gone_on(conversation: str, held: int, first: int) -> str:
    """What to tell whoever adds at the wrong place."""
    return (
        f"the conversation {conversation!r} has {held} turns, not {first}: somebody else went on with it; "
        "open it again, or fork it"
    )


def turns(connection: sqlite3.Connection, conversation: str) -> list[bytes]:
    """The turns, in order."""
    rows = connection.execute(
        "SELECT turn FROM conversation_turns WHERE conversation = ? ORDER BY place", (conversation,)
    )
    return [turn for (turn,) in rows]
