"""ScriptedHandler: scenes by target, the commit point, broken streams, and no stream left open."""

from __future__ import annotations

import asyncio
import math

import pytest

from headrace.errors import HeadraceError, Malformed, ProviderOverloaded, ProviderTimeout, StreamBroken
from headrace.handler import Handler, Request, collect
from headrace.testing import Hang, ManualClock, Play, Scene, ScriptedHandler, Wait, after, make_request, run
from headrace.types import (
    BlockStart,
    Delta,
    End,
    Finish,
    Frame,
    Ping,
    Reply,
    Start,
    Target,
    Text,
    ToolCall,
    Usage,
    UsageReport,
)

BEGIN = (Start("id", "m"), BlockStart(0, Text(text="")), Delta(0, "text", "half "))


def test_scenes_in_order_then_the_default() -> None:
    """Queued scenes are taken first, then the default answers."""
    clock = ManualClock()
    handler = ScriptedHandler(clock, "one", Reply(content=(Text(text="two"),)))
    as_handler: Handler = handler

    async def main() -> None:
        said = [(await collect(await as_handler(make_request(stream=s)))).text for s in (False, True, True)]
        assert said == ["one", "two", "ok"]

    run(main(), clock)
    assert (handler.open_streams, handler.unused, len(handler.requests)) == (0, 0, 3)


def test_scenes_by_target() -> None:
    """`on` queues for one target, `always` stays, and others take the common queue."""
    clock = ManualClock()
    handler = ScriptedHandler(clock)
    handler.on("a/x", "first", always=ProviderOverloaded("full", http=529))
    handler.on("b/y", always=lambda request: f"from {request.target}")

    async def main() -> None:
        a, b = make_request(targets=["a/x"]), make_request(targets=["b/y"])
        assert (await collect(await handler(a))).text == "first"
        for _ in range(2):
            with pytest.raises(ProviderOverloaded) as caught:
                await handler(a)
            assert caught.value.http == 529
        assert (await collect(await handler(b))).text == "from b/y"

    run(main(), clock)
    assert handler.targets == ["a/x", "a/x", "a/x", "b/y"]
    assert handler.open_streams == 0


def test_an_error_is_fresh_each_time() -> None:
    """An error that is played twice is two objects, since whoever catches it writes into it."""
    clock = ManualClock()
    handler = ScriptedHandler(clock)
    handler.default = ProviderOverloaded("full", retry_after_s=2.0)

    async def main() -> list[ProviderOverloaded]:
        caught = []
        for _ in range(2):
            with pytest.raises(ProviderOverloaded) as info:
                await handler(make_request())
            caught.append(info.value)
        return caught

    first, second = run(main(), clock)
    assert first is not second
    assert first.retry_after_s == second.retry_after_s == 2.0


@pytest.mark.parametrize("stream", [False, True])
def test_waits_pass_on_the_clock(stream: bool) -> None:
    """`after` delays the first content; a buffered call also waits for the rest, a stream's reader does."""
    clock = ManualClock()
    handler = ScriptedHandler(clock, after(3, Play(*BEGIN, Wait(4), Finish("stop"), End())))

    async def main() -> tuple[float, Reply]:
        answer = await handler(make_request(stream=stream, clock=clock))
        committed = clock.now()
        return committed, await collect(answer)

    committed, reply = run(main(), clock)
    assert committed == (3 if stream else 7)
    assert clock.now() == 7
    assert (reply.text, reply.finish) == ("half ", "stop")


def test_events_of_a_reply_are_whole() -> None:
    """A scripted Reply comes back from its stream as it was, text in several deltas."""
    clock = ManualClock()
    reply = Reply(
        id="r1",
        model="m",
        content=(Text(text="three short words"), ToolCall(id="c1", name="f", arguments='{"a":1}')),
        finish="tool_calls",
        usage=Usage(input_tokens=3, output_tokens=4),
    )
    handler = ScriptedHandler(clock, reply, reply)

    async def main() -> tuple[list[Frame], Reply]:
        stream = await handler(make_request(stream=True))
        frames = [frame async for batch in stream for frame in batch]
        return frames, await collect(await handler(make_request(stream=False)))

    frames, whole = run(main(), clock)
    texts = [event.text for frame in frames for event in frame.events if isinstance(event, Delta)]
    assert texts == ["three", " short", " words", '{"a":1}']
    assert whole == reply


@pytest.mark.parametrize(
    ("scene", "cause"),
    [
        (Play(*BEGIN, ProviderOverloaded("full")), ProviderOverloaded),
        (Play(*BEGIN), Malformed),
        (Play(*BEGIN, End()), Malformed),
    ],
)
def test_a_stream_that_dies_is_broken(scene: Scene, cause: type[HeadraceError]) -> None:
    """After the first content every bad end is StreamBroken with its cause, again on every read; the attempt says so."""
    clock = ManualClock()
    handler = ScriptedHandler(clock, scene)
    request = make_request(stream=True)

    async def main() -> None:
        stream = await handler(request)
        with pytest.raises(StreamBroken) as caught:
            await collect(stream)
        assert isinstance(caught.value.cause, cause)
        with pytest.raises(StreamBroken):
            await collect(stream)

    run(main(), clock)
    assert request.attempt is not None and request.attempt.outcome == "broken"
    assert handler.open_streams == 0


@pytest.mark.parametrize(
    "scene",
    [ProviderOverloaded("full"), Play(Start("i", "m"), Ping()), Play(Start("i", "m"), Malformed("x"))],
)
@pytest.mark.parametrize("stream", [False, True])
def test_before_content_the_call_fails(scene: Scene, stream: bool) -> None:
    """Nothing is committed before content: errors and empty answers are raised by the call itself."""
    clock = ManualClock()
    handler = ScriptedHandler(clock, scene)

    async def main() -> None:
        with pytest.raises((ProviderOverloaded, Malformed)):
            await handler(make_request(stream=stream))

    run(main(), clock)
    assert handler.open_streams == 0


def test_cancelling_a_hanging_call_closes_it() -> None:
    """A call that hangs ends with the caller's cancellation and leaves nothing open."""
    clock = ManualClock()
    handler = ScriptedHandler(clock, Hang())

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await handler(make_request(stream=True))
        assert clock.now() == pytest.approx(30)

    run(main(), clock)
    assert (handler.open_streams, handler.peak_streams, clock.waiting) == (0, 1, 0)


def test_aclose_wakes_the_reader() -> None:
    """Closing from another task ends the waiting reader without an error, and twice is once."""
    clock = ManualClock()
    handler = ScriptedHandler(clock, Play(*BEGIN, Wait(math.inf)))
    request = make_request(stream=True)

    async def main() -> None:
        stream = await handler(request)
        assert handler.open_streams == 1
        reader = asyncio.create_task(collect(stream))
        await clock.run_until_idle()
        await stream.aclose()
        await stream.aclose()
        assert (await reader).text == "half "

    run(main(), clock)
    assert request.attempt is not None and request.attempt.outcome == "cancelled"
    assert handler.open_streams == 0


@pytest.mark.parametrize("waiting", [False, True])
def test_abort_gives_the_reader_the_error(waiting: bool) -> None:
    """A timer that aborts the stream breaks it, whether the reader waits or comes later."""
    clock = ManualClock()
    handler = ScriptedHandler(clock, Play(*BEGIN, Wait(60), Finish("stop"), End()))

    async def main() -> None:
        stream = await handler(make_request(stream=True))
        if waiting:
            clock.call_at(5, lambda: stream.abort(ProviderTimeout("silent")))
        else:
            stream.abort(ProviderTimeout("silent"))
        with pytest.raises(StreamBroken) as caught:
            await collect(stream)
        assert isinstance(caught.value.cause, ProviderTimeout)
        stream.abort(ProviderTimeout("again"))

    run(main(), clock)
    assert clock.now() == (5 if waiting else 0)
    assert (handler.open_streams, clock.waiting) == (0, 0)


def test_keeps_the_record_of_the_attempt() -> None:
    """Times, usage, finish and outcome are written as a real provider writes them."""
    clock = ManualClock(50.0)
    usage = Usage(input_tokens=5, output_tokens=7)
    scene = Play(*BEGIN, Wait(2), UsageReport(usage), Finish("length"), End())
    handler = ScriptedHandler(clock, after(1, scene))
    request = make_request(stream=True, clock=clock)
    ended: list[str] = []

    async def main() -> None:
        assert request.attempt is not None
        request.attempt.on_end.append(lambda attempt: ended.append(attempt.outcome))
        await collect(await handler(request))

    run(main(), clock)
    attempt = request.attempt
    assert attempt is not None
    assert (attempt.first_content_s, attempt.duration_s) == (1.0, 3.0)
    assert (attempt.usage, attempt.finish, attempt.model) == (usage, "length", "m")
    assert ended == ["ok"]


def test_works_without_an_attempt() -> None:
    """A request that no retry layer has touched is answered too."""
    bare = make_request(targets=["p/m", "q/n"], attempts=2)
    request = Request(body=bare.body, route=bare.route, call=bare.call, stream=True)
    clock = ManualClock()
    reply = run(_collected(ScriptedHandler(clock, "hi"), request), clock)
    assert reply.text == "hi"
    assert bare.route.cascade == (Target("p", "m", 2), Target("q", "n", 2))


async def _collected(handler: Handler, request: Request) -> Reply:
    return await collect(await handler(request))
