"""The SQL of requests under an idempotency key (`headrace.tickets`), each function inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from headrace.tickets import NO_ROOM, AnswerRow, Claimed, Ticket, judge

__all__ = ["claim", "count", "expire", "keep", "look", "purge", "release"]


def look(
    connection: sqlite3.Connection, ticket: Ticket, now: float, holder: str, lives: Callable[[str], bool]
) -> Claimed | None:
    """What a request finds, as far as it can be said without the lock: what was answered, and what another process than `holder` has."""
    row = _row(connection, ticket)
    if row is None or not (row.answered or row.holder != holder):
        return None
    claimed = judge(row, ticket.fingerprint, now, lives)
    return claimed if (row.answered and claimed.state != "mine") or claimed.state == "theirs" else None


def claim(
    connection: sqlite3.Connection,
    ticket: Ticket,
    now: float,
    until: float,
    holder: str,
    lives: Callable[[str], bool],
) -> Claimed:
    """Take the request until wall time `until`, unless somebody has it or it was answered."""
    claimed = judge(_row(connection, ticket), ticket.fingerprint, now, lives)
    if claimed.state == "mine":
        connection.execute("DELETE FROM kept_answers WHERE key = ?", (ticket.key,))
        connection.execute(
            "INSERT INTO kept_answers (key, fingerprint, token, holder, until_wall, tenant, user) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (ticket.key, ticket.fingerprint, ticket.token, holder, until, ticket.tenant, ticket.user),
        )
    return claimed


def _row(connection: sqlite3.Connection, ticket: Ticket) -> AnswerRow | None:
    found = connection.execute(
        "SELECT fingerprint, token, holder, until_wall, answered, body, why FROM kept_answers WHERE key = ?",
        (ticket.key,),
    ).fetchone()
    return None if found is None else AnswerRow(*found)


def keep(
    connection: sqlite3.Connection,
    ticket: Ticket,
    body: bytes | None,
    why: str,
    now: float,
    until: float,
    most: int,
) -> bool:
    """Put the answer in the place of the claim; False if it is not the ticket's any more. Of all bodies at most `most` bytes stay, those that
    end last."""
    size = 0 if body is None else len(body)
    kept = connection.execute(
        "UPDATE kept_answers SET answered = 1, until_wall = ?, body = ?, size = ?, why = ? WHERE key = ? AND token = ?",
        (until, body, size, why or None, ticket.key, ticket.token),
    ).rowcount
    expire(connection, now)
    while _size(connection) > most:
        connection.execute(
            "UPDATE kept_answers SET body = NULL, size = 0, why = ? WHERE id = (SELECT id FROM kept_answers WHERE size > 0"
            " ORDER BY until_wall LIMIT 1)",
            (NO_ROOM,),
        )
    return kept > 0


def _size(connection: sqlite3.Connection) -> int:
    (size,) = connection.execute("SELECT value FROM meta WHERE name = 'kept_answers_size'").fetchone()
    return int(size)


def release(connection: sqlite3.Connection, ticket: Ticket) -> None:
    """Let the ticket's claim go, so that the next one answers."""
    connection.execute(
        "DELETE FROM kept_answers WHERE key = ? AND token = ? AND answered = 0", (ticket.key, ticket.token)
    )


def expire(connection: sqlite3.Connection, now: float) -> None:
    """Delete what is over at wall time `now`."""
    connection.execute("DELETE FROM kept_answers WHERE until_wall <= ?", (now,))


def purge(connection: sqlite3.Connection, tenant: str | None, user: str | None) -> int:
    """Delete a tenant's, a user's, or with both a tenant's user's, those under way too, so that they are not kept; how many answers that were."""
    gone = connection.execute(
        "DELETE FROM kept_answers WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR user = ?2) RETURNING answered",
        (tenant, user),
    ).fetchall()
    return sum(answered for (answered,) in gone)


def count(connection: sqlite3.Connection) -> int:
    """The answers that are kept."""
    (number,) = connection.execute("SELECT count(*) FROM kept_answers WHERE size > 0").fetchone()
    return int(number)
