"""Workers, attempts and the store in every order that hypothesis finds: the books balance at every step."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.budget.leases import BATCH, SHARE, Answer, Book, Cap, Charge, Demand, Leased, Slot, Worker
from headrace.budget.purse import Purse, Reservation
from headrace.errors import BudgetUnavailable, StoreError
from headrace.testing import ManualClock
from headrace.types import Budget

LIMIT = 1_000
CAPS = (
    Cap.of("key", "a", Budget(unit="usd", amount=LIMIT, window="minute")),
    Cap.of("all", "", Budget(unit="usd", amount=2 * LIMIT, window="minute")),
    Cap.of("key", "a", Budget(unit="tokens", amount=LIMIT // 2, window="minute")),
    Cap.of("user", "u", Budget(unit="usd", amount=LIMIT // 2, window="minute", hard=False)),
)
HARD = {cap.id: cap.budget.amount for cap in CAPS if cap.budget.hard}


class SlowLender:
    """A store that answers when it is told to, or fails."""

    def __init__(self) -> None:
        self.book = Book()
        self.asked: list[asyncio.Future[bool]] = []

    async def lease(self, worker: Worker, asks: Sequence[Sequence[Demand]], now: float) -> Leased:
        gate: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.asked.append(gate)
        if not await gate:
            raise StoreError("disk full")
        return self.book.lease(worker, asks)

    def settle(self, worker: Worker, charges: Sequence[Charge]) -> None:
        self.book.settle(worker, charges)

    def beat(self, worker: Worker, now: float) -> None: ...

    def leave(self, worker: Worker) -> None: ...


@dataclass
class Open:
    """An attempt under way."""

    purse: Purse
    demands: list[Demand]
    reservation: Reservation


class Books(RuleBasedStateMachine):
    """Two workers; attempts with one to four budgets; leases that take their time; deaths, real and mistaken."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.lender = SlowLender()
        self.purses = [Purse(self.lender, self.clock) for _ in range(2)]
        self.waiting: list[tuple[Purse, list[Demand], asyncio.Task[Reservation | Answer]]] = []
        self.open: list[Open] = []
        self.buried: set[Purse] = set()
        self.cost: dict[Slot, int] = defaultdict(int)
        self.excess: dict[Slot, int] = defaultdict(int)
        self.refused = 0

    def teardown(self) -> None:
        for _, _, task in self.waiting:
            task.cancel()
        for gate in self.lender.asked:
            gate.cancel()
        for purse in [*self.purses, *self.buried]:
            if purse._flight is not None:
                purse._flight.cancel()
        self.turn()
        self.loop.close()

    def turn(self) -> None:
        """Let everything run that can, and gather the answers."""
        self.loop.run_until_complete(self.clock.run_until_idle())
        for entry in list(self.waiting):
            purse, demands, task = entry
            if not task.done():
                continue
            self.waiting.remove(entry)
            if task.cancelled():
                continue
            if (error := task.exception()) is not None:
                assert isinstance(error, BudgetUnavailable)
                continue
            answer = task.result()
            if isinstance(answer, Reservation):
                self.open.append(Open(purse, demands, answer))
            else:
                assert answer.refused in demands
                budget = answer.refused.cap.budget
                assert budget.hard and answer.used + answer.refused.need > budget.amount
                self.refused += 1

    @rule(
        who=st.integers(0, 1),
        caps=st.sets(st.sampled_from(range(len(CAPS))), min_size=1),
        amount=st.integers(1, 120),
        tokens=st.integers(1, 60),
    )
    def ask(self, who: int, caps: set[int], amount: int, tokens: int) -> None:
        purse, wall = self.purses[who], self.clock.wall()
        demands = [
            Demand.at(CAPS[index], amount if CAPS[index].budget.unit == "usd" else tokens, wall)
            for index in sorted(caps)
        ]
        self.waiting.append((purse, demands, self.loop.create_task(purse.reserve(demands))))
        self.turn()

    @precondition(lambda self: any(not gate.done() for gate in self.lender.asked))
    @rule(works=st.integers(0, 9), data=st.data())
    def answer(self, works: int, data: Any) -> None:
        gates = [gate for gate in self.lender.asked if not gate.done()]
        data.draw(st.sampled_from(gates)).set_result(works > 0)
        self.lender.asked = [gate for gate in self.lender.asked if not gate.done()]
        self.turn()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), part=st.integers(0, 12))
    def settle(self, data: Any, part: int) -> None:
        """A bill of 0 to 1.2 times what was reserved; once more changes nothing."""
        attempt = data.draw(st.sampled_from(self.open))
        self.open.remove(attempt)
        costs = {
            unit: max((d.need for d in attempt.demands if d.cap.budget.unit == unit), default=0) * part // 10
            for unit in ("usd", "tokens")
        }
        for demand in attempt.demands:
            cost = costs[demand.cap.budget.unit]
            self.cost[demand.slot] += cost
            self.excess[demand.slot] += max(0, cost - demand.need)
        attempt.reservation.settle(costs)
        attempt.reservation.settle({"usd": 10**6, "tokens": 10**6})

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        """A caller goes away while he waits."""
        data.draw(st.sampled_from(self.waiting))[2].cancel()
        self.turn()

    @rule(seconds=st.sampled_from([0.1, 0.3, 2.5, 61.0]))
    def wait(self, seconds: float) -> None:
        """Idle slices go back; with a minute, the window turns."""
        self.loop.run_until_complete(self.clock.run_for(seconds))
        self.turn()

    @rule(who=st.integers(0, 1), really=st.booleans())
    def die(self, who: int, really: bool) -> None:
        """A worker is taken for dead. If it is, its attempts end unheard of; if it is not, they go on and settle."""
        purse = self.purses[who]
        if purse._flight is not None:
            return
        self.lender.book.bury(purse.worker)
        self.buried.add(purse)
        if really:
            for attempt in [attempt for attempt in self.open if attempt.purse is purse]:
                self.open.remove(attempt)
                for demand in attempt.demands:  # the provider charges all the same
                    self.cost[demand.slot] += (
                        demand.need if demand.slot not in attempt.reservation.over else 0
                    )
            if purse._timer is not None:
                purse._timer.cancel()
        self.purses[who] = Purse(self.lender, self.clock)

    @invariant()
    def nothing_is_negative(self) -> None:
        for purse in self.purses:
            for free, reserved in purse.held().values():
                assert free >= 0 and reserved >= 0
        for balance in self.lender.book.balances(0):
            assert balance.spent >= balance.unsettled >= 0 and balance.held >= 0

    @invariant()
    def the_limit_holds(self) -> None:
        for balance in self.lender.book.balances(0):
            slot = balance.cap, balance.start
            used = balance.spent + balance.held
            if balance.cap in HARD:
                assert used <= HARD[balance.cap] + self.excess[slot]
                assert self.cost[slot] <= HARD[balance.cap] + self.excess[slot]
            assert self.cost[slot] <= used
            if not self.buried:
                assert self.cost[slot] == balance.spent

    @invariant()
    def reservations_are_the_open_attempts(self) -> None:
        for purse in self.purses:
            if purse._flight is not None:
                continue
            reserved: dict[Slot, int] = defaultdict(int)
            for attempt in self.open:
                if attempt.purse is purse:
                    for demand in attempt.demands:
                        if demand.slot not in attempt.reservation.over:
                            reserved[demand.slot] += demand.need
            held = purse.held()
            assert {slot: amount for slot, (_, amount) in held.items() if amount} == {
                slot: amount for slot, amount in reserved.items() if amount
            }
            for slot, (free, amount) in held.items():
                assert self.lender.book._held[slot].get(purse.worker.id, 0) == free + amount


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase


def test_slices_shrink_to_single_reservations() -> None:
    """Far from the limit one trip is good for many reservations, near it for one; never more than a sixteenth of the rest."""
    book, worker = Book(), Worker("w", 1)
    cap = Cap.of("key", "a", Budget(unit="usd", amount=100_000, window="day"))
    sizes = []
    while True:
        before = book.used(Demand.at(cap, 10, 0.0).slot)
        leased = book.lease(worker, [[Demand.at(cap, 10, 0.0)]])
        if leased.answers[0].refused is not None:
            break
        size = book.used((cap.id, 0)) - before
        assert size == 10 or size <= min(10 * BATCH, 10 + (100_000 - before) // SHARE)
        sizes.append(size)
    assert sizes[0] == 10 * BATCH and sizes[-1] == 10
    assert 100_000 - 10 < sum(sizes) <= 100_000


class QuickLender:
    """A book that answers at once."""

    def __init__(self) -> None:
        self.book = Book()

    async def lease(self, worker: Worker, asks: Sequence[Sequence[Demand]], now: float) -> Leased:
        return self.book.lease(worker, asks)

    def settle(self, worker: Worker, charges: Sequence[Charge]) -> None:
        self.book.settle(worker, charges)

    def beat(self, worker: Worker, now: float) -> None: ...

    def leave(self, worker: Worker) -> None: ...


def of_a(need: int, cap: int = 0) -> list[Demand]:
    """One demand of `need`."""
    return [Demand.at(CAPS[cap], need, 0.0)]


def test_a_refusal_puts_back_what_was_set_aside() -> None:
    """What the worker held before, of every budget that was asked, is free again and serves a smaller attempt without the store."""

    async def main() -> None:
        lender = QuickLender()
        purse = Purse(lender, ManualClock())
        both = [*of_a(900), *of_a(100, 2)]
        first = await purse.reserve(both)
        assert isinstance(first, Reservation)
        first.settle({"usd": 600, "tokens": 10})
        before = purse.held()
        assert before == {both[0].slot: (300, 0), both[1].slot: (90, 0)}
        refused = await purse.reserve([*of_a(500), *of_a(50, 2)])
        assert isinstance(refused, Answer) and refused.refused == of_a(500)[0] and refused.used == 600
        assert purse.held() == before
        assert isinstance(await purse.reserve([*of_a(300), *of_a(90, 2)]), Reservation)
        await purse.aclose()

    asyncio.run(main())


def test_a_bill_above_its_reservation_takes_what_is_free_and_nothing_reserved() -> None:
    """The rest is booked beyond what the worker holds; the other attempt keeps all of its money."""

    async def main() -> None:
        lender = QuickLender()
        purse = Purse(lender, ManualClock())
        first, second = await purse.reserve(of_a(300)), await purse.reserve(of_a(300))
        assert isinstance(first, Reservation) and isinstance(second, Reservation)
        slot = of_a(1)[0].slot
        free, reserved = purse.held()[slot]
        assert reserved == 600
        first.settle({"usd": 300 + free + 50})
        assert purse.held()[slot] == (0, 300)
        (balance,) = lender.book.balances(0)
        assert (balance.spent, balance.held) == (350 + free, 300)
        second.settle({"usd": 300})
        assert purse.held()[slot] == (0, 0)
        (balance,) = lender.book.balances(0)
        assert (balance.spent, balance.held) == (650 + free, 0)
        await purse.aclose()

    asyncio.run(main())


def test_a_window_turns_at_its_second() -> None:
    """Used up at 59.999 s and whole again at 60 s, also for a clock that goes back; what was reserved before settles in the window that it was reserved in."""

    async def main() -> None:
        lender = QuickLender()
        purse = Purse(lender, ManualClock())
        early = await purse.reserve([Demand.at(CAPS[0], LIMIT, 30.0)])
        assert isinstance(early, Reservation)
        assert isinstance(await purse.reserve([Demand.at(CAPS[0], 1, 59.999)]), Answer)
        late = await purse.reserve([Demand.at(CAPS[0], LIMIT, 60.0)])
        assert isinstance(late, Reservation)
        # A clock that goes back finds the window that it left, used up as it was.
        assert isinstance(await purse.reserve([Demand.at(CAPS[0], 1, 59.0)]), Answer)
        early.settle({"usd": 7})
        late.settle({"usd": 5})
        assert [(one.start, one.end, one.spent) for one in lender.book.balances(0)] == [
            (0, 60, 7),
            (60, 120, 5),
        ]
        await purse.aclose()

    asyncio.run(main())
