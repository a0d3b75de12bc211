"""ManualClock and the virtual loop: time passes in order, only when told or when nothing else can run."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from headrace.clock import Clock, timeout_at
from headrace.testing import ManualClock, Stuck, run


def test_is_a_clock() -> None:
    """ManualClock satisfies the Clock protocol, and its wall clock moves with it."""
    clock = ManualClock(10.0, wall=1000.0)
    as_clock: Clock = clock
    clock.advance(2.5)
    assert as_clock.now() == 12.5
    assert as_clock.wall() == 1002.5
    clock.set_wall(5.0)
    assert (clock.now(), clock.wall()) == (12.5, 5.0)


def test_timers_run_in_order_at_their_time() -> None:
    """Timers fire in the order of their times, ties in the order of setting, each seeing its own time."""
    clock = ManualClock()
    fired: list[tuple[str, float]] = []
    for name, when in (("c", 3.0), ("a", 1.0), ("b", 1.0), ("later", 9.0)):
        clock.call_at(when, lambda name=name: fired.append((name, clock.now())))  # type: ignore[misc]
    cancelled = clock.call_at(2.0, lambda: fired.append(("cancelled", clock.now())))
    cancelled.cancel()
    cancelled.cancel()
    clock.advance(5.0)
    assert fired == [("a", 1.0), ("b", 1.0), ("c", 3.0)]
    assert clock.now() == 5.0
    assert clock.waiting == 1
    assert clock.next_timer == 9.0


def test_a_timer_set_by_a_timer_runs_in_the_same_advance() -> None:
    """A callback that sets another due timer gets it within the same advance."""
    clock = ManualClock()
    fired: list[float] = []

    def first() -> None:
        clock.call_at(2.0, lambda: fired.append(clock.now()))

    clock.call_at(1.0, first)
    clock.advance(3.0)
    assert fired == [2.0]


def test_time_does_not_go_back() -> None:
    """A negative advance is a mistake of the test and says so."""
    with pytest.raises(ValueError, match="does not go back"):
        ManualClock().advance(-1)


def test_due_timer_runs_on_the_next_turn() -> None:
    """A timer for a time that is past runs on the loop, not inside call_at."""

    async def main() -> None:
        clock = ManualClock(5.0)
        fired: list[str] = []
        clock.call_at(5.0, lambda: fired.append("x"))
        assert fired == []
        await asyncio.sleep(0)  # noqa: TID251
        assert fired == ["x"]

    asyncio.run(main())


def test_sleepers_on_an_ordinary_loop() -> None:
    """run_for gives a task that sleeps twice both of its wakings, and sleeps are recorded."""

    async def main() -> None:
        clock = ManualClock()
        woken: list[float] = []

        async def sleeper() -> None:
            for seconds in (2.0, 2.0, 0.0, -1.0):
                await clock.sleep(seconds)
                woken.append(clock.now())

        task = asyncio.create_task(sleeper())
        await clock.run_until_idle()
        assert woken == []
        await clock.run_for(3.0)
        assert woken == [2.0]
        await clock.run_for(3.0)
        assert woken == [2.0, 4.0, 4.0, 4.0]
        assert clock.now() == 6.0
        assert clock.sleeps == [2.0, 2.0, 0.0, -1.0]
        await task

    asyncio.run(main())


def test_a_cancelled_sleeper_leaves_no_timer() -> None:
    """Cancelling a sleep removes its timer."""

    async def main() -> None:
        clock = ManualClock()
        task = asyncio.create_task(clock.sleep(5))
        await clock.run_until_idle()
        assert clock.waiting == 1
        task.cancel()
        await clock.run_until_idle()
        assert clock.waiting == 0

    asyncio.run(main())


def test_run_jumps_when_all_wait() -> None:
    """Hours of virtual time pass in far less real time, in the right order."""
    clock = ManualClock()
    order: list[tuple[str, float]] = []

    async def worker(name: str, period: float, times: int) -> None:
        for _ in range(times):
            await clock.sleep(period)
            order.append((name, clock.now()))

    async def main() -> str:
        await asyncio.gather(worker("a", 3600, 3), worker("b", 5000, 2))
        return "done"

    assert run(main(), clock) == "done"
    assert order == [("a", 3600), ("b", 5000), ("a", 7200), ("b", 10000), ("a", 10800)]


def test_run_takes_asyncio_time_along() -> None:
    """asyncio's own timeouts and sleeps keep virtual time under run, and so does timeout_at."""
    clock = ManualClock(100.0)

    async def main() -> None:
        await asyncio.sleep(50)  # noqa: TID251
        assert clock.now() == pytest.approx(150)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await clock.sleep(1000)
        assert clock.now() == pytest.approx(160)
        with pytest.raises(TimeoutError):
            async with timeout_at(clock, clock.now() + 5):
                await asyncio.Event().wait()
        assert clock.now() == pytest.approx(165)

    run(main(), clock)


def test_run_does_not_move_while_something_can_run() -> None:
    """A timer does not overtake a chain of ready tasks, however long."""
    clock = ManualClock()

    async def main() -> None:
        sleeper = asyncio.create_task(clock.sleep(1))
        for _ in range(1000):
            await asyncio.sleep(0)  # noqa: TID251
            assert clock.now() == 0.0
        await clock.run_until_idle()
        assert clock.now() == 0.0
        await sleeper
        assert clock.now() == 1.0

    run(main(), clock)


def test_run_waits_for_threads() -> None:
    """While the executor has a job, time stands still."""
    clock = ManualClock()
    release = threading.Event()

    def job() -> str:
        release.wait(5)
        return threading.current_thread().name

    async def main() -> None:
        timer = asyncio.create_task(clock.sleep(10))
        work = asyncio.create_task(asyncio.to_thread(job))
        threading.Timer(0.02, release.set).start()
        assert await work != threading.main_thread().name
        assert clock.now() == 0.0
        await timer
        assert clock.now() == 10.0

    run(main(), clock)


def test_run_for_is_exact_in_a_virtual_loop() -> None:
    """Under run, run_for settles tasks at each timer before the next."""
    clock = ManualClock()
    seen: list[float] = []

    async def ticker() -> None:
        while True:
            await clock.sleep(1)
            seen.append(clock.now())

    async def main() -> None:
        task = asyncio.create_task(ticker())
        await clock.run_for(3.5)
        assert seen == [1.0, 2.0, 3.0]
        task.cancel()

    run(main(), clock)


def test_stuck_is_told() -> None:
    """A wait that no timer ends raises at once and names the task's place."""

    async def never_set() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(never_set(), name="the-waiter")

    with pytest.raises(Stuck, match=r"the-waiter: .*never_set \(line \d+\) > Event\.wait"):
        run(main(), ManualClock())


def test_stuck_despite_a_background_ticker() -> None:
    """The limit of virtual time ends a run in which only a background task goes on."""
    clock = ManualClock()

    async def ticker() -> None:
        while True:
            await clock.sleep(1)

    async def main() -> None:
        task = asyncio.create_task(ticker())
        try:
            await asyncio.Event().wait()
        finally:
            task.cancel()

    with pytest.raises(Stuck, match="limit"):
        run(main(), clock, limit_s=100)
    assert clock.now() <= 100


def test_errors_and_cancellation_pass_through_run() -> None:
    """What main raises is what run raises; its own cancellation is not called stuck."""

    async def fails() -> None:
        raise KeyError("x")

    async def cancels() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)  # noqa: TID251

    with pytest.raises(KeyError):
        run(fails(), ManualClock())
    with pytest.raises(asyncio.CancelledError):
        run(cancels(), ManualClock())


def test_run_is_fast() -> None:
    """20,000 virtual sleeps take well under two real seconds."""
    clock = ManualClock()

    async def main() -> None:
        for _ in range(20_000):
            await clock.sleep(1)

    started = time.perf_counter()
    run(main(), clock)
    assert time.perf_counter() - started < 2
    assert clock.now() == 20_000
