"""Asks the same target again, as often as its level allows.

`next_attempt` decides and is pure; the loop around it waits. The layer makes the `Attempt` of every try and writes into it why
the try failed, so that whoever looks at the call later sees all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from headrace.call import Attempt
from headrace.clock import Clock
from headrace.errors import (
    AtCapacity,
    CircuitOpen,
    CredentialsInvalid,
    ProviderError,
    ProviderTimeout,
    QuotaExhausted,
    Transient,
    What,
    disposition,
)
from headrace.handler import Handler, Pending, Request, Stream
from headrace.types import Target

__all__ = ["Backoff", "Retry", "RetryBudget", "another_place_helps", "full_jitter", "next_attempt"]

RETRY_FLOOR = 10.0
"""Retries that a target takes at once, before requests have earned any."""

BUDGETS_KEPT = 4096
"""Targets whose budgets are remembered; callers may name any model."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """First and longest delay of our own, in seconds; a provider's hint replaces them.

    The defaults are those of the official OpenAI and Anthropic SDKs (0.5 s doubling to 8 s).
    """

    base_s: float = 0.5
    cap_s: float = 8.0


def full_jitter(attempt: int, *, base: float, cap: float, random: Callable[[], float]) -> float:
    """Delay before the next attempt: seconds, uniform on [0, min(cap, base * 2 ** (attempt - 1))).

    Args:
        attempt: Attempts made so far; 1 after the first failure.
        base, cap: First and longest delay, in seconds, not negative.
        random: Uniform on [0, 1).

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """
    return random() * min(cap, base * 2.0 ** min(attempt - 1, 62))


def next_attempt(
    error: ProviderError,
    *,
    made: int,
    allowed: int,
    now: float,
    deadline: float,
    max_wait_s: float,
    last_level: bool,
    backoff: Backoff,
    random: Callable[[], float],
) -> float | None:
    """Seconds to wait before asking the same target again, or None to leave it; pure.

    None when the error is final, the attempts are used up, the wait would reach the deadline, or another level is left and
    the wait is above `max_wait_s`, or the target was silent (who waited a whole timeout for it does not do so twice while
    somebody else can be asked) or is not to be asked now.
    """
    if made >= allowed:
        return None
    if isinstance(error, ProviderTimeout | CircuitOpen) and not last_level:
        return None
    if isinstance(error, ProviderTimeout) and error.phase == "total":  # timers may fire a moment early
        return None
    decision = disposition(error)
    if decision.what is not What.RETRY:
        return None
    delay = decision.delay_s
    if delay is None:
        delay = full_jitter(made, base=backoff.base_s, cap=backoff.cap_s, random=random)
    if delay > max_wait_s and not last_level:
        return None
    if now + delay >= deadline:
        return None
    return delay


def another_place_helps(error: ProviderError) -> bool:
    """Whether the same target may answer at another key, account or server, at once; pure."""
    if isinstance(error, ProviderTimeout) and error.phase == "total":
        return False
    return isinstance(error, Transient | CircuitOpen | AtCapacity | CredentialsInvalid | QuotaExhausted)


class RetryBudget:
    """How many retries a target may be burdened with, over all requests of this process: a token bucket for each target.

    Every request puts `ratio` of a token in, every retry takes one out; `floor` tokens are there at first and are the most that
    is kept. So an outage that every request meets adds at most `ratio` to the target's load, after the first `floor` retries.

    Args:
        floor: Tokens, 1 or more.
        ratio: Retries allowed for each request, 0 or more.

    Source: Finagle's and Linkerd's retry budgets (20 % of requests and a floor), gRPC's retry throttling (A6: a bucket, without
    a term in time, so that a quiet client earns no retries against a dead server).
    """

    __slots__ = ("_floor", "_ratio", "_tokens")

    def __init__(self, *, floor: float = RETRY_FLOOR, ratio: float = 0.2) -> None:
        self._floor = floor
        self._ratio = ratio
        self._tokens: dict[tuple[str, str], float] = {}

    def earn(self, target: Target) -> None:
        """A request goes to `target` for the first time."""
        tokens, key = self._tokens, (target.provider, target.model)
        held = tokens.get(key)
        if held is not None:  # a full bucket is not kept
            held += self._ratio
            if held < self._floor:
                tokens[key] = held
            else:
                del tokens[key]

    def spend(self, target: Target) -> bool:
        """Whether a retry is allowed; takes its token if so."""
        tokens, key = self._tokens, (target.provider, target.model)
        held = tokens.get(key, self._floor)
        if held < 1.0:
            return False
        if len(tokens) >= BUDGETS_KEPT and key not in tokens:
            del tokens[next(iter(tokens))]
        tokens[key] = held - 1.0
        return True


@dataclass(frozen=True, slots=True)
class Retry:
    """Repeats at one target. `random` is uniform on [0, 1); `budget` is shared by all requests; `elsewhere` says whether the target has
    a place that was not tried and may be: a retry goes there without a wait."""

    clock: Clock
    random: Callable[[], float]
    backoff: Backoff = Backoff()
    budget: RetryBudget = field(default_factory=RetryBudget)
    elsewhere: Callable[[Request], bool] = lambda request: False

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            return self._repeat(inner, request)

        return handle

    async def _repeat(self, inner: Handler, request: Request) -> Stream:
        clock, call, target = self.clock, request.call, request.target
        assert target is not None
        made, waited = 0, 0.0
        self.budget.earn(target)
        while True:
            made += 1
            now = clock.now()
            attempt = Attempt(
                number=len(call.attempts) + 1,
                target=target,
                started_at=now,
                started_wall=clock.wall(),
                waited_s=waited,
                purpose=request.purpose,
            )
            call.attempts.append(attempt)
            try:
                return await inner(msgspec.structs.replace(request, attempt=attempt))
            except ProviderError as error:
                delay = next_attempt(
                    error,
                    made=made,
                    allowed=target.attempts,
                    now=clock.now(),
                    deadline=min(request.deadline, request.commit_by),
                    max_wait_s=request.route.max_wait_s,
                    last_level=request.last_level,
                    backoff=self.backoff,
                    random=self.random,
                )
                if made < target.attempts and another_place_helps(error) and self.elsewhere(request):
                    delay = 0.0
                if delay is not None and attempt.outcome != "skipped" and not self.budget.spend(target):
                    attempt.note = "retry budget spent"
                    delay = None
                attempt.fail(error, clock.now())
                if delay is None:
                    raise
            except BaseException:
                attempt.end("cancelled", clock.now())
                raise
            await clock.sleep(delay)
            waited = delay
