"""The SQL of rate limits: the counters of `headrace.gcra` that several workers share, each function inside the caller's transaction.

Times are nanoseconds since 1970.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from headrace.gcra import Admission, Claim, Counter, Grant, settle
from headrace.gcra import admit as decide

__all__ = ["admit", "forget", "settle_all"]

KEEP_NS = 2 * 86_400 * 10**9
"""A counter that has been full for so long goes: no request is under way longer than a day."""


def admit(connection: sqlite3.Connection, claims: Sequence[Claim], now: int) -> Admission:
    """Decide, and keep what was granted."""
    counters = {claim.rate.id: _counter(connection, claim.rate.id) for claim in claims}
    admission, changed = decide(claims, counters, now)
    for name, counter in changed.items():
        _keep(connection, name, counter)
    return admission


def settle_all(connection: sqlite3.Connection, settled: Sequence[tuple[Grant, int]], now: int) -> None:
    """What each grant's request has used."""
    for grant, used in settled:
        name = grant.rate.id
        _keep(connection, name, settle(grant, used, _counter(connection, name), now))


def forget(connection: sqlite3.Connection, now: int) -> None:
    """Counters that nobody uses go."""
    connection.execute("DELETE FROM limits WHERE full_at < ?", (now - KEEP_NS,))


def _counter(connection: sqlite3.Connection, name: str) -> Counter:
    row = connection.execute("SELECT full_at, returned FROM limits WHERE id = ?", (name,)).fetchone()
    return Counter() if row is None else Counter(*row)


def _keep(connection: sqlite3.Connection, name: str, counter: Counter) -> None:
    connection.execute(
        "INSERT INTO limits VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET full_at = ?2, returned = ?3",
        (name, counter.full_at, counter.returned),
    )
