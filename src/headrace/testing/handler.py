"""A provider that lives in memory: a handler that plays a script, for tests of layers in virtual time.

It stands where a real provider stands, keeps the record of the attempt as one does, and returns at the first content.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import msgspec

from headrace.call import Attempt, Call, Outcome
from headrace.clock import Clock
from headrace.errors import HeadraceError, Malformed, ProviderError, ProviderTimeout, StreamBroken
from headrace.handler import Body, OneBatch, Request, Route, Stream, assemble, is_content, reply_events
from headrace.testing.answers import Answer
from headrace.types import (
    Batch,
    Chat,
    Complete,
    Delta,
    End,
    Event,
    Finish,
    Frame,
    Message,
    Reply,
    Start,
    Target,
    Text,
    UsageReport,
)

__all__ = ["After", "Hang", "Play", "Scene", "ScriptedHandler", "Wait", "after", "make_request"]


@dataclass(frozen=True, slots=True)
class Wait:
    """A step of `Play`: nothing for `seconds` (`math.inf`: for ever)."""

    seconds: float


class Play:
    """An answer step by step: events, `Wait`s, and at the end perhaps the error that cuts it.

    An error after the first content becomes a `StreamBroken` with that cause, as a real provider's does, and so does an
    end without a `Finish`.
    """

    __slots__ = ("steps",)

    def __init__(self, *steps: Event | Wait | HeadraceError) -> None:
        self.steps = steps


@dataclass(frozen=True, slots=True)
class After:
    """What happens after `seconds` of silence."""

    seconds: float
    scene: Scene


def after(seconds: float, scene: Scene) -> After:
    """`scene`, after `seconds` of silence."""
    return After(seconds, scene)


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing, ever; until the caller cancels."""


Scene: TypeAlias = "str | Reply | HeadraceError | Play | After | Hang | Callable[[Request], Scene]"
"""What becomes of a request: text or a `Reply` (an answer), an error, steps, or a function that chooses."""


class ScriptedHandler:
    """A `headrace.handler.Handler` that plays scenes.

    What a request gets is the next of the scenes set for its target with `on`; else what `on` says to do always; else the next
    of those queued with `script`; else `default`.

    Args:
        clock: What waits wait on.
        scenes: As for `script`.

    Attributes:
        requests: What was asked, in order.
        times: When each of them arrived, on the clock's `now()`.
        default: The scene when nothing else is set; at first the answer `ok`.
        open_streams: Calls and streams that are going on: neither ended, failed, cancelled nor closed. A test asserts 0.
        peak_streams: The most that were open at once.
    """

    def __init__(self, clock: Clock, *scenes: Scene) -> None:
        self.clock = clock
        self.requests: list[Request] = []
        self.times: list[float] = []
        self.default: Scene = "ok"
        self.open_streams = 0
        self.peak_streams = 0
        self._queue: deque[Scene] = deque(scenes)
        self._rules: dict[str, deque[Scene]] = {}
        self._always: dict[str, Scene] = {}

    def script(self, *scenes: Scene) -> None:
        """Queue scenes: one for each of the next requests."""
        self._queue.extend(scenes)

    def on(self, target: str, *scenes: Scene, always: Scene | None = None) -> None:
        """For requests to `target` (`provider/model`): queue `scenes`, and once they are spent play `always`."""
        self._rules.setdefault(target, deque()).extend(scenes)
        if always is not None:
            self._always[target] = always

    @property
    def targets(self) -> list[str]:
        """Who was asked, in order."""
        return [str(request.target) for request in self.requests]

    @property
    def unused(self) -> int:
        """How many queued scenes no request has taken yet."""
        return len(self._queue) + sum(map(len, self._rules.values()))

    async def __call__(self, request: Request, /) -> Stream:
        self.requests.append(request)
        self.times.append(self.clock.now())
        stream = _ScriptedStream(_steps(self._choose(request), request), self.clock, request, self._closed)
        self.open_streams += 1
        self.peak_streams = max(self.peak_streams, self.open_streams)
        try:
            if request.stream:
                await stream.commit()
                return stream
            return await stream.whole()
        except BaseException:
            stream.release()
            raise

    def _choose(self, request: Request) -> Scene:
        target = str(request.target)
        if self._rules.get(target):
            return self._rules[target].popleft()
        if target in self._always:
            return self._always[target]
        return self._queue.popleft() if self._queue else self.default

    def _closed(self) -> None:
        self.open_streams -= 1


def _steps(scene: Scene, request: Request) -> list[Event | Wait | HeadraceError]:
    match scene:
        case str():
            return list(_spoken(Reply(content=(Text(text=scene),)), request))
        case Reply():
            return list(_spoken(scene, request))
        case HeadraceError():
            return [scene]
        case Play(steps=steps):
            return list(steps)
        case After(seconds=seconds, scene=inner):
            return [Wait(seconds), *_steps(inner, request)]
        case Hang():
            return [Wait(math.inf)]
        case _:
            return _steps(scene(request), request)


def _spoken(reply: Reply, request: Request) -> list[Event]:
    """The events of `reply`, its text cut into words as a stream has it, under the target's name."""
    if not reply.model and request.target is not None:
        reply = msgspec.structs.replace(reply, model=request.target.model)
    events: list[Event] = []
    for event in reply_events(reply):
        match event:
            case Delta(index=index, kind="text" as kind, text=text):
                events += [Delta(index, kind, piece) for piece in Answer(text).pieces]
            case _:
                events.append(event)
    return events


class _ScriptedStream:
    """The steps of one answer."""

    def __init__(
        self,
        steps: Sequence[Event | Wait | HeadraceError],
        clock: Clock,
        request: Request,
        on_close: Callable[[], None],
    ) -> None:
        self._steps = deque(steps)
        self._clock = clock
        self._target = str(request.target)
        self._attempt: Attempt | None = request.attempt
        self._on_close = on_close
        self._held: Batch = []
        self._finished = False
        self._over = False
        self._error: HeadraceError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def commit(self) -> None:
        """Play up to the first content, and hold it."""
        while True:
            event = await self._next()
            if event is None:
                raise Malformed("the answer ended before its first content", target=self._target)
            self._held.append(Frame((event,)))
            if is_content(event):
                self._committed()
                self._settle(event)
                return

    async def whole(self) -> Stream:
        """Play to the end: a buffered answer."""
        events: list[Event] = []
        while (event := await self._next()) is not None:
            events.append(event)
        if not self._finished:
            raise Malformed("the answer is cut", target=self._target)
        self._committed()
        self._end("ok")
        return OneBatch([Frame((Complete(assemble(events)),))])

    def _committed(self) -> None:
        if self._attempt is not None:
            self._attempt.first_content_s = self._clock.now() - self._attempt.started_at
            self._attempt.last_content_at = self._clock.now()
            self._attempt.reading = False

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self._held:
            batch, self._held = self._held, []
            return batch
        if self._error is not None:
            raise self._error
        if self._over:
            raise StopAsyncIteration
        if self._attempt is not None:
            self._attempt.reading = True
            self._attempt.last_content_at = self._clock.now()
        try:
            event = await self._next()
            if event is None and not self._over and not self._finished:
                raise Malformed(
                    "the answer was cut off: no finish reason before its end", target=self._target
                )
        except HeadraceError as error:
            raise self._broken(error) from error
        if self._attempt is not None:
            self._attempt.reading = False
        if event is None:
            self._end("ok")
            raise StopAsyncIteration
        self._settle(event)
        return [Frame((event,))]

    async def _next(self) -> Event | None:
        """The next event; None at the end, or when closed meanwhile."""
        while self._steps and not self._over:
            step = self._steps.popleft()
            match step:
                case Wait(seconds=seconds):
                    await self._pause(seconds)
                case HeadraceError():
                    raise copy.copy(step)  # whoever catches it writes into it
                case _:
                    self._note(step)
                    return step
        return None

    async def _pause(self, seconds: float) -> None:
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        timer = None
        if not math.isinf(seconds):
            timer = self._clock.call_at(self._clock.now() + seconds, partial(_wake, waiter))
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _note(self, event: Event) -> None:
        match event:
            case Finish():
                self._finished = True
            case Complete():
                self._finished = True
        if self._attempt is None:
            return
        match event:
            case Start(model=model):
                self._attempt.model = model or self._attempt.model
            case UsageReport(usage=usage):
                self._attempt.usage = usage
            case Finish(reason=reason):
                self._attempt.finish = reason
            case Complete(reply=reply):
                self._attempt.usage, self._attempt.finish = reply.usage, reply.finish
        if is_content(event):
            self._attempt.last_content_at = self._clock.now()

    def _settle(self, event: Event) -> None:
        """With the terminal marker the attempt is over, whether or not somebody reads on."""
        if isinstance(event, End | Complete) and self._finished:
            self._end("ok")

    def _broken(self, cause: HeadraceError) -> HeadraceError:
        error = cause
        if isinstance(cause, ProviderError):
            message = f"{self._target} died after the answer had begun: {cause.message}"
            error = StreamBroken(message, target=self._target, cause=cause)
            if self._attempt is not None:
                self._attempt.fail(cause, self._clock.now(), "broken")
        self._error = error
        self._end("broken")
        return error

    def _end(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        self._steps.clear()
        self._on_close()
        if self._attempt is not None:
            self._attempt.end(outcome, self._clock.now())

    def release(self) -> None:
        """The call has failed; whoever made the attempt writes down why."""
        if not self._over:
            self._over = True
            self._on_close()

    def abort(self, error: BaseException) -> None:
        """End now, as a real provider's stream does: the reader gets a `StreamBroken` with `error` as its cause."""
        if self._over or self._error is not None:
            return
        cause = (
            error if isinstance(error, HeadraceError) else ProviderTimeout(str(error), target=self._target)
        )
        if self._waiter is None:
            self._broken(cause)
        elif not self._waiter.done():
            self._waiter.set_exception(cause)

    async def aclose(self) -> None:
        self._held = []
        self._end("cancelled")
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def make_request(
    text: str = "Hello",
    *,
    targets: Sequence[str] = ("fake/model",),
    attempts: int = 1,
    stream: bool = False,
    deadline: float = math.inf,
    clock: Clock | None = None,
    route: Route | None = None,
) -> Request:
    """A request as it enters the stack.

    Args:
        text: What the user says.
        targets: The cascade, each `provider/model`; the first is also the request's `target`, for layers below the cascade.
        attempts: How often each may be tried.
        stream: Whether a stream is asked for.
        deadline: On the clock's `now()` scale.
        clock: Stamps the call and the attempt; 0 without one.
        route: Instead of one with the defaults around `targets`.
    """
    now = 0.0 if clock is None else clock.now()
    wall = 0.0 if clock is None else clock.wall()
    pairs = [name.split("/", 1) for name in targets]
    cascade = tuple(Target(provider, model, attempts) for provider, model in pairs)
    chosen = Route(name="test", cascade=cascade) if route is None else route
    target = chosen.cascade[0]
    call = Call(
        id="req_test", started_at=now, started_wall=wall, route=chosen.name, model=chosen.name, stream=stream
    )
    chat = Chat(
        model=chosen.name, messages=(Message(role="user", content=(Text(text=text),)),), stream=stream
    )
    attempt = Attempt(number=1, target=target, started_at=now, started_wall=wall)
    return Request(
        body=Body(chat=chat),
        route=chosen,
        call=call,
        stream=stream,
        deadline=deadline,
        target=target,
        attempt=attempt,
    )
