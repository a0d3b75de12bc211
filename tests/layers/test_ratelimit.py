"""Rate limits as a layer: whose they are, what counts, what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from headrace.call import Attempt, Call
from headrace.errors import RateLimited, StoreError
from headrace.gcra import Admission, Claim, Counters, Grant
from headrace.handler import Body, OneBatch, Request, Route, Stream
from headrace.layers.ratelimit import UNSAID, RateLimit
from headrace.testing import ManualClock
from headrace.types import Chat, Limits, Message, Target, Text, Usage


class Below:
    """What stands below the layer: it answers, fails, or waits for a day."""

    def __init__(self) -> None:
        self.asked = 0
        self.does: Callable[[Request], Any] | None = None

    async def __call__(self, request: Request, /) -> Stream:
        self.asked += 1
        if self.does is not None:
            await self.does(request)
        return OneBatch([])


class House:
    """The layer alone."""

    def __init__(self, users: dict[str, Limits] | None = None, **more: Any) -> None:
        self.clock = ManualClock()
        self.below = Below()
        self.layer = RateLimit(self.clock, users or {}, **more)
        self.handle = self.layer(self.below)

    def request(
        self,
        text: str = "hi",
        *,
        key: Limits | None = None,
        route: Limits | None = None,
        max_tokens: int | None = None,
        max_output: int | None = None,
        **call: Any,
    ) -> Request:
        chat = Chat(
            model="m", messages=(Message(role="user", content=(Text(text=text),)),), max_tokens=max_tokens
        )
        return Request(
            body=Body(chat=chat),
            route=Route(name="r", cascade=(), limits=route, max_output_tokens=max_output),
            call=Call(id="req", started_at=0.0, started_wall=0.0, **{"key_id": "k", **call}),
            stream=False,
            limits=key,
        )

    def ask(
        self, request: Request, used: int | None = None, *, estimated: bool = False
    ) -> RateLimited | None:
        """Ask and end; `used` tokens by one attempt."""

        async def main() -> RateLimited | None:
            try:
                await self.handle(request)
            except RateLimited as error:
                return error
            if used is not None:
                attempt = Attempt(number=1, target=Target("a", "b"), started_at=0.0, started_wall=0.0)
                attempt.usage, attempt.estimated = Usage(input_tokens=used), estimated
                request.call.attempts.append(attempt)
            request.call.end(200, self.clock.now())
            return None

        return asyncio.run(main())


def test_nothing_stands_in_the_way_of_those_without_limits() -> None:
    """No record, no counter, no coroutine of its own."""
    house = House()
    request = house.request()
    assert house.ask(request) is None
    assert request.call.limits == () and request.call.on_end == []
    assert house.layer.counters._counters == {}


@pytest.mark.parametrize("of", ["key", "route", "user"])
def test_each_level_refuses(of: str) -> None:
    """The second request within a minute's share is refused, by name, with the wait; nothing below is asked."""
    limits = Limits(rpm=1)
    house = House({"u": limits} if of == "user" else None)
    more: dict[str, Any] = {"user": "u"} if of == "user" else {of: limits}
    assert house.ask(house.request(**more)) is None
    error = house.ask(house.request(**more))
    assert error is not None
    name = {"key": "key k", "route": "route r", "user": "user u"}[of]
    assert str(error) == f"{name} may make 1 requests a minute; ask again in 60 s"
    assert error.retry_after_s == 60.0
    assert house.below.asked == 1
    house.clock.advance(60)
    assert house.ask(house.request(**more)) is None


def test_a_star_is_for_each_user_who_has_none() -> None:
    """Each has a counter of his own."""
    house = House({"*": Limits(rpm=1), "big": Limits(rpm=2)})
    for user in ("a", "b", "big", "big"):
        assert house.ask(house.request(user=user)) is None
    for user in ("a", "b", "big"):
        assert house.ask(house.request(user=user)) is not None
    assert house.ask(house.request()) is None


def test_tokens_are_settled() -> None:
    """What was not used comes back; an answer that asked nobody gives all back and counts as a request."""
    house, limits = House(), Limits(rpm=100, tpm=10_000)

    def left() -> list[int]:
        request = house.request(key=limits)
        assert house.ask(request) is None  # from the cache: no attempt
        return [one.left for one in request.call.limits]  # type: ignore[attr-defined]

    requests, tokens = left()
    assert (requests, left()) == (99, [98, tokens])
    assert house.ask(house.request(key=limits), used=500) is None
    assert left() == [96, tokens - 500]
    assert house.layer.counters.open == 0


def test_what_nobody_reported_stays_reserved() -> None:
    """An attempt whose usage is an estimate is booked at what was reserved, at least."""
    house, limits = House(), Limits(tpm=10_000)
    assert house.ask(house.request(key=limits, max_tokens=6_000), used=1, estimated=True) is None
    error = house.ask(house.request(key=limits, max_tokens=6_000))
    assert error is not None and "are left and this request may take" in str(error)


@pytest.mark.parametrize(
    ("asked", "route", "output"), [(None, None, UNSAID), (50, None, 50), (50, 20, 20), (None, 30, 30)]
)
def test_what_is_reserved(asked: int | None, route: int | None, output: int) -> None:
    """The input's upper bound, and the smaller of the caller's and the route's limit of output."""
    house = House()
    bare = house.request(key=Limits(tpm=10**6), max_tokens=1)
    request = house.request(key=Limits(tpm=10**6), max_tokens=asked, max_output=route)
    assert house.ask(bare) is None and house.ask(request) is None
    (one,), (other,) = bare.call.limits, request.call.limits
    assert one.left - other.left == output - 1  # type: ignore[attr-defined]


def test_too_large_for_the_limit() -> None:
    """An input that a minute never holds is refused for good; an output limit above it is not: it takes the whole minute."""
    house = House()
    error = house.ask(house.request("word " * 500, key=Limits(tpm=100)))
    assert error is not None and error.retry_after_s is None
    assert "raise its tpm" in str(error)
    request = house.request(key=Limits(tpm=100), max_tokens=32_000)
    assert house.ask(request) is None
    assert [one.left for one in request.call.limits] == [0]  # type: ignore[attr-defined]


def test_our_own_calls_are_nobodys_requests() -> None:
    """A summary or a judge is not counted."""
    house = House()
    for _ in range(3):
        assert house.ask(house.request(key=Limits(rpm=1), purpose="summary")) is None


def test_a_request_that_is_cancelled_gives_its_tokens_back() -> None:
    """Nothing stays reserved, wherever it is cancelled."""
    house = House()

    async def main() -> None:
        async def for_ever(_: Request) -> None:
            arrived.set()
            await asyncio.Event().wait()

        arrived = asyncio.Event()
        house.below.does = for_ever
        request = house.request(key=Limits(rpm=10, tpm=5_000))
        task = asyncio.create_task(house.handle(request))
        await arrived.wait()
        assert house.layer.counters.open == 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        request.call.end(499, house.clock.now())

    asyncio.run(main())
    assert house.layer.counters.open == 0
    house.below.does = None
    after = house.request(key=Limits(rpm=10, tpm=5_000), max_tokens=4_900)
    assert house.ask(after) is None


class Common:
    """Counters that two layers share, until they break."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.broken = False

    async def admit(self, claims: Sequence[Claim], now: int) -> Admission:
        if self.broken:
            raise StoreError("gone")
        return self.counters.admit(claims, now)

    def settle_rates(self, settled: Sequence[tuple[Grant, int]], now: int) -> None:
        self.counters.settle(settled, now)


def test_workers_share_and_fall_back_to_a_part() -> None:
    """Two of them let in what the limit says together; while the store is down each lets in its half."""
    common = Common()
    houses = [House(shared=common, workers=2) for _ in range(2)]
    limits = Limits(rpm=4)

    def admitted() -> int:
        return sum(house.ask(house.request(key=limits)) is None for _ in range(5) for house in houses)

    assert admitted() == 4
    assert common.counters.open == 0
    common.broken = True
    assert admitted() == 4
    assert all(house.layer.counters.open == 0 for house in houses)
    common.broken = False
    assert admitted() == 0
