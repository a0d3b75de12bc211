"""Takes in what dead processes left in their journals."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from headrace.store import budgets, ledger
from headrace.store.journal import Abandoned, Charged, Ended, abandoned, journal_ids

__all__ = ["TAKEN", "positioned", "recover"]

_log = logging.getLogger("headrace.store")

TAKEN = -1
"""The position of a file that the database has all of; it is removed right after."""


def positioned(connection: sqlite3.Connection, name: str, position: int) -> None:
    """Keep how far the database has a journal's file, in the transaction that took it in."""
    connection.execute(
        "INSERT INTO journals VALUES (?1, ?2) ON CONFLICT DO UPDATE SET position = ?2", (name, position)
    )


def recover(connection: sqlite3.Connection, database: Path) -> int:
    """Take in every journal whose process is dead; how many there were. Each in a transaction of its own, once.

    Raises:
        sqlite3.Error: It cannot be written; what is left is there the next time.
    """
    found = 0
    for journal in abandoned(database):
        done = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                _take_in(connection, journal)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            done = True
        finally:
            journal.close(remove=done)
        found += 1
    _tidy(connection, database)
    return found


def _take_in(connection: sqlite3.Connection, journal: Abandoned) -> None:
    names = journal.names
    marks = ", ".join("?" * len(names))
    positions = dict(
        connection.execute(f"SELECT name, position FROM journals WHERE name IN ({marks})", names).fetchall()  # noqa: S608
    )
    if all(positions.get(name) == TAKEN for name in names):
        return
    entries, unended, reserved = journal.read(positions)
    bad = ledger.insert(connection, [entry.row if isinstance(entry, Ended) else entry for entry in entries])
    budgets.settle_all(
        connection,
        ((entry.worker, entry.charges) for entry in entries if isinstance(entry, Charged | Ended)),
    )
    bad += ledger.insert(connection, [started.row for started in unended])
    budgets.bury_journal(connection, journal.id, reserved if journal.complete else None)
    for name in names:
        positioned(connection, name, TAKEN)
    if entries or unended or journal.torn or bad:
        _log.warning(
            "a process died: %d records of it were taken in, %d attempts under way booked at their bounds;"
            " %d bytes at the end of its journal are torn, %d rows do not fit",
            len(entries),
            len(unended),
            journal.torn,
            bad,
        )


def _tidy(connection: sqlite3.Connection, database: Path) -> None:
    """Forget files that are gone, and book what those hold who have no journal."""
    connection.execute("BEGIN IMMEDIATE")  # first: nobody begins a journal and takes a slice while we look
    try:
        for (name,) in connection.execute("SELECT name FROM journals").fetchall():
            if not database.with_name(name).exists():
                connection.execute("DELETE FROM journals WHERE name = ?", (name,))
        budgets.bury_orphans(connection, journal_ids(database))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
