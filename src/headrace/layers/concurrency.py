"""Holds a deployment to its number of requests at a time: a short line before it, by priority, and a clear no beyond that.

`Slots` decides and is pure but for the futures that wait in it. A slot is held until the attempt's real end, of a stream the end of the
stream. Nobody waits longer than a wait may be, and the line has an end: who finds it full is told so at once, or takes the place of
somebody of a lower class.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.call import Attempt
from headrace.clock import Clock, timeout_at
from headrace.errors import AtCapacity
from headrace.handler import Handler, Pending, Request, Stream
from headrace.types import Deployment

__all__ = ["CLASSES", "Concurrency", "Slots"]

CLASSES = ("high", "normal", "low")
"""Priorities, the first served first."""

RETRY_AFTER_S = 1.0
"""What callers are told who find no place: about the time in which one answer ends and another begins."""


class Slots:
    """The slots of one deployment and the line before it.

    Args:
        size: Requests at a time, 1 or more.
        line: How many may wait, 0 or more.
    """

    __slots__ = ("_waiting", "busy", "line", "size")

    def __init__(self, size: int, line: int) -> None:
        self.size = size
        self.line = line
        self.busy = 0
        self._waiting: tuple[deque[asyncio.Future[bool]], ...] = tuple(deque() for _ in CLASSES)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting))

    @property
    def full(self) -> bool:
        """Whether the next one would have to wait."""
        return self.busy >= self.size

    def take(self) -> bool:
        """A slot, if one is free and nobody waits for it."""
        if self.full or self.waiting:
            return False
        self.busy += 1
        return True

    def line_up(self, priority: str, place: asyncio.Future[bool]) -> bool:
        """Wait in line: `place` becomes True with a slot, False when somebody of a higher class took the place. False if the line is
        full of those who are no lower."""
        mine = CLASSES.index(priority)
        if self.waiting >= self.line:
            lower = next((line for line in reversed(self._waiting[mine + 1 :]) if line), None)
            if lower is None:
                return False
            _tell(lower.pop(), False)
        self._waiting[mine].append(place)
        return True

    def leave(self, place: asyncio.Future[bool]) -> None:
        """Whoever waits there does so no longer; a slot that was just given goes to the next."""
        for line in self._waiting:
            if place in line:
                line.remove(place)
                return
        if place.done() and not place.cancelled() and place.result():
            self.release()

    def release(self) -> None:
        """A slot is free: the first of the highest class has it."""
        for line in self._waiting:
            while line:
                if _tell(line.popleft(), True):
                    return
        self.busy -= 1


def _tell(place: asyncio.Future[bool], given: bool) -> bool:
    """Whether there was still somebody to tell: who has just been cancelled is not."""
    if place.done():
        return False
    place.set_result(given)
    return True


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Raises `AtCapacity` in place of an attempt that found no slot in time."""

    clock: Clock
    slots: dict[str, Slots] = field(default_factory=dict)

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            place = request.deployment
            if place is None or not place.concurrency:
                return inner(request)
            return self._in_turn(inner, request, place)

        return handle

    async def _in_turn(self, inner: Handler, request: Request, place: Deployment) -> Stream:
        slots = self._of(place)
        if not slots.take():
            await self._wait(slots, place, request)
        attempt = request.attempt
        assert attempt is not None
        if attempt.outcome != "pending":  # left while it waited
            slots.release()
        else:
            attempt.on_end.append(lambda _: slots.release())
        return await inner(request)

    def full(self, place: Deployment) -> bool:
        """Whether a request there would have to wait."""
        return bool(place.concurrency) and self._of(place).full

    def states(self) -> Iterator[tuple[str, Slots]]:
        """The slots of every deployment that was asked and has a limit."""
        yield from self.slots.items()

    def _of(self, place: Deployment) -> Slots:
        slots = self.slots.get(place.name)
        if slots is None:
            line = place.concurrency if place.queue is None else place.queue
            slots = self.slots[place.name] = Slots(place.concurrency, line)
        return slots

    async def _wait(self, slots: Slots, place: Deployment, request: Request) -> None:
        now, attempt, route = self.clock.now(), request.attempt, request.route
        assert attempt is not None
        until = min(request.deadline, request.commit_by)
        if not request.last_level:
            until = min(until, now + route.max_wait_s)
        mine = asyncio.get_running_loop().create_future()
        why = f"{place.name} has {slots.busy} of {slots.size} requests under way and {slots.waiting} of {slots.line} waiting"
        if not slots.line_up(route.priority, mine):
            raise self._refused(attempt, why)
        given: bool | None = None
        try:
            async with timeout_at(self.clock, None if until == float("inf") else until):
                given = await mine
        except TimeoutError:
            why = f"no slot of {place.name} came free within {until - now:g} s"
        except BaseException:
            slots.leave(mine)
            raise
        if not given:
            slots.leave(mine)
            if given is False:
                why = f"the place in the line of {place.name} went to a request of a higher class"
            raise self._refused(attempt, why)
        attempt.started_at = self.clock.now()  # what was waited here is not the provider's silence
        attempt.started_wall = self.clock.wall()
        attempt.waited_s += attempt.started_at - now

    def _refused(self, attempt: Attempt, why: str) -> AtCapacity:
        error = AtCapacity(why, target=str(attempt.target), retry_after_s=RETRY_AFTER_S)
        attempt.cost = 0
        attempt.fail(error, self.clock.now(), "skipped")
        return error
