"""Refuses who asks faster than his key, his user or the route may, before any work.

A request counts when it comes, whatever becomes of it; one that is refused does not. Its tokens are reserved then and settled with what its
attempts have used: an answer from the cache gives them all back. What Headrace asks of its own accord is nobody's request.

One process counts for itself. Several count in the store, exactly; while that does not answer, each has an equal part of every limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from headrace.call import Call
from headrace.clock import Clock
from headrace.errors import RateLimited, StoreError
from headrace.gcra import Admission, Claim, Counters, Grant, Rate, rates, share
from headrace.handler import Handler, Pending, Request, Stream
from headrace.tokens import estimate_chat
from headrace.types import Limits

__all__ = ["RateLimit", "Shared"]

UNSAID = 1_000
"""Tokens of output that are reserved where neither the caller nor the route limits them. A guess: what is used above is owed, so
that the average is kept whatever it is."""


class Shared(Protocol):
    """Counters that several processes share (`headrace.store.Store`); times are nanoseconds since 1970."""

    async def admit(self, claims: Sequence[Claim], now: int) -> Admission: ...

    def settle_rates(self, settled: Sequence[tuple[Grant, int]], now: int) -> None: ...


class RateLimit:
    """The layer.

    Args:
        users: By user; `*` is for each who has none of his own.
        shared: Where `workers` processes count together; None where this one counts alone.
    """

    def __init__(
        self, clock: Clock, users: Mapping[str, Limits], shared: Shared | None = None, workers: int = 1
    ) -> None:
        self._clock = clock
        self._users = users
        self._shared = shared
        self._workers = workers
        self.counters = Counters()

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            route = request.route
            if request.limits is None and route.limits is None and not route.parts and not self._users:
                return inner(request)
            held = self._rates(request)
            return self._limited(inner, request, held) if held else inner(request)

        return handle

    def _rates(self, request: Request) -> list[Rate]:
        call = request.call
        if call.purpose != "answer":
            return []
        held = rates("key", call.key_id or "", request.limits)
        if call.user is not None:
            held += rates("user", call.user, self._users.get(call.user, self._users.get("*")))
        routes = {route.name: route for route in (request.route, *request.route.parts)}
        return held + [rate for route in routes.values() for rate in rates("route", route.name, route.limits)]

    async def _limited(self, inner: Handler, request: Request, held: Sequence[Rate]) -> Stream:
        claims = _claims(request, held)
        admission, settle = await self._admit(claims)
        call = request.call
        call.limits = admission.standings
        if admission.refused is not None:
            raise _refusal(admission.refused, admission)
        call.on_end.append(lambda call: settle([(grant, _used(grant, call)) for grant in admission.grants]))
        return await inner(request)

    async def _admit(
        self, claims: Sequence[Claim]
    ) -> tuple[Admission, Callable[[Sequence[tuple[Grant, int]]], None]]:
        """The decision, and where to settle what it granted."""
        if self._shared is not None:
            shared = self._shared
            try:
                admission = await shared.admit(claims, _nanoseconds(self._clock.wall()))
            except StoreError:
                claims = share(claims, self._workers)
            else:
                return admission, lambda settled: shared.settle_rates(
                    settled, _nanoseconds(self._clock.wall())
                )
        admission = self.counters.admit(claims, _nanoseconds(self._clock.now()))
        return admission, lambda settled: self.counters.settle(settled, _nanoseconds(self._clock.now()))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _claims(request: Request, held: Sequence[Rate]) -> list[Claim]:
    """One of every request; of tokens the upper bound of its input and what it may say, at most a minute's. Raises `RateLimited`
    where its input alone takes longer."""
    claims = [Claim(rate, 1) for rate in held if rate.unit == "requests"]
    tokens = [rate for rate in held if rate.unit == "tokens"]
    if not tokens:
        return claims
    chat = request.body.chat
    estimate = estimate_chat(chat)
    asked = [limit for limit in (chat.max_tokens, request.route.max_output_tokens) if limit is not None]
    need = estimate.bound + min(asked, default=UNSAID) * max(1, chat.n or 1)
    for rate in tokens:
        if estimate.likely > rate.limit:
            raise RateLimited(
                f"{rate.owner} may take {rate.limit} tokens a minute and the request alone has about {estimate.likely}: "
                "send less, or raise its tpm"
            )
        claims.append(Claim(rate, max(1, min(need, rate.limit))))
    return claims


def _used(grant: Grant, call: Call) -> int:
    if grant.rate.unit == "requests":
        return grant.need
    used = sum(attempt.usage.total_tokens for attempt in call.attempts if attempt.usage is not None)
    # What a provider may have charged for and did not report is taken for what was reserved.
    return max(used, grant.need) if any(attempt.estimated for attempt in call.attempts) else used


def _refusal(claim: Claim, admission: Admission) -> RateLimited:
    rate, wait_s = claim.rate, admission.wait / 1e9
    what = "make" if rate.unit == "requests" else "take"
    message = f"{rate.owner} may {what} {rate.limit} {rate.unit} a minute"
    if rate.unit == "tokens":
        left = next(one.left for one in admission.standings if one.rate.id == rate.id)
        message += f"; {left} are left and this request may take {claim.need}"
    return RateLimited(f"{message}; ask again in {max(wait_s, 0.001):.3g} s", retry_after_s=wait_s)
