"""Requests at a time: slots, the line before them, who is served first and who is told no."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import AllTargetsFailed, AtCapacity, HeadraceError, ProviderUnavailable
from headrace.handler import Handler, Request, Route, collect, stack
from headrace.layers.balance import Balance
from headrace.layers.breaker import Breaker, CircuitState
from headrace.layers.cascade import Cascade
from headrace.layers.concurrency import CLASSES, Concurrency, Slots
from headrace.layers.deadline import Deadline
from headrace.layers.ledger import Ledger
from headrace.layers.retry import Retry
from headrace.layers.timeout import Timeout
from headrace.testing import ManualClock, ScriptedHandler, after, make_request, run
from headrace.types import Deployment, Target

T = Target("a", "one")


def place(name: str = "x", *, concurrency: int = 2, queue: int | None = 2) -> Deployment:
    """A deployment of the target."""
    return Deployment(
        name=name, provider="a", model="one", quota_domain=name, concurrency=concurrency, queue=queue
    )


class House:
    """The stack over a provider that takes ten seconds."""

    def __init__(self, *places: Deployment) -> None:
        self.clock = ManualClock()
        self.provider = ScriptedHandler(self.clock)
        self.provider.default = after(10.0, "answered")
        self.breaker = Breaker(self.clock)
        self.concurrency = Concurrency(self.clock)
        balance = Balance({("a", "one"): places}, lambda _, each: self.concurrency.full(each), lambda: 0.5)
        self.handle: Handler = stack(
            Deadline(self.clock),
            Cascade(self.clock, lambda *_: None, lambda *_: False),
            Retry(self.clock, lambda: 0.5, elsewhere=balance.elsewhere),
            Ledger(lambda *_: 1, lambda *_: None),
            balance,
            self.breaker,
            self.concurrency,
            Timeout(self.clock),
            handler=self.provider,
        )

    def request(self, priority: str = "normal", *, more: tuple[Target, ...] = (), **rules: Any) -> Request:
        """One of a route with that priority."""
        route = Route(name="r", cascade=(T, *more), priority=priority, **rules)
        return make_request(route=route, clock=self.clock, stream=rules.get("mid_stream") is not None)

    async def ask(self, request: Request) -> str | float:
        """When it was answered, or the kind of its error."""
        try:
            await collect(await self.handle(request))
        except HeadraceError as error:
            return error.kind
        return self.clock.now()

    def all(self, *requests: Request) -> list[str | float]:
        """All at once, in that order."""

        async def main() -> list[str | float]:
            return list(await asyncio.gather(*(self.ask(request) for request in requests)))

        found: list[str | float] = run(main(), self.clock)
        return found

    @property
    def slots(self) -> Slots:
        """Of the only deployment."""
        return self.concurrency.slots["x"]


def test_no_more_than_the_limit_at_a_time() -> None:
    """Two are asked, two wait for their turn, the fifth is told at once; afterwards all slots are free."""
    house = House(place())
    requests = [house.request() for _ in range(5)]
    assert house.all(*requests) == [10.0, 10.0, 20.0, 20.0, "all_targets_failed"]
    assert (house.slots.busy, house.slots.waiting) == (0, 0)
    refused = requests[-1].call.attempts[0]
    assert (refused.outcome, refused.error_kind, refused.cost) == ("skipped", "at_capacity", 0)
    assert "2 of 2 requests under way and 2 of 2 waiting" in (refused.error_message or "")
    assert requests[2].call.attempts[0].waited_s == 10.0


def test_a_full_house_is_a_clear_503() -> None:
    """With the time after which asking again makes sense, and nothing of it is held against the target."""
    house = House(place(concurrency=1, queue=0))

    async def main() -> None:
        first = asyncio.ensure_future(house.ask(house.request()))
        await house.clock.sleep(1.0)
        for _ in range(30):
            with pytest.raises(AllTargetsFailed) as caught:
                await house.handle(house.request())
            assert caught.value.http_status == 503
            assert caught.value.retry_after_s == 1.0
            assert isinstance(caught.value.errors[0], AtCapacity)
        assert await first == 10.0

    run(main(), house.clock)
    assert house.breaker.circuit("x").state(house.clock.now()) is CircuitState.CLOSED


def test_the_next_target_is_asked_instead_of_waiting_long() -> None:
    """Who can go elsewhere waits `max_wait` at most."""
    house = House(place(concurrency=1))
    house.provider.on("b/two", always="other")
    waiting = house.request(more=(Target("b", "two"),), max_wait_s=3.0)
    assert house.all(house.request(), waiting) == [10.0, 3.0]
    assert "no slot of x came free within 3 s" in (waiting.call.attempts[0].error_message or "")


def test_another_place_is_asked_before_anybody_waits() -> None:
    """A conversation leaves its place for one that has room."""
    house = House(place("x", concurrency=1), place("y", concurrency=1))
    assert house.all(*(house.request() for _ in range(3))) == [10.0, 10.0, 20.0]
    assert {attempt.busy for _, attempt in house.concurrency.states()} == {0}


def test_the_higher_class_is_served_first() -> None:
    """In each class in the order of arrival."""
    house = House(place(concurrency=1, queue=9))
    low, normal, high, late = (house.request(each) for each in ("low", "normal", "high", "high"))
    assert house.all(house.request(), low, normal, high, late) == [10.0, 50.0, 40.0, 20.0, 30.0]


def test_a_lower_class_is_shed_first() -> None:
    """In a full line the one that came last of the lowest class makes room; equals do not."""
    house = House(place(concurrency=1, queue=2))
    first, second, high, more = (house.request(each) for each in ("low", "low", "high", "low"))
    assert house.all(house.request(), first, second, high, more) == [
        10.0,
        30.0,
        "all_targets_failed",
        20.0,
        "all_targets_failed",
    ]
    assert "higher class" in (second.call.attempts[0].error_message or "")


def test_the_wait_is_not_the_providers_silence() -> None:
    """Limits on first content count from when it was asked."""
    house = House(place(concurrency=1))
    late = msgspec.structs.replace(house.request(first_content_s=12.0), stream=True)
    assert house.all(house.request(), late) == [10.0, 20.0]


def test_a_failure_gives_its_slot_back() -> None:
    """Whatever ends an attempt."""
    house = House(place(concurrency=1))
    house.provider.default = ProviderUnavailable("dead", http=503)
    assert house.all(house.request(breaker=False), house.request(breaker=False)) == ["all_targets_failed"] * 2
    assert (house.slots.busy, house.slots.waiting) == (0, 0)


def test_the_deadline_ends_the_wait() -> None:
    """Nobody waits for ever, also with nobody else to ask."""
    house = House(place(concurrency=1))
    assert house.all(house.request(), house.request(deadline_s=4.0)) == [10.0, "all_targets_failed"]


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("at", [1.0, 10.0])
def test_leaving_the_line_or_a_slot(turns: int, at: float) -> None:
    """Whoever leaves, also as a slot comes free, holds up nobody."""
    house = House(place(concurrency=1))

    async def main() -> None:
        tasks = [asyncio.ensure_future(house.ask(house.request())) for _ in range(3)]
        await house.clock.sleep(at)
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  (one turn)
        tasks[1].cancel()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(await tasks[2], float)

    run(main(), house.clock)
    assert (house.slots.busy, house.slots.waiting) == (0, 0)
    assert house.provider.open_streams == 0


@given(
    st.integers(1, 3),
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(["come", "go", "leave"]), st.sampled_from(CLASSES)), max_size=80),
)
def test_slots_are_never_lost_nor_given_twice(size: int, line: int, steps: list[tuple[str, str]]) -> None:
    """Whoever comes, goes or leaves the line: busy is who has a slot, at most `size`; waiting at most `line`; nobody waits while a slot
    is free."""
    slots = Slots(size, line)
    loop = asyncio.new_event_loop()
    held, waiting = 0, list[asyncio.Future[bool]]()
    try:
        for step, priority in steps:
            if step == "come":
                if slots.take():
                    held += 1
                else:
                    place = loop.create_future()
                    if slots.line_up(priority, place):
                        waiting.append(place)
            elif step == "go" and held:
                held -= 1
                slots.release()
            elif step == "leave" and waiting:
                place = waiting.pop()
                place.cancel()
                slots.leave(place)
            held += sum(place.done() and not place.cancelled() and place.result() for place in waiting)
            waiting = [place for place in waiting if not place.done()]
            assert slots.busy == held <= size
            assert slots.waiting == len(waiting) <= line
            assert not waiting or held == size
    finally:
        loop.close()
