"""Two targets at once: when a second one is asked, who wins, what becomes of the other, and what it may cost."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.layers.test_cascade import A, B, House, request

from headrace.errors import AllTargetsFailed, ContentFiltered, ProviderUnavailable, Unsupported
from headrace.handler import Body, Request
from headrace.layers.fitness import Misfit
from headrace.layers.hedging import BURST, ENOUGH, Hedging
from headrace.testing import Hang, after
from headrace.types import ResponseFormat, Target

C = "c/three"
DEAD = ProviderUnavailable("dead", http=503)


class Slow(House):
    """A house whose first target is known to take one second, with extra calls to spare."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        for _ in range(ENOUGH):
            self.hedging.seen(Target("a", "one"), False, 1.0)
            self.hedging.seen(Target("a", "one"), True, 1.0)
        for _ in range(1000):
            self.hedging.earn("test", 0.05)

    def to(self, *targets: str, hedge: float = 0.05, **rules: Any) -> Request:
        """A request of a hedged route."""
        return request(*targets, house=self, hedge=hedge, **rules)


def outcomes(asked: Request) -> list[tuple[str, str]]:
    """Each attempt's target and outcome."""
    return [(str(attempt.target), attempt.outcome) for attempt in asked.call.attempts]


def test_a_slow_target_is_overtaken() -> None:
    """After its usual time the next one is asked too; the first content wins, the other is left, booked, and said to be slower."""
    house = Slow()
    house.provider.on(A, after(10.0, "late"))
    house.provider.on(B, after(0.5, "soon"))
    asked = house.to(A, B)
    assert house.run(house.ask(asked)) == "soon"
    assert house.clock.now() == 1.5
    assert outcomes(asked) == [(A, "cancelled"), (B, "ok")]
    slow, fast = asked.call.attempts
    assert slow.note == f"{B} was faster"
    assert fast.purpose == "hedge"
    assert slow.duration_s == 1.5
    assert slow.estimated and slow.wasted == slow.cost
    assert house.provider.open_streams == 0
    assert str(asked.call.target) == B
    assert len(house.rows) == 2


def test_a_first_target_that_is_only_a_little_slow_wins() -> None:
    """The second one is left, also where it was asked later; who answers is the first."""
    house = Slow()
    house.provider.on(A, after(1.2, "late"))
    house.provider.on(B, after(5.0, "never"))
    asked = house.to(A, B, stream=True)
    assert house.run(house.ask(asked)) == "late"
    assert house.clock.now() == 1.2
    assert outcomes(asked) == [(A, "ok"), (B, "cancelled")]
    assert str(asked.call.target) == A
    assert house.provider.open_streams == 0


def test_a_quick_target_is_alone() -> None:
    """Nobody else is asked while it keeps its usual time."""
    house = Slow()
    house.provider.on(A, after(0.9, "soon"))
    asked = house.to(A, B)
    house.run(house.ask(asked))
    assert outcomes(asked) == [(A, "ok")]


def test_without_the_line_nothing_is_hedged() -> None:
    """It is off by default, and so it is where an answer is held until it has its form."""
    house = Slow()
    house.provider.on(A, always=after(10.0, "late"))
    formed = house.to(A, B, repair=True)
    form = ResponseFormat(kind="json_schema", schema=msgspec.Raw(b"{}"))
    chat = msgspec.structs.replace(formed.body.chat, response_format=form)
    held = msgspec.structs.replace(formed, body=Body(chat=chat))
    for asked in (house.to(A, B, hedge=0.0), held):
        assert house.run(house.ask(asked)) == "late"
        assert outcomes(asked) == [(A, "ok")]
    house.provider.on(B, "soon")
    assert house.run(house.ask(house.to(A, B, repair=True))) == "soon", "no form was asked for"


def test_an_unknown_target_is_waited_for() -> None:
    """With fewer than `ENOUGH` times nobody knows what slow is."""
    house = House()
    house.provider.on(A, after(10.0, "late"))
    asked = request(A, B, house=house, hedge=0.5)
    assert house.run(house.ask(asked)) == "late"
    assert outcomes(asked) == [(A, "ok")]


def test_a_failure_of_one_leaves_the_other() -> None:
    """Whichever fails, the other's answer is given; the levels behind are asked when both have failed."""
    house = Slow()
    house.provider.on(A, after(2.0, DEAD))
    house.provider.on(B, after(5.0, "well"))
    asked = house.to(A, B)
    assert house.run(house.ask(asked)) == "well"
    assert outcomes(asked) == [(A, "error"), (B, "ok")]
    house.provider.on(A, after(3.0, "well"))
    house.provider.on(B, DEAD)
    asked = house.to(A, B, C)
    assert house.run(house.ask(asked)) == "well"
    assert outcomes(asked) == [(A, "ok"), (B, "error")]
    house.provider.on(A, after(2.0, DEAD))
    house.provider.on(B, after(2.0, DEAD))
    asked = house.to(A, B, C)
    house.run(house.ask(asked))
    assert outcomes(asked) == [(A, "error"), (B, "error"), (C, "ok")]


def test_all_dead_is_one_error() -> None:
    """It lists both that were asked at once."""
    house = Slow()
    house.provider.on(A, after(2.0, DEAD))
    house.provider.on(B, DEAD)
    with pytest.raises(AllTargetsFailed) as caught:
        house.run(house.ask(house.to(A, B)))
    assert [str(attempt.target) for attempt in caught.value.attempts] == [A, B]


def test_what_ends_the_whole_ends_it() -> None:
    """The first target's word that the request is filtered is not overruled by a target that would answer."""
    house = Slow()
    house.provider.on(A, after(2.0, ContentFiltered("no", http=400)))
    house.provider.on(B, after(9.0, "yes"))
    asked = house.to(A, B)
    with pytest.raises(ContentFiltered):
        house.run(house.ask(asked))
    assert house.clock.now() == 2.0
    assert outcomes(asked) == [(A, "error"), (B, "cancelled")]
    house.provider.on(A, after(4.0, "yes"))
    house.provider.on(B, ContentFiltered("no", http=400))
    assert house.run(house.ask(house.to(A, B))) == "yes"


def test_who_cannot_serve_is_not_asked_as_a_second() -> None:
    """The next level that fits is."""
    house = Slow(misfits={B: Misfit(Unsupported(f"{B} has no tools"))})
    house.provider.on(A, after(10.0, "late"))
    house.provider.on(C, "soon")
    asked = house.to(A, B, C)
    assert house.run(house.ask(asked)) == "soon"
    assert house.provider.targets == [A, C]


def test_extra_calls_are_limited() -> None:
    """When every call is slow, as in an outage, the share holds, beside what was saved up."""
    house = Slow()
    house.provider.on(A, always=after(1.5, "late"))
    house.provider.on(B, always=after(0.1, "soon"))
    extra = 0
    for _ in range(400):
        asked = house.to(A, B)
        house.run(house.ask(asked))
        extra += len(asked.call.attempts) - 1
    assert BURST <= extra <= BURST + 0.05 * 400 + 1


def test_it_learns() -> None:
    """A target that has become slow is given its time again."""
    house = Slow()
    house.provider.on(A, always=after(3.0, "slow"))
    house.provider.on(B, always=after(0.1, "soon"))
    for _ in range(150):
        house.run(house.ask(house.to(A, B)))
    asked = house.to(A, B)
    assert house.run(house.ask(asked)) == "slow"
    assert outcomes(asked) == [(A, "ok")]


@pytest.mark.parametrize("turns", range(14))
@pytest.mark.parametrize("at", [0.5, 1.0, 1.2])
def test_leaving_at_any_point_leaves_nothing(turns: int, at: float) -> None:
    """Before the second is asked, meanwhile, and as one of them wins: nothing stays open, every attempt is booked."""
    house = Slow()
    house.provider.on(A, after(1.2, "late"))
    house.provider.on(B, after(0.2, "soon"))
    asked = house.to(A, B, stream=True)

    async def main() -> None:
        task = asyncio.ensure_future(house.handle(asked))
        await house.clock.sleep(at)
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  (one turn)
        task.cancel()
        (left,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(left, BaseException):
            await left.aclose()

    house.run(main())
    assert house.provider.open_streams == 0
    assert all(attempt.outcome != "pending" for attempt in asked.call.attempts)


def test_a_silent_target_at_the_deadline() -> None:
    """Both are silent: one error in time."""
    house = Slow()
    house.provider.default = Hang()
    asked = house.to(A, B, deadline_s=10.0)
    with pytest.raises(AllTargetsFailed):
        house.run(house.ask(asked))
    assert house.clock.now() <= 10.0
    assert house.provider.open_streams == 0


def test_the_tail_is_halved_for_five_percent() -> None:
    """A lognormal body with 3 % of calls ten times slower: the 99th percentile of first content at least halves."""

    def times(hedge: float) -> tuple[float, float]:
        chance = random.Random(5)
        house = House()

        def latency() -> float:
            body = chance.lognormvariate(0.0, 0.3)
            return body * 10.0 if chance.random() < 0.03 else body

        async def main() -> tuple[float, float]:
            took, calls = [], 0
            for _ in range(2000):
                house.provider.on(A, always=after(latency(), "a"))
                house.provider.on(B, always=after(latency(), "b"))
                asked = request(A, B, house=house, hedge=hedge, stream=True)
                began = house.clock.now()
                stream = await house.handle(asked)
                took.append(house.clock.now() - began)
                await stream.aclose()
                calls += len(asked.call.attempts)
            usual = sorted(took[100:])  # once it has learned
            return usual[math.ceil(0.99 * len(usual)) - 1], calls / len(took) - 1.0

        found: tuple[float, float] = house.run(main())
        return found

    plain, nothing = times(0.0)
    hedged, extra = times(0.05)
    assert nothing == 0.0
    assert hedged <= plain / 2
    assert extra <= 0.05


@given(st.lists(st.booleans(), max_size=300), st.floats(0.001, 0.5))
def test_the_bucket_never_gives_more_than_was_earned(steps: list[bool], share: float) -> None:
    """Whatever the order of calls and extra calls."""
    hedging, calls, extra = Hedging(), 0, 0
    for is_call in steps:
        if is_call:
            hedging.earn("r", share)
            calls += 1
        else:
            extra += hedging.spend("r")
    assert extra <= calls * share + 1e-6


@given(st.lists(st.floats(0.0, 1e6), min_size=ENOUGH, max_size=150), st.floats(0.01, 0.5))
def test_the_patience_is_a_quantile(times: list[float], share: float) -> None:
    """No more than the share of the times exceed it, and it is one of them."""
    hedging, target = Hedging(), Target("a", "b")
    for seconds in times:
        hedging.seen(target, True, seconds)
    found = hedging.patience(target, True, share)
    assert found in times
    assert sum(seconds > found for seconds in times) <= share * len(times) + 1e-9
    assert hedging.patience(target, False, share) is None
