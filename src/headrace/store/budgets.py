"""The SQL of budgets: the store's side of `headrace.budget.leases`, each function inside the caller's transaction."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from headrace.budget.leases import Balance, Charge, Demand, Leased, Slot, Worker, decide, lost, settled

__all__ = ["balances", "bury_journal", "bury_orphans", "forget", "lease", "leave", "settle_all"]

KEEP_S = 40 * 86_400
"""How long a counter is kept after its window, for reports: a month and some."""

_log = logging.getLogger("headrace.store")


def lease(
    connection: sqlite3.Connection, worker: Worker, asks: Sequence[Sequence[Demand]], journal: str
) -> Leased:
    """Decide what the worker gets, and keep it; `journal` is where it writes down what it reserves."""
    connection.execute(
        "INSERT INTO budget_workers VALUES (?, ?) ON CONFLICT DO NOTHING", (worker.id, journal)
    )
    windows = {demand.slot: (demand.end, demand.cap.budget.amount) for demands in asks for demand in demands}
    leased, granted = decide(asks, {slot: _used(connection, slot) for slot in windows})
    for slot, amount in granted.items():
        connection.execute(
            "INSERT INTO budget_windows (cap, start, end, amount) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET amount = excluded.amount",
            (*slot, *windows[slot]),
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


def settle_all(connection: sqlite3.Connection, reports: Iterable[tuple[str, Sequence[Charge]]]) -> None:
    """Book what workers report, each counter once: many attempts of a group have the same few budgets.

    What was spent is added up apart from what is given back. Of the former a charge never takes more than it costs, so that the
    sum means what its parts do, also of a worker that was taken for dead.
    """
    sums: dict[tuple[str, bool, str, int, int], tuple[int, int]] = {}
    for worker, charges in reports:
        for charge in charges:
            if charge.cost or charge.taken:
                key = worker, charge.cost >= charge.taken, charge.cap, charge.start, charge.end
                cost, taken = sums.get(key, (0, 0))
                sums[key] = cost + charge.cost, taken + charge.taken
    for (worker, _, cap, start, end), (cost, taken) in sums.items():
        settle(connection, worker, (Charge(cap, start, end, cost, taken),))


def settle(connection: sqlite3.Connection, worker: str, charges: Sequence[Charge]) -> None:
    """Book what the worker of that id reports."""
    for charge in charges:
        slot = charge.cap, charge.start
        row = connection.execute(
            "SELECT amount FROM budget_slices WHERE cap = ? AND start = ? AND worker = ?", (*slot, worker)
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
                "DELETE FROM budget_slices WHERE cap = ? AND start = ? AND worker = ?", (*slot, worker)
            )
        elif less:
            connection.execute(
                "UPDATE budget_slices SET amount = amount - ? WHERE cap = ? AND start = ? AND worker = ?",
                (less, *slot, worker),
            )


def forget(connection: sqlite3.Connection, now: float) -> None:
    """Counters of long ago go."""
    connection.execute("DELETE FROM budget_windows WHERE end < ?", (now - KEEP_S,))


def leave(connection: sqlite3.Connection, worker: Worker) -> None:
    """The worker ends well. What it still holds is booked as an orphan's."""
    connection.execute("DELETE FROM budget_workers WHERE worker = ?", (worker.id,))


def bury_journal(
    connection: sqlite3.Connection, journal: str, reserved: Mapping[str, Mapping[Slot, int]] | None
) -> None:
    """The workers of a journal are dead. `reserved` is what each had reserved; None where the journal may not have all of it."""
    for (worker,) in connection.execute(
        "SELECT worker FROM budget_workers WHERE journal = ?", (journal,)
    ).fetchall():
        _bury(connection, worker, None if reserved is None else reserved.get(worker, {}))


def bury_orphans(connection: sqlite3.Connection, journals: Collection[str]) -> None:
    """Book all that those hold who have none of the `journals` that there are: nobody can say what of it was spent."""
    living = {
        worker
        for worker, journal in connection.execute("SELECT worker, journal FROM budget_workers")
        if journal in journals
    }
    holders = {worker for (worker,) in connection.execute("SELECT DISTINCT worker FROM budget_slices")}
    for worker in holders - living:
        _bury(connection, worker, None)


def _bury(connection: sqlite3.Connection, worker: str, reserved: Mapping[Slot, int] | None) -> None:
    held = connection.execute(
        "SELECT cap, start, amount FROM budget_slices WHERE worker = ?", (worker,)
    ).fetchall()
    for cap, start, amount in held:
        spent = lost(amount, (cap, start), reserved)
        if spent:
            connection.execute(
                "UPDATE budget_windows SET spent = spent + ?1, unsettled = unsettled + ?1 WHERE cap = ?2 AND start = ?3",
                (spent, cap, start),
            )
        _log.warning(
            "worker %s is gone: of the %d it held of %r, %d are booked as spent", worker, amount, cap, spent
        )
    connection.execute("DELETE FROM budget_slices WHERE worker = ?", (worker,))
    connection.execute("DELETE FROM budget_workers WHERE worker = ?", (worker,))


def balances(connection: sqlite3.Connection, since: float) -> list[Balance]:
    """The counters of windows that end after `since`, ordered by id and window."""
    rows = connection.execute(
        "SELECT cap, start, end, spent, unsettled,"
        " coalesce((SELECT sum(amount) FROM budget_slices s WHERE s.cap = w.cap AND s.start = w.start), 0), amount"
        " FROM budget_windows w WHERE end > ? ORDER BY cap, start",
        (since,),
    )
    return [Balance(*row) for row in rows]
