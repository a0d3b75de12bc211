"""Goes down the levels of a route: the next target once one has given up. Passes over those that cannot serve the request.

Decides by `errors.disposition` alone. What it leaves to others: repeating at the same target (retry), time (timeout, deadline)
and whether an answer counts as content (the provider's commit point). When every level is spent the caller gets one
`AllTargetsFailed` that lists every attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from headrace.call import Attempt, Call
from headrace.clock import Clock
from headrace.errors import (
    AllTargetsFailed,
    BudgetExceeded,
    CircuitOpen,
    CredentialsMissing,
    HeadraceError,
    InvalidOutput,
    ProviderError,
    ProviderRateLimited,
    What,
    disposition,
)
from headrace.handler import Handler, Pending, Request, Stream
from headrace.layers.fitness import Misfit
from headrace.layers.hedging import Hedging
from headrace.types import Target

__all__ = ["Cascade", "spent_status"]


def spent_status(errors: Sequence[ProviderError], *, deadline_passed: bool) -> int:
    """The HTTP status once every level is spent; pure.

    429 if all were rate limited, 504 at the deadline, the shared 4xx if all providers that were asked agree on one, 502 if none could be
    asked for want of a key, else 503.
    """
    if errors and all(isinstance(error, ProviderRateLimited) or error.http_status == 429 for error in errors):
        return 429
    if deadline_passed:
        return 504
    asked = [error for error in errors if not isinstance(error, CredentialsMissing)]
    if errors and not asked:
        return 502
    statuses = {error.http if error.http is not None else error.http_status for error in asked}
    if len(statuses) == 1 and 400 <= (status := statuses.pop()) < 500:
        return status
    return 503


@dataclass(frozen=True, slots=True)
class Cascade:
    """Asks the targets of `request.route` in order.

    Args:
        clock: For the deadline.
        misfit: Why a target cannot serve the request, or None; such a target is skipped.
        translated: Whether a request must be translated for a target, so that a "bad request" may be our doing.
        record: Takes the attempt that stands for a skipped target; never raises and never waits.
        hedging: What is known of how long targets take; shared by all requests.
    """

    clock: Clock
    misfit: Callable[[Target, Request], Misfit | None]
    translated: Callable[[Target, Request], bool]
    record: Callable[[Call, Attempt], None] = lambda call, attempt: None

    hedging: Hedging = field(default_factory=Hedging)

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            return _Descent(self, inner, request).run()

        return handle


class _Descent:
    """One request on its way down."""

    __slots__ = (
        "_call",
        "_cascade",
        "_inner",
        "_misfits",
        "_passed_over",
        "_request",
        "_route",
        "_spared",
        "_too_dear",
    )

    def __init__(self, cascade: Cascade, inner: Handler, request: Request) -> None:
        self._cascade = cascade
        self._inner = inner
        self._request = request
        self._route = request.route
        self._call = request.call
        self._misfits = self._judged()
        self._passed_over: list[HeadraceError] = []
        self._too_dear: BudgetExceeded | None = None
        self._spared: list[int] = []

    def _judged(self) -> list[Misfit | None]:
        """Why each level cannot serve. Where none fits, those are asked all the same of which it is not certain."""
        found = [self._cascade.misfit(target, self._request) for target in self._route.cascade]
        if all(unfit is not None for unfit in found):
            return [unfit if unfit is not None and unfit.certain else None for unfit in found]
        return found

    async def run(self) -> Stream:
        """The first level's stream that begins; or the error that stands for all."""
        now, request, cascade = self._cascade.clock.now, self._request, self._route.cascade
        hedged = self._route.hedge > 0 and not _held(request)
        if hedged:
            self._cascade.hedging.earn(self._route.name, self._route.hedge)
        level = 0
        while level < len(cascade):
            unfit = self._misfits[level]
            if unfit is not None:
                self._passed_over.append(unfit.error)
                self._skip(cascade[level], unfit.error)
                level += 1
                continue
            if level and now() >= request.deadline:
                break
            if hedged:
                stream, level = await self._race(level)
            else:
                stream, level = await self._ask(level), level + 1
            if stream is not None:
                return stream
        # Nobody behind them has answered: levels that were spared are asked after all, as the last level always is.
        spared = self._spared
        for after, level in zip(range(len(spared) - 1, -1, -1), spared, strict=True):
            if (
                now() < request.deadline
                and (stream := await self._ask(level, after=after, last=True)) is not None
            ):
                return stream
        raise self._failed()

    async def _ask(
        self, level: int, purpose: str = "", *, after: int | None = None, last: bool = False
    ) -> Stream | None:
        """The stream of one level, or None when the next one is to be asked. Raises what ends the whole.

        `after` is how many are left behind it, unless told those of the cascade; `last`: nobody else is left that would be asked.
        """
        request, route, call, cascade = self._request, self._route, self._call, self._cascade
        target = route.cascade[level]
        if after is None:
            after = len(route.cascade) - 1 - level
            last = after == 0
        translated, made = cascade.translated(target, request), len(call.attempts)
        if translated:
            _ = request.body.chat  # a body that cannot be read is the caller's fault, not an attempt's
        try:
            return await self._inner(
                msgspec.structs.replace(
                    request,
                    target=target,
                    last_level=last,
                    commit_by=self._share(after),
                    purpose=purpose or request.purpose,
                )
            )
        except ProviderError as error:
            if disposition(error, translated=translated, on_refusal=route.on_refusal).what is What.STOP:
                raise
            if isinstance(error, CircuitOpen) and not error.limited and not last:
                self._spared.append(level)
            if translated and error.kind == "invalid_request":
                call.warn(f"{target} rejected the translated request: {error.message}")
            tried = any(attempt.target is target for attempt in call.attempts[made:])
            if not tried:  # a layer below found that it cannot be sent to this target
                self._passed_over.append(error)
                self._skip(target, error)
        except BudgetExceeded as error:
            if disposition(error).what is What.STOP:
                raise
            call.warn(f"skipped {target}: {error.message}")
            self._too_dear = error
        return None

    def _share(self, after: int) -> float:
        """The time by which a level must have begun to answer, with `after` levels left behind it: an equal share of what is
        left of the deadline, so that one silent target does not use up the others' turn."""
        if after == 0:
            return float("inf")
        now = self._cascade.clock.now()
        return now + (self._request.deadline - now) / (after + 1)

    # --- two at once --------------------------------------------------------------------------------------------------

    async def _race(self, level: int) -> tuple[Stream | None, int]:
        """The stream of `level`, or that of the next one that fits if `level` is slow and the other faster; and where to go on."""
        hedging, route, now = self._cascade.hedging, self._route, self._cascade.clock.now
        target, began = route.cascade[level], now()
        behind = next((n for n in range(level + 1, len(self._misfits)) if self._misfits[n] is None), None)
        patience = hedging.patience(target, self._request.stream, route.hedge)
        first = asyncio.ensure_future(self._ask(level))
        second: asyncio.Future[Stream | None] | None = None
        try:
            if behind is not None and patience is not None:
                await _wait(first, self._cascade.clock, began + patience)
            if behind is None or patience is None or first.done() or not hedging.spend(route.name):
                stream = await first
                if stream is not None:
                    self._seen(target, began)
                return stream, level + 1
            other, asked_at = route.cascade[behind], now()
            second = asyncio.ensure_future(self._ask(behind, purpose="hedge"))
            winner = await _first_that_begins(first, second)
        except BaseException:
            await _leave(first, second)
            raise
        if winner is None:
            for task in (first, second):
                task.result()  # raises what ends the whole
            return None, behind + 1
        self._seen(target, began)  # where the other won: it takes at least so long
        if winner is second:
            self._seen(other, asked_at)
        loser, lost, faster = (second, other, target) if winner is first else (first, target, other)
        for attempt in self._call.attempts:
            if attempt.target is lost and attempt.outcome == "pending":
                attempt.note = f"{faster} was faster"
        try:
            await _leave(loser)
        except BaseException:
            await _leave(winner)
            raise
        return winner.result(), behind + 1

    def _seen(self, target: Target, since: float) -> None:
        self._cascade.hedging.seen(target, self._request.stream, self._cascade.clock.now() - since)

    # --- what is told -------------------------------------------------------------------------------------------------

    def _skip(self, target: Target, why: HeadraceError) -> None:
        """A target that is passed over stands among the attempts, with the reason."""
        call, clock = self._call, self._cascade.clock
        call.warn(f"skipped {target}: {why.message}")
        now = clock.now()
        attempt = Attempt(
            number=len(call.attempts) + 1,
            target=target,
            started_at=now,
            started_wall=clock.wall(),
            error=why if isinstance(why, ProviderError) else None,
            error_kind=why.kind,
            note=why.message,
            cost=0,
        )
        call.attempts.append(attempt)
        attempt.end("skipped", now)
        self._cascade.record(call, attempt)

    def _failed(self) -> HeadraceError:
        """The one error for all that happened."""
        attempts, passed_over = self._call.attempts, self._passed_over
        if self._too_dear is not None and all(attempt.error is None for attempt in attempts):
            return self._too_dear
        if len(passed_over) == len(attempts) and len({type(error) for error in passed_over}) == 1:
            return _for_all(passed_over, self._route.name)
        errors = [attempt.error for attempt in attempts if attempt.error is not None]
        if errors and isinstance(errors[-1], InvalidOutput):
            return errors[-1]  # it has what the caller needs: the raw text
        waits = [error.retry_after_s for error in errors if error.retry_after_s is not None]
        passed = self._cascade.clock.now() >= self._request.deadline
        return AllTargetsFailed(
            attempts,
            errors,
            status=spent_status(errors, deadline_passed=passed),
            retry_after_s=min(waits, default=None),
        )


_Asking: TypeAlias = "asyncio.Future[Stream | None]"


async def _wait(task: _Asking, clock: Clock, until: float) -> None:
    """Until `task` is done, or the time has come."""
    due = asyncio.get_running_loop().create_future()

    def over() -> None:
        due.cancel()

    timer = clock.call_at(until, over)
    try:
        await asyncio.wait({task, due}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        due.cancel()


async def _first_that_begins(first: _Asking, second: _Asking) -> _Asking | None:
    """Whichever has a stream sooner; None once neither can have one, or `first` ended the whole."""
    pending: set[_Asking] = {first, second}
    while pending:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in (first, second):
            if task.done() and task.exception() is None and task.result() is not None:
                return task
        if first.done() and first.exception() is not None:
            await _leave(second)
            return None
    return None


async def _leave(*tasks: _Asking | None) -> None:
    """Stop asking; a stream that has begun meanwhile is closed."""
    left = [task for task in tasks if task is not None]
    for task in left:
        task.cancel()
    try:
        await asyncio.gather(*left, return_exceptions=True)
    finally:  # also where whoever asked leaves now
        for task in left:
            if task.done() and not task.cancelled() and task.exception() is None:
                stream = task.result()
                if stream is not None:
                    await stream.aclose()


def _for_all(errors: Sequence[HeadraceError], route: str) -> HeadraceError:
    """One error of the kind that they share."""
    if len(errors) == 1:
        return errors[0]
    return type(errors[0])(
        f"no target of {route!r} can serve this request: {'; '.join(error.message for error in errors)}"
    )


def _held(request: Request) -> bool:
    """Whether the answer is held below until it has its form, so that its first content is its end."""
    if request.output is not None:
        return True
    if not request.route.repair:
        return False
    form = request.body.chat.response_format
    return form is not None and form.schema is not None
