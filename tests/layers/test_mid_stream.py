"""What becomes of answers that break off: held back, started anew, or ended in an error."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.layers.test_cascade import A, B, request

from headrace.errors import AllTargetsFailed, ConnectFailed, ProviderError, StreamBroken
from headrace.handler import Handler, Request, Stream, assemble, collect, stack
from headrace.layers.cascade import Cascade
from headrace.layers.deadline import Deadline
from headrace.layers.hold import CHARACTERS_A_TOKEN, Hold
from headrace.layers.ledger import Ledger
from headrace.layers.restart import RestartStreams
from headrace.layers.retry import Retry
from headrace.layers.timeout import Timeout
from headrace.layers.whole_calls import WholeCalls
from headrace.testing import ManualClock, Play, ScriptedHandler, Wait, run
from headrace.types import BlockStart, Delta, End, Event, Finish, Restart, Start, Text

C = "c/three"
WORDS = [f"word{number:02} " for number in range(60)]
WHOLE = "".join(WORDS)


def play(words: int, *end: Event | Wait | ProviderError) -> Play:
    """The first `words` words of the answer, then `end`; all of it without."""
    deltas = [Delta(0, "text", word) for word in WORDS[:words]]
    rest: list[Event | Wait | ProviderError] = list(end) or [Finish("stop"), End()]
    return Play(Start("1", "m"), BlockStart(0, Text(text="")), *deltas, *rest)


GONE = ConnectFailed("gone")


class House:
    """The stack from the deadline down, with the layers of the mid-stream contract."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.provider = ScriptedHandler(self.clock)
        self.handle: Handler = stack(
            Deadline(self.clock),
            RestartStreams(self.clock),
            Cascade(self.clock, lambda *_: None, lambda *_: False),
            Retry(self.clock, lambda: 0.0),
            Ledger(lambda *_: 0, lambda *_: None),
            Hold(self.clock),
            WholeCalls(self.clock),
            Timeout(self.clock),
            handler=self.provider,
        )

    def to(
        self, *targets: str, mode: str, attempts: int = 1, stream: bool = True, **rules: object
    ) -> Request:
        """A request for a cascade of `targets` under a route of that mode."""
        house: Any = self
        return request(
            *targets,
            attempts=attempts,
            stream=stream,
            house=house,
            mid_stream=mode,
            **rules,
        )

    async def events(self, asked: Request) -> list[Event]:
        """Everything of the answer."""
        stream = await self.handle(asked)
        return [event async for batch in stream for frame in batch for event in frame.events]


# --- error ------------------------------------------------------------------------------------------------------------


def test_by_default_a_broken_answer_is_an_error() -> None:
    """No other target is asked: the caller has seen the beginning."""
    house = House()
    house.provider.on(A, play(40, GONE))
    with pytest.raises(StreamBroken):
        run(house.events(house.to(A, B, mode="error")), house.clock)
    assert house.provider.targets == [A]


# --- hold -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [GONE, Wait(math.inf)], ids=["cut", "stall"])
def test_a_death_while_held_is_unseen(end: ProviderError | Wait) -> None:
    """Cut or stalled after 40 of 60 words: the caller gets the other target's whole answer, once."""
    house = House()
    house.provider.on(A, always=play(30, end))
    house.provider.on(B, play(60))
    asked = house.to(A, B, mode="hold", attempts=1)
    assert assemble(run(house.events(asked), house.clock)).text == WHOLE
    assert house.provider.targets == [A, B]
    assert [attempt.outcome for attempt in asked.call.attempts] == ["broken", "ok"]
    assert house.provider.open_streams == 0


def test_a_cut_while_held_is_repeated_at_the_same_target() -> None:
    """It is an ordinary failure: attempts are used up, then the next target is asked."""
    house = House()
    house.provider.on(A, always=play(30, GONE))
    house.provider.on(B, play(60))
    run(house.events(house.to(A, B, mode="hold", attempts=3)), house.clock)
    assert house.provider.targets == [A, A, A, B]


def test_what_is_held_is_let_go_once_there_is_enough() -> None:
    """After `hold_tokens` the first batch comes, with all that was held; a death afterwards is an error."""
    house = House()
    house.provider.on(A, play(60, GONE))

    async def main() -> None:
        stream = await house.handle(house.to(A, B, mode="hold", hold_tokens=50))
        text = ""
        broken = False
        try:
            async for batch in stream:
                for frame in batch:
                    text += "".join(event.text for event in frame.events if isinstance(event, Delta))
        except StreamBroken:
            broken = True
        assert broken
        assert text == WHOLE
        await stream.aclose()

    run(main(), house.clock)
    assert house.provider.targets == [A]


def test_a_short_answer_is_let_go_with_its_finish() -> None:
    """Nothing waits for tokens that will not come."""
    house = House()
    house.provider.on(A, play(3))
    assert assemble(run(house.events(house.to(A, mode="hold")), house.clock)).text == "".join(WORDS[:3])


def test_the_time_to_hold_can_be_bounded() -> None:
    """With `hold_time` a slow answer begins after it, however few its tokens."""
    house = House()
    slow = [step for word in WORDS[:10] for step in (Delta(0, "text", word), Wait(1.0))]
    house.provider.on(A, Play(Start("1", "m"), BlockStart(0, Text(text="")), *slow, Finish("stop"), End()))

    async def main() -> None:
        stream = await house.handle(house.to(A, mode="hold", hold_s=2.5))
        assert house.clock.now() == 3.0
        assert (await collect(stream)).text == "".join(WORDS[:10])

    run(main(), house.clock)


def test_a_buffered_answer_is_not_held() -> None:
    """It is whole when it comes."""
    house = House()
    house.provider.on(A, play(60))
    asked = house.to(A, mode="hold", stream=False)

    async def main() -> str:
        return (await collect(await house.handle(asked))).text

    assert run(main(), house.clock) == WHOLE


@given(st.integers(0, 60), st.integers(1, 200))
def test_held_or_not_every_word_comes_once(words: int, hold: int) -> None:
    """Wherever the first target dies, the caller has the whole answer of one target, or a beginning and an error."""
    house = House()
    house.provider.on(A, always=play(words, GONE))
    house.provider.on(B, always=play(60))

    async def main() -> tuple[str, bool]:
        text, broken = "", False
        try:
            stream = await house.handle(house.to(A, B, mode="hold", hold_tokens=hold))
            async for batch in stream:
                for frame in batch:
                    text += "".join(event.text for event in frame.events if isinstance(event, Delta))
        except StreamBroken:
            broken = True
        return text, broken

    text, broken = run(main(), house.clock)
    died_late = len("".join(WORDS[:words])) >= hold * CHARACTERS_A_TOKEN
    assert broken is died_late
    assert text == ("".join(WORDS[:words]) if broken else WHOLE)


@pytest.mark.parametrize("turns", range(12))
def test_leaving_while_it_is_held_leaves_nothing(turns: int) -> None:
    """A caller that gives up at any point of the hold has the stream closed."""
    house = House()
    house.provider.on(A, always=play(10, Wait(1.0), GONE))

    async def main() -> None:
        task = asyncio.ensure_future(house.handle(house.to(A, mode="hold")))
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  (one turn)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main(), house.clock)
    assert house.provider.open_streams == 0


# --- restart ----------------------------------------------------------------------------------------------------------


def test_a_restart_is_marked_and_whole() -> None:
    """The marker comes between the two, names who goes on and why, and what counts is the second answer."""
    house = House()
    house.provider.on(A, play(40, GONE))
    house.provider.on(B, play(60))
    asked = house.to(A, B, mode="restart")
    events = run(house.events(asked), house.clock)
    (place,) = [at for at, event in enumerate(events) if isinstance(event, Restart)]
    assert events[place] == Restart(B, "connect_failed")
    assert assemble(events[:place]).text == "".join(WORDS[:40])
    assert assemble(events).text == assemble(events[place:]).text == WHOLE
    assert [attempt.outcome for attempt in asked.call.attempts] == ["broken", "ok"]
    assert house.provider.open_streams == 0


def test_restarts_go_down_the_cascade_and_end() -> None:
    """Each level is asked once more at most; when the last one breaks too, that is the error."""
    house = House()
    house.provider.default = play(5, GONE)
    asked = house.to(A, B, C, mode="restart", attempts=2)
    with pytest.raises(StreamBroken, match="c/three"):
        run(house.events(asked), house.clock)
    assert house.provider.targets == [A, B, C]
    assert house.provider.open_streams == 0


def test_a_restart_that_finds_nobody_is_the_first_error() -> None:
    """The caller is told of the answer that it saw break; the attempts list the rest."""
    house = House()
    house.provider.on(A, play(5, GONE))
    house.provider.on(B, always=ConnectFailed("refused"))
    asked = house.to(A, B, mode="restart", attempts=2)
    with pytest.raises(StreamBroken, match="a/one") as caught:
        run(house.events(asked), house.clock)
    assert isinstance(caught.value.__cause__, AllTargetsFailed)
    assert house.provider.targets == [A, B, B]


def test_the_same_model_twice_is_two_levels() -> None:
    """A cascade that names one model twice restarts at the second place, and only once."""
    house = House()
    house.provider.on(A, always=play(5, GONE))
    with pytest.raises(StreamBroken):
        run(house.events(house.to(A, A, mode="restart")), house.clock)
    assert house.provider.targets == [A, A]


def test_no_restart_after_the_deadline() -> None:
    """Nobody would read it."""
    house = House()
    house.provider.on(A, play(5, Wait(math.inf)))
    with pytest.raises(StreamBroken, match="deadline"):
        run(house.events(house.to(A, B, mode="restart", deadline_s=10.0)), house.clock)
    assert house.provider.targets == [A]
    assert house.clock.now() == 10.0


@pytest.mark.parametrize("batches", range(8))
def test_leaving_a_restarted_answer_leaves_nothing(batches: int) -> None:
    """Closed at any point, before or after the restart, nothing stays open."""
    house = House()
    house.provider.on(A, play(3, GONE))
    house.provider.on(B, play(60))

    async def main() -> None:
        stream: Stream = await house.handle(house.to(A, B, mode="restart"))
        iterator = aiter(stream)
        for _ in range(batches):
            await anext(iterator)
        await stream.aclose()
        await stream.aclose()

    run(main(), house.clock)
    assert house.provider.open_streams == 0
