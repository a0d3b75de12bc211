"""One request's account: which budgets hold for it, and what an attempt must reserve under them.

The account reserves nothing of its own: every attempt reserves its own worst case just before it is sent and settles at its end, so
levels are never summed and nothing is left when the request is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal

from headrace.budget.leases import Answer, Cap, Demand, Settlement
from headrace.budget.purse import Purse, Reservation
from headrace.budget.windows import zone_info
from headrace.budget.worst import DEFAULT_OUTPUT, OutputLimit, Worst, input_bound, output_limit, worst_case
from headrace.call import Call, Nanodollars, format_usd
from headrace.errors import BudgetExceeded, Unpriced
from headrace.handler import Body, Request
from headrace.prices import Model
from headrace.types import Budget, Target

__all__ = ["Account", "Caps", "Pot", "bound"]


class Caps:
    """Which budgets hold for a request: those for everything, its key, route, user, team and tags.

    `*` among users, teams, or as a tag's value (`project=*`) is for each one that has no budget of its own; each has a counter of
    its own.
    """

    def __init__(
        self,
        everything: Sequence[Budget] = (),
        users: Mapping[str, Sequence[Budget]] | None = None,
        teams: Mapping[str, Sequence[Budget]] | None = None,
        tags: Mapping[str, Sequence[Budget]] | None = None,
    ) -> None:
        self._everything = tuple(Cap.of("all", "", budget) for budget in everything)
        self._users = users or {}
        self._teams = teams or {}
        self._tags = tags or {}
        self.any = bool(self._everything or self._users or self._teams or self._tags)

    def of(self, request: Request) -> tuple[Cap, ...]:
        """The budgets that hold for `request`."""
        routes = (
            request.route.budgets
            or request.route.parts
            or any(route.budgets or route.parts for route in request.aside_of)
        )
        if not self.any and not request.budgets and not routes:
            return ()
        return tuple(self._each(request))

    def _each(self, request: Request) -> Iterator[Cap]:
        call = request.call
        yield from self._everything
        for budget in request.budgets:
            yield Cap.of("key", call.key_id or "", budget)
        asked = (*request.aside_of, request.route)
        parts = {part.name: part for whole in asked for part in (whole, *whole.parts)}
        for route in parts.values():
            for budget in route.budgets:
                yield Cap.of("route", route.name, budget)
        if call.user is not None:
            for budget in self._users.get(call.user, self._users.get("*", ())):
                yield Cap.of("user", call.user, budget)
        if call.team is not None:
            for budget in self._teams.get(call.team, self._teams.get("*", ())):
                yield Cap.of("team", call.team, budget)
        if self._tags:
            for name, value in call.tags.items():
                tag = f"{name}={value}"
                for budget in self._tags.get(tag, self._tags.get(f"{name}=*", ())):
                    yield Cap.of("tag", tag, budget)


class Pot:
    """What may be used without a window, kept in this process alone: for one request, or for what a program does in one place.

    `spent` and `reserved` are nano-dollars or tokens, never negative; they never pass `limit` together but for bills above their
    reservation.
    """

    __slots__ = ("downgrade", "limit", "owner", "reserved", "spent", "unit")

    def __init__(
        self, owner: str, limit: int, *, unit: Literal["usd", "tokens"] = "usd", downgrade: bool = False
    ) -> None:
        self.owner = owner
        self.limit = limit
        self.unit = unit
        self.downgrade = downgrade
        self.spent = 0
        self.reserved = 0

    @property
    def left(self) -> int:
        """What may be reserved now, 0 or more."""
        return max(0, self.limit - self.spent - self.reserved)


class Account:
    """What holds for one request.

    Attributes:
        hard: Whether any limit refuses; an output limit is written into the request then.
        hard_money: Whether one in money does; a target without a price is refused then.
        pots: Those that live in this process alone; what is asked on the request's behalf draws from them too.
    """

    __slots__ = ("_body", "_caps", "_downgrade", "_input_bound", "_purse", "hard", "hard_money", "pots")

    def __init__(
        self, purse: Purse, caps: Sequence[Cap], pots: Sequence[Pot], body: Body, *, downgrade: bool
    ) -> None:
        self._purse = purse
        self._caps = caps
        self.pots = tuple(pots)
        self._body = body
        self._downgrade = downgrade
        self._input_bound: int | None = None
        self.hard = bool(pots) or any(cap.budget.hard for cap in caps)
        self.hard_money = any(pot.unit == "usd" for pot in pots) or any(
            cap.budget.hard and cap.budget.unit == "usd" for cap in caps
        )

    @property
    def input_bound(self) -> int:
        """Upper bound of the request's input tokens; read from the body once. Raises `InvalidRequest`."""
        if self._input_bound is None:
            self._input_bound = input_bound(self._body)
        return self._input_bound

    async def reserve(self, target: Target, worst: Worst, call: Call, wall: float) -> Held:
        """Reserve an attempt's worst case under everything that holds, or nothing.

        Raises:
            Unpriced: The cost is unknown and money is limited hard.
            BudgetExceeded: It does not fit.
            BudgetUnavailable: The store does not answer.
        """
        if worst.cost is None and self.hard_money:
            raise _unpriced(target)
        cost = worst.cost or 0
        needs = [(pot, cost if pot.unit == "usd" else worst.tokens) for pot in self.pots]
        for pot, need in needs:
            if need > pot.left:
                raise _exceeded(
                    pot.owner,
                    pot.unit,
                    pot.limit,
                    pot.spent + pot.reserved,
                    need,
                    downgrade=self._downgrade or pot.downgrade,
                )
        for pot, need in needs:
            pot.reserved += need
        held = Held(needs)
        if not self._caps:
            return held
        demands = [
            Demand.at(cap, cost if cap.budget.unit == "usd" else worst.tokens, wall) for cap in self._caps
        ]
        try:
            answer = await self._purse.reserve(demands)
            if isinstance(answer, Answer):
                assert answer.refused is not None
                raise _refusal(answer.refused, answer.used, wall, downgrade=self._downgrade)
        except BaseException:
            held.settle(0, 0)
            raise
        held.reservation = answer
        for demand in demands:
            if demand.slot in answer.over:
                call.warn(f"over budget: {_said(demand.cap)} is used up or reserved")
        return held


class Held:
    """What one attempt holds; settled once, later calls change nothing."""

    __slots__ = ("_needs", "_settled", "reservation")

    def __init__(self, needs: Sequence[tuple[Pot, int]]) -> None:
        self._needs = needs
        self._settled = False
        self.reservation: Reservation | None = None

    def settle(self, cost: Nanodollars, tokens: int) -> Settlement | None:
        """Book what it cost; see `Reservation.settle`."""
        if self._settled:
            return None
        self._settled = True
        for pot, need in self._needs:
            pot.reserved -= need
            pot.spent += cost if pot.unit == "usd" else tokens
        if self.reservation is None:
            return None
        return self.reservation.settle({"usd": cost, "tokens": tokens})


def bound(request: Request, model: Model | None) -> tuple[OutputLimit, Worst]:
    """The output limit of the request's attempt at `model`, and the most that the attempt can take; pure.

    Raises:
        InvalidRequest: The body cannot be read, so that its input cannot be bounded.
    """
    account = request.account if isinstance(request.account, Account) else None
    limit = output_limit(
        request.body.chat.max_tokens,
        request.route.max_output_tokens,
        None if model is None else model.max_output,
        default=DEFAULT_OUTPUT if account is not None and account.hard else None,
    )
    # What is continued has the text so far in it, which the caller's request had not.
    tokens = input_bound(request.body) if account is None or request.said else account.input_bound
    output = DEFAULT_OUTPUT if limit.tokens is None and account is not None else limit.tokens
    return limit, worst_case(model, request.body, tokens, output)


# --- words ------------------------------------------------------------------------------------------------------------


def _amount(unit: str, amount: int) -> str:
    return f"${format_usd(amount)}" if unit == "usd" else f"{amount} tokens"


def _said(cap: Cap) -> str:
    budget = cap.budget
    return f"{cap.owner}'s budget of {_amount(budget.unit, budget.amount)} a {budget.window}"


def _refusal(demand: Demand, used: int, wall: float, *, downgrade: bool) -> BudgetExceeded:
    budget = demand.cap.budget
    ends = datetime.fromtimestamp(demand.end, zone_info(budget.zone)).isoformat()
    return _exceeded(
        demand.cap.owner,
        budget.unit,
        budget.amount,
        used,
        demand.need,
        span=f" a {budget.window}",
        ends=ends,
        retry_after_s=max(0.0, demand.end - wall),
        renewed_wall=float(demand.end),
        downgrade=downgrade or budget.downgrade,
    )


def _exceeded(
    owner: str,
    unit: str,
    limit: int,
    used: int,
    needed: int,
    *,
    span: str = "",
    ends: str = "",
    retry_after_s: float | None = None,
    renewed_wall: float | None = None,
    downgrade: bool = False,
) -> BudgetExceeded:
    message = (
        f"{owner} may use {_amount(unit, limit)}{span}; {_amount(unit, used)} is spent or reserved and this attempt could "
        f"take {_amount(unit, needed)} more"
    )
    return BudgetExceeded(
        f"{message}; renewed at {ends}" if ends else message,
        retry_after_s=retry_after_s,
        budget=owner,
        unit=unit,
        limit=limit,
        used=used,
        needed=needed,
        renewed_wall=renewed_wall,
        downgrade=downgrade,
    )


def _unpriced(target: Target) -> Unpriced:
    return Unpriced(
        f"{target} has no price and a budget in money holds; give it one: "
        f'[prices."{target}"] input_usd_per_mtok = "...", output_usd_per_mtok = "..."',
        budget=str(target),
        downgrade=True,
    )
