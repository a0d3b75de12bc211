from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headrace.budget.leases import Worker
from headrace.call import Attempt, Call
from headrace.errors import StoreError
from headrace.store import Actor, StoredKey
from headrace.store.schema import APPLICATION_ID, STEPS, SYNCHRONOUS, prepare
from headrace.store.sqlite import SQLiteStore
from headrace.types import Target

TARGET = Target("openai", "gpt-4o")


def call(id_: str) -> Call:
    return Call(id=id_, started_at=0.0, started_wall=1000.0, tenant="a")


def record(store: SQLiteStore, *ids: str) -> None:
    for id_ in ids:
        attempt = Attempt(number=1, target=TARGET, started_at=0.0, started_wall=1000.0, cost=1)
        store.record_attempt(call(id_), attempt)


def rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT request_id FROM attempts ORDER BY id")]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- the file ----------------------------------------------------------------------------------------------------------


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """The file, its log, its index and its journal are 0600 and a new folder 0700, whatever the umask; closing leaves one file."""

    async def main() -> None:
        path = tmp_path / "new" / "headrace.db"
        before = os.umask(0)
        try:
            store = SQLiteStore(path)
            record(store, "r")
            await store.flush()
            found = {file.name: mode(file) for file in path.parent.iterdir()}
            await store.aclose()
        finally:
            os.umask(before)
        kinds = {name.partition("-ledger-")[0] if "-ledger-" in name else name for name in found}
        assert kinds == {"headrace.db", "headrace.db-wal", "headrace.db-shm"} and len(found) == 4
        assert set(found.values()) == {0o600}
        assert mode(path.parent) == 0o700
        assert [file.name for file in path.parent.iterdir()] == ["headrace.db"]

    asyncio.run(main())


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    """The header has our application id and the schema version; the log is write-ahead and syncs in full."""
    path = tmp_path / "x.db"

    async def main() -> None:
        store = SQLiteStore(path)
        pragmas = await store._run(
            lambda c: [
                c.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "journal_mode", "synchronous", "busy_timeout")
            ]
        )
        assert pragmas == [APPLICATION_ID, len(STEPS), "wal", 2, 5000]
        await store.aclose()

    asyncio.run(main())


def test_keys_and_rows_survive_reopening(tmp_path: Path) -> None:
    """The secret of the key hashes is in the file, so a key is found after a restart."""
    path = tmp_path / "x.db"

    async def main() -> None:
        store = SQLiteStore(path)
        record(store, "r1")
        key = StoredKey(id="k", prefix="hr", created_wall=1.0, tenant="a")
        await store.add_key(key, store.key_hash("hr-secret"), by=Actor("test"))
        await store.aclose()
        again = SQLiteStore(path)
        assert await again.find_key(again.key_hash("hr-secret")) == key
        assert await again.request("r1", "a") is not None
        await again.aclose()
        other = SQLiteStore(tmp_path / "other.db")
        assert other.key_hash("hr-secret") != again.key_hash("hr-secret")
        await other.aclose()
        assert b"hr-secret" not in path.read_bytes()

    asyncio.run(main())


def test_a_ledger_row_cannot_be_changed(tmp_path: Path) -> None:
    """Append-only is a rule of the file, not of our manners."""
    path = tmp_path / "x.db"
    prepare(path)

    async def main() -> None:
        store = SQLiteStore(path)
        record(store, "r1")
        await store.aclose()

    asyncio.run(main())
    with (
        closing(sqlite3.connect(path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="never changed"),
    ):
        connection.execute("UPDATE attempts SET cost_nano = 0")


NEWER = (*STEPS, ("ALTER TABLE attempts ADD COLUMN mood TEXT",))


def test_an_older_file_is_copied_and_migrated(tmp_path: Path) -> None:
    """The rows stay, the version rises, and the copy (0600) is the whole older file, which the older Headrace opens."""
    path = tmp_path / "x.db"

    async def main() -> None:
        store = SQLiteStore(path)
        record(store, "r1", "r2")
        await store.aclose()

    asyncio.run(main())
    secret = prepare(path)
    assert prepare(path, NEWER) == secret
    copy = tmp_path / f"x.db.v{len(STEPS)}.bak"
    assert mode(copy) == 0o600
    assert rows(path) == rows(copy) == ["r1", "r2"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT mood FROM attempts").fetchall() == [(None,), (None,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(NEWER),)
    assert prepare(copy) == secret
    prepare(path, NEWER)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.db", f"x.db.v{len(STEPS)}.bak"]


def test_a_backup_never_replaces_another(tmp_path: Path) -> None:
    """A second migration from the same version keeps both copies."""
    path = tmp_path / "x.db"
    prepare(path)
    (tmp_path / f"x.db.v{len(STEPS)}.bak").write_bytes(b"mine")
    prepare(path, NEWER)
    assert (tmp_path / f"x.db.v{len(STEPS)}.bak").read_bytes() == b"mine"
    assert prepare(tmp_path / f"x.db.v{len(STEPS)}.2.bak")


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    """All steps or none: the version and the tables are as before, and the next try works."""
    path = tmp_path / "x.db"
    prepare(path)
    broken = (*STEPS, ("ALTER TABLE attempts ADD COLUMN mood TEXT", "ALTER TABLE gone ADD COLUMN x"))
    with pytest.raises(StoreError, match="no such table: gone"):
        prepare(path, broken)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    prepare(path)
    prepare(path, NEWER)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """The message has the path, both versions and the way out; the file is not touched."""
    path = tmp_path / "x.db"
    prepare(path, NEWER)
    before = path.read_bytes()
    with pytest.raises(
        StoreError,
        match=rf"x\.db has schema version {len(NEWER)}, this Headrace knows version {len(STEPS)}: run the newer",
    ):
        SQLiteStore(path)
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """Tables that are not ours are left alone."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE cookies (x)")
    with pytest.raises(StoreError, match=r"x\.db is a database of another program"):
        SQLiteStore(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("cookies",)]


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(8192)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 30_000)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        overwrite,
        lambda path: path.write_bytes(b"not a database, but long enough to be read as one" * 100),
        lambda path: path.write_bytes(b"x"),
    ],
    ids=["cut", "overwritten", "text", "one byte"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Any) -> None:
    """The message has the path and what to do."""
    path = tmp_path / "x.db"
    prepare(path)
    damage(path)
    with pytest.raises(StoreError, match=r"x\.db cannot be used: .*it is not a database or it is damaged"):
        SQLiteStore(path)


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    """What a crash between making and filling leaves behind is no obstacle."""
    path = tmp_path / "x.db"
    path.touch()
    assert prepare(path)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "is not a file"),
        ("file/x.db", "cannot be opened: File exists"),
        ("proc", "must be in a folder that this user may"),
    ],
)
def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path: Path, where: str, said: str) -> None:
    """A folder, a path through a file, a folder that nobody may write to."""
    (tmp_path / "file").touch()
    path = Path("/proc/headrace/x.db") if where == "proc" else tmp_path / where
    with pytest.raises(StoreError, match=said) as caught:
        SQLiteStore(path)
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    """A typed error at the opening."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="may write to"):
            SQLiteStore(tmp_path / "x.db")
    finally:
        tmp_path.chmod(0o700)


# --- trouble while running ---------------------------------------------------------------------------------------------


def fill_disk(connection: sqlite3.Connection) -> None:
    """SQLite's own limit on pages fails as a full disk does: SQLITE_FULL."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")


def free_disk(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count=1000000")


def test_a_full_disk_fails_no_request_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Recording goes on, flush says what is wrong, it is logged once; with room again every row is written once."""
    path = tmp_path / "x.db"
    ids = [f"r{number}" for number in range(500)]

    async def main() -> None:
        store = SQLiteStore(path)
        connection = await store._run(lambda c: c)
        fill_disk(connection)
        record(store, *ids)
        for _ in range(3):
            with pytest.raises(StoreError, match=r"x\.db could not be written: database or disk is full"):
                await store.flush()
        assert store.errors >= 3 and store.dropped == 0
        assert store.ready()
        assert await store.request("r1", "a") is None
        assert rows(path) == []
        free_disk(connection)
        await store.flush()
        assert rows(path) == ids
        assert store.dropped == 0
        await store.aclose()

    with caplog.at_level(logging.WARNING, logger="headrace.store"):
        asyncio.run(main())
    told = [record for record in caplog.records if record.name == "headrace.store"]
    assert [record.levelname for record in told] == ["ERROR", "WARNING"]
    assert "trying again" in told[0].getMessage() and "written again" in told[1].getMessage()


def test_closing_on_a_full_database_ends_and_loses_nothing(tmp_path: Path) -> None:
    """What cannot be committed at the end waits in the journal, and the next to open the file takes it in; closing does not hang."""

    async def main() -> None:
        store = SQLiteStore(tmp_path / "x.db")
        await store._run(fill_disk)
        record(store, *[f"r{number}" for number in range(9_000)])
        await asyncio.wait_for(store.aclose(), 10)
        assert store.dropped == 0
        assert rows(store.path) == []
        await SQLiteStore(store.path).aclose()
        assert rows(store.path) == [f"r{number}" for number in range(9_000)]

    asyncio.run(main())


def test_a_full_queue_drops_and_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """More rows than the queue holds are counted and said once; those inside are written."""

    async def main() -> None:
        store = SQLiteStore(tmp_path / "x.db", queue_rows=100)
        await store.flush()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the writer waits for this lock
            for number in range(300):
                record(store, f"r{number}")
            assert 100 <= store.dropped <= 200
            other.execute("ROLLBACK")
        lost = store.dropped
        await store.flush()
        await store.aclose()
        assert len(rows(store.path)) + lost == 300
        assert store.dropped == lost

    with caplog.at_level(logging.ERROR, logger="headrace.store"):
        asyncio.run(main())
    assert len(caplog.records) == 1 and "queue full" in caplog.messages[0]


def test_a_dead_writer_is_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is not ready, flush refuses, rows that come then are counted, closing works, and what came before is in the journal."""

    def die(*_: object) -> None:
        raise MemoryError

    async def main() -> None:
        store = SQLiteStore(tmp_path / "x.db")
        monkeypatch.setattr(store, "_put", die)
        record(store, "r1")
        with pytest.raises(StoreError):
            await store.flush()
        assert not store.ready()
        record(store, "r2")
        assert store.dropped == 1
        with pytest.raises(StoreError):
            await store.flush()
        await store.aclose()
        await SQLiteStore(store.path).aclose()
        assert rows(store.path) == ["r1"]

    asyncio.run(main())
    assert "died" in caplog.messages[0]


def test_a_value_that_does_not_fit_loses_only_its_row(tmp_path: Path) -> None:
    """A count beyond 64 bits is dropped and counted; its neighbours are kept."""

    async def main() -> None:
        store = SQLiteStore(tmp_path / "x.db")
        record(store, "r1")
        store.record_attempt(
            call("bad"), Attempt(number=1, target=TARGET, started_at=0.0, started_wall=1.0, cost=2**63)
        )
        record(store, "r2")
        await store.aclose()
        assert (store.dropped, store.errors) == (1, 0)
        assert rows(store.path) == ["r1", "r2"]

    asyncio.run(main())


def test_a_cancelled_flush_disturbs_nobody(tmp_path: Path) -> None:
    """The writer lives on."""

    async def main() -> None:
        store = SQLiteStore(tmp_path / "x.db")
        record(store, "r1")
        waiting = asyncio.create_task(store.flush())
        await asyncio.sleep(0)  # noqa: TID251
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await store.flush()
        assert store.ready()
        await store.aclose()
        assert rows(store.path) == ["r1"]

    asyncio.run(main())


def test_one_commit_carries_many_rows(tmp_path: Path) -> None:
    """Group commit: rows that come together share a transaction."""

    async def main() -> None:
        store = SQLiteStore(tmp_path / "x.db")
        commits: list[str] = []
        await store._run(
            lambda c: c.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        )
        commits.clear()
        record(store, *[f"r{number}" for number in range(2_000)])
        await store.flush()
        assert 1 <= len(commits) <= 5
        await store.aclose()

    asyncio.run(main())


# --- several processes, and one that dies -------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
from headrace.call import Attempt, Call
from headrace.store.sqlite import SQLiteStore
from headrace.types import Target

async def main(path, name, rounds):
    store = SQLiteStore(Path(path))
    target = Target("openai", "gpt-4o")
    number = 0
    for _ in range(rounds):
        batch = []
        for _ in range(1 + number % 7):
            id_ = f"{name}-{number}"
            number += 1
            call = Call(id=id_, started_at=0.0, started_wall=float(number), tenant=name)
            store.record_attempt(call, Attempt(number=1, target=target, started_at=0.0, started_wall=1.0))
            call.end(200, 1.0)
            store.record_call(call)
            batch.append(id_)
        await store.flush()
        print(*batch, flush=True)
    assert (store.dropped, store.errors) == (0, 0), (store.dropped, store.errors)
    END

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def child(path: Path, name: str, rounds: int, end: str = "await store.aclose()") -> subprocess.Popen[str]:
    code = CHILD.replace("END", end)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), name, str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def intact(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("PRAGMA integrity_check")] == ["ok"]


def test_processes_share_one_file(tmp_path: Path) -> None:
    """Three workers make the same new file at once and write it together: no error, no row lost, none twice."""
    path = tmp_path / "x.db"
    workers = [child(path, name, 100) for name in ("a", "b", "c")]
    said: list[str] = []
    for worker in workers:
        out, err = worker.communicate(timeout=60)
        assert worker.returncode == 0, err
        said += out.split()
    assert sorted(rows(path)) == sorted(said)
    assert len(set(said)) == len(said) > 500
    assert intact(path)


def test_a_program_that_forgets_to_close_keeps_its_rows(tmp_path: Path) -> None:
    """At a normal end of the interpreter what was recorded is written."""
    path = tmp_path / "x.db"
    worker = child(path, "p", 0, "store.record_call(Call(id='late', started_at=0.0, started_wall=1.0))")
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT request_id FROM calls").fetchall() == [("late",)]


def test_every_table_has_its_level_of_sync(tmp_path: Path) -> None:
    """Chosen table by table, and what is written runs under it: a claim of a probe waits for no disk, a lease and a key do."""
    prepare(tmp_path / "x.db")
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    assert {name for (name,) in tables} == set(SYNCHRONOUS)
    seen: dict[str, str] = {}

    async def main() -> None:
        store = SQLiteStore(tmp_path / "x.db")
        connection = await store._run(lambda c: c)

        sqls: list[str] = []
        connection.set_trace_callback(sqls.append)
        await store.claim_probe("a/x", 1.0, 2.0, "w")
        await store.lease(Worker("w", 1), [], 0.0)
        record(store, "r1")
        await store.flush()
        await store.aclose()
        level = ""
        for sql in sqls:
            if sql.startswith("PRAGMA synchronous="):
                level = sql.partition("=")[2]
            for table in ("circuits", "budget_workers", "attempts"):
                if sql.startswith(f"INSERT INTO {table} "):
                    seen[table] = level

    asyncio.run(main())
    assert seen == {table: SYNCHRONOUS[table] for table in ("circuits", "budget_workers", "attempts")}


def test_a_report_holds_up_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a ledger is added up a key is looked up all the same."""
    going, let_go = threading.Event(), threading.Event()

    def slow(*_: object) -> list[object]:
        going.set()
        assert let_go.wait(10)
        return []

    monkeypatch.setattr("headrace.store.spending.spend", slow)

    async def body() -> None:
        store = SQLiteStore(tmp_path / "h.db")
        report = asyncio.create_task(store.spend(0.0, 1.0, ()))
        await asyncio.to_thread(going.wait, 10)
        assert await asyncio.wait_for(store.find_key(b"none"), 5) is None
        assert not report.done()
        let_go.set()
        assert await report == []
        await store.aclose()

    asyncio.run(body())
