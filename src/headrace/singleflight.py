"""One request upstream for any number of identical ones that are under way.

A flight is a task of its own, so that whoever started it may leave. Those on board get what has come so far and then what
comes; when the last has left, the flight is cancelled. It is the request of the one who started it, booked on that key. If it
fails before its first content, what happens to the others depends on whose failure it was: a refusal by the starter's own
budget or limit is nobody else's, and the next one starts on its own; a provider's failure is tried once more by the next one,
and then shared, or a hundred callers would fail one after the other; an error that the same request must meet again
(`RequestError`, a final rejection) is shared at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from headrace.call import Call
from headrace.clock import Clock, timeout_at
from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    ProviderRejected,
    Refused,
    RequestError,
    StreamBroken,
)
from headrace.handler import Handler, Request, Stream
from headrace.types import Batch, Frame, Target

__all__ = ["Flight", "Flights", "Passenger"]

SHARED_AFTER = 2
"""Failures of providers after which those who wait get the last one instead of a turn of their own."""


class Flight:
    """One request upstream and those who wait for it. `batches` is all that has come."""

    __slots__ = (
        "aboard",
        "batches",
        "deadline",
        "done",
        "error",
        "failures",
        "leader",
        "open",
        "stays",
        "task",
        "waiters",
    )

    def __init__(self, leader: Request, deadline: float, failures: int, stays: Callable[[], bool]) -> None:
        self.leader = leader
        self.stays = stays
        self.deadline = deadline
        self.failures = failures
        self.batches: list[Batch] = []
        self.open = False
        self.done = False
        self.error: BaseException | None = None
        self.aboard = 0
        self.task: asyncio.Task[None] | None = None
        self.waiters: set[asyncio.Future[None]] = set()

    def until(self, request: Request) -> float | None:
        """The deadline of a caller that is before the flight's own, which the layers below see to; else None."""
        return request.deadline if request.deadline < self.deadline else None

    def tell(self) -> None:
        """Wake everyone who waits for news."""
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def news(self) -> None:
        """Until `tell`."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.add(waiter)
        try:
            await waiter
        finally:
            self.waiters.discard(waiter)

    def leave(self) -> None:
        """One less on board; with none left the flight ends, unless it stays."""
        self.aboard -= 1
        ended = self.done or self.error is not None
        if self.aboard == 0 and not ended and self.task is not None and not self.stays():
            self.task.cancel()


def _ends() -> bool:
    return False


class Flights:
    """The flights under way, by key.

    `landed` of a flight is told once, when it has ended well: the leader's request and all batches. It must not raise.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._flights: dict[bytes, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: bytes) -> bool:
        return key in self._flights

    async def board(
        self,
        key: bytes,
        request: Request,
        inner: Handler,
        landed: Callable[[Request, list[Batch]], None],
        stays: Callable[[], bool] = _ends,
    ) -> tuple[Passenger, bool]:
        """A seat on the flight for `key`, once it has content; True if this request's flight it is. Where this request starts it, `stays` says
        whether it goes on once everybody has left.

        Raises:
            HeadraceError: What the flight failed with, where it is this caller's to get.
            DeadlineExceeded: This caller's own deadline passed.
        """
        failures = 0
        while True:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._start(key, request, inner, failures, landed, stays)
            flight.aboard += 1
            try:
                async with timeout_at(self._clock, flight.until(request)):
                    while not flight.open and flight.error is None:
                        await flight.news()
            except TimeoutError:
                flight.leave()
                raise DeadlineExceeded("the deadline passed before the answer began") from None
            except BaseException:
                flight.leave()
                raise
            if flight.open:
                return Passenger(flight, request, self._clock), leads
            flight.aboard -= 1
            error = flight.error
            assert error is not None
            if leads or _shared(error, flight.failures):
                raise error
            failures = flight.failures

    def _start(
        self,
        key: bytes,
        request: Request,
        inner: Handler,
        failures: int,
        landed: Callable[[Request, list[Batch]], None],
        stays: Callable[[], bool],
    ) -> Flight:
        deadline = request.deadline
        if request.timeout_s is not None:
            # Others may have more time than this one has: the flight may take what the route allows anyone.
            deadline = max(deadline, self._clock.now() + request.route.deadline_s)
        flight = Flight(request, deadline, failures, stays)
        self._flights[key] = flight
        task = asyncio.get_running_loop().create_task(self._fly(key, flight, inner, landed))
        flight.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(
        self,
        key: bytes,
        flight: Flight,
        inner: Handler,
        landed: Callable[[Request, list[Batch]], None],
    ) -> None:
        request = flight.leader
        stream: Stream | None = None
        try:
            stream = await inner(msgspec.structs.replace(request, deadline=flight.deadline))
            async for batch in stream:
                flight.batches.append(batch)
                flight.open = True
                flight.tell()
            flight.done = True
            landed(request, flight.batches)
        except asyncio.CancelledError:
            flight.error = StreamBroken("everyone who waited for the answer has left")
            raise
        except HeadraceError as error:
            flight.error = error
            if not isinstance(error, Refused):
                flight.failures += 1
        except BaseException as error:
            flight.error = error
            flight.failures = SHARED_AFTER
            if not isinstance(error, Exception):
                raise
        finally:
            # Nobody boards a flight that has ended: what it brought is in the cache, or is not worth having.
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.open = flight.open or flight.done
            flight.tell()
            if stream is not None:
                await stream.aclose()

    async def aclose(self) -> None:
        """Cancel what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _shared(error: BaseException, failures: int) -> bool:
    """Whether those who wait get `error` too, instead of asking on their own."""
    if isinstance(error, Refused):
        return False
    return isinstance(error, RequestError | ProviderRejected) or failures >= SHARED_AFTER


def _own(error: BaseException) -> BaseException:
    """The error for one caller: what a face writes into a `StreamBroken` is that caller's."""
    if isinstance(error, StreamBroken):
        return StreamBroken(error.message, target=error.target, cause=error.cause)
    return error


class Passenger:
    """One caller's stream of a flight."""

    __slots__ = ("_at", "_clock", "_closed", "_error", "_flight", "_plain", "_request", "_timer")

    def __init__(self, flight: Flight, request: Request, clock: Clock) -> None:
        leader = flight.leader
        self._flight = flight
        self._request = request
        self._at = 0
        self._closed = False
        self._error: BaseException | None = None
        # The bytes on the frames were made for the leader's dialect, with the usage that the leader asked for.
        self._plain = (request.stream, request.wants_usage, request.body.dialect) != (
            leader.stream,
            leader.wants_usage,
            leader.body.dialect,
        )
        self._clock = clock
        until = flight.until(request)
        self._timer = None if until is None else clock.call_at(until, self._expire)

    @property
    def target(self) -> Target | None:
        """Who answers."""
        return self._flight.leader.call.target

    @property
    def leading(self) -> Call:
        """The call of whoever started the flight."""
        return self._flight.leader.call

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        flight = self._flight
        while not self._closed:
            if self._error is not None:
                await self.aclose()
                raise self._error
            if self._at < len(flight.batches):
                batch = flight.batches[self._at]
                self._at += 1
                return [Frame(frame.events) for frame in batch] if self._plain else batch
            if flight.done or flight.error is not None:
                await self.aclose()
                if flight.error is not None:
                    raise _own(flight.error)
                break
            await flight.news()
        raise StopAsyncIteration

    def _expire(self) -> None:
        if not self._flight.done:
            self.abort(StreamBroken("the deadline passed before the answer was whole"))

    def abort(self, error: BaseException) -> None:
        """See `Stream`: only this caller's stream ends."""
        if not self._closed and not (self._flight.done and self._at >= len(self._flight.batches)):
            self._error = error
            self._flight.tell()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._flight.leave()
            self._flight.tell()
