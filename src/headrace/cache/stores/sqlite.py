"""Entries in a SQLite file of their own, beside the store's: `headrace.db` has `headrace.cache.db`.

A file of its own, since a cache may be thrown away and a ledger may not: it has other writes, other sizes, and one that is damaged
is put aside and begun anew. Worker processes of one machine share it: each keeps all entries in memory, one thread
writes what is new and reads what the others wrote. A request never waits for it, and a failure costs entries, never an answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from headrace.cache.audits import Audit
from headrace.cache.entry import Entry
from headrace.cache.selection import Selection
from headrace.clock import SystemClock

__all__ = ["SQLiteEntries", "beside", "purge", "read", "read_audits"]

logger = logging.getLogger("headrace.cache")

APPLICATION_ID = 0x48524341
"""`HRCA`."""
SCHEMA = 4
"""A file of another version is emptied: a cache may be begun anew."""
BUSY_S = 5.0
BATCH = 1024
HITS_ROUNDS = 30
"""Rounds of the writer, of a second where nothing is to be written, after which it writes down how often entries were given out: what is
kept when room is short depends on that, also after a restart."""

POLL_S = 1.0
"""How old another process's entry may be before this one sees it."""

_COLUMNS = (
    "id", "scope", "exact", "text", "canonical", "tenant", "route", "target", "created", "expires", "body", "cost", "tokens",
    "took", "tags", "documents", "hits", "agrees", "user", "vector", "encoder",
)  # fmt: skip
_INSERT = f"INSERT OR REPLACE INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_SELECT = f"SELECT seq, {', '.join(_COLUMNS)} FROM entries"  # noqa: S608


_AUDITS = """CREATE TABLE IF NOT EXISTS audits (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, route TEXT NOT NULL, made BLOB NOT NULL, p REAL NOT NULL, right INTEGER NOT NULL,
    at REAL NOT NULL)"""
MOST_AUDITS = 200_000
"""Rows; at a start the oldest above that are deleted."""


def beside(store: Path) -> Path:
    """The cache's file for the store `store`."""
    return store.with_name(f"{store.stem}.cache{store.suffix or '.db'}")


def _row(entry: Entry) -> list[object]:
    return [
        msgspec.json.encode(entry.tags).decode() if name == "tags" else getattr(entry, name)
        for name in _COLUMNS
    ]


def _entry(row: tuple[Any, ...]) -> Entry:
    """The entry of a row of `_SELECT`."""
    members = dict(zip(_COLUMNS, row[1:], strict=True))
    members["tags"] = msgspec.json.decode(members["tags"], type=tuple[str, ...])
    return Entry(**members)


def read(path: Path) -> list[Entry]:
    """All entries of the file at `path`, expired ones too, the oldest first. Raises `sqlite3.Error`."""
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
        rows = connection.execute(f"{_SELECT} ORDER BY seq").fetchall()
    return [_entry(row) for row in rows]


def read_audits(path: Path) -> list[Audit]:
    """All audits of the file at `path`, the oldest first. Raises `sqlite3.Error`."""
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'audits'").fetchone():
            return []
        return [audit for _, audit in _audits(connection, 0)]


def _audits(connection: sqlite3.Connection, after: int) -> list[tuple[int, Audit]]:
    rows = connection.execute(
        "SELECT seq, route, made, p, right, at FROM audits WHERE seq > ? ORDER BY seq", (after,)
    )
    return [(seq, Audit(route, made, p, bool(right), at)) for seq, route, made, p, right, at in rows]


def purge(path: Path, selection: Selection) -> int:
    """Delete what is selected from the file at `path`, and say how many that were; processes that share it follow. Nothing of it
    is left in the file.

    Raises:
        sqlite3.Error: The file cannot be read or written.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("BEGIN IMMEDIATE")
        count = len(_purge(connection, selection))
        connection.execute("COMMIT")
        scrub(connection)
        return count


def scrub(connection: sqlite3.Connection) -> None:
    """Leave nothing of what was deleted: the file is written anew, and the write-ahead log emptied. What another process holds up is
    left to the next time."""
    with suppress(sqlite3.OperationalError):
        connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _purge(connection: sqlite3.Connection, selection: Selection) -> list[str]:
    found = (_entry(row) for row in connection.execute(_SELECT))
    gone = [entry.id for entry in found if selection.takes(entry)]
    connection.executemany("DELETE FROM entries WHERE id = ?", [(id_,) for id_ in gone])
    return gone


class SQLiteEntries:
    """The file at `path`, made when missing.

    Attributes:
        errors: Failed reads and writes.
        audits: What the file held at `load`, the oldest first.
        path: The file.

    Args:
        wall: Seconds since 1970; what has expired is deleted within half a minute, whether anybody asks or not.
    """

    def __init__(self, path: Path, wall: Callable[[], float] = SystemClock.wall) -> None:
        self.path = path
        self._wall = wall
        self.errors = 0
        self._changed: Callable[[list[Entry], list[str], list[Audit]], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seq = 0
        self._ids: set[str] = set()
        self._news: queue.SimpleQueue[tuple[list[Entry], list[str], list[Audit]]] = queue.SimpleQueue()
        self._audit_seq = 0
        self._own_audits: set[int] = set()
        self.audits: list[Audit] = []
        self._hits: dict[str, int] = {}
        self._rounds = 0
        self._queue: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self._closed = False
        self._connection = _opened(path)
        self._data_version = self._version()
        self._thread = threading.Thread(target=self._run, name="headrace-cache-writer", daemon=True)
        self._started = False

    def load(self, now: float) -> list[Entry]:
        """All entries that have not expired at `now` (seconds since 1970), the oldest first. To be called once, at first."""
        connection = self._connection
        connection.execute("DELETE FROM entries WHERE expires <= ?", (now,))
        rows = connection.execute(f"{_SELECT} ORDER BY seq").fetchall()
        entries = [_entry(row) for row in rows]
        self._seq = rows[-1][0] if rows else 0
        self._ids = {entry.id for entry in entries}
        connection.execute(
            "DELETE FROM audits WHERE seq <= (SELECT max(seq) FROM audits) - ?", (MOST_AUDITS,)
        )
        said = _audits(connection, 0)
        self.audits = [audit for _, audit in said]
        self._audit_seq = said[-1][0] if said else 0
        self._data_version = self._version()
        self._thread.start()
        self._started = True
        return entries

    def follow(self, changed: Callable[[list[Entry], list[str], list[Audit]], None]) -> None:
        """Tell `changed`, on the loop that `on_loop` noted, what other processes did: entries that are new, ids
        that have gone, audits."""
        self._changed = changed

    def put(self, entry: Entry) -> None:
        """Write it soon."""
        if not self._closed:
            self._queue.put(("put", entry))

    def hit(self, entry: Entry) -> None:
        """Note, to write it down within half a minute, how often `entry` was given out."""
        self._hits[entry.id] = entry.hits

    def on_loop(self) -> None:
        """Note the running loop, for `follow`, and tell at once what came before."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._tell()

    def _tell(self) -> None:
        while self._changed is not None and not self._news.empty():
            self._changed(*self._news.get())

    def remove(self, ids: Iterable[str]) -> None:
        """Delete them soon."""
        ids = list(ids)
        if ids and not self._closed:
            self._queue.put(("remove", ids))

    def purge(self, selection: Selection) -> None:
        """Delete soon what is selected, also what only other processes know."""
        if not self._closed:
            self._queue.put(("purge", selection))

    def audit(self, audit: Audit) -> None:
        """Write it soon."""
        if not self._closed:
            self._queue.put(("audit", audit))

    def flush(self, within_s: float = 10.0) -> bool:
        """Wait until all before is in the file; False if it was not within `within_s` seconds."""
        done = threading.Event()
        self._queue.put(("flush", done))
        return done.wait(within_s)

    def close(self) -> None:
        """Write what is waiting and let go of the file; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(("stop", None))
        if self._started:
            self._thread.join(10.0)
        with suppress(sqlite3.Error):
            self._connection.close()

    # --- in the writer's thread ---------------------------------------------------------------------------------------

    def _version(self) -> int:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def _run(self) -> None:
        while True:
            tasks: list[tuple[str, object]] = []
            with suppress(queue.Empty):
                tasks.append(self._queue.get(timeout=POLL_S))
                while len(tasks) < BATCH:
                    tasks.append(self._queue.get_nowait())
            stopping = any(kind == "stop" for kind, _ in tasks)
            self._rounds += 1
            try:
                self._write(tasks)
                if stopping or self._rounds >= HITS_ROUNDS:
                    self._write_hits()
                    self._sweep()
                self._look()
            except sqlite3.Error as error:
                self.errors += 1
                if self.errors == 1:
                    logger.warning(
                        "the cache file %s fails (%s); entries live in memory only", self.path, error
                    )
            for kind, value in tasks:
                if kind == "flush" and isinstance(value, threading.Event):
                    value.set()
            if stopping:
                return

    def _write(self, tasks: list[tuple[str, object]]) -> None:
        if not any(kind in ("put", "remove", "purge", "audit") for kind, _ in tasks):
            return
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for kind, value in tasks:
                if kind == "put" and isinstance(value, Entry):
                    connection.execute(_INSERT, _row(value))
                    self._ids.add(value.id)
                elif kind == "remove" and isinstance(value, list):
                    connection.executemany("DELETE FROM entries WHERE id = ?", [(id_,) for id_ in value])
                    self._ids.difference_update(value)
                elif kind == "audit" and isinstance(value, Audit):
                    row = (value.route, value.made, value.p, value.right, value.at)
                    added = connection.execute(
                        "INSERT INTO audits (route, made, p, right, at) VALUES (?, ?, ?, ?, ?)", row
                    )
                    self._own_audits.add(added.lastrowid or 0)
                elif kind == "purge" and isinstance(value, Selection):
                    self._ids.difference_update(_purge(connection, value))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _write_hits(self) -> None:
        self._rounds = 0
        hits, self._hits = self._hits, {}
        if hits:
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "UPDATE entries SET hits = max(hits, ?) WHERE id = ?", [(n, id_) for id_, n in hits.items()]
            )
            connection.execute("COMMIT")

    def _sweep(self) -> None:
        """Delete what has expired, for good."""
        connection = self._connection
        gone = connection.execute("DELETE FROM entries WHERE expires <= ?", (self._wall(),)).rowcount
        if gone:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _look(self) -> None:
        """Learn what other processes have done."""
        version = self._version()
        if self._changed is None or version == self._data_version:
            return
        self._data_version = version
        rows = self._connection.execute(f"{_SELECT} WHERE seq > ? ORDER BY seq", (self._seq,)).fetchall()
        there = {id_ for (id_,) in self._connection.execute("SELECT id FROM entries")}
        new = [_entry(row) for row in rows if row[1] not in self._ids]
        gone = self._ids - there
        self._seq = max(self._seq, rows[-1][0]) if rows else self._seq
        self._ids = there
        said = _audits(self._connection, self._audit_seq)
        heard = [audit for seq, audit in said if seq not in self._own_audits]
        self._audit_seq = said[-1][0] if said else self._audit_seq
        self._own_audits.clear()
        if new or gone or heard:
            self._news.put((new, list(gone), heard))
            if self._loop is not None:
                with suppress(RuntimeError):  # the loop has ended, and with it whoever would look
                    self._loop.call_soon_threadsafe(self._tell)


def _opened(path: Path) -> sqlite3.Connection:
    """The file, brought up; what is no cache of ours, or damaged, is put aside under another name."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _prepared(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            raise
        aside = path.with_name(f"{path.name}.damaged")
        logger.warning(
            "the cache file %s cannot be read (%s); it is put aside as %s", path, error, aside.name
        )
        path.replace(aside)
        for tail in ("-wal", "-shm"):
            path.with_name(path.name + tail).unlink(missing_ok=True)
        return _prepared(path)


def _prepared(path: Path) -> sqlite3.Connection:
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, stat.S_IRUSR | stat.S_IWUSR))
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA secure_delete=ON")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (application, version) != (APPLICATION_ID, SCHEMA):
            if tables and application != APPLICATION_ID:
                raise sqlite3.DatabaseError(f"application {application:#x}, version {version}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DROP TABLE IF EXISTS entries")
            connection.execute(
                """CREATE TABLE entries (
                    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, scope BLOB NOT NULL,
                    exact BLOB NOT NULL UNIQUE, text TEXT, canonical TEXT, tenant TEXT NOT NULL, route TEXT NOT NULL,
                    target TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL, body BLOB NOT NULL, cost INTEGER,
                    tokens INTEGER NOT NULL, took REAL NOT NULL, tags TEXT NOT NULL, documents TEXT NOT NULL, hits INTEGER NOT NULL, agrees TEXT NOT NULL, user TEXT NOT NULL, vector BLOB NOT NULL, encoder TEXT NOT NULL)"""
            )
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA}")
            connection.execute("COMMIT")
        connection.execute(_AUDITS)
        connection.execute("SELECT count(*) FROM entries").fetchone()
    except BaseException:
        with closing(connection):
            raise
    return connection
