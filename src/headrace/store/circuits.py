"""The SQL of circuits: what the workers of one machine tell each other about targets that fail, each function inside the caller's
transaction."""

from __future__ import annotations

import sqlite3

from headrace.store.rows import StoredCircuit

__all__ = ["changed", "claim", "keep"]

_COLUMNS = "key, state, until_wall, trips, reason, by"


def keep(connection: sqlite3.Connection, circuit: StoredCircuit) -> None:
    """Write a transition over the one before it."""
    connection.execute(
        f"INSERT INTO circuits ({_COLUMNS}, seq) VALUES (?, ?, ?, ?, ?, ?, {_NEXT})"  # noqa: S608
        " ON CONFLICT DO UPDATE SET state = excluded.state, until_wall = excluded.until_wall, trips = excluded.trips,"
        " reason = excluded.reason, by = excluded.by, seq = excluded.seq",
        (circuit.key, circuit.state, circuit.until_wall, circuit.trips, circuit.reason, circuit.by),
    )


_NEXT = "(SELECT coalesce(max(seq), 0) + 1 FROM circuits)"


def claim(connection: sqlite3.Connection, key: str, now: float, until: float, by: str) -> bool:
    """Take the only probe until wall time `until`; False while another has it. A circuit that nobody told of is claimed at once."""
    held = connection.execute(
        "SELECT 1 FROM circuits WHERE key = ? AND state = 'half_open' AND until_wall > ? AND by != ?",
        (key, now, by),
    ).fetchone()
    if held is not None:
        return False
    keep(connection, StoredCircuit(key=key, state="half_open", until_wall=until, trips=0, reason="", by=by))
    return True


def changed(connection: sqlite3.Connection, since: int) -> tuple[int, list[StoredCircuit]]:
    """What was written after `since`, and where to go on from."""
    rows = connection.execute(
        f"SELECT seq, {_COLUMNS} FROM circuits WHERE seq > ? ORDER BY seq",  # noqa: S608
        (since,),
    ).fetchall()
    circuits = [
        StoredCircuit(key=key, state=state, until_wall=until, trips=trips, reason=reason, by=by)
        for _, key, state, until, trips, reason, by in rows
    ]
    return (rows[-1][0] if rows else since), circuits
