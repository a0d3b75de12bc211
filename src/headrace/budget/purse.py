"""One worker's side of all budgets: it holds slices, reserves from them in memory, and asks the store only when one is used up.

Everything between two awaits is one step, so no two attempts get the same money. Those who wait for the store share one round
trip; nobody is refused before the store was asked after he came.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from typing import Protocol

from headrace.budget.leases import Answer, Charge, Demand, Hold, Leased, Settlement, Slot, Worker
from headrace.clock import Clock, Timer
from headrace.errors import BudgetUnavailable, StoreError

__all__ = ["BEAT_S", "IDLE_S", "Holding", "Lender", "Purse", "Reservation"]

SWEEP_S = 0.25
"""How often what is not needed goes back to the store, in seconds."""

IDLE_S = 2.0
"""A slice that nobody used for so long goes back; a soft budget that was used up is asked for again."""

BEAT_S = 5.0
"""How often a worker that holds something says that it lives."""


MOST = 1 << 60
"""More than this one attempt is never booked at, whatever a provider says it used: what SQLite can still add up."""


class Lender(Protocol):
    """The store's side (`headrace.store.Store`)."""

    async def lease(self, worker: Worker, asks: Sequence[Sequence[Demand]], now: float) -> Leased: ...

    def settle(self, worker: Worker, charges: Sequence[Charge]) -> None: ...

    def beat(self, worker: Worker, now: float) -> None: ...

    def leave(self, worker: Worker) -> None: ...


class Holding:
    """What the worker holds under one counter: `free`, and `reserved` for attempts under way. Neither is ever negative."""

    __slots__ = ("end", "free", "low", "reserved", "used_at")

    def __init__(self, end: int) -> None:
        self.end = end
        self.free = 0
        self.reserved = 0
        self.low = False
        self.used_at = 0.0


class Reservation:
    """What one attempt has reserved; settled once."""

    __slots__ = ("_demands", "_purse", "_settled", "over", "written")

    def __init__(self, purse: Purse, demands: Sequence[Demand], over: Sequence[Slot]) -> None:
        self._purse = purse
        self._demands = demands
        self._settled = False
        self.over = frozenset(over)
        self.written = False
        """Whether the store has written down what is reserved, and must be told that it no longer is."""

    @property
    def worker(self) -> Worker:
        """Who reserved."""
        return self._purse.worker

    @property
    def holds(self) -> tuple[Hold, ...]:
        """What is reserved, by counter."""
        return tuple(
            Hold(*demand.slot, demand.need) for demand in self._demands if demand.slot not in self.over
        )

    def settle(self, costs: dict[str, int]) -> Settlement | None:
        """Book what the attempt cost, by unit; the rest is free again. Later calls change nothing.

        Gives what the store is still to be told, with the attempt's row, where the reservation is `written`; else it is told here.
        """
        if self._settled:
            return None
        self._settled = True
        return self._purse._settle(self._demands, self.over, costs, written=self.written)  # noqa: SLF001  (one piece, two classes)


class Purse:
    """All that one worker holds.

    Args:
        lender: The store.
        clock: Its monotonic time decides what is idle.
    """

    def __init__(self, lender: Lender, clock: Clock) -> None:
        self.worker = Worker(f"w_{secrets.token_hex(8)}", os.getpid())
        self._lender = lender
        self._clock = clock
        self._holdings: dict[Slot, Holding] = {}
        self._over: dict[Slot, float] = {}
        self._waiting: list[tuple[Sequence[Demand], asyncio.Future[Reservation | Answer]]] = []
        self._flight: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self._beat_at = 0.0

    # --- reserving ----------------------------------------------------------------------------------------------------

    async def reserve(self, demands: Sequence[Demand]) -> Reservation | Answer:
        """Reserve all of `demands`, or nothing: the store's answer says then which one does not fit.

        Raises:
            BudgetUnavailable: The store had to be asked and does not answer.
        """
        if not self._waiting and (taken := self._take(demands)) is not None:
            return taken
        future: asyncio.Future[Reservation | Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((demands, future))
        if self._flight is None:
            self._flight = asyncio.ensure_future(self._fly())
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._return(future.result())
            raise

    @staticmethod
    def _return(outcome: Reservation | Answer) -> None:
        if isinstance(outcome, Reservation):
            outcome.settle({})

    def _take(self, demands: Sequence[Demand]) -> Reservation | None:
        """From what is held, all or nothing."""
        holdings, now = self._holdings, self._clock.now()
        over: list[Slot] = []
        for demand in demands:
            holding = holdings.get(demand.slot)
            if self._over.get(demand.slot, now) > now:
                over.append(demand.slot)
            elif holding is None or holding.free < demand.need:
                return None
        for demand in demands:
            if demand.slot not in over:
                holding = holdings[demand.slot]
                holding.free -= demand.need
                holding.reserved += demand.need
                holding.used_at = now
        return Reservation(self, demands, over)

    def _holding(self, demand: Demand) -> Holding:
        holding = self._holdings.get(demand.slot)
        if holding is None:
            holding = self._holdings[demand.slot] = Holding(demand.end)
        return holding

    async def _fly(self) -> None:
        """Ask the store for all who wait, until nobody does."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._ask(batch)
        finally:
            self._flight = None
            for _, future in self._waiting:  # only when asking failed in a way that nobody foresaw
                if not future.done():
                    future.set_exception(BudgetUnavailable("a budget holds and the store cannot be asked"))
            self._waiting = []

    async def _ask(self, batch: list[tuple[Sequence[Demand], asyncio.Future[Reservation | Answer]]]) -> None:
        asking: list[tuple[Sequence[Demand], asyncio.Future[Reservation | Answer]]] = []
        asks: list[list[Demand]] = []
        for demands, future in batch:
            if future.done():
                continue
            if (taken := self._take(demands)) is not None:
                future.set_result(taken)
                continue
            # What is held counts too: it is set aside, and only what is missing is asked for.
            asks.append([self._set_aside(demand) for demand in demands])
            asking.append((demands, future))
        if not asks:
            return
        try:
            leased = await self._lender.lease(self.worker, asks, self._clock.wall())
        except BaseException as error:
            for (demands, future), missing in zip(asking, asks, strict=True):
                self._put_back(demands, missing)
                if not future.done():
                    future.set_exception(
                        BudgetUnavailable(f"a budget holds and the store does not say what is left: {error}")
                    )
            if isinstance(error, StoreError):
                return
            raise
        # A sweep may have forgotten an empty holding meanwhile.
        asked = {demand.slot: demand for demands in asks for demand in demands}
        for slot, amount in leased.extra.items():
            self._holding(asked[slot]).free += amount
        for (demands, future), missing, answer in zip(asking, asks, leased.answers, strict=True):
            if answer.refused is not None:
                self._put_back(demands, missing)
                self._holding(answer.refused).low = True
                if not future.done():
                    future.set_result(_in_whole(answer, demands))
                continue
            for demand, lack in zip(demands, missing, strict=True):
                if demand.slot in answer.over:
                    self._over[demand.slot] = self._clock.now() + IDLE_S
                    self._free(demand, demand.need - lack.need)
                else:
                    holding = self._holding(demand)
                    holding.reserved += lack.need
                    holding.low = demand.slot not in leased.extra
            reservation = Reservation(self, demands, answer.over)
            if future.done():  # who asked has left
                reservation.settle({})
            else:
                future.set_result(reservation)
        self._arm()

    def _set_aside(self, demand: Demand) -> Demand:
        holding = self._holding(demand)
        part = min(holding.free, demand.need)
        holding.free -= part
        holding.reserved += part
        holding.used_at = self._clock.now()
        return Demand(demand.cap, demand.start, demand.end, demand.need - part)

    def _put_back(self, demands: Sequence[Demand], missing: Sequence[Demand]) -> None:
        for demand, lack in zip(demands, missing, strict=True):
            self._free(demand, demand.need - lack.need)
        self._arm()

    def _free(self, demand: Demand, amount: int) -> None:
        holding = self._holding(demand)
        holding.reserved -= amount
        holding.free += amount

    # --- settling -----------------------------------------------------------------------------------------------------

    def _settle(
        self, demands: Sequence[Demand], over: frozenset[Slot], costs: dict[str, int], *, written: bool
    ) -> Settlement | None:
        charges: list[Charge] = []
        for demand in demands:
            cost = min(costs.get(demand.cap.budget.unit, 0), MOST)
            taken = need = 0
            if demand.slot not in over:
                holding = self._holding(demand)
                need = demand.need
                # A bill above its reservation takes what is free; what is reserved for others stays theirs.
                taken = min(cost, need + holding.free)
                holding.reserved -= need
                holding.free += need - taken
            if cost or (need and written):
                charges.append(Charge(*demand.slot, demand.end, cost, taken, need if written else 0))
        self._arm()
        if charges and written:
            return Settlement(self.worker, tuple(charges))
        if charges:
            self._lender.settle(self.worker, charges)
        return None

    def _arm(self) -> None:
        if self._timer is None and self._holdings:
            self._timer = self._clock.call_at(self._clock.now() + SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Give back what nobody uses, at once where others may be short of it."""
        self._timer = None
        now = self._clock.now()
        back: list[Charge] = []
        for slot, holding in list(self._holdings.items()):
            if holding.free and (holding.low or now - holding.used_at >= IDLE_S):
                back.append(Charge(*slot, holding.end, 0, holding.free))
                holding.free = 0
            if not holding.free and not holding.reserved:
                del self._holdings[slot]
        for slot, until in list(self._over.items()):
            if until <= now:
                del self._over[slot]
        if back:
            self._lender.settle(self.worker, back)
        if self._holdings and now >= self._beat_at:
            self._beat_at = now + BEAT_S
            self._lender.beat(self.worker, self._clock.wall())
        self._arm()

    def held(self) -> dict[Slot, tuple[int, int]]:
        """What is free and what is reserved, by counter."""
        return {slot: (holding.free, holding.reserved) for slot, holding in self._holdings.items()}

    async def aclose(self) -> None:
        """Give everything back that is not reserved; idempotent."""
        if self._flight is not None:
            await asyncio.gather(self._flight, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        back = [
            Charge(*slot, holding.end, 0, holding.free)
            for slot, holding in self._holdings.items()
            if holding.free
        ]
        for holding in self._holdings.values():
            holding.free = 0
        if back:
            self._lender.settle(self.worker, back)
        self._lender.leave(self.worker)


def _in_whole(answer: Answer, demands: Sequence[Demand]) -> Answer:
    """The refusal in terms of the whole demand, not of what was missing beyond what the worker held."""
    refused = answer.refused
    assert refused is not None
    whole = next(demand for demand in demands if demand.slot == refused.slot)
    return Answer(whole, answer.used - (whole.need - refused.need))
