"""Streamed tool calls that are released when they are whole."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from tests.layers.test_cascade import A, B
from tests.layers.test_mid_stream import House

from headrace.dialects import ANTHROPIC, OPENAI_CHAT
from headrace.errors import ConnectFailed, Malformed, ModelFailed, ProviderError, StreamBroken
from headrace.handler import Dialect, Request, Stream, assemble
from headrace.layers import whole_calls
from headrace.layers.whole_calls import WholeCalls
from headrace.testing import ManualClock, Play, Wait, make_request, run
from headrace.types import (
    Batch,
    BlockStart,
    BlockStop,
    Delta,
    End,
    Event,
    Finish,
    Frame,
    Ping,
    Start,
    Text,
    ToolCall,
    Usage,
    UsageReport,
)

GONE = ConnectFailed("gone")
SAID: list[Event] = [BlockStart(0, Text(text="")), Delta(0, "text", "Let me look. "), BlockStop(0)]


def call(index: int, *pieces: str) -> list[Event]:
    """The events of one call."""
    start = BlockStart(index, ToolCall(id=f"call_{index}", name="look", arguments=""))
    return [start, *(Delta(index, "arguments", piece) for piece in pieces), BlockStop(index)]


def play(*steps: Event | Wait | ProviderError) -> Play:
    """An answer; whole, unless it ends in an error."""
    return Play(Start("1", "m"), *steps)


DONE: list[Event] = [Finish("tool_calls"), End()]
WHOLE = call(1, '{"at":', ' "it"}')


def to(house: House, *targets: str, **rules: Any) -> Request:
    """A request of a route with whole calls."""
    return house.to(*targets, mode="error", tool_calls="whole", **rules)


async def reading(stream: Stream) -> tuple[list[Event], StreamBroken | None]:
    """What came, and how it broke."""
    events: list[Event] = []
    try:
        async for batch in stream:
            events += [event for frame in batch for event in frame.events]
    except StreamBroken as broken:
        return events, broken
    return events, None


async def read(house: House, asked: Request) -> tuple[list[Event], StreamBroken | None]:
    """What came of `asked`."""
    return await reading(await house.handle(asked))


def test_text_flows_and_the_call_comes_whole() -> None:
    """The text is there at once; the call's first piece only when its last has come, in the same order as ever."""
    house = House()
    events = [*SAID, WHOLE[0], WHOLE[1], Wait(5.0), *WHOLE[2:], *DONE]
    house.provider.on(A, play(*events))

    async def main() -> None:
        stream = await house.handle(to(house, A))
        times: dict[str, float] = {}
        seen: list[Event] = []
        async for batch in stream:
            for event in (event for frame in batch for event in frame.events):
                seen.append(event)
                times.setdefault(type(event).__name__ + str(getattr(event, "index", "")), house.clock.now())
        assert times["Delta0"] == 0.0
        assert times["BlockStart1"] == times["Delta1"] == 5.0
        assert seen[1:] == [event for event in events if not isinstance(event, Wait)]

    run(main(), house.clock)


@pytest.mark.parametrize("end", [GONE, Wait(math.inf)], ids=["cut", "stall"])
def test_a_death_in_a_call_that_comes_first_is_unseen(end: ProviderError | Wait) -> None:
    """Nothing was released, so the next target answers."""
    house = House()
    house.provider.on(A, always=play(*call(0, '{"a')[:2], end))
    house.provider.on(B, play(*call(0, "{}"), *DONE))
    asked = to(house, A, B)
    events, broken = run(read(house, asked), house.clock)
    assert broken is None
    assert [c.arguments for c in assemble(events).tool_calls] == ["{}"]
    assert [attempt.outcome for attempt in asked.call.attempts] == ["broken", "ok"]
    assert house.provider.open_streams == 0


def test_a_death_after_text_never_shows_half_a_call() -> None:
    """The text came, then one error."""
    house = House()
    house.provider.on(A, play(*SAID, *WHOLE[:2], GONE))
    events, broken = run(read(house, to(house, A, B)), house.clock)
    assert broken is not None and isinstance(broken.cause, ConnectFailed)
    assert not any(isinstance(event, BlockStart) and event.index == 1 for event in events)
    assert assemble(events).text == "Let me look. "


BAD = [call(0, '{"a": '), call(0, "[1]"), call(0, '{"a": 1}}'), call(0, "look!")]


@pytest.mark.parametrize("bad", BAD)
def test_arguments_that_are_no_object(bad: list[Event]) -> None:
    """Alone it is the model's failure, and it is asked again; after text the stream breaks, and the text is kept."""
    house = House()
    house.provider.on(A, play(*bad, *DONE))
    house.provider.on(B, play(*call(0, "{}"), *DONE))
    asked = to(house, A, B, attempts=1)
    events, _ = run(read(house, asked), house.clock)
    assert assemble(events).tool_calls[0].arguments == "{}"
    assert [attempt.error_kind for attempt in asked.call.attempts] == ["model_failed", None]
    house.provider.on(A, play(*SAID, *bad, *DONE))
    asked = to(house, A, B)
    events, broken = run(read(house, asked), house.clock)
    assert broken is not None and isinstance(broken.cause, ModelFailed)
    assert assemble(events).text == "Let me look. " and not assemble(events).tool_calls
    assert house.provider.open_streams == 0


def test_a_bad_call_in_one_batch_with_all_the_rest() -> None:
    """What was paid for and bought nothing is told so, also where the provider had finished; the text before the call is kept."""
    usage = UsageReport(Usage(input_tokens=3, output_tokens=4))
    events = [Start("1", "m"), *SAID, *call(1, "nonsense"), usage, *DONE]

    class One:
        """Everything at once."""

        def __init__(self) -> None:
            self.batches: list[Batch] = [[Frame((event,)) for event in events]]
            self.closed = 0

        def __aiter__(self) -> One:
            return self

        async def __anext__(self) -> Batch:
            if not self.batches:
                raise StopAsyncIteration
            return self.batches.pop()

        async def aclose(self) -> None:
            self.closed += 1

        def abort(self, error: BaseException) -> None:
            """Nothing to abort."""

    asked = make_request(stream=True, route=to(House(), A).route)
    assert asked.attempt is not None
    asked.attempt.cost = 7
    asked.attempt.end("ok", 1.0)
    inner = One()

    async def provider(request: Request) -> Stream:
        return inner

    async def main() -> tuple[list[Event], StreamBroken | None]:
        return await reading(await WholeCalls(ManualClock())(provider)(asked))

    came, broken = asyncio.run(main())
    assert assemble(came).text == "Let me look. " and broken is not None
    assert (asked.attempt.outcome, asked.attempt.error_kind, asked.attempt.wasted) == (
        "broken",
        "model_failed",
        7,
    )
    assert inner.closed


def test_a_call_that_the_limit_cut_passes() -> None:
    """With its finish reason, which says what it is."""
    house = House()
    house.provider.on(A, play(*SAID, *call(1, '{"a": "lo'), Finish("length"), End()))
    events, broken = run(read(house, to(house, A)), house.clock)
    reply = assemble(events)
    assert broken is None
    assert (reply.tool_calls[0].arguments, reply.finish) == ('{"a": "lo', "length")


def test_a_function_without_arguments() -> None:
    """Nothing is as good as `{}`."""
    house = House()
    house.provider.on(A, play(*call(0), *DONE))
    events, broken = run(read(house, to(house, A)), house.clock)
    assert broken is None and assemble(events).tool_calls[0].arguments == ""


def test_signs_of_life_are_let_through() -> None:
    """A ping overtakes what is kept back."""
    house = House()
    house.provider.on(A, play(*SAID, *WHOLE[:2], Ping(), *WHOLE[2:], *DONE))
    events, _ = run(read(house, to(house, A)), house.clock)
    kinds = [type(event) for event in events]
    assert kinds.index(Ping) < kinds.index(BlockStart, 4)


def test_what_is_kept_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without end is a failure, not memory."""
    monkeypatch.setattr(whole_calls, "LIMIT", 100)
    house = House()
    house.provider.on(A, always=play(*call(0, *['{"a": "', *["x" * 10] * 50])[:-1], GONE))
    house.provider.on(B, play(*call(0, "{}"), *DONE))
    asked = to(house, A, B)
    run(read(house, asked), house.clock)
    assert "longer than 100" in (asked.call.attempts[0].error_message or "")


def test_by_default_pieces_flow() -> None:
    """And so they do in buffered answers, which are whole anyway."""
    house = House()
    house.provider.on(A, always=play(*SAID, *WHOLE[:2], GONE))
    events, broken = run(read(house, house.to(A, mode="error")), house.clock)
    assert broken is not None
    assert any(isinstance(event, BlockStart) and event.index == 1 for event in events)


@pytest.mark.parametrize("turns", range(10))
def test_leaving_while_a_call_is_kept_back(turns: int) -> None:
    """Nothing stays open."""
    house = House()
    house.provider.on(A, always=play(*WHOLE[:2], Wait(1.0), *WHOLE[2:], *DONE))

    async def main() -> None:
        task = asyncio.ensure_future(house.handle(to(house, A)))
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  (one turn)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main(), house.clock)
    assert house.provider.open_streams == 0


# --- cut at every byte ------------------------------------------------------------------------------------------------


class Cut:
    """The frames of an answer's first bytes, then its death."""

    def __init__(self, dialect: Dialect, data: bytes) -> None:
        self.batch = dialect.decoder(hide_usage=False).feed(data)

    def __aiter__(self) -> Cut:
        return self

    async def __anext__(self) -> Batch:
        if not self.batch:
            raise StreamBroken("gone", cause=Malformed("gone"))
        return [self.batch.pop(0)]

    async def aclose(self) -> None:
        """Nothing is held."""

    def abort(self, error: BaseException) -> None:
        """Nothing to abort."""


@pytest.mark.parametrize("dialect", [OPENAI_CHAT, ANTHROPIC], ids=lambda dialect: dialect.name)
def test_cut_at_every_byte_no_call_is_half(dialect: Dialect) -> None:
    """Of two parallel calls after text, each is there whole or not at all; what is released are the provider's bytes, in order."""
    encoder = dialect.encoder(include_usage=True, model="m", id="1")
    events = [Start("1", "m"), *SAID, *WHOLE, *call(2, '{"x": "ü', '\\n"}'), Finish("tool_calls"), End()]
    data = b"".join(encoder.feed(event) for event in events) + encoder.end()
    route = to(House(), A).route
    layer = WholeCalls(ManualClock())

    async def one(cut: int) -> int:
        async def provider(request: Request) -> Stream:
            return Cut(dialect, data[:cut])

        raw, released = b"", list[Event]()
        try:
            stream = await layer(provider)(make_request(stream=True, route=route))
            async for batch in stream:
                raw += b"".join(frame.raw or b"" for frame in batch)
                released += [event for frame in batch for event in frame.events]
        except (StreamBroken, Malformed):
            pass
        assert data.startswith(raw)
        calls = assemble(released).tool_calls
        assert [c.arguments for c in calls] == ['{"at": "it"}', '{"x": "ü\\n"}'][: len(calls)]
        return len(calls)

    async def main() -> int:
        return max([await one(cut) for cut in range(len(data) + 1)])

    assert asyncio.run(main()) == 2
