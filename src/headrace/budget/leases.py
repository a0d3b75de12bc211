"""What passes between a worker and the store, and the arithmetic of both sides; pure.

The store keeps, for every budget and window, what is spent and what each worker holds; spent and held together never pass a hard
limit. A worker reserves from what it holds without asking anybody. A slice is never more than `SHARE` of what is left and
never more than `BATCH` times what was asked for, so near the limit slices shrink to single reservations.

What a dead worker had reserved was perhaps spent: it is booked as spent and marked `unsettled`, and is never given back. What it held beyond
goes back where somebody can say what was reserved, and is booked the same way where nobody can. A worker that only
seemed dead may go on spending what was booked for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from headrace.budget.windows import window_at
from headrace.types import Budget

__all__ = [
    "Answer",
    "Balance",
    "Book",
    "Cap",
    "Charge",
    "Demand",
    "Hold",
    "Leased",
    "Settlement",
    "Slot",
    "Worker",
    "decide",
    "lost",
    "settled",
]

SHARE = 16
"""A slice leaves fifteen sixteenths of what is left to the other workers."""

BATCH = 32
"""Reservations that a slice is good for: one round trip to the store for so many requests, and what a crash can cost at most."""

Slot: TypeAlias = tuple[str, int]
"""A budget's counter: its id and the start of the window."""


class Cap(msgspec.Struct, frozen=True):
    """A budget and whose it is. `id` names the counter in the store, `owner` is for people: `key dev`. Nobody has two budgets of
    one id."""

    id: str
    owner: str
    budget: Budget

    @classmethod
    def of(cls, kind: str, name: str, budget: Budget) -> Cap:
        """`kind` is `key`, `route`, `user`, `team`, `tag` or `all`. The limit is not part of the id: it may be changed."""
        owner = f"{kind} {name}" if name else kind
        soft = "" if budget.hard else "|soft"
        return cls(f"{owner}|{budget.unit}|{budget.window}|{budget.zone}{soft}", owner, budget)


class Worker(msgspec.Struct, frozen=True):
    """Who holds: an id that is never used twice, and the process on this machine that it lives in."""

    id: str
    pid: int


class Demand(msgspec.Struct, frozen=True):
    """`need` more under one budget, in the window from `start` to `end`; the unit is the budget's."""

    cap: Cap
    start: int
    end: int
    need: int

    @classmethod
    def at(cls, cap: Cap, need: int, wall: float) -> Demand:
        """In the window of the moment `wall`."""
        window = window_at(cap.budget.window, wall, cap.budget.zone)
        return cls(cap, window.start, window.end, need)

    @property
    def slot(self) -> Slot:
        """Which counter."""
        return self.cap.id, self.start


class Answer(msgspec.Struct, frozen=True):
    """To one worker's demands for one attempt. `refused` is the hard one that does not fit, with `used`, what is spent or held
    under it; nothing was granted then. Else all were, but for the soft ones in `over`, which are used up."""

    refused: Demand | None = None
    used: int = 0
    over: tuple[Slot, ...] = ()


class Leased(msgspec.Struct, frozen=True):
    """The store's answer: one `Answer` for each attempt, in order, and what was granted beyond (`extra`, by counter)."""

    answers: tuple[Answer, ...]
    extra: dict[Slot, int]


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """What an attempt has reserved under one counter, of what its worker holds there."""

    cap: str
    start: int
    need: int


class Charge(msgspec.Struct, frozen=True, array_like=True):
    """What a worker reports: `cost` was spent, it holds `taken` less than before, and `need` of what it holds is no longer reserved
    (0 or more, all)."""

    cap: str
    start: int
    end: int
    cost: int
    taken: int
    need: int = 0


class Settlement(msgspec.Struct, frozen=True):
    """What the end of one attempt means for the budgets; told to the store with the attempt's row, so that no crash parts the two."""

    worker: Worker
    charges: tuple[Charge, ...]


class Balance(msgspec.Struct, frozen=True):
    """One counter: `spent` (of it `unsettled` for workers that died) and `held` by workers. `limit` is what it was when a slice was
    last granted, 0 where none was."""

    cap: str
    start: int
    end: int
    spent: int = 0
    unsettled: int = 0
    held: int = 0
    limit: int = 0

    @property
    def named(self) -> Named:
        """Whose and what kind of budget it is."""
        soft = self.cap.endswith("|soft")
        owner, unit, window, zone = self.cap.removesuffix("|soft").rsplit("|", 3)
        return Named(owner, unit, window, zone, soft)


class Named(NamedTuple):
    """What a counter's id says."""

    owner: str
    unit: str
    window: str
    zone: str
    soft: bool


def decide(asks: Sequence[Sequence[Demand]], used: Mapping[Slot, int]) -> tuple[Leased, dict[Slot, int]]:
    """Who gets what; pure. Attempts are served in order, each wholly or not at all.

    Args:
        asks: Each attempt's demands, no counter twice in one.
        used: What is spent or held under each counter.

    Returns:
        The answers, and what the worker holds more under each counter (`extra` included).
    """
    used = dict(used)
    granted: dict[Slot, int] = defaultdict(int)
    limits: dict[Slot, int] = {}
    short: set[Slot] = set()
    answers: list[Answer] = []
    for demands in asks:
        refused: Demand | None = None
        over: list[Slot] = []
        for demand in demands:
            slot, limit = demand.slot, demand.cap.budget.amount
            limits[slot] = min(limit, limits.get(slot, limit))
            if used[slot] + demand.need > limit:
                short.add(slot)
                if demand.cap.budget.hard:
                    refused = refused or demand
                else:
                    over.append(slot)
        if refused is not None:
            answers.append(Answer(refused, used[refused.slot]))
            continue
        for demand in demands:
            if demand.slot not in over:
                used[demand.slot] += demand.need
                granted[demand.slot] += demand.need
        answers.append(Answer(over=tuple(over)))
    extra: dict[Slot, int] = {}
    for slot, amount in granted.items():
        more = min((limits[slot] - used[slot]) // SHARE, (BATCH - 1) * amount)
        # A slice smaller than one more reservation helps nobody and is missing elsewhere.
        if slot not in short and more >= amount:
            extra[slot] = more
            granted[slot] += more
    return Leased(tuple(answers), extra), dict(granted)


def settled(charge: Charge, held: int | None) -> tuple[int, int]:
    """How a report changes a counter: what is spent more, and what the worker holds less; pure.

    `held` is what the worker holds by the store's book; None if it was taken for dead, so that what it held is booked already.
    """
    if held is None:
        return max(0, charge.cost - charge.taken), 0
    return charge.cost, min(held, charge.taken)


def lost(held: int, slot: Slot, reserved: Mapping[Slot, int] | None) -> int:
    """How much of what a dead worker held is booked as spent; pure. `reserved` is None where nobody can say."""
    return held if reserved is None else min(held, reserved.get(slot, 0))


class Book:
    """The store's side in memory: for one process, and as the plainest statement of what every store does."""

    def __init__(self) -> None:
        self._ends: dict[Slot, int] = {}
        self._spent: dict[Slot, int] = defaultdict(int)
        self._unsettled: dict[Slot, int] = defaultdict(int)
        self._held: dict[Slot, dict[str, int]] = defaultdict(dict)
        self._limits: dict[Slot, int] = {}

    def used(self, slot: Slot) -> int:
        """What is spent or held."""
        return self._spent[slot] + sum(self._held[slot].values())

    def lease(self, worker: Worker, asks: Sequence[Sequence[Demand]]) -> Leased:
        """Decide and keep what was decided."""
        for demands in asks:
            for demand in demands:
                self._ends[demand.slot] = demand.end
        leased, granted = decide(asks, {slot: self.used(slot) for slot in self._ends})
        limits = {demand.slot: demand.cap.budget.amount for demands in asks for demand in demands}
        for slot, amount in granted.items():
            self._limits[slot] = limits[slot]
            self._held[slot][worker.id] = self._held[slot].get(worker.id, 0) + amount
        return leased

    def settle(self, worker: Worker, charges: Sequence[Charge]) -> None:
        """Book what the worker reports."""
        for charge in charges:
            slot = charge.cap, charge.start
            self._ends.setdefault(slot, charge.end)
            held = self._held[slot].get(worker.id)
            spent, less = settled(charge, held)
            self._spent[slot] += spent
            if held is not None:
                self._held[slot][worker.id] = held - less

    def bury(self, worker: Worker, reserved: Mapping[Slot, int] | None = None) -> None:
        """The worker is dead: what it had `reserved` (None: nobody knows, so all that it held) is spent, the rest goes back."""
        for slot, holders in self._held.items():
            amount = lost(holders.pop(worker.id, 0), slot, reserved)
            self._spent[slot] += amount
            self._unsettled[slot] += amount

    def balances(self, since: float) -> list[Balance]:
        """The counters of windows that end after `since`, ordered by id and window."""
        return [
            Balance(
                cap=slot[0],
                start=slot[1],
                end=self._ends[slot],
                spent=self._spent[slot],
                unsettled=self._unsettled[slot],
                held=sum(self._held[slot].values()),
                limit=self._limits.get(slot, 0),
            )
            for slot in sorted(self._ends)
            if self._ends[slot] > since
        ]
