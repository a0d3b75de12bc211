"""Ledger and budgets of every store, in every order that hypothesis finds, with deaths where the store survives them: it keeps the same
books as the plainest statement of them (`headrace.budget.leases.Book`), to the last digit."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.store.conftest import STORES

from headrace.budget.leases import Book, Cap, Charge, Demand, Hold, Leased, Settlement, Slot, Worker
from headrace.call import Attempt, Call
from headrace.errors import StoreError
from headrace.store import Store
from headrace.store.rows import LOST
from headrace.types import Budget, Target

T = TypeVar("T")

LIMIT = 1_000
ALL = Cap.of("all", "", Budget(unit="usd", amount=2 * LIMIT, window="minute"))
CAPS = (
    ALL,
    Cap.of("key", "a", Budget(unit="usd", amount=LIMIT, window="minute")),
    Cap.of("key", "a", Budget(unit="tokens", amount=LIMIT // 2, window="minute")),
    Cap.of("user", "u", Budget(unit="usd", amount=LIMIT // 2, window="minute", hard=False)),
)
TARGET = Target("openai", "x")


@dataclass
class Open:
    """An attempt under way."""

    number: int
    call: Call
    attempt: Attempt
    holds: tuple[Hold, ...]
    demands: list[Demand]


@dataclass
class Process:
    """One opened store with its worker, and what that holds beyond what is reserved."""

    store: Store
    worker: Worker
    free: dict[Slot, int] = field(default_factory=lambda: defaultdict(int))
    open: list[Open] = field(default_factory=list)


class Keeping(RuleBasedStateMachine):
    """Two processes, where the store is a file; each leases, sends attempts, settles them, and may die."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        # Memory where there is such a folder: a sync costs nothing there, and its order is not what is tested.
        shm = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None)
        self.path = Path(self.folder.name) / "x.db"
        self.book = Book()
        self.ends: dict[Slot, int] = {}
        self.expected: dict[str, tuple[str, int]] = {}
        self.numbers = iter(range(1, 10_000))
        self.wall = 30.0
        self.processes = [self.opened() for _ in range(2 if self.kind == "sqlite" else 1)]

    def opened(self) -> Process:
        return Process(STORES[self.kind](self.path), Worker(f"w{next(self.numbers)}", 1))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        for process in self.processes:
            self.run(process.store.aclose())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    @rule(
        who=st.integers(0, 1),
        caps=st.sets(st.sampled_from(range(1, len(CAPS)))),
        usd=st.integers(1, 150),
        tokens=st.integers(1, 80),
    )
    def begin(self, who: int, caps: set[int], usd: int, tokens: int) -> None:
        """Lease, and send if it is granted; what is granted beyond is the worker's."""
        process = self.processes[who % len(self.processes)]
        demands = [
            Demand.at(cap, usd if cap.budget.unit == "usd" else tokens, self.wall)
            for cap in (ALL, *(CAPS[index] for index in sorted(caps)))
        ]
        leased: Leased = self.run(process.store.lease(process.worker, [demands], self.wall))
        assert leased == self.book.lease(process.worker, [demands])
        for slot, amount in leased.extra.items():
            process.free[slot] += amount
        (answer,) = leased.answers
        if answer.refused is not None:
            return
        kept = [demand for demand in demands if demand.slot not in answer.over]
        holds = tuple(Hold(*demand.slot, demand.need) for demand in kept)
        number = next(self.numbers)
        call = Call(id=f"r{number}", started_at=0.0, started_wall=float(number), tenant="a")
        attempt = Attempt(number=1, target=TARGET, started_at=0.0, started_wall=1.0)
        process.store.record_start(call, attempt, lambda: usd, process.worker, holds)
        process.open.append(Open(usd, call, attempt, holds, kept))

    @precondition(lambda self: any(process.open for process in self.processes))
    @rule(data=st.data(), part=st.integers(0, 12))
    def end(self, data: Any, part: int) -> None:
        """A bill of 0 to 1.2 times the worst case."""
        process = data.draw(st.sampled_from([process for process in self.processes if process.open]))
        one: Open = data.draw(st.sampled_from(process.open))
        process.open.remove(one)
        charges = []
        for demand in one.demands:
            cost = demand.need * part // 10
            taken = min(cost, demand.need + process.free[demand.slot])
            process.free[demand.slot] += demand.need - taken
            charges.append(Charge(*demand.slot, demand.end, cost, taken, demand.need))
        one.attempt.cost = one.number * part // 10
        one.attempt.settlement = Settlement(process.worker, tuple(charges))
        one.attempt.end("ok", 1.0)
        process.store.record_attempt(one.call, one.attempt)
        self.book.settle(process.worker, charges)
        self.expected[one.call.id] = ("ok", one.attempt.cost)

    @rule(who=st.integers(0, 1))
    def give_back(self, who: int) -> None:
        """A sweep."""
        process = self.processes[who % len(self.processes)]
        charges = [
            Charge(slot[0], slot[1], slot[1] + 60, 0, amount)
            for slot, amount in process.free.items()
            if amount
        ]
        process.free.clear()
        process.store.settle(process.worker, charges)
        self.book.settle(process.worker, charges)

    @rule(seconds=st.sampled_from([1.0, 29.0, 61.0]))
    def wait(self, seconds: float) -> None:
        """The window turns at its second."""
        self.wall += seconds

    @precondition(lambda self: self.kind == "sqlite")
    @rule(who=st.integers(0, 1), unheard=st.lists(st.integers(0, 12), max_size=3), beat=st.booleans())
    def die(self, who: int, unheard: list[int], beat: bool) -> None:
        """Nothing is committed any more, some attempts end all the same, and the process is gone. Another takes in what it left: by being
        opened, or at its beat."""
        process = self.processes[who]
        store: Any = process.store
        self.run(store.flush())
        with mock.patch.object(store, "_put", return_value=sqlite3.OperationalError("killed")):
            for part in unheard:
                if process.open:
                    one = process.open.pop()
                    charges = [
                        Charge(*demand.slot, demand.end, cost, cost, demand.need)
                        for demand in one.demands
                        for cost in [min(demand.need, demand.need * part // 10)]
                    ]
                    one.attempt.cost = min(one.number, one.number * part // 10)
                    one.attempt.settlement = Settlement(process.worker, tuple(charges))
                    one.attempt.end("ok", 1.0)
                    store.record_attempt(one.call, one.attempt)
                    self.book.settle(process.worker, charges)
                    self.expected[one.call.id] = ("ok", one.attempt.cost)
            store._left = True  # nothing tidies up
            self.run(store.aclose())
        reserved: dict[Slot, int] = defaultdict(int)
        for one in process.open:
            self.expected[one.call.id] = (LOST, one.number)
            for hold in one.holds:
                reserved[hold.cap, hold.start] += hold.need
        self.book.bury(process.worker, reserved)
        if beat:
            other = self.processes[1 - who]
            other.store.beat(other.worker, self.wall)
            self.run(other.store.flush())
        self.processes[who] = self.opened()

    @invariant()
    def the_books_agree(self) -> None:
        store = self.processes[0].store
        for process in self.processes:
            self.run(process.store.flush())
        kept, meant = self.run(store.balances(0.0)), self.book.balances(0.0)
        assert [one for one in kept if one.spent or one.held] == [
            one for one in meant if one.spent or one.held
        ]
        for balance in kept:
            assert balance.spent >= balance.unsettled >= 0 and balance.held >= 0

    @invariant()
    def what_is_held_is_reserved_or_free(self) -> None:
        held: dict[Slot, int] = defaultdict(int)
        for process in self.processes:
            for slot, amount in process.free.items():
                assert amount >= 0
                held[slot] += amount
            for one in process.open:
                for hold in one.holds:
                    held[hold.cap, hold.start] += hold.need
        for balance in self.book.balances(0.0):
            assert balance.held == held[balance.cap, balance.start]

    @invariant()
    def the_ledger_is_the_counter(self) -> None:
        store = self.processes[0].store
        rows: dict[str, tuple[str, int]] = {}
        for id_ in self.expected:
            found = self.run(store.request(id_, "a"))
            assert found is not None
            (row,) = found.attempts
            assert row.cost_nano is not None
            rows[id_] = (row.outcome, row.cost_nano)
            assert row.estimated == (row.outcome == LOST)
        assert rows == self.expected
        spent = sum(balance.spent for balance in self.book.balances(0.0) if balance.cap == ALL.id)
        assert spent == sum(cost for _, cost in rows.values())


class KeepingInAFile(Keeping):
    """The same over SQLite."""

    kind = "sqlite"


Keeping.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
KeepingInAFile.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestMemory = Keeping.TestCase
TestSQLite = KeepingInAFile.TestCase


def test_a_closed_store_grants_and_takes_nothing(with_store: Any) -> None:
    """Leases and starts are typed errors; reports are not errors."""

    async def body(store: Store) -> None:
        await store.aclose()
        worker = Worker("w", 1)
        call = Call(id="r", started_at=0.0, started_wall=1.0)
        attempt = Attempt(number=1, target=TARGET, started_at=0.0, started_wall=1.0)
        with pytest.raises(StoreError):
            store.record_start(call, attempt, lambda: 1)
        with pytest.raises(StoreError):
            await store.lease(worker, [[Demand.at(ALL, 1, 0.0)]], 0.0)
        store.settle(worker, [Charge(ALL.id, 0, 60, 1, 0)])
        store.beat(worker, 0.0)
        store.leave(worker)

    with_store(body)
