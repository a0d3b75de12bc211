"""The two layers of budgets: one opens the request's account, one reserves for each attempt.

Where no budget holds both hand the request on and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from headrace.budget.account import Account, Caps, Held, Pot, bound
from headrace.budget.leases import Hold, Worker
from headrace.budget.purse import Purse
from headrace.budget.worst import Worst, at_most
from headrace.call import Attempt, Call, Nanodollars
from headrace.clock import Clock
from headrace.errors import BudgetExceeded, BudgetUnavailable, StoreError
from headrace.handler import Handler, Pending, Request, Stream
from headrace.prices import Model

__all__ = ["OpenAccount", "Reserve"]


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """Puts an `Account` on the request where a budget holds for it."""

    caps: Caps
    purse: Purse

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            caps = self.caps.of(request)
            pots = [pot for pot in request.pots if isinstance(pot, Pot)]
            route = request.route
            if (cost := _least(route.max_cost, request.max_cost)) is not None:
                pots.append(Pot("this request", cost))
            if (tokens := _least(route.max_total_tokens, request.max_total_tokens)) is not None:
                pots.append(Pot("this request", tokens, unit="tokens"))
            if not caps and not pots:
                return inner(request)
            account = Account(self.purse, caps, pots, request.body, downgrade=route.downgrade)
            return inner(msgspec.structs.replace(request, account=account))

        return handle


def _least(route: int | None, request: int | None) -> int | None:
    return request if route is None else route if request is None else min(route, request)


class Start(Protocol):
    """`headrace.store.Store.record_start`."""

    def __call__(
        self,
        call: Call,
        attempt: Attempt,
        bound: Callable[[], Nanodollars | None],
        worker: Worker | None = None,
        holds: Sequence[Hold] = (),
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Reserve:
    """Reserves each attempt's worst case just before it is sent, writes down that it is sent, and settles at its real end.

    Writes the output limit into the request where it needs one to be bounded.

    Args:
        model: Provider and model to what is known of it.
        start: Writes down the attempt with the most that it can cost and what it has reserved. Where it fails, a request under a
            budget is refused, and any other goes on.
    """

    clock: Clock
    model: Callable[[str, str], Model | None]
    start: Start

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            if request.account is not None:
                return self._reserved(inner, request)
            attempt = request.attempt
            assert attempt is not None
            if request.max_tokens is not None:
                _name(request.call, request.max_tokens)
            with suppress(StoreError):  # counted there; it fails no request that no budget holds for
                self.start(request.call, attempt, partial(self._at_most, request))
            return inner(request)

        return handle

    def _at_most(self, request: Request) -> Nanodollars | None:
        target = request.target
        assert target is not None
        return at_most(self.model(target.provider, target.model), request)

    async def _reserved(self, inner: Handler, request: Request) -> Stream:
        account, attempt, target = request.account, request.attempt, request.target
        assert isinstance(account, Account) and attempt is not None and target is not None
        limit, worst = bound(request, self.model(target.provider, target.model))
        held: Held | None = None
        try:
            held = await account.reserve(target, worst, request.call, self.clock.wall())
            self._write_down(request.call, attempt, worst, held)
        except BaseException as error:
            attempt.cost = 0  # nothing was sent
            if held is not None:
                held.settle(0, 0)
            if isinstance(error, BudgetExceeded | BudgetUnavailable):
                attempt.error_kind, attempt.error_message = error.kind, error.message
                attempt.end("skipped", self.clock.now())
            raise
        attempt.on_end.append(_settling(held, worst))
        return await inner(_written(request, limit.written))

    def _write_down(self, call: Call, attempt: Attempt, worst: Worst, held: Held) -> None:
        reservation = held.reservation
        try:
            if reservation is None:
                self.start(call, attempt, lambda: worst.cost)
            else:
                self.start(call, attempt, lambda: worst.cost, reservation.worker, reservation.holds)
                reservation.written = True
        except StoreError as error:
            raise BudgetUnavailable(
                f"a budget holds and it cannot be written down what is reserved: {error}"
            ) from error


def _settling(held: Held, worst: Worst) -> Callable[[Attempt], None]:
    def settle(attempt: Attempt) -> None:
        if attempt.estimated:
            tokens = worst.tokens
        else:
            tokens = 0 if attempt.usage is None else attempt.usage.total_tokens
        attempt.settlement = held.settle(attempt.cost or 0, tokens)

    return settle


def _written(request: Request, limit: int | None) -> Request:
    if limit is None:
        return request
    _name(request.call, limit)
    return msgspec.structs.replace(request, max_tokens=limit)


def _name(call: Call, limit: int) -> None:
    call.warn(f"the answer is limited to {limit} tokens of output")
