"""Bounds how long one attempt may be silent.

Until the commit the attempt runs under one cancel scope (first content, for streams; the level's share of the deadline, always). Afterwards there is
one timer a stream, armed again lazily: when it fires it compares the time of the last content with the limit and either sleeps
on or aborts the stream. Nothing is done per event. Pings are not content, thinking is; the time in which the reader does not read
does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.call import Attempt
from headrace.clock import Clock, Timer, timeout_at
from headrace.errors import ProviderTimeout
from headrace.handler import Handler, Request, Stream

__all__ = ["Timeout"]


@dataclass(frozen=True, slots=True)
class Timeout:
    """Raises `ProviderTimeout` with its phase: `first_content`, `between_events`, or `total` at the deadline.

    The connect phase is timed by the transport.
    """

    clock: Clock

    def __call__(self, inner: Handler) -> Handler:
        clock = self.clock

        async def handle(request: Request) -> Stream:
            attempt = request.attempt
            assert attempt is not None
            route = request.route
            when, phase, limit = request.deadline, "total", "the deadline"
            if request.commit_by < when:
                when, limit = request.commit_by, "this level's share of the deadline"
            if request.stream and attempt.started_at + route.first_content_s < when:
                when, phase = attempt.started_at + route.first_content_s, "first_content"
                limit = f"{route.first_content_s:g} s"
            try:
                async with timeout_at(clock, None if when == float("inf") else when):
                    stream = await inner(request)
            except TimeoutError:
                raise _silent(attempt, phase, f"no content from {attempt.target} within {limit}") from None
            if attempt.outcome == "pending":
                _Watch(clock, request, attempt, stream)
            return stream

        return handle


def _silent(attempt: Attempt, phase: str, message: str) -> ProviderTimeout:
    error = ProviderTimeout(message, target=str(attempt.target))
    error.phase = phase
    return error


class _Watch:
    """The one timer of a committed stream."""

    __slots__ = ("_attempt", "_between_s", "_clock", "_deadline", "_stream", "_timer")

    def __init__(self, clock: Clock, request: Request, attempt: Attempt, stream: Stream) -> None:
        self._clock = clock
        self._attempt = attempt
        self._stream = stream
        self._between_s = request.route.between_events_s
        self._deadline = request.deadline
        self._timer: Timer = clock.call_at(self._due(), self._fire)
        attempt.on_end.append(self._stop)

    def _due(self) -> float:
        attempt = self._attempt
        quiet_since = attempt.last_content_at if attempt.reading else self._clock.now()
        return min(quiet_since + self._between_s, self._deadline)

    def _fire(self) -> None:
        now, due = self._clock.now(), self._due()
        if now < due:
            self._timer = self._clock.call_at(due, self._fire)
        elif now >= self._deadline:
            self._stream.abort(
                _silent(self._attempt, "total", "the deadline passed before the answer was whole")
            )
        else:
            message = f"no content from {self._attempt.target} for {self._between_s:g} s"
            self._stream.abort(_silent(self._attempt, "between_events", message))

    def _stop(self, attempt: Attempt) -> None:
        self._timer.cancel()
