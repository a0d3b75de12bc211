"""Goes down the levels of a route: the next target once one has given up. Passes over those that cannot serve the request.

Decides by `errors.disposition` alone. What it leaves to others: repeating at the same target (retry), time (timeout, deadline)
and whether an answer counts as content (the provider's commit point). When every level is spent the caller gets one
`AllTargetsFailed` that lists every attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from headrace.call import Attempt, Call
from headrace.clock import Clock
from headrace.errors import (
    AllTargetsFailed,
    BudgetExceeded,
    CredentialsMissing,
    HeadraceError,
    InvalidOutput,
    ProviderError,
    ProviderRateLimited,
    What,
    disposition,
)
from headrace.handler import Handler, Request, Stream
from headrace.layers.fitness import Misfit
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
    """

    clock: Clock
    misfit: Callable[[Target, Request], Misfit | None]
    translated: Callable[[Target, Request], bool]
    record: Callable[[Call, Attempt], None] = lambda call, attempt: None

    def _share(self, request: Request, after: int) -> float:
        """The time by which a level must have begun to answer, with `after` levels left behind it: an equal share of what is
        left of the deadline, so that one silent target does not use up the others' turn."""
        if after == 0:
            return float("inf")
        now = self.clock.now()
        return now + (request.deadline - now) / (after + 1)

    def __call__(self, inner: Handler) -> Handler:
        async def handle(request: Request) -> Stream:
            return await self._descend(inner, request)

        return handle

    async def _descend(self, inner: Handler, request: Request) -> Stream:
        route, call = request.route, request.call
        last = len(route.cascade) - 1
        too_dear: BudgetExceeded | None = None
        passed_over: list[HeadraceError] = []
        for level, (target, unfit) in enumerate(zip(route.cascade, self._misfits(request), strict=True)):
            if unfit is not None:
                passed_over.append(unfit.error)
                self._skip(call, target, unfit.error)
                continue
            if level and self.clock.now() >= request.deadline:
                break
            translated, made = self.translated(target, request), len(call.attempts)
            if translated:
                _ = request.body.chat  # a body that cannot be read is the caller's fault, not an attempt's
            try:
                return await inner(
                    msgspec.structs.replace(
                        request,
                        target=target,
                        last_level=level == last,
                        commit_by=self._share(request, last - level),
                    )
                )
            except ProviderError as error:
                if disposition(error, translated=translated, on_refusal=route.on_refusal).what is What.STOP:
                    raise
                if translated and error.kind == "invalid_request":
                    call.warn(f"{target} rejected the translated request: {error.message}")
                if len(call.attempts) == made:  # a layer below found that it cannot be sent to this target
                    passed_over.append(error)
                    self._skip(call, target, error)
            except BudgetExceeded as error:
                if disposition(error).what is What.STOP:
                    raise
                call.warn(f"skipped {target}: {error.message}")
                too_dear = error
        if too_dear is not None and all(attempt.error is None for attempt in call.attempts):
            raise too_dear
        if len(passed_over) == len(call.attempts) and len({type(error) for error in passed_over}) == 1:
            raise _for_all(passed_over, route.name)
        raise self._spent(request)

    def _misfits(self, request: Request) -> list[Misfit | None]:
        """Why each level cannot serve. Where none fits, those are asked all the same of which it is not certain."""
        found = [self.misfit(target, request) for target in request.route.cascade]
        if all(unfit is not None for unfit in found):
            return [unfit if unfit is not None and unfit.certain else None for unfit in found]
        return found

    def _skip(self, call: Call, target: Target, why: HeadraceError) -> None:
        """A target that is passed over stands among the attempts, with the reason."""
        call.warn(f"skipped {target}: {why.message}")
        now = self.clock.now()
        attempt = Attempt(
            number=len(call.attempts) + 1,
            target=target,
            started_at=now,
            started_wall=self.clock.wall(),
            error=why if isinstance(why, ProviderError) else None,
            error_kind=why.kind,
            note=why.message,
            cost=0,
        )
        call.attempts.append(attempt)
        attempt.end("skipped", now)
        self.record(call, attempt)

    def _spent(self, request: Request) -> HeadraceError:
        attempts = request.call.attempts
        errors = [attempt.error for attempt in attempts if attempt.error is not None]
        if errors and isinstance(errors[-1], InvalidOutput):
            return errors[-1]  # it has what the caller needs: the raw text
        waits = [error.retry_after_s for error in errors if error.retry_after_s is not None]
        passed = self.clock.now() >= request.deadline
        return AllTargetsFailed(
            attempts,
            errors,
            status=spent_status(errors, deadline_passed=passed),
            retry_after_s=min(waits, default=None),
        )


def _for_all(errors: Sequence[HeadraceError], route: str) -> HeadraceError:
    """One error of the kind that they share."""
    if len(errors) == 1:
        return errors[0]
    return type(errors[0])(
        f"no target of {route!r} can serve this request: {'; '.join(error.message for error in errors)}"
    )
