"""The SQL of plan states: how far conversations were planned, for the other workers and after a restart, each function inside the caller's
transaction. What is lost is planned again."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

__all__ = ["KEPT", "find", "keep"]

KEPT = 8_192
"""States that are kept, over all conversations; a few kilobytes each. The oldest go first."""


def keep(connection: sqlite3.Connection, key: bytes, state: bytes, now: float, until: float) -> None:
    """Write a state, over the one before it under the same key; those whose time was over at `now` go."""
    connection.execute(
        "INSERT OR REPLACE INTO plan_states (key, state, expires_wall) VALUES (?, ?, ?)", (key, state, until)
    )
    connection.execute("DELETE FROM plan_states WHERE expires_wall <= ?", (now,))
    connection.execute("DELETE FROM plan_states WHERE id <= (SELECT max(id) FROM plan_states) - ?", (KEPT,))


def find(connection: sqlite3.Connection, keys: Sequence[bytes]) -> tuple[int, bytes] | None:
    """The state under the last of `keys` that has one, with that key's place among them."""
    marks = ", ".join("?" * len(keys))
    rows = connection.execute(f"SELECT key, state FROM plan_states WHERE key IN ({marks})", tuple(keys))  # noqa: S608
    places = {key: place for place, key in enumerate(keys)}
    return max(((places[key], state) for key, state in rows), default=None, key=lambda row: row[0])
