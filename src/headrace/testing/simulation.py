"""Your own settings under load and trouble, in virtual time: who answers, how late, at what cost. The same seed gives the same figures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from headrace.call import Nanodollars, format_usd
from headrace.config import Settings
from headrace.errors import AllTargetsFailed, HeadraceError, InvalidRequest
from headrace.testing.answers import Answer
from headrace.testing.clock import ManualClock, run
from headrace.testing.faults import Fault, Overloaded, RateLimited, Refuse, ServerError, Silence
from headrace.testing.simulated import fake
from headrace.testing.wire import Received

__all__ = ["TROUBLES", "Simulation", "Trouble", "simulate"]

TROUBLES: Mapping[str, Callable[[], Fault]] = {
    "down": Refuse,
    "error": ServerError,
    "limited": RateLimited,
    "overloaded": Overloaded,
    "silent": Silence,
}
"""What a target may suffer from."""

USUAL_S = 1.0
"""Seconds that a good answer takes where nothing else is said, in the mean; the times are exponential around half of it."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """From second `begins` until `ends` of the run, `share` (0 to 1) of the requests to `model` (as the provider calls it) meet `kind`."""

    model: str
    kind: str
    share: float = 1.0
    begins: float = 0.0
    ends: float = float("inf")


@dataclass(frozen=True, slots=True)
class Simulation:
    """What became of the requests.

    Attributes:
        answered: How many each target answered; `failed` how many ended for which reason.
        attempts: Requests that reached for a provider, over all.
        seconds: The time of each request, answered or not, in rising order.
        cost: Nano-dollars of the answers; None where a price is unknown.
    """

    requests: int
    answered: dict[str, int]
    failed: dict[str, int]
    attempts: int
    seconds: tuple[float, ...]
    cost: Nanodollars | None

    @property
    def share(self) -> float:
        """Answered of all, 0 to 1."""
        return sum(self.answered.values()) / self.requests

    @property
    def cost_usd(self) -> str:
        """`cost` as exact decimal US dollars, or `unknown`."""
        return format_usd(self.cost)

    def at(self, share: float) -> float:
        """The time within which `share` of the requests ended: `at(0.99)`."""
        return self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


def simulate(
    settings: Settings,
    route: str,
    *,
    requests: int = 1000,
    rate: float = 10.0,
    troubles: Sequence[Trouble] = (),
    takes: Mapping[str, float] | None = None,
    tokens: tuple[int, int] = (500, 200),
    timeout: float | None = None,
    seed: int = 0,
) -> Simulation:
    """Ask `route` of `settings` again and again; the cascade, retries, circuits, budgets and limits are the real ones, the providers are in memory.

    Args:
        requests: How many, 1 or more; `rate` begin in a second.
        takes: By model, the mean of the seconds that its answers take.
        tokens: Input and output of each answer, for the cost.
        timeout: What the caller of each request gives, in seconds.

    Raises:
        InvalidRequest: A trouble is none of `TROUBLES`, or a number is out of its range.
        UnknownModel: There is no such route.
    """
    for trouble in troubles:
        if trouble.kind not in TROUBLES or not 0 <= trouble.share <= 1:
            raise InvalidRequest(
                f"a trouble is one of {', '.join(TROUBLES)} with a share of 0 to 1, not {trouble.kind!r} with {trouble.share:g}"
            )
    if requests < 1 or rate <= 0:
        raise InvalidRequest(f"requests must be 1 or more and rate above 0, not {requests} and {rate:g}")
    chance, clock = Random(seed), ManualClock()  # noqa: S311  (it is to be repeatable)

    def say(request: Received) -> Answer | Fault:
        now = clock.now()
        for trouble in troubles:
            if (
                request.model == trouble.model
                and trouble.begins <= now < trouble.ends
                and chance.random() < trouble.share
            ):
                return TROUBLES[trouble.kind]()
        mean = (takes or {}).get(request.model, USUAL_S)
        return Answer(
            "ok", usage=tokens, first_delay_s=mean / 2 + chance.expovariate(2 / mean) if mean else 0.0
        )

    async def main() -> Simulation:
        answered, failed = Counter[str](), Counter[str]()
        seconds: list[float] = []
        attempts, cost, unpriced = 0, 0, False
        async with fake(say, settings=settings) as llm:
            llm.engine.route(route)

            async def one(number: int) -> None:
                nonlocal attempts, cost, unpriced
                await clock.sleep(number / rate)
                began = clock.now()
                try:
                    answer = await llm.chat(
                        route, f"Question {number}", max_tokens=tokens[1], timeout=timeout
                    )
                except HeadraceError as error:
                    failed[_why(error)] += 1
                    attempts += len(getattr(error, "attempts", ()))
                else:
                    answered[str(answer.call.target)] += 1
                    attempts += answer.call.sent
                    unpriced = unpriced or answer.cost is None
                    cost += answer.cost or 0
                seconds.append(clock.now() - began)

            await asyncio.gather(*map(one, range(requests)))
        return Simulation(
            requests,
            dict(answered),
            dict(failed),
            attempts,
            tuple(sorted(seconds)),
            None if unpriced else cost,
        )

    return run(main(), clock, limit_s=1e7)


def _why(error: HeadraceError) -> str:
    if isinstance(error, AllTargetsFailed) and error.errors:
        return error.errors[-1].kind
    return error.kind
