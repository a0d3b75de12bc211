"""Virtual time: a clock that stands still until it is told to move, and a loop that moves it when nothing else can run.

`ManualClock.advance` is for tests that want to say what time it is. `run` is for whole cascades: it runs a coroutine as
`asyncio.run` does, and whenever every task waits it jumps to the next timer, so an hour of backoff takes a millisecond.

In `run` the event loop's own time is the clock's too: `asyncio.timeout`, `asyncio.wait_for` and `asyncio.sleep` of any code
underneath keep virtual time. It is for code that lives in memory (and in threads: while a job of the loop's executor runs,
time stands still). **Not for sockets**: a loop that waits for the network looks idle, so its timeouts would fire before
the other side had a chance.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

__all__ = ["ManualClock", "Stuck", "VirtualRunner", "run", "running_clock", "until"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SETTLE_TURNS = 100
"""Turns of an ordinary loop that `run_until_idle` gives to others: enough for a chain of 100 tasks that wake each other."""

NEW_YEAR_2026 = 1_767_225_600.0
"""2026-01-01T00:00:00Z in seconds since 1970: where the wall clock starts unless told otherwise."""


class Stuck(AssertionError):
    """Every task waits and no timer is left that could wake one; the message lists them."""


class _Timer:
    """One callback on a `ManualClock`."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None

    def fire(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class ManualClock:
    """A `headrace.clock.Clock` on which time passes only by `advance`, `run_for`, or under `run`.

    Args:
        start: The first `now()`, in seconds.
        wall: The first `wall()`, in seconds since 1970.

    Attributes:
        sleeps: Every sleep that was asked for, in order, in seconds (also those of zero or less).
    """

    __slots__ = ("_heap", "_now", "_offset", "_order", "sleeps")

    def __init__(self, start: float = 0.0, *, wall: float = NEW_YEAR_2026) -> None:
        self._now = start
        self._offset = wall - start
        self._heap: list[tuple[float, int, _Timer]] = []
        self._order = 0
        self.sleeps: list[float] = []

    def now(self) -> float:
        """Seconds on the manual scale."""
        return self._now

    def wall(self) -> float:
        """Seconds since 1970; moves with `now()`, and with `set_wall`."""
        return self._now + self._offset

    def set_wall(self, wall: float) -> None:
        """Step the wall clock, as an administrator or a leap would; `now()` does not notice."""
        self._offset = wall - self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has moved by `seconds`; zero or less gives others one turn."""
        self.sleeps.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)  # noqa: TID251  (the turn itself)
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_at(self._now + seconds, partial(_wake, woken))
        try:
            await woken
        finally:
            timer.cancel()

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        """Run `callback` once `now()` is `when` or later; one that is due already runs on the loop's next turn."""
        timer = _Timer(when, callback)
        if when <= self._now:
            asyncio.get_running_loop().call_soon(timer.fire)
        else:
            self._order += 1
            heapq.heappush(self._heap, (when, self._order, timer))
        return timer

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due, on the scale of `now()`; None if none is set."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap and not math.isinf(self._heap[0][0]) else None

    @property
    def waiting(self) -> int:
        """How many timers and sleepers wait; 0 when nothing was left behind."""
        return sum(timer.callback is not None for _, _, timer in self._heap)

    def advance(self, seconds: float) -> None:
        """Let `seconds` (zero or more) pass at once: timers run in the order of their times, and sleepers are woken.

        A woken task runs when the loop turns, so a task that sleeps twice is woken once; `run_for` gives it its turns.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: advance({seconds})")
        self.advance_to(self._now + seconds)

    def advance_to(self, when: float) -> None:
        """`advance` to the time `when`; does nothing if that is past."""
        while (due := self.next_timer) is not None and due <= when:
            _, _, timer = heapq.heappop(self._heap)
            self._now = max(self._now, due)
            timer.fire()
        self._now = max(self._now, when)

    async def run_until_idle(self) -> None:
        """Let every other task go as far as it can without time passing.

        Exact under `run`; on an ordinary loop it gives the others `SETTLE_TURNS` turns.
        """
        loop = asyncio.get_running_loop()
        if isinstance(loop, _VirtualLoop):
            await loop.idle()
            return
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)  # noqa: TID251  (one turn)

    async def run_for(self, seconds: float) -> None:
        """Let `seconds` pass timer by timer; between two, every task goes as far as it can."""
        end = self._now + seconds
        await self.run_until_idle()
        while (due := self.next_timer) is not None and due <= end:
            self.advance_to(due)
            await self.run_until_idle()
        self.advance_to(end)
        await self.run_until_idle()


def run(main: Coroutine[Any, Any, T], clock: ManualClock, *, limit_s: float = 86_400.0) -> T:
    """Run `main` to its end in virtual time and return what it returns.

    Args:
        main: As for `asyncio.run`.
        clock: The clock that the code under test was given.
        limit_s: Virtual seconds after which a run counts as stuck: a background task that sleeps for ever would
            otherwise keep a hanging test alive.

    Raises:
        Stuck: Every task waits for something that no timer will bring, or `limit_s` is over.
    """

    with VirtualRunner(clock, limit_s=limit_s) as runner:
        return runner.run(main)


class VirtualRunner:
    """`asyncio.Runner` in virtual time: several coroutines, one after the other, on one loop; tasks in between stand still.

    Args:
        clock, limit_s: As for `run`; the limit is for all of them together.
    """

    def __init__(self, clock: ManualClock, *, limit_s: float = 86_400.0) -> None:
        self._runner = asyncio.Runner(loop_factory=lambda: _VirtualLoop(clock, clock.now() + limit_s))

    def run(self, main: Coroutine[Any, Any, T], context: contextvars.Context | None = None) -> T:
        """Run `main` to its end, in `context` where one is given, and return what it returns. Raises as `run` does."""

        async def watched() -> T:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, _VirtualLoop)
            loop.main = asyncio.current_task()
            try:
                return await main
            except asyncio.CancelledError:
                if loop.stuck is not None:
                    raise Stuck(loop.stuck) from None
                raise
            finally:
                loop.main = None

        return self._runner.run(watched(), context=context)

    def close(self) -> None:
        """Cancel what is left and close the loop; idempotent."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def running_clock() -> ManualClock | None:
    """The clock of the running loop, if its time is virtual."""
    loop = asyncio.get_running_loop()
    return loop.manual if isinstance(loop, _VirtualLoop) else None


async def until(condition: Callable[[], object], *, timeout_s: float = 5.0) -> None:
    """Wait in real time until `condition()` is true, asking every millisecond; for what a socket brings.

    Raises:
        TimeoutError: It was not true within `timeout_s` seconds.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  (a condition of the caller's sets no event)
            await asyncio.sleep(0.001)  # noqa: TID251


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class _IdleSelector(selectors.DefaultSelector):
    """Asks before it blocks: the loop passes a timeout other than 0 only when nothing is ready to run."""

    def __init__(self, on_idle: Callable[[float | None], bool]) -> None:
        super().__init__()
        self._on_idle = on_idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0) or self._on_idle(timeout):
            return ready
        return super().select(None)


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a `ManualClock`'s."""

    def __init__(self, clock: ManualClock, limit: float) -> None:
        self.manual = clock
        self._limit = limit
        self._jobs = 0
        self._idlers: list[asyncio.Future[None]] = []
        self.main: asyncio.Task[Any] | None = None
        self.stuck: str | None = None
        self._idle_selector = _IdleSelector(self._on_idle)
        super().__init__(self._idle_selector)
        self._own_files = len(self._idle_selector.get_map())

    def time(self) -> float:
        return self.manual.now()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As ever; time stands still until the job is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: asyncio.Future[Any]) -> None:
        self._jobs -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As ever, in real time: joining threads is a job, and virtual seconds would be over before they end."""
        self._jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jobs -= 1

    async def idle(self) -> None:
        """Until nothing else can run at this time."""
        future: asyncio.Future[None] = self.create_future()
        self._idlers.append(future)
        await future

    def _on_idle(self, timeout: float | None) -> bool:
        """Make something ready; False to wait for the outside world instead."""
        if self._jobs:
            return False
        if self._idlers:
            idlers, self._idlers = self._idlers, []
            for future in idlers:
                _wake(future)
            return True
        now = self.manual.now()
        due = self.manual.next_timer
        ours = math.inf if due is None else due
        when = min(ours, math.inf if timeout is None else now + timeout)
        if when <= self._limit:
            self.call_soon(self.manual.advance_to, when)
            return True
        if math.isinf(when) and len(self._idle_selector.get_map()) > self._own_files:
            return False
        self._give_up(
            "no timer is left" if math.isinf(when) else f"the limit of virtual time ({self._limit:g}) is over"
        )
        return True

    def _give_up(self, why: str) -> None:
        waiting = "\n".join(f"  {_where(task)}" for task in asyncio.all_tasks(self))
        message = f"every task waits, and {why}:\n{waiting}"
        if self.main is None or self.stuck is not None:
            raise Stuck(message)
        self.stuck = message
        self.main.cancel()


def _where(task: asyncio.Task[Any]) -> str:
    """The task and the chain of what it awaits, outermost first."""
    chain: list[str] = []
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        chain.append(f"{coroutine.__qualname__} (line {frame.f_lineno})")
        coroutine = coroutine.cr_await
    return f"{task.get_name()}: {' > '.join(chain)}"
