"""The store in one SQLite file, shared by the worker processes of one machine.

One thread writes. The event loop puts a row into the process's journal (`headrace.store.journal`) and on a queue; the thread takes all that
has come within `LINGER_S`, writes them in one transaction and syncs once. So a request never waits for the disk, and
a crash of the process loses nothing that was recorded: the next to open the file takes it in. A power cut loses what no `flush` has
confirmed.

A failed write (a full disk, a lock held too long) is counted, told once, and tried again with the same rows until it works; meanwhile
the queue fills, and what finds it full is counted as dropped. A request never fails for it.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import hmac
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from headrace.budget.leases import Balance, Charge, Demand, Hold, Leased, Settlement, Worker
from headrace.call import Attempt, Call, Nanodollars
from headrace.errors import StoreError
from headrace.gcra import Admission, Claim, Grant
from headrace.store import answers, budgets, circuits, conversations, keys, ledger, limits, plans, spending
from headrace.store.journal import Charged, Ended, Journal, Started, lives
from headrace.store.recovery import TAKEN, positioned, recover
from headrace.store.rows import (
    Actor,
    AttemptRow,
    AuditRow,
    StoredCircuit,
    StoredKey,
    StoredRequest,
    attempt_row,
    lost_row,
    request_row,
)
from headrace.store.schema import SYNCHRONOUS, connect, prepare, synchronize
from headrace.store.spending import Avoided, Spend
from headrace.tickets import Claimed, Ticket

__all__ = ["SQLiteStore"]

LINGER_S = 0.05
"""How long the writer gathers rows after the first: one sync for all of them, and one wake-up of the thread."""

BATCH_ROWS = 4096
"""Most rows in one transaction: some 40 ms, far below the time that another process waits for the lock."""

RETRY_S = (0.1, 5.0)
"""The first and the longest pause before a failed write is tried again; it doubles in between."""

_log = logging.getLogger("headrace.store")
_T = TypeVar("_T")


class _Task:
    """Something for the writer to do after all rows before it are durable; its future gets the outcome. `table` decides how it is
    synced; `alone` work has transactions of its own."""

    __slots__ = ("alone", "future", "table", "work")

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], Any] | None = None,
        *,
        table: str = "keys",
        alone: bool = False,
    ) -> None:
        self.work = work
        self.table = table
        self.alone = alone
        self.future: Future[Any] = Future()


class _Note:
    """Something about budgets or circuits to write with the rows around it; nobody waits for it."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[sqlite3.Connection], None]) -> None:
        self.write = write


class _Rotated:
    """What comes now is in the journal's file `new`; with all before it `old` is taken in."""

    __slots__ = ("new", "old")

    def __init__(self, old: str, new: str) -> None:
        self.old = old
        self.new = new


class _Stop:
    __slots__ = ()


_Row: TypeAlias = AttemptRow | Ended | Charged | StoredRequest | _Note | _Rotated
_Placed: TypeAlias = tuple[_Row, int]
"""A row and the journal's position after it; 0 where it is in none."""


class SQLiteStore:
    """A `Store` in the file `path`; made when missing (see `headrace.store.schema`).

    Opening does disk I/O and may wait for another process up to 5 s: do it at the start. `queue_rows` bounds the memory of rows
    that wait for the disk (some 1 KB each).

    Raises:
        StoreError: The file cannot be used; the message says why and what to do.
    """

    def __init__(self, path: Path, *, queue_rows: int = 50_000) -> None:
        self.path = path
        self._secret = prepare(path)
        self._journal = _open_journal(path)
        self._taking = self._journal.name
        self._left = False
        # The library may record from several threads, each with its own loop.
        self._recording = threading.Lock()
        self._queue_rows = queue_rows
        self._queue: queue.SimpleQueue[_Placed | _Task | _Stop] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._count = threading.Lock()
        self._dropped = 0
        self._errors = 0
        self._told = False
        self._closed = False
        self._dead = False
        self._reader: sqlite3.Connection | None = None
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="headrace-store-reader")
        self._writer = threading.Thread(target=self._write, name="headrace-store-writer", daemon=True)
        self._writer.start()
        # A program that ends without aclose still has its rows written.
        atexit.register(self._finish)

    @property
    def dropped(self) -> int:
        return self._dropped

    @property
    def errors(self) -> int:
        return self._errors

    def ready(self) -> bool:
        return not self._closed and not self._dead

    # --- on the event loop ---------------------------------------------------------------------------------------------

    def record_start(
        self,
        call: Call,
        attempt: Attempt,
        bound: Callable[[], Nanodollars | None],
        worker: Worker | None = None,
        holds: Sequence[Hold] = (),
    ) -> None:
        if not self.ready():
            raise StoreError(f"the store {self.path} is closed or its writer is dead")
        started = Started(lost_row(call, attempt, bound()), "" if worker is None else worker.id, tuple(holds))
        try:
            with self._recording:
                self._journal.append(started)
        except OSError as error:
            self._fail(error)
            raise StoreError(f"the journal of {self.path} could not be written: {error}") from error

    def record_attempt(self, call: Call, attempt: Attempt) -> None:
        settlement = attempt.settlement
        if self._open():
            row = attempt_row(call, attempt)
            if isinstance(settlement, Settlement):
                self._put_down(Ended(row, settlement.worker.id, settlement.charges))
            else:
                self._put_down(row)
        elif isinstance(settlement, Settlement):
            self.settle(settlement.worker, settlement.charges)

    def record_call(self, call: Call) -> None:
        if self._open():
            self._put_down(request_row(call))

    def _put_down(self, row: AttemptRow | Ended | StoredRequest) -> None:
        with self._recording:
            self._queue.put((row, self._written(row)))
            if (old := self._journal.rotate()) is not None:
                self._queue.put((_Rotated(old, self._journal.name), 0))

    def _written(self, entry: AttemptRow | Ended | StoredRequest | Charged) -> int:
        """The journal's position after `entry`, 0 where it could not be written: then it is as safe as the process."""
        try:
            return self._journal.append(entry)
        except OSError as error:
            self._fail(error)
            return 0

    def _fail(self, error: Exception) -> None:
        with self._count:
            self._errors += 1
            told, self._told = self._told, True
        if not told:
            _log.error("the store %s cannot be written (%s); trying again", self.path, error)

    def _open(self) -> bool:
        if self._queue.qsize() < self._queue_rows and not self._closed and not self._dead:
            return True
        self._drop(1, "closed" if self._closed else "writer dead" if self._dead else "queue full")
        return False

    def _drop(self, rows: int, why: str) -> None:
        with self._count:
            self._dropped += rows
            told, self._told = self._told, True
        if not told:
            _log.error("the store %s loses rows (%s); their number is in `dropped`", self.path, why)

    async def flush(self) -> None:
        await self._run(None)

    async def _run(
        self, work: Callable[[sqlite3.Connection], _T] | None, table: str = "keys", *, alone: bool = False
    ) -> _T:
        if not self.ready():
            raise StoreError(f"the store {self.path} is closed or its writer is dead")
        task = _Task(work, table=table, alone=alone)
        self._queue.put(task)
        self._hurry.set()
        if self._dead:  # it died in between, perhaps without seeing the task
            self._refuse_queued()
        result: _T = await asyncio.wrap_future(task.future)
        return result

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(_Stop())
        self._hurry.set()
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        """Idempotent; from any thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(_Stop())
            self._hurry.set()
        self._writer.join()
        self._journal.close(remove=not self._left and self._journal.idle)
        self._reading.shutdown()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        atexit.unregister(self._finish)

    # --- reading, on a thread and a connection of its own --------------------------------------------------------------

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._closed:
            raise StoreError(f"the store {self.path} is closed")

        def run() -> _T:
            if self._reader is None:
                self._reader = connect(self.path)
                self._reader.execute("PRAGMA query_only=ON")
            try:
                return query(self._reader)
            except sqlite3.Error as error:
                raise StoreError(f"the store {self.path} cannot be read: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._reading, run)

    async def _survey(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """As `_read`, for what goes over many rows: on a connection and a thread of its own, since keys are looked up on the other."""
        if self._closed:
            raise StoreError(f"the store {self.path} is closed")

        def run() -> _T:
            try:
                with closing(connect(self.path)) as connection:
                    connection.execute("PRAGMA query_only=ON")
                    return query(connection)
            except sqlite3.Error as error:
                raise StoreError(f"the store {self.path} cannot be read: {error}") from error

        return await asyncio.to_thread(run)

    async def _settled(self) -> None:
        """What this process recorded is there to be read, if it can be written at all."""
        try:
            await self.flush()
        except StoreError:
            _log.debug("reading from %s before all is written", self.path)

    async def request(self, request_id: str, tenant: str | None) -> StoredRequest | None:
        await self._settled()

        return await self._read(lambda connection: ledger.find(connection, request_id, tenant))

    async def recent(self, limit: int) -> list[StoredRequest]:
        await self._settled()
        return await self._read(lambda connection: ledger.recent(connection, limit))

    async def spend(self, since: float, until: float, by: Sequence[str]) -> list[Spend]:
        await self._settled()
        return await self._survey(lambda connection: spending.spend(connection, since, until, by))

    async def avoided(self, since: float, until: float) -> list[Avoided]:
        await self._settled()
        return await self._survey(lambda connection: spending.avoided(connection, since, until))

    # --- keys ----------------------------------------------------------------------------------------------------------

    def key_hash(self, key: str) -> bytes:
        return hmac.digest(self._secret, key.encode("utf-8", "surrogateescape"), hashlib.sha256)

    async def add_key(self, key: StoredKey, hash: bytes, *, by: Actor) -> None:  # noqa: A002
        await self._run(lambda connection: keys.add(connection, key, hash, by))

    async def find_key(self, hash: bytes) -> StoredKey | None:  # noqa: A002
        return await self._read(lambda connection: keys.find(connection, hash))

    async def list_keys(self) -> list[StoredKey]:
        return await self._read(keys.listed)

    async def revoke_key(self, key_id: str, now: float, *, by: Actor) -> bool:
        return await self._run(lambda connection: keys.revoke(connection, key_id, now, by))

    async def rotate_key(
        self, key_id: str, new_hash: bytes, prefix: str, now: float, *, until: float, by: Actor
    ) -> bool:
        return await self._run(
            lambda connection: keys.rotate(connection, key_id, new_hash, prefix, now, until, by)
        )

    async def add_audit(self, row: AuditRow) -> None:
        # With the rows around it: whoever is refused over and over costs no sync each time.
        self._note(lambda connection: keys.log(connection, row))
        await self.flush()

    async def audit(self, limit: int, subject: str | None = None) -> list[AuditRow]:
        return await self._read(lambda connection: keys.audit(connection, limit, subject))

    # --- budgets -------------------------------------------------------------------------------------------------------

    async def lease(self, worker: Worker, asks: Sequence[Sequence[Demand]], now: float) -> Leased:
        journal = self._journal.id
        return await self._run(lambda c: budgets.lease(c, worker, asks, journal), "budget_slices")

    def settle(self, worker: Worker, charges: Sequence[Charge]) -> None:
        # Not bounded as rows are: what is not reported stays booked against the budget.
        if self.ready():
            charged = Charged(worker.id, tuple(charges))
            with self._recording:
                self._queue.put((charged, self._written(charged)))

    def beat(self, worker: Worker, now: float) -> None:
        if self.ready():
            self._queue.put(_Task(lambda connection: self._bury(connection, now), alone=True))

    def _bury(self, connection: sqlite3.Connection, now: float) -> None:
        synchronize(connection, "FULL")
        recover(connection, self.path)
        connection.execute("BEGIN IMMEDIATE")
        budgets.forget(connection, now)
        limits.forget(connection, int(now * 1e9))
        answers.expire(connection, now)
        connection.execute("COMMIT")

    def leave(self, worker: Worker) -> None:
        self._note(lambda connection: budgets.leave(connection, worker))

    def _note(self, write: Callable[[sqlite3.Connection], None]) -> None:
        if self.ready():
            self._queue.put((_Note(write), 0))

    # --- rate limits ---------------------------------------------------------------------------------------------------

    async def admit(self, claims: Sequence[Claim], now: int) -> Admission:
        return await self._run(lambda connection: limits.admit(connection, claims, now), "limits")

    def settle_rates(self, settled: Sequence[tuple[Grant, int]], now: int) -> None:
        self._note(lambda connection: limits.settle_all(connection, settled, now))

    # --- circuits ------------------------------------------------------------------------------------------------------

    def record_circuit(self, circuit: StoredCircuit) -> None:
        self._note(lambda connection: circuits.keep(connection, circuit))

    async def claim_probe(self, key: str, now: float, until: float, by: str) -> bool:
        return await self._run(lambda connection: circuits.claim(connection, key, now, until, by), "circuits")

    async def circuits(self, since: int) -> tuple[int, list[StoredCircuit]]:
        return await self._read(lambda connection: circuits.changed(connection, since))

    # --- conversations ---------------------------------------------------------------------------------------------------

    async def append_turns(
        self, conversation: str, first: int, turns: Sequence[bytes], *, until: float
    ) -> None:
        await self._run(
            lambda connection: conversations.append(connection, conversation, first, turns, until),
            "conversation_turns",
        )

    async def turns(self, conversation: str) -> list[bytes]:
        return await self._read(lambda connection: conversations.turns(connection, conversation))

    async def delete_turns(self, conversation: str) -> int:
        return await self._run(lambda c: conversations.delete(c, conversation), "conversation_turns")

    async def expire_turns(self, now: float) -> int:
        return await self._run(lambda c: conversations.expire(c, now), "conversation_turns")

    async def purge_content(self, conversation: str | None, *, tenant: str | None = None) -> int:
        """See `Store.purge_content`; the write-ahead log is emptied too, as far as nobody reads in it."""
        gone = await self._run(lambda c: conversations.purge(c, conversation, tenant), "conversation_turns")

        def empty(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        await self._run(empty, alone=True)
        return gone

    # --- plan states -----------------------------------------------------------------------------------------------------

    def record_plan(self, key: bytes, state: bytes, *, now: float, until: float) -> None:
        self._note(lambda connection: plans.keep(connection, key, state, now, until))

    async def find_plan(self, keys: Sequence[bytes]) -> tuple[int, bytes] | None:
        return await self._read(lambda connection: plans.find(connection, keys))

    # --- answers under idempotency keys ----------------------------------------------------------------------------------

    async def claim_answer(self, ticket: Ticket, now: float, until: float) -> Claimed:
        own = self._journal.id

        def alive(holder: str) -> bool:
            return holder == own or lives(self.path, holder)

        # Neither an answer that is given again nor one that is waited for takes the writer's lock, or waits for a sync.
        found = await self._read(lambda c: answers.look(c, ticket, now, own, alive))
        if found is not None:
            return found
        return await self._run(lambda c: answers.claim(c, ticket, now, until, own, alive), "kept_answers")

    async def keep_answer(
        self, ticket: Ticket, body: bytes | None, *, now: float, until: float, most: int, why: str = ""
    ) -> bool:
        return await self._run(lambda c: answers.keep(c, ticket, body, why, now, until, most), "kept_answers")

    def release_answer(self, ticket: Ticket) -> None:
        self._note(lambda connection: answers.release(connection, ticket))

    def expire_answers(self, now: float) -> None:
        self._note(lambda connection: answers.expire(connection, now))

    async def purge_answers(self, tenant: str | None, user: str | None) -> int:
        return await self._run(lambda c: answers.purge(c, tenant, user), "kept_answers")

    async def balances(self, since: float) -> list[Balance]:
        await self._settled()
        return await self._read(lambda connection: budgets.balances(connection, since))

    # --- writing, on its own thread ------------------------------------------------------------------------------------

    def _write(self) -> None:
        held: list[_Placed] = []
        tasks: list[_Task] = []
        try:
            connection = connect(self.path)
            try:
                self._serve(connection, held, tasks)
            finally:
                connection.close()
        except BaseException:  # noqa: BLE001  (whatever it is, it ends the thread: it must be told and counted)
            self._dead = True
            _log.exception("the writer of the store %s died; nothing more is kept", self.path)
            self._leave(held, "writer dead")
        for task in tasks:
            self._refuse(task)
        self._refuse_queued()

    def _serve(self, connection: sqlite3.Connection, held: list[_Placed], tasks: list[_Task]) -> None:
        """Until stopped. `held` are the rows taken from the queue and not yet durable, `tasks` those not yet done."""
        pause = 0.0
        stopping = False
        while not stopping:
            if not held:
                stopping = self._take(self._queue.get(), held, tasks)
            # After a failure the pause before the next try, else the time to gather.
            if not stopping and not tasks:
                self._hurry.wait(pause or LINGER_S)
            self._hurry.clear()
            while not stopping and len(held) < BATCH_ROWS:
                try:
                    stopping = self._take(self._queue.get_nowait(), held, tasks)
                except queue.Empty:
                    break
            if (error := self._put(connection, held)) is None:
                held.clear()
                pause = 0.0
            else:
                pause = min(RETRY_S[1], max(RETRY_S[0], pause * 2))
            while tasks:
                self._do(connection, tasks[0], error)
                del tasks[0]
            # Closing waits for no disk to become free.
            stopping = stopping or (error is not None and self._closed)
        if held:
            self._leave(held, "not written before the end")

    @staticmethod
    def _take(
        item: _Placed | _Task | _Stop,
        held: list[_Placed],
        tasks: list[_Task],
    ) -> bool:
        """Whether to stop."""
        if isinstance(item, _Stop):
            return True
        if isinstance(item, _Task):
            tasks.append(item)
        else:
            held.append(item)
        return False

    def _put(self, connection: sqlite3.Connection, placed: list[_Placed]) -> Exception | None:
        """Write all rows in one transaction, or none of them, with how far the journal is taken in by it."""
        if not placed:
            return None
        rows = [row for row, _ in placed]
        done: list[str] = []
        name, position = self._taking, 0
        for row, at in placed:
            if isinstance(row, _Rotated):
                done.append(row.old)
                name, position = row.new, 0
            elif at:
                position = at
        try:
            synchronize(connection, "FULL")
            connection.execute("BEGIN IMMEDIATE")
            bad = ledger.insert(connection, [row.row if isinstance(row, Ended) else row for row in rows])
            for row in rows:
                if isinstance(row, _Note):
                    row.write(connection)
            budgets.settle_all(
                connection,
                ((row.worker, row.charges) for row in rows if isinstance(row, Charged | Ended)),
            )
            for old in done:
                positioned(connection, old, TAKEN)
            if position:
                positioned(connection, name, position)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _rolled_back(connection)
            self._fail(error)
            return error
        self._taking = name
        for old in done:
            with suppress(OSError):  # it is known to be taken in
                self.path.with_name(old).unlink()
        if bad:
            self._drop(bad, "values that SQLite does not take")
        elif self._told and self._queue.qsize() < self._queue_rows // 2:
            self._told = False
            _log.warning("the store %s is written again; %d rows were lost so far", self.path, self._dropped)
        return None

    def _do(self, connection: sqlite3.Connection, task: _Task, error: Exception | None) -> None:
        if not task.future.set_running_or_notify_cancel():
            return
        try:
            if error is not None:
                raise error
            if task.work is None:
                result = None
            elif task.alone:
                result = task.work(connection)
            else:
                synchronize(connection, SYNCHRONOUS[task.table])
                connection.execute("BEGIN IMMEDIATE")
                result = task.work(connection)
                connection.execute("COMMIT")
        except sqlite3.Error as failed:
            _rolled_back(connection)
            task.future.set_exception(StoreError(f"the store {self.path} could not be written: {failed}"))
        except BaseException as failed:  # noqa: BLE001  (it belongs to whoever awaits the task)
            _rolled_back(connection)
            task.future.set_exception(failed)
        else:
            task.future.set_result(result)

    def _refuse(self, task: _Task) -> None:
        if not task.future.done() and task.future.set_running_or_notify_cancel():
            task.future.set_exception(StoreError(f"the store {self.path} is closed or its writer is dead"))

    def _refuse_queued(self) -> None:
        """Nobody will write any more: tell those who wait, count the rest."""
        left: list[_Placed] = []
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, _Task):
                self._refuse(item)
            elif not isinstance(item, _Stop):
                left.append(item)
        self._leave(left, "writer dead" if self._dead else "closed")

    def _leave(self, placed: list[_Placed], why: str) -> None:
        """The database does not have these: whoever opens it next finds them in the journal, but for those that are in none."""
        if not placed:
            return
        self._left = True
        lost = sum(not at and isinstance(row, AttemptRow | Ended | StoredRequest) for row, at in placed)
        if lost:
            self._drop(lost, why)
        else:
            _log.error("the store %s: %s; its journal keeps what was not written", self.path, why)


def _open_journal(path: Path) -> Journal:
    """Take in what the dead have left, and begin a journal of our own."""
    try:
        with closing(connect(path)) as connection:
            recover(connection, path)
    except (sqlite3.Error, OSError) as error:
        # It stays where it is, and what the dead held stays held.
        _log.error("what dead processes left beside %s is not taken in yet: %s", path, error)
    try:
        return Journal(path)
    except OSError as error:
        raise StoreError(
            f"no journal can be written beside the store {path}: {error.strerror or error}; "
            "[store] path must be in a folder that this user may write to"
        ) from error


def _rolled_back(connection: sqlite3.Connection) -> None:
    # Some errors (a full disk) have rolled back already.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
