"""The SQL of budgets: the store's side of `headrace.budget.leases`, each function inside the caller's transaction."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence

from headrace.budget.leases import Balance, Charge, Demand, Leased, Slot, Worker, decide, settled

__all__ = ["DEAD_S", "balances", "beat", "lease", "leave", "settle"]

DEAD_S = 30.0
"""A worker that was silent for so long is taken for dead: six of its beats."""

KEEP_S = 40 * 86_400
"""How long a counter is kept after its window, for reports: a month and some."""

_log = logging.getLogger("headrace.store")


def lease(
    connection: sqlite3.Connection, worker: Worker, asks: Sequence[Sequence[Demand]], now: float
) -> Leased:
    """Decide what the worker gets, and keep it."""
    new = _seen(connection, worker, now)
    if new:
        _bury_dead(connection, worker, now)
    windows = {demand.slot: demand.end for demands in asks for demand in demands}
    leased, granted = decide(asks, {slot: _used(connection, slot) for slot in windows})
    for slot, amount in granted.items():
        connection.execute(
            "INSERT INTO budget_windows (cap, start, end) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (*slot, windows[slot]),
        )
        connection.execute(
            "INSERT INTO budget_slices VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
            (*slot, worker.id, amount),
        )
    return leased


def _used(connection: sqlite3.Connection, slot: Slot) -> int:
    (amount,) = connection.execute(
        "SELECT coalesce((SELECT spent FROM budget_windows WHERE cap = ?1 AND start = ?2), 0)"
        " + coalesce((SELECT sum(amount) FROM budget_slices WHERE cap = ?1 AND start = ?2), 0)",
        slot,
    ).fetchone()
    return int(amount)


def settle(connection: sqlite3.Connection, worker: Worker, charges: Sequence[Charge]) -> None:
    """Book what the worker reports."""
    for charge in charges:
        slot = charge.cap, charge.start
        row = connection.execute(
            "SELECT amount FROM budget_slices WHERE cap = ? AND start = ? AND worker = ?", (*slot, worker.id)
        ).fetchone()
        held = None if row is None else int(row[0])
        spent, less = settled(charge, held)
        if spent:
            # A soft budget that was used up has charges without ever having had a slice.
            connection.execute(
                "INSERT INTO budget_windows (cap, start, end, spent) VALUES (?1, ?2, ?3, ?4)"
                " ON CONFLICT DO UPDATE SET spent = spent + ?4",
                (*slot, charge.end, spent),
            )
        if held is not None and less >= held:
            connection.execute(
                "DELETE FROM budget_slices WHERE cap = ? AND start = ? AND worker = ?", (*slot, worker.id)
            )
        elif less:
            connection.execute(
                "UPDATE budget_slices SET amount = amount - ? WHERE cap = ? AND start = ? AND worker = ?",
                (less, *slot, worker.id),
            )


def beat(connection: sqlite3.Connection, worker: Worker, now: float) -> None:
    """The worker lives; those that do not are buried, and counters of long ago forgotten."""
    _seen(connection, worker, now)
    _bury_dead(connection, worker, now)
    connection.execute("DELETE FROM budget_windows WHERE end < ?", (now - KEEP_S,))


def leave(connection: sqlite3.Connection, worker: Worker) -> None:
    """The worker ends well. What it still holds is for the next beat to bury."""
    connection.execute("DELETE FROM budget_workers WHERE worker = ?", (worker.id,))


def _seen(connection: sqlite3.Connection, worker: Worker, now: float) -> bool:
    """Whether it is new."""
    if connection.execute(
        "UPDATE budget_workers SET seen_wall = ? WHERE worker = ?", (now, worker.id)
    ).rowcount:
        return False
    connection.execute("INSERT INTO budget_workers VALUES (?, ?, ?)", (worker.id, worker.pid, now))
    return True


def _bury_dead(connection: sqlite3.Connection, me: Worker, now: float) -> None:
    """Book as spent, and mark, what those held who are dead. One that only seemed so loses nothing and gains nothing: what it
    goes on to spend is booked already."""
    known = {
        worker: (pid, seen)
        for worker, pid, seen in connection.execute("SELECT worker, pid, seen_wall FROM budget_workers")
    }
    holders = {worker for (worker,) in connection.execute("SELECT DISTINCT worker FROM budget_slices")}
    for worker in (holders | known.keys()) - {me.id}:
        pid, seen = known.get(worker, (0, 0.0))
        if worker in known and now - seen < DEAD_S and (pid == me.pid or _runs(pid)):
            continue
        held = connection.execute(
            "SELECT cap, start, amount FROM budget_slices WHERE worker = ?", (worker,)
        ).fetchall()
        for cap, start, amount in held:
            connection.execute(
                "UPDATE budget_windows SET spent = spent + ?1, unsettled = unsettled + ?1 WHERE cap = ?2 AND start = ?3",
                (amount, cap, start),
            )
            _log.warning("worker %s is gone: the %d it held of %r are booked as spent", worker, amount, cap)
        connection.execute("DELETE FROM budget_slices WHERE worker = ?", (worker,))
        connection.execute("DELETE FROM budget_workers WHERE worker = ?", (worker,))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def balances(connection: sqlite3.Connection, since: float) -> list[Balance]:
    """The counters of windows that end after `since`, ordered by id and window."""
    rows = connection.execute(
        "SELECT cap, start, end, spent, unsettled,"
        " coalesce((SELECT sum(amount) FROM budget_slices s WHERE s.cap = w.cap AND s.start = w.start), 0)"
        " FROM budget_windows w WHERE end > ? ORDER BY cap, start",
        (since,),
    )
    return [Balance(*row) for row in rows]
