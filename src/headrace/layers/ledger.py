"""Prices every attempt at its end and hands it to the store; registers on the attempt and touches nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headrace.call import Attempt, Call
from headrace.handler import Handler, Request, Stream
from headrace.types import Usage

__all__ = ["Ledger"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """One row an attempt.

    Args:
        price: Provider, model and usage to nano-dollars, None for unknown.
        record: Takes the finished attempt; never raises and never waits.
    """

    price: Callable[[str, str, Usage], int | None]
    record: Callable[[Call, Attempt], None]

    def __call__(self, inner: Handler) -> Handler:
        async def handle(request: Request) -> Stream:
            attempt, call = request.attempt, request.call
            assert attempt is not None

            def close(attempt: Attempt) -> None:
                self._settle(attempt)
                self.record(call, attempt)

            attempt.on_end.append(close)
            return await inner(request)

        return handle

    def _settle(self, attempt: Attempt) -> None:
        """Usage that arrived is priced; an attempt that was refused with an error status, or never connected, costs nothing;
        one that may have produced tokens nobody reported costs an unknown amount."""
        if attempt.usage is not None:
            target = attempt.target
            attempt.cost = self.price(target.provider, target.model, attempt.usage)
        elif attempt.outcome == "error" and (
            attempt.http is not None or attempt.error_kind == "connect_failed"
        ):
            attempt.cost = 0
        attempt.wasted = 0 if attempt.outcome == "ok" else attempt.cost
