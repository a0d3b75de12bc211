"""The machine's clock: its timers keep their word on every loop."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from headrace.clock import SystemClock, timeout_at


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_timer_never_fires_before_its_time(loop: object) -> None:
    """Whatever the loop's resolution, and however long its turn has lasted, `now()` is `when` or later."""
    clock = SystemClock()

    async def main() -> list[float]:
        early: list[float] = []
        for step in range(40):
            started = clock.now()
            while (
                clock.now() < started + step * 0.0001
            ):  # a turn that lasts: the loop's own idea of the time grows old
                pass
            when = clock.now() + 0.0013
            fired = asyncio.Event()
            clock.call_at(when, fired.set)
            await fired.wait()
            early.append(clock.now() - when)
        return early

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        assert min(runner.run(main())) >= 0.0


def test_a_cancelled_timer_does_not_fire() -> None:
    """Cancelling is final, and may be done twice."""
    clock, fired = SystemClock(), list[int]()

    async def main() -> None:
        timer = clock.call_at(clock.now(), lambda: fired.append(1))
        timer.cancel()
        timer.cancel()
        async with timeout_at(clock, None):
            await clock.sleep(0.002)

    asyncio.run(main())
    assert not fired
