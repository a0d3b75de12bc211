"""Prices every attempt at its end and hands it to the store; registers on the attempt and touches nothing else.

The end comes before the last byte is released: who has a whole answer finds it in the ledger, whatever dies afterwards. An answer that must
have a form is recorded when it has been judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headrace.call import Attempt, Call
from headrace.handler import Handler, Pending, Request
from headrace.types import Usage

__all__ = ["Ledger"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """One row an attempt.

    Args:
        price: Provider, model and usage to nano-dollars, None for unknown.
        record: Takes the finished attempt; never raises and never waits.
        bound: The most that the request's attempt can cost, None for unknown; asked only where the provider did not say what it
            charges for.
    """

    price: Callable[[str, str, Usage], int | None]
    record: Callable[[Call, Attempt], None]
    bound: Callable[[Request], int | None] = lambda request: None

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            attempt, call = request.attempt, request.call
            assert attempt is not None

            attempt.judged = not request.judged
            attempt.on_end.append(lambda attempt: self._settle(attempt, request))
            attempt.on_judged.append(lambda attempt: self.record(call, attempt))
            return inner(request)

        return handle

    def _settle(self, attempt: Attempt, request: Request) -> None:
        """What the provider said it charges for is priced. An error status, or no connection, costs nothing. What may have
        produced tokens that nobody reported is booked at its upper bound and marked."""
        target = attempt.target
        if attempt.cost is not None:
            pass  # settled already: it was never sent
        elif _billed_as_reported(attempt):
            assert attempt.usage is not None
            attempt.cost = self.price(target.provider, target.model, attempt.usage)
        elif _unbilled(attempt):
            attempt.cost = 0
        else:
            attempt.estimated = True
            attempt.cost = self.bound(request)
            if attempt.usage is not None and attempt.cost is not None:
                so_far = self.price(target.provider, target.model, attempt.usage)
                attempt.cost = None if so_far is None else max(attempt.cost, so_far)
        attempt.wasted = 0 if attempt.outcome == "ok" else attempt.cost


def _billed_as_reported(attempt: Attempt) -> bool:
    """Whether the usage is the last word: Anthropic reports some at the start already, before any output."""
    return attempt.usage is not None and (attempt.outcome == "ok" or attempt.finish is not None)


def _unbilled(attempt: Attempt) -> bool:
    refused = attempt.http is not None and attempt.http >= 400
    failed = attempt.outcome == "error" and (refused or attempt.error_kind == "connect_failed")
    return failed or attempt.outcome == "skipped"
