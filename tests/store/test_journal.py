"""What a dead process left is taken in once, whatever was cut, and nothing is taken from the living."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from headrace.budget.leases import Cap, Charge, Demand, Hold, Settlement, Worker
from headrace.call import Attempt, Call
from headrace.errors import StoreError
from headrace.store import journal as journals
from headrace.store.journal import Charged, Ended, Entry, Held, Journal, Started, abandoned
from headrace.store.recovery import recover
from headrace.store.rows import AttemptRow, attempt_row, lost_row
from headrace.store.schema import connect, prepare
from headrace.store.sqlite import SQLiteStore
from headrace.types import Budget, Target

CAP = Cap.of("key", "a", Budget(unit="usd", amount=10_000, window="day"))
DEMAND = Demand.at(CAP, 100, 1000.0)


def call(id_: str) -> Call:
    """A call of tenant a."""
    return Call(id=id_, started_at=0.0, started_wall=1000.0, tenant="a")


def attempt(cost: int | None = 7) -> Attempt:
    """An attempt under way."""
    return Attempt(number=1, target=Target("openai", "x"), started_at=0.0, started_wall=1000.0, cost=cost)


def row(id_: str, cost: int | None = 7) -> AttemptRow:
    """Its row."""
    return attempt_row(call(id_), attempt(cost))


def started(id_: str, *holds: Hold, bound: int | None = 50) -> Started:
    """Its beginning."""
    return Started(lost_row(call(id_), attempt(), bound), "w", holds)


def left_by(database: Path, *entries: Entry, rotate_bytes: int = 1 << 20) -> Journal:
    """The journal of a process that wrote `entries` and died."""
    journal = Journal(database, rotate_bytes=rotate_bytes)
    for entry in entries:
        journal.append(entry)
        journal.rotate()
    journal.close(remove=False)
    return journal


def rows(path: Path) -> list[tuple[str, str, int | None, int]]:
    """Id, outcome, cost and mark of each attempt in the ledger, by id."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT request_id, outcome, cost_nano, estimated FROM attempts ORDER BY request_id"
        ).fetchall()


def opened(path: Path) -> None:
    """Open the store and close it."""
    asyncio.run(SQLiteStore(path).aclose())


def taken_in(path: Path) -> None:
    """Only take in what is there."""
    with closing(connect(path)) as connection:
        recover(connection, path)


def files(path: Path) -> list[str]:
    """The journals beside it."""
    return sorted(file.name for file in path.parent.glob("*-ledger-*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store's file."""
    prepare(tmp_path / "x.db")
    return tmp_path / "x.db"


def test_what_a_dead_process_recorded_is_taken_in_once(path: Path) -> None:
    """Ended attempts as they were, the unended as lost at their bound, marked; the journal is gone, and opening again adds nothing."""
    left_by(path, started("a"), row("a"), started("b"), started("c", bound=None), row("d", None))
    for _ in range(3):
        opened(path)
        assert rows(path) == [
            ("a", "pending", 7, 0),
            ("b", "lost", 50, 1),
            ("c", "lost", None, 1),
            ("d", "pending", None, 0),
        ]
        assert files(path) == []


def test_what_the_database_has_is_not_taken_in_again(path: Path) -> None:
    """Every place at which the commit may have been: the rest of the journal is added and no more."""
    entries = [row(f"r{number}") for number in range(5)]
    for committed in range(6):
        copy = path.with_name(f"{committed}.db")
        prepare(copy)
        journal = Journal(copy)
        ends = [journal.append(entry) for entry in entries]
        journal.close(remove=False)
        with closing(connect(copy)) as connection:
            if committed:
                connection.execute("INSERT INTO journals VALUES (?, ?)", (journal.name, ends[committed - 1]))
        opened(copy)
        assert [id_ for id_, *_ in rows(copy)] == [f"r{number}" for number in range(committed, 5)]


def test_a_crash_between_the_commit_and_the_removal_doubles_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that could not be removed is known to be taken in, and goes the next time."""
    left_by(path, started("a"), row("a"), started("b"))

    def unremovable(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unremovable)
        with pytest.raises(KeyboardInterrupt):
            SQLiteStore(path)
    before = rows(path)
    assert len(before) == 2 and len(files(path)) == 1
    opened(path)
    assert rows(path) == before and files(path) == []


def test_the_living_are_left_alone(path: Path) -> None:
    """While a process has its journal, nobody takes it in; others write beside it."""
    alive = Journal(path)
    alive.append(started("a"))
    opened(path)
    assert rows(path) == [] and len(files(path)) == 1
    alive.close(remove=False)
    opened(path)
    assert [id_ for id_, *_ in rows(path)] == ["a"]


def test_a_torn_end_loses_nothing_before_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut at any byte, and with any byte of the last frame changed: the frames before are taken in, the torn bytes are told."""
    sample = tmp_path / "sample.db"
    journal = Journal(sample)
    empty = journal._size
    ends = [empty, *(journal.append(row(id_)) for id_ in ("a", "b", "c"))]
    name = journal.name
    data = (tmp_path / name).read_bytes()
    journal.close(remove=True)
    prepare(tmp_path / "empty.db")
    for number, end in enumerate([*range(0, len(data), 13), *ends]):
        path = tmp_path / f"{number}.db"
        shutil.copy(tmp_path / "empty.db", path)
        file = path.with_name(name.replace("sample.db", path.name))
        file.write_bytes(data[:end])
        whole = sum(end >= one for one in ends[1:])
        caplog.clear()
        taken_in(path)
        assert len(rows(path)) == whole
        torn = end - ends[whole] if end >= empty else end
        assert (f"{torn} bytes at the end of its journal are torn" in caplog.text) == bool(torn or whole)
    for at in range(ends[2], ends[3], 17):
        path = tmp_path / f"changed{at}.db"
        shutil.copy(tmp_path / "empty.db", path)
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        path.with_name(name.replace("sample.db", path.name)).write_bytes(changed)
        taken_in(path)
        assert [id_ for id_, *_ in rows(path)] == ["a", "b"]


def test_a_long_journal_goes_on_in_another_file(path: Path) -> None:
    """What is open is carried over, at every step of the way, and nothing is doubled."""
    entries: list[Entry] = []
    for number in range(40):
        id_, charges = f"r{number:02}", (Charge(CAP.id, 0, 9, 1, 1, 10),)
        entries.append(started(id_, Hold(CAP.id, 0, 10)))
        entries.append(Ended(row(id_), "w", charges) if number % 4 else Charged("w", charges))
    journal = left_by(path, *entries, rotate_bytes=2_000)
    assert len(files(path)) > 5
    (dead,) = abandoned(path)
    new, unended, reserved = dead.read({})
    dead.close(remove=False)
    assert len([entry for entry in new if isinstance(entry, Ended)]) == 30
    assert {begun.row.request_id for begun in unended} == {f"r{number:02}" for number in range(0, 40, 4)}
    assert not reserved.get("w")
    # The writer had taken in all but the last file.
    for name in sorted(files(path), key=lambda name: int(name.rpartition(".")[2]))[:-1]:
        path.with_name(name).unlink()
    (dead,) = abandoned(path)
    _, unended, reserved = dead.read({})
    dead.close(remove=False)
    assert {begun.row.request_id for begun in unended} == {f"r{number:02}" for number in range(0, 40, 4)}
    assert not journal.idle and not reserved.get("w")


def test_reservations_are_carried_over(path: Path) -> None:
    """The sums of what is reserved, not what was ever reserved."""
    left_by(
        path,
        started("a", Hold("x", 0, 10), Hold("y", 0, 3)),
        started("b", Hold("x", 0, 20)),
        Charged("w", (Charge("x", 0, 9, 15, 15, 10), Charge("y", 0, 9, 0, 0, 3))),
        row("a"),
        started("c"),
        rotate_bytes=1,
    )
    (dead,) = abandoned(path)
    _, _, reserved = dead.read({})
    dead.close(remove=False)
    assert reserved["w"] == {("x", 0): 20}
    assert dead.complete


def test_a_journal_from_before_a_reboot_is_not_taken_for_complete(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records count, but nobody can say what else was reserved."""
    left_by(path, started("a", Hold("x", 0, 10)), row("b"))
    monkeypatch.setattr(journals, "_boot", lambda: b"another")
    (dead,) = abandoned(path)
    new, unended, _ = dead.read({})
    dead.close(remove=False)
    assert len(new) == len(unended) == 1
    assert not dead.complete


@pytest.mark.parametrize("rebooted", [False, True])
def test_of_what_a_dead_worker_held_only_the_reserved_is_spent(
    path: Path, monkeypatch: pytest.MonkeyPatch, rebooted: bool
) -> None:
    """The unreserved rest of its slice is free again at once; after a reboot all of it is booked. Settled reservations are their bills."""

    async def die() -> None:
        store = SQLiteStore(path)
        leased = await store.lease(Worker("w", 1), [[DEMAND]], 1000.0)
        assert leased.extra[DEMAND.slot] > 400
        # As if killed before the group was committed.
        monkeypatch.setattr(store, "_put", lambda *_: sqlite3.OperationalError("killed"))
        for id_ in ("a", "b", "c"):
            store.record_start(call(id_), attempt(), lambda: 100, Worker("w", 1), (Hold(*DEMAND.slot, 100),))
        ended = attempt(30)
        ended.settlement = Settlement(Worker("w", 1), (Charge(*DEMAND.slot, DEMAND.end, 30, 30, 100),))
        store.record_attempt(call("a"), ended)
        await store.aclose()

    asyncio.run(die())
    if rebooted:
        monkeypatch.setattr(journals, "_boot", lambda: b"another")

    async def look() -> tuple[int, int, int]:
        store = SQLiteStore(path)
        (balance,) = await store.balances(0.0)
        await store.aclose()
        return balance.spent, balance.unsettled, balance.held

    spent, unsettled, held = asyncio.run(look())
    assert held == 0
    assert spent == unsettled + 30
    assert unsettled == (200 if not rebooted else unsettled)
    assert rebooted == (unsettled > 400)
    assert [(id_, outcome, cost) for id_, outcome, cost, _ in rows(path)] == [
        ("a", "pending", 30),
        ("b", "lost", 100),
        ("c", "lost", 100),
    ]


def full(file: int, data: bytes) -> int:
    """No room at all."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(file: int, data: bytes) -> int:
    """Room for a part."""
    return real_write(file, data[: len(data) // 2])


real_write = os.write


@pytest.mark.parametrize("write", [full, half], ids=["full", "half a frame"])
def test_a_journal_that_cannot_be_written_stays_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[int, bytes], int]
) -> None:
    """A typed error, no half frame is left, the row waits in memory and is committed; with room the journal goes on."""

    async def main() -> None:
        store = SQLiteStore(path)
        store.record_attempt(call("a"), attempt())
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", write)
            with pytest.raises(StoreError, match=r"the journal of .*x\.db could not be written"):
                store.record_start(call("b"), attempt(), lambda: 1)
            store.record_attempt(call("c"), attempt())
        store.record_attempt(call("d"), attempt())
        assert (store.dropped, store.errors) == (0, 2)
        store._journal.close(remove=False)
        (dead,) = abandoned(path)
        assert [entry.request_id for entry in dead.read({})[0] if isinstance(entry, AttemptRow)] == ["a", "d"]
        assert dead.torn == 0
        dead.close(remove=True)
        await store.aclose()

    asyncio.run(main())
    assert [id_ for id_, *_ in rows(path)] == ["a", "c", "d"]


def test_no_journal_no_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be made, opening says so with what to do."""
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"no journal can be written beside the store .* may write to"):
        SQLiteStore(path)
    assert files(path) == []


def test_every_kind_of_entry_comes_back(tmp_path: Path) -> None:
    """As it went in, with lone surrogates replaced."""
    entries: list[Entry] = [
        started("a", Hold("x", 1, 2)),
        msgspec.structs.replace(row("b"), tags={"t": "ü"}),
        Charged("w", (Charge("x", 1, 2, 3, 4, 5),)),
        Ended(row("c"), "w", (Charge("x", 1, 2, 3, 4, 5),)),
        Held("w", ("x", 1), 9),
    ]
    data = b"".join(journals._frame(entry) for entry in entries)
    assert [entry for entry, _ in journals._entries(data, 0)] == entries
    ((back, _),) = journals._entries(journals._frame(row("\ud800")), 0)
    assert isinstance(back, AttemptRow) and back.request_id == "?"


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from headrace.call import Attempt, Call
from headrace.errors import StoreError
from headrace.store.sqlite import SQLiteStore
from headrace.types import Target

async def main(path):
    store = SQLiteStore(path)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    refused = 0
    for number in range(4_000):
        call = Call(id=f"r{number}", started_at=0.0, started_wall=1.0)
        attempt = Attempt(number=1, target=Target("a", "b"), started_at=0.0, started_wall=1.0, cost=1)
        try:
            store.record_start(call, attempt, lambda: 1)
        except StoreError as error:
            assert "could not be written" in str(error), error
            refused += 1
        attempt.end("ok", 1.0)
        store.record_attempt(call, attempt)
    assert refused > 0
    try:
        await store.flush()
    except StoreError as error:
        assert "could not be written" in str(error), error
    else:
        raise AssertionError("the file cannot hold so much")
    assert store.dropped == 0 and store.errors > 0
    if sys.argv[2] == "room":
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await store.flush()
    await store.aclose()
    print(store.dropped)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("room", ["room", "none"])
def test_a_file_that_may_not_grow_is_a_typed_error(path: Path, room: str) -> None:
    """Under a limit on file sizes, which ends as a full disk does, beginnings are refused and rows wait. With room again all of them are
    there, once; a process that ends without has lost what neither file could hold, and says how much."""
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), room], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    opened(path)
    kept = [id_ for id_, outcome, *_ in rows(path) if outcome == "ok"]
    assert len(kept) == len(set(kept)) == 4_000 - int(ran.stdout)
    assert (int(ran.stdout) == 0) == (room == "room")
