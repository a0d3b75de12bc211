"""Goes down the levels of a route: the next target once one has given up.

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
    HeadraceError,
    InvalidOutput,
    ProviderError,
    ProviderRateLimited,
    Unsupported,
    What,
    disposition,
)
from headrace.handler import Handler, Request, Stream
from headrace.types import Target

__all__ = ["Cascade", "spent_status"]


def spent_status(errors: Sequence[ProviderError], *, deadline_passed: bool) -> int:
    """The HTTP status once every level is spent; pure.

    429 if all were rate limited, 504 at the deadline, the shared 4xx if all agree on one, else 503.
    """
    if errors and all(isinstance(error, ProviderRateLimited) or error.http_status == 429 for error in errors):
        return 429
    if deadline_passed:
        return 504
    statuses = {error.http if error.http is not None else error.http_status for error in errors}
    if len(statuses) == 1 and 400 <= (status := statuses.pop()) < 500:
        return status
    return 503


@dataclass(frozen=True, slots=True)
class Cascade:
    """Asks the targets of `request.route` in order.

    Args:
        clock: For the deadline.
        lacks: What a target cannot do of what the request needs (`tools`), or None; such a target is skipped.
        translated: Whether a request must be translated for a target, so that a "bad request" may be our doing.
        record: Takes the attempt that stands for a skipped target; never raises and never waits.
    """

    clock: Clock
    lacks: Callable[[Target, Request], str | None]
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
        skipped: list[str] = []
        too_dear: BudgetExceeded | None = None
        unsent: ProviderError | None = None
        for level, target in enumerate(route.cascade):
            missing = self.lacks(target, request)
            if missing is not None:
                skipped.append(f"{target} has no {missing}")
                call.warn(f"skipped {target}: it has no {missing}")
                self._skip(call, target, f"it has no {missing}")
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
                    call.warn(f"skipped {target}: {error.message}")
                    self._skip(call, target, error.message)
                    unsent = error
            except BudgetExceeded as error:
                if disposition(error).what is What.STOP:
                    raise
                call.warn(f"skipped {target}: {error.message}")
                too_dear = error
        if too_dear is not None and all(attempt.error is None for attempt in call.attempts):
            raise too_dear
        nothing_tried = all(
            attempt.outcome == "skipped" and attempt.error is None for attempt in call.attempts
        )
        if nothing_tried and unsent is not None:
            raise unsent
        if nothing_tried:
            raise Unsupported(f"no target of {route.name!r} can serve this request: {'; '.join(skipped)}")
        raise self._spent(request)

    def _skip(self, call: Call, target: Target, why: str) -> None:
        """A target that is passed over stands among the attempts, with the reason."""
        now = self.clock.now()
        attempt = Attempt(
            number=len(call.attempts) + 1,
            target=target,
            started_at=now,
            started_wall=self.clock.wall(),
            error_kind=Unsupported.kind,
            note=why,
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
