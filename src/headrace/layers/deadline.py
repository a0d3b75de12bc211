"""Stamps the time after which the caller no longer cares.

One deadline spans everything below: attempts, waits, and the whole of a stream. It is a time on the monotonic clock that the
request carries down; no cancel scope is held for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from headrace.clock import Clock
from headrace.handler import Handler, Pending, Request

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """`request.deadline` becomes now + the route's `deadline_s`, or the caller's `timeout_s` where that is shorter."""

    clock: Clock

    def __call__(self, inner: Handler) -> Handler:
        now = self.clock.now

        def handle(request: Request) -> Pending:
            seconds = request.route.deadline_s
            if request.timeout_s is not None and request.timeout_s < seconds:
                seconds = request.timeout_s
            return inner(msgspec.structs.replace(request, deadline=min(request.deadline, now() + seconds)))

        return handle
