"""The SQLite file: how it is made, recognised, checked and brought up to date."""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from headrace.errors import StoreError

__all__ = ["APPLICATION_ID", "STEPS", "SYNCHRONOUS", "connect", "prepare", "synchronize"]

APPLICATION_ID = 0x48445243
"""`HDRC`, in the file's header: what tells our file from another program's."""

BUSY_S = 5.0
"""How long a connection waits for another process that writes; its transactions take milliseconds."""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        """CREATE TABLE attempts (
            id INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL,
            call_wall REAL NOT NULL,
            number INTEGER NOT NULL,
            started_wall REAL NOT NULL,
            provider TEXT NOT NULL,
            target_model TEXT NOT NULL,
            model TEXT,
            purpose TEXT NOT NULL,
            outcome TEXT NOT NULL,
            error_kind TEXT,
            http INTEGER,
            waited_s REAL NOT NULL,
            first_content_s REAL,
            duration_s REAL,
            input_tokens INTEGER,
            output_tokens INTEGER,
            cache_read_tokens INTEGER,
            cache_write_tokens INTEGER,
            cache_write_1h_tokens INTEGER,
            reasoning_tokens INTEGER,
            cost_nano INTEGER,
            wasted_nano INTEGER,
            finish TEXT,
            provider_request_id TEXT,
            key_id TEXT,
            tenant TEXT,
            user TEXT,
            team TEXT,
            route TEXT NOT NULL,
            tags TEXT
        )""",
        "CREATE INDEX attempts_request ON attempts (request_id)",
        "CREATE INDEX attempts_started ON attempts (started_wall)",
        """CREATE TRIGGER attempts_are_final BEFORE UPDATE ON attempts
            BEGIN SELECT RAISE(ABORT, 'a row of the ledger is never changed'); END""",
        """CREATE TABLE calls (
            id INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL,
            started_wall REAL NOT NULL,
            duration_s REAL,
            status INTEGER,
            purpose TEXT NOT NULL,
            route TEXT NOT NULL,
            model TEXT NOT NULL,
            dialect TEXT NOT NULL,
            stream INTEGER NOT NULL,
            cache TEXT NOT NULL,
            key_id TEXT,
            tenant TEXT,
            user TEXT,
            team TEXT,
            tags TEXT,
            warnings TEXT
        )""",
        "CREATE INDEX calls_request ON calls (request_id)",
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            hash BLOB NOT NULL UNIQUE,
            prefix TEXT NOT NULL,
            created_wall REAL NOT NULL,
            tenant TEXT NOT NULL,
            user TEXT,
            team TEXT,
            routes TEXT,
            revoked_wall REAL
        )""",
    ),
    (
        "ALTER TABLE attempts ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE keys ADD COLUMN expires_wall REAL",
        "ALTER TABLE keys ADD COLUMN budgets TEXT",
        # Amounts are nano-dollars or tokens. `cap` is whose budget it is, its unit, window and time zone.
        """CREATE TABLE budget_windows (
            cap TEXT NOT NULL,
            start INTEGER NOT NULL,
            end INTEGER NOT NULL,
            spent INTEGER NOT NULL DEFAULT 0,
            unsettled INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (cap, start)
        ) WITHOUT ROWID""",
        "CREATE INDEX budget_windows_end ON budget_windows (end)",
        """CREATE TABLE budget_slices (
            cap TEXT NOT NULL,
            start INTEGER NOT NULL,
            worker TEXT NOT NULL,
            amount INTEGER NOT NULL,
            PRIMARY KEY (cap, start, worker)
        ) WITHOUT ROWID""",
        "CREATE INDEX budget_slices_worker ON budget_slices (worker)",
        """CREATE TABLE budget_workers (
            worker TEXT PRIMARY KEY,
            pid INTEGER NOT NULL,
            seen_wall REAL NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE audit (
            id INTEGER PRIMARY KEY,
            at_wall REAL NOT NULL,
            actor TEXT NOT NULL,
            action TEXT NOT NULL,
            subject TEXT NOT NULL,
            detail TEXT
        )""",
        """CREATE TRIGGER audit_is_final BEFORE UPDATE ON audit
            BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END""",
        """CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
            BEGIN SELECT RAISE(ABORT, 'the audit log is never shortened'); END""",
    ),
    (
        "ALTER TABLE attempts ADD COLUMN breaker TEXT",
        "ALTER TABLE attempts ADD COLUMN note TEXT",
        # `seq` grows with every write: who has seen one has seen all before it.
        """CREATE TABLE circuits (
            key TEXT PRIMARY KEY,
            state TEXT NOT NULL,
            until_wall REAL NOT NULL,
            trips INTEGER NOT NULL,
            reason TEXT NOT NULL,
            by TEXT NOT NULL,
            seq INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX circuits_seq ON circuits (seq)",
    ),
    (
        # How far each journal's file was taken in; -1 for all of it.
        "CREATE TABLE journals (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID",
        # A worker lives as long as its journal's lock. Those of the older kind have none: what they held is booked.
        "DROP TABLE budget_workers",
        "CREATE TABLE budget_workers (worker TEXT PRIMARY KEY, journal TEXT NOT NULL) WITHOUT ROWID",
    ),
    (
        "ALTER TABLE keys ADD COLUMN name TEXT",
        "ALTER TABLE keys ADD COLUMN role TEXT NOT NULL DEFAULT 'caller'",
        "ALTER TABLE keys ADD COLUMN models TEXT",
        "ALTER TABLE keys ADD COLUMN old_hash BLOB",
        "ALTER TABLE keys ADD COLUMN old_until_wall REAL",
        "CREATE UNIQUE INDEX keys_old_hash ON keys (old_hash)",
        "CREATE UNIQUE INDEX keys_name ON keys (name) WHERE revoked_wall IS NULL",
        "ALTER TABLE audit ADD COLUMN result TEXT NOT NULL DEFAULT 'ok'",
        "ALTER TABLE audit ADD COLUMN request_id TEXT",
        "CREATE INDEX audit_subject ON audit (subject)",
    ),
    # The limit, as it was when a slice was last granted.
    ("ALTER TABLE budget_windows ADD COLUMN amount INTEGER NOT NULL DEFAULT 0",),
    (
        """CREATE TABLE conversation_turns (
            conversation TEXT NOT NULL,
            place INTEGER NOT NULL,
            turn BLOB NOT NULL,
            PRIMARY KEY (conversation, place)
        ) WITHOUT ROWID""",
    ),
    ("ALTER TABLE attempts ADD COLUMN image_tokens INTEGER",),
    ("ALTER TABLE attempts ADD COLUMN deployment TEXT",),
    ("CREATE TABLE plan_states (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, state BLOB NOT NULL)",),
    (
        "ALTER TABLE keys ADD COLUMN limits TEXT",
        # Rate limits that several workers share; nanoseconds since 1970.
        """CREATE TABLE limits (
            id TEXT PRIMARY KEY,
            full_at INTEGER NOT NULL,
            returned INTEGER NOT NULL
        ) WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE calls ADD COLUMN saved_nano INTEGER",
        "ALTER TABLE calls ADD COLUMN packed_nano INTEGER",
        "CREATE INDEX calls_started ON calls (started_wall)",
    ),
    (
        # When the turn may be kept no longer, seconds since 1970. Of those that are there nobody knows their route: the usual time from now on.
        "ALTER TABLE conversation_turns ADD COLUMN expires_wall REAL NOT NULL DEFAULT 0",
        "UPDATE conversation_turns SET expires_wall = strftime('%s', 'now') + 2592000",
        "CREATE INDEX conversation_turns_expires ON conversation_turns (expires_wall)",
        "ALTER TABLE plan_states ADD COLUMN expires_wall REAL NOT NULL DEFAULT 0",
        "DELETE FROM plan_states",
    ),
    (
        # A request under an idempotency key: claimed by the process with the journal `holder`, or answered. `size` is that of the body.
        """CREATE TABLE kept_answers (
            id INTEGER PRIMARY KEY,
            key BLOB NOT NULL UNIQUE,
            fingerprint BLOB NOT NULL,
            token TEXT NOT NULL,
            holder TEXT NOT NULL,
            answered INTEGER NOT NULL DEFAULT 0,
            until_wall REAL NOT NULL,
            tenant TEXT,
            user TEXT,
            size INTEGER NOT NULL DEFAULT 0,
            why TEXT,
            body BLOB
        )""",
        "CREATE INDEX kept_answers_until ON kept_answers (until_wall)",
        "CREATE INDEX kept_answers_size ON kept_answers (until_wall) WHERE size > 0",
        "INSERT INTO meta VALUES ('kept_answers_size', 0)",
        """CREATE TRIGGER kept_answers_changed AFTER UPDATE OF size ON kept_answers
            BEGIN UPDATE meta SET value = value + new.size - old.size WHERE name = 'kept_answers_size'; END""",
        """CREATE TRIGGER kept_answers_gone AFTER DELETE ON kept_answers WHEN old.size > 0
            BEGIN UPDATE meta SET value = value - old.size WHERE name = 'kept_answers_size'; END""",
    ),
)
"""Step i takes a file of version i to version i + 1; a new file takes them all. A step that was released never changes."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection with our settings, without a transaction of Python's own."""
    # One thread owns each connection; which one is settled after it is made.
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    synchronize(connection, "FULL")
    # What is deleted is gone from the file, not only from its tables.
    connection.execute("PRAGMA secure_delete=ON")
    return connection


SYNCHRONOUS: Mapping[str, Literal["FULL", "NORMAL"]] = MappingProxyType(
    {
        # The secret under which keys are hashed: without it none is found again.
        "meta": "FULL",
        # Whoever made, rotated or revoked a key was told so: a power cut must not bring a revoked key back.
        "keys": "FULL",
        "audit": "FULL",
        # A slice that was handed out and forgotten would be handed out again: the budget would be overdrawn.
        "budget_slices": "FULL",
        "budget_workers": "FULL",
        # Written in groups, one sync for many rows, so that a power cut takes the last moments (`LINGER_S` and the commit) and no
        # more. What a process that is killed had written is in its journal, without any sync.
        "attempts": "FULL",
        "calls": "FULL",
        "budget_windows": "FULL",
        "journals": "FULL",
        # Whoever added a turn was told that it is kept.
        "conversation_turns": "FULL",
        # An answer that is forgotten would be paid for again.
        "kept_answers": "FULL",
        # A state that is forgotten is worked out again.
        "plan_states": "NORMAL",
        # A transition that is forgotten is found out again by the next failure. A probe waits for its claim.
        "circuits": "NORMAL",
        # Forgotten, they are full again within a minute.
        "limits": "NORMAL",
    }
)
"""`PRAGMA synchronous` for a transaction that writes a table, with the reason. FULL: on the disk when the commit returns. NORMAL, in WAL
mode: whole after a power cut, but perhaps without the last transactions."""


def synchronize(connection: sqlite3.Connection, level: Literal["FULL", "NORMAL"]) -> None:
    """Between transactions only."""
    connection.execute(f"PRAGMA synchronous={level}")


def prepare(path: Path, steps: tuple[tuple[str, ...], ...] = STEPS) -> bytes:
    """Make `path` a file of the version that `steps` lead to, and give the secret under which its keys are hashed.

    A missing file is made with mode 0600 (SQLite gives its `-wal` and `-shm` the same), a missing folder with 0700. A file of an
    older version is copied to `<path>.v<old>.bak` first.

    Raises:
        StoreError: The file is another program's, damaged, of a newer version, or cannot be made or written.
    """
    try:
        _make(path)
        with closing(connect(path)) as connection:
            _write_ahead(connection, path)
            return _brought_up(connection, path, steps)
    except sqlite3.DatabaseError as error:
        raise StoreError(f"the store {path} cannot be used: {error}{_advice(error)}") from error
    except OSError as error:
        raise StoreError(
            f"the store {path} cannot be opened: {error.strerror or error}; "
            "[store] path must be in a folder that this user may write to"
        ) from error


_DAMAGED = (
    "it is not a database or it is damaged: move it away or restore it, or set [store] path to another file"
)


def _advice(error: sqlite3.DatabaseError) -> str:
    return "" if isinstance(error, sqlite3.OperationalError) else f"; {_DAMAGED}"


def _make(path: Path) -> None:
    if path.exists():
        if not path.is_file():
            raise StoreError(f"the store {path} is not a file; set [store] path to a file")
        with path.open("rb") as file:
            header = file.read(16)
        # SQLite itself takes a file too short for a header for an empty one, and writes over it.
        if header not in (b"", b"SQLite format 3\0"):
            raise StoreError(f"the store {path} cannot be used: {_DAMAGED}")
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another process was faster
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, stat.S_IRUSR | stat.S_IWUSR))


def _write_ahead(connection: sqlite3.Connection, path: Path) -> None:
    deadline = 100
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # The switch to WAL does not wait for another process that does the same; we do.
            deadline -= 1
            if deadline == 0 or "locked" not in str(error):
                raise
            time.sleep(BUSY_S / 100)
    if mode != "wal":
        raise StoreError(
            f"the store {path} cannot use a write-ahead log ({mode}); it must be on a local disk"
        )


def _brought_up(connection: sqlite3.Connection, path: Path, steps: tuple[tuple[str, ...], ...]) -> bytes:
    known = len(steps)
    version = _version(connection, path, known)
    if 0 < version < known:
        _back_up(connection, path, version)
    if version < known:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have done it between the look and the lock.
            for step in steps[_version(connection, path, known) :]:
                for statement in step:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={known}")
            connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('key_secret', ?)", (secrets.token_bytes(32),)
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    for table in ("attempts", "calls", "keys", "audit"):
        # A look into each, so that a cut or overwritten file is found now.
        connection.execute(f"SELECT * FROM {table} ORDER BY rowid DESC LIMIT 1").fetchall()  # noqa: S608
    row = connection.execute("SELECT value FROM meta WHERE name = 'key_secret'").fetchone()
    if row is None:
        raise StoreError(f"the store {path} has lost the secret of its keys; restore it from a backup")
    return bytes(row[0])


def _version(connection: sqlite3.Connection, path: Path, known: int) -> int:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreError(
            f"the store {path} is a database of another program; set [store] path to another file"
        )
    if version > known:
        raise StoreError(
            f"the store {path} has schema version {version}, this Headrace knows version {known}: "
            "run the newer Headrace, or set [store] path to another file"
        )
    return int(version)


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """A complete copy beside the file, mode 0600, under a name that was free."""
    for number in range(1, 1000):
        copy = path.with_name(f"{path.name}.v{version}{'' if number == 1 else f'.{number}'}.bak")
        try:
            os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, stat.S_IRUSR | stat.S_IWUSR))
        except FileExistsError:
            continue
        try:
            connection.execute("VACUUM INTO ?", (str(copy),))
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        return
    raise StoreError(f"there are 1000 backups beside the store {path}; move some of them away")
