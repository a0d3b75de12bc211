"""The SQL of conversations: turns by their place, only ever added, each function inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from headrace.errors import StoreError

__all__ = ["append", "counted", "delete", "expire", "gone_on", "purge", "turns"]


def append(
    connection: sqlite3.Connection, conversation: str, first: int, new: Sequence[bytes], until: float
) -> None:
    """Add turns from place `first` on, which must be the next one, to be kept until wall time `until`.

    Raises:
        StoreError: It is not: somebody else went on with the conversation.
    """
    (held,) = connection.execute(
        "SELECT count(*) FROM conversation_turns WHERE conversation = ?", (conversation,)
    ).fetchone()
    if held != first:
        raise StoreError(gone_on(conversation, held, first))
    connection.executemany(
        "INSERT INTO conversation_turns (conversation, place, turn, expires_wall) VALUES (?, ?, ?, ?)",
        [(conversation, first + number, turn, until) for number, turn in enumerate(new)],
    )


def expire(connection: sqlite3.Connection, now: float) -> int:
    """Delete the conversations of which every turn's time is over, since with its beginning one loses its sense; how many there were."""
    over = connection.execute(
        "SELECT DISTINCT conversation FROM conversation_turns WHERE expires_wall <= ?1 AND conversation NOT IN"
        " (SELECT conversation FROM conversation_turns WHERE expires_wall > ?1)",
        (now,),
    ).fetchall()
    connection.executemany("DELETE FROM conversation_turns WHERE conversation = ?", over)
    return len(over)


def delete(connection: sqlite3.Connection, conversation: str) -> int:
    """Delete a conversation; the number of its turns."""
    return connection.execute(
        "DELETE FROM conversation_turns WHERE conversation = ?", (conversation,)
    ).rowcount


def purge(connection: sqlite3.Connection, conversation: str | None, tenant: str | None) -> int:
    """Delete a conversation, those of a tenant (`tenant/id`), and all plan states, of which nobody knows whose they are; the number of
    turns."""
    connection.execute("DELETE FROM plan_states")
    return connection.execute(
        "DELETE FROM conversation_turns WHERE conversation = ?1 OR substr(conversation, 1, length(?2) + 1) = ?2 || '/'",
        (conversation, tenant),
    ).rowcount


def counted(connection: sqlite3.Connection) -> dict[str, int]:
    """How much there is: conversations, their turns, and plan states."""
    row = connection.execute(
        "SELECT count(DISTINCT conversation), count(*), (SELECT count(*) FROM plan_states) FROM conversation_turns"
    ).fetchone()
    return dict(zip(("conversations", "conversation_turns", "plans"), row, strict=True))


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
