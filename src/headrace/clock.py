"""Time as an argument: the monotonic clock, the wall clock, sleeping and timers.

Everything that waits takes a `Clock`; tests pass `headrace.testing.ManualClock` and no test sleeps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

__all__ = ["Clock", "SystemClock", "Timer", "timeout_at"]


class Timer(Protocol):
    """A callback that is to run; `cancel` is idempotent."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds on a clock that never goes back; its zero means nothing."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""

    async def sleep(self, seconds: float) -> None:
        """Wait; zero or less gives others one turn."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the running loop once `now()` is `when` or later."""


class SystemClock:
    """The machine's clocks and the running event loop's timers."""

    __slots__ = ()

    now = staticmethod(time.monotonic)  # noqa: TID251
    wall = staticmethod(time.time)  # noqa: TID251

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))  # noqa: TID251

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return _SystemTimer(self.now, when, callback)


class _SystemTimer:
    """A timer of the loop that never fires early: uvloop counts whole milliseconds from the start of its turn, so that its own
    timers may come before their time, and who is woken at a deadline must find that it has passed."""

    __slots__ = ("_callback", "_handle", "_loop", "_now", "_when")

    def __init__(self, now: Callable[[], float], when: float, callback: Callable[[], None]) -> None:
        self._now = now
        self._when = when
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(max(0.0, when - now()), self._fire)

    def _fire(self) -> None:
        left = self._when - self._now()
        if left > 0.0:
            self._handle = self._loop.call_later(left, self._fire)
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


class timeout_at:  # noqa: N801  (reads as the statement it makes)
    """`async with timeout_at(clock, when):` cancels the body at `when` and raises `TimeoutError` instead.

    As `asyncio.timeout_at`, on any `Clock`. `when=None` never expires. A cancellation from outside stays a cancellation.
    Never hold it open across a `yield` or for the life of a stream: a stream has one timer of its own.
    """

    __slots__ = ("_cancelling", "_clock", "_task", "_timer", "_when", "expired")

    def __init__(self, clock: Clock, when: float | None) -> None:
        self._clock = clock
        self._when = when
        self._timer: Timer | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.expired = False

    async def __aenter__(self) -> None:
        if self._when is not None:
            self._task = asyncio.current_task()
            assert self._task is not None, "timeout_at outside a task"
            self._cancelling = self._task.cancelling()
            self._timer = self._clock.call_at(self._when, self._expire)

    def _expire(self) -> None:
        assert self._task is not None
        self.expired = True
        self._task.cancel()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.expired and self._task is not None:
            outside = self._task.uncancel() > self._cancelling
            if exc_type is asyncio.CancelledError and not outside:
                raise TimeoutError from exc
