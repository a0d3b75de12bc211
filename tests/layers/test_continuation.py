"""Answers that break off and are continued by the next target: one text, one start, one end, and what it took."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import pytest
from tests.layers.test_cascade import A, B, request

from headrace.budget import Account, bound
from headrace.dialects import by_name
from headrace.errors import ConnectFailed, ProviderUnavailable, StreamBroken
from headrace.handler import Body, Handler, Request, assemble, stack
from headrace.layers.cascade import Cascade
from headrace.layers.continuation import ASKED, ContinueStreams, GoOn, continued
from headrace.layers.deadline import Deadline
from headrace.layers.ledger import Ledger
from headrace.layers.retry import Retry
from headrace.layers.seam import anchor
from headrace.layers.timeout import Timeout
from headrace.testing import ManualClock, Play, ScriptedHandler, Wait, make_request, run
from headrace.types import (
    BlockStart,
    BlockStop,
    Chat,
    Delta,
    End,
    Event,
    Finish,
    Message,
    ResponseFormat,
    Start,
    Text,
    Thinking,
    ToolCall,
    Usage,
    UsageReport,
)

C = "c/three"
GONE = ConnectFailed("gone")
WHOLE = (
    "The river rises in the high moor, where rain falls on two days of three. From there it runs south, past a mill that has been "
    "grinding corn since 1742. In winter the pond freezes over."
)
PIECES = [WHOLE[at : at + 9] for at in range(0, len(WHOLE), 9)]


def play(*pieces: str, end: tuple[Event | Wait | Exception, ...] = (Finish("stop"), End())) -> Play:
    """An answer of these pieces, which ends so."""
    deltas = [Delta(0, "text", piece) for piece in pieces]
    first: tuple[Any, ...] = (Start("1", "m"), BlockStart(0, Text(text="")), *deltas)
    ending: tuple[Any, ...] = end if GONE in end else (BlockStop(0), *end)
    return Play(*first, *ending)


class House:
    """The stack with the layers that continue. `prefills` are the providers that take a prefill."""

    def __init__(self, *prefills: str) -> None:
        self.clock = ManualClock()
        self.provider = ScriptedHandler(self.clock)
        self.rows: list[Any] = []
        self.handle: Handler = stack(
            Deadline(self.clock),
            ContinueStreams(self.clock),
            Cascade(self.clock, lambda *_: None, lambda *_: False),
            GoOn(self.clock, lambda target, _: {} if target.provider in prefills else None),
            Retry(self.clock, lambda: 0.0),
            Ledger(
                lambda _, __, usage: usage.total_tokens,
                lambda _, attempt: self.rows.append(attempt),
                lambda _: 500,
            ),
            Timeout(self.clock),
            handler=self.provider,
        )

    def to(self, *targets: str, stream: bool = True, **rules: object) -> Request:
        """A request on a route that continues."""
        house: Any = self
        return request(*targets, attempts=1, stream=stream, house=house, mid_stream="continue", **rules)

    async def events(self, asked: Request) -> list[Event]:
        """Everything of the answer."""
        stream = await self.handle(asked)
        return [event async for batch in stream for frame in batch for event in frame.events]

    def text(self, asked: Request) -> str:
        """The answer's text."""
        return assemble(run(self.events(asked), self.clock)).text


def rest_of(asked: Request) -> Play:
    """What a good model says to a request to go on."""
    last = asked.body.chat.messages[-1]
    text = "".join(block.text for block in last.content if isinstance(block, Text))
    begin = WHOLE.rindex(text.removeprefix(ASKED)) if last.role == "user" else len(text)
    rest = WHOLE[begin:]
    return play(
        *(rest[at : at + 7] for at in range(0, len(rest), 7)), end=(Finish("stop"), UsageReport(USED), End())
    )


USED = Usage(input_tokens=50, output_tokens=20)


@pytest.mark.parametrize("prefills", [("b",), ()], ids=["prefill", "asked"])
@pytest.mark.parametrize("after", range(1, len(PIECES)))
def test_a_text_cut_after_any_chunk_is_whole(after: int, prefills: tuple[str, ...]) -> None:
    """One start, one text block, one end, and the whole text; with a prefill and with a request to go on."""
    house = House(*prefills)
    house.provider.on(A, play(*PIECES[:after], end=(GONE,)))
    house.provider.on(B, always=rest_of)
    events = run(house.events(house.to(A, B)), house.clock)
    assert assemble(events).text == WHOLE
    kinds = [type(event) for event in events]
    for kind in (Start, BlockStart, BlockStop, Finish, End):
        assert kinds.count(kind) == 1
    assert {event.index for event in events if isinstance(event, Delta | BlockStop)} == {0}
    assert kinds.index(BlockStop) < kinds.index(Finish)
    assert house.provider.targets == [A, B]
    assert house.provider.open_streams == 0
    roles = [message.role for message in house.provider.requests[1].body.chat.messages]
    assert roles == (["user", "assistant"] if prefills else ["user", "assistant", "user"])


def test_tokens_and_money_of_both_are_counted() -> None:
    """The usage is the sum, estimated where the first did not say; both attempts are in the ledger, the broken one as wasted."""
    house = House("b")
    house.provider.on(A, play(*PIECES[:9], end=(GONE,)))
    house.provider.on(B, always=rest_of)
    asked = house.to(A, B)
    reply = assemble(run(house.events(asked), house.clock))
    assert reply.usage is not None
    assert 50 < reply.usage.input_tokens < 100
    assert 30 < reply.usage.output_tokens < 60
    assert [(row.outcome, row.purpose) for row in house.rows] == [("broken", ""), ("ok", "continue")]
    assert house.rows[0].estimated and house.rows[0].wasted == house.rows[0].cost == 500
    assert house.rows[1].cost == 70 and house.rows[1].wasted == 0
    assert any("broke off" in warning for warning in asked.call.warnings)


@pytest.mark.parametrize("short", [True, False], ids=["short", "long"])
def test_words_that_do_not_fit_send_the_cascade_on(short: bool) -> None:
    """The caller sees nothing of them; the attempt has failed and bought nothing, and the next target goes on."""
    house = House()
    house.provider.on(A, play(*PIECES[:9], end=(GONE,)))
    house.provider.on(B, always=play(*["Sure, I will gladly tell you more. "] * (2 if short else 40)))
    house.provider.on(C, always=rest_of)
    assert house.text(house.to(A, B, C)) == WHOLE
    assert [row.outcome for row in house.rows][::2] == ["broken", "ok"]
    bad = house.rows[1]
    assert (
        bad.error_kind == "invalid_output" and bad.outcome in ("error", "broken") and bad.wasted == bad.cost
    )
    assert house.provider.open_streams == 0


def test_where_nobody_fits_the_first_error_stands() -> None:
    """`StreamBroken`, with the beginning and not a word of the others."""
    house = House()
    house.provider.on(A, play(*PIECES[:9], end=(GONE,)))
    house.provider.on(B, always=play("Something else entirely."))
    house.provider.on(C, always=ProviderUnavailable("down"))
    seen: list[Event] = []

    async def main() -> None:
        stream = await house.handle(house.to(A, B, C))
        try:
            async for batch in stream:
                seen.extend(event for frame in batch for event in frame.events)
        finally:
            await stream.aclose()

    with pytest.raises(StreamBroken, match="gone"):
        run(main(), house.clock)
    assert assemble(seen).text == "".join(PIECES[:9])
    assert not any(isinstance(event, BlockStop | Finish | End) for event in seen)
    assert len(house.rows) == 3 and house.provider.open_streams == 0


@pytest.mark.parametrize("prefills", [("b", "c"), ()], ids=["prefill", "asked"])
def test_who_goes_on_may_break_too(prefills: tuple[str, ...]) -> None:
    """The third target gets all of the text so far."""
    house = House(*prefills)

    def half(asked: Request) -> Play:
        steps = rest_of(asked).steps
        return Play(*steps[:10], GONE)

    house.provider.on(A, play(*PIECES[:6], end=(GONE,)))
    house.provider.on(B, always=half)
    house.provider.on(C, always=rest_of)
    assert house.text(house.to(A, B, C)) == WHOLE
    assert house.provider.targets == [A, B, C]


def test_a_death_before_the_seam_is_known_is_a_failure_of_that_level() -> None:
    """Nothing of it was seen."""
    house = House("b", "c")
    house.provider.on(A, play(*PIECES[:6], end=(GONE,)))
    house.provider.on(B, play("two", end=(GONE,)))
    house.provider.on(C, always=rest_of)
    assert house.text(house.to(A, B, C)) == WHOLE


def test_a_stall_is_continued_within_the_deadline() -> None:
    """Silence is a break too; when the time is over nobody is asked."""
    house = House("b")
    house.provider.on(A, always=play(*PIECES[:6], end=(Wait(math.inf), GONE)))
    house.provider.on(B, always=rest_of)
    assert house.text(house.to(A, B, between_events_s=5.0)) == WHOLE
    assert house.clock.now() < 10.0
    late = house.to(A, B, deadline_s=3.0)
    with pytest.raises(StreamBroken):
        run(house.events(late), house.clock)
    assert house.provider.targets == [A, B, A]


BEGUN = (Start("1", "m"), BlockStart(0, Text(text="")), Delta(0, "text", WHOLE[:40]))


@pytest.mark.parametrize(
    "first",
    [
        Play(*BEGUN, BlockStop(0), BlockStart(1, ToolCall(id="t", name="look", arguments="")), GONE),
        Play(
            Start("1", "m"),
            BlockStart(0, Thinking(signature="s")),
            BlockStop(0),
            *(msgspec.structs.replace(e, index=1) for e in BEGUN[1:]),
            GONE,
        ),
        Play(*BEGUN, BlockStop(0), Finish("stop"), GONE),
        Play(Start("1", "m"), BlockStart(0, Thinking()), Delta(0, "thinking", "hm"), GONE),
    ],
    ids=["tool", "signed thinking", "finished", "no text"],
)
def test_what_is_no_plain_text_behaves_as_error(first: Play) -> None:
    """Nobody is asked to go on."""
    house = House("b")
    house.provider.on(A, first)
    with pytest.raises(StreamBroken):
        run(house.events(house.to(A, B)), house.clock)
    assert house.provider.targets == [A]


def test_an_answer_with_a_form_behaves_as_error() -> None:
    """Half a JSON object is not to be continued by somebody else."""
    house = House("b")
    house.provider.on(A, play(*PIECES[:6], end=(GONE,)))
    asked = house.to(A, B)
    chat = msgspec.structs.replace(asked.body.chat, response_format=ResponseFormat(kind="json_object"))
    with pytest.raises(StreamBroken):
        run(house.events(msgspec.structs.replace(asked, body=Body(chat=chat))), house.clock)
    assert house.provider.targets == [A]


def test_a_body_that_cannot_be_read_behaves_as_error() -> None:
    """The caller hears that the answer broke, not that a request was wrong which its provider took."""
    house = House("b")
    house.provider.on(A, play(*PIECES[:6], end=(GONE,)))
    odd = Body(wire=b'{"model": "m", "messages": 7}', dialect=by_name("openai-chat"))
    with pytest.raises(StreamBroken):
        run(house.events(msgspec.structs.replace(house.to(A, B), body=odd)), house.clock)
    assert house.provider.targets == [A]


def test_unsigned_thinking_is_no_hindrance() -> None:
    """What the first thought stays; what the second thinks is not shown in the middle of the text; it may call tools after it."""
    house = House("b")
    text = [Delta(1, "text", piece) for piece in PIECES[:6]]
    house.provider.on(
        A,
        Play(
            Start("1", "m"),
            BlockStart(0, Thinking()),
            Delta(0, "thinking", "hm"),
            BlockStop(0),
            BlockStart(1, Text(text="")),
            *text,
            GONE,
        ),
    )
    more = WHOLE[54:]
    house.provider.on(
        B,
        Play(
            Start("2", "n"),
            BlockStart(0, Thinking()),
            Delta(0, "thinking", "I go on"),
            BlockStop(0),
            BlockStart(1, Text(text="")),
            Delta(1, "text", more),
            BlockStop(1),
            BlockStart(2, ToolCall(id="t", name="look", arguments="")),
            Delta(2, "arguments", "{}"),
            BlockStop(2),
            Finish("tool_calls"),
            End(),
        ),
    )
    reply = assemble(run(house.events(house.to(A, B)), house.clock))
    assert (reply.thinking, reply.text, reply.id) == ("hm", WHOLE, "1")
    assert [call.name for call in reply.tool_calls] == ["look"] and len(reply.content) == 3


def test_a_caller_who_leaves_while_the_seam_is_sought_leaves_nothing() -> None:
    """The second target's stream is closed."""
    house = House()
    house.provider.on(A, play(*PIECES[:6], end=(GONE,)))
    house.provider.on(B, always=play("Hm", end=(Wait(math.inf), GONE)))

    async def main() -> None:
        stream = await house.handle(house.to(A, B))

        async def read() -> None:
            async for _ in stream:
                pass

        task = asyncio.ensure_future(read())
        await house.clock.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stream.aclose()

    run(main(), house.clock)
    assert house.provider.open_streams == 0
    assert [row.outcome for row in house.rows] == ["broken", "cancelled"]


def test_a_budget_reserves_the_text_so_far_too() -> None:
    """The attempt that goes on sends more than the caller did."""
    asked = make_request("hi")
    account: Any = Account(None, (), (), asked.body, downgrade=False)  # type: ignore[arg-type]  # nothing is reserved here
    asked = msgspec.structs.replace(asked, account=account)
    more = msgspec.structs.replace(
        asked, body=Body(chat=continued(asked.body.chat, WHOLE * 9, prefill=True)), said=WHOLE * 9
    )
    assert bound(more, None)[1].tokens > bound(asked, None)[1].tokens + 100


def test_the_request_to_go_on() -> None:
    """No white space at the end of a prefill; the output limit without what is there already; the caller's own prefill in one turn."""
    chat = Chat(model="m", messages=(Message(role="user", content=(Text(text="hi"),)),), max_tokens=100)
    said = "one two three four five six seven eight nine ten \n"
    filled = continued(chat, said, prefill=True)
    assert filled.messages[-1].role == "assistant"
    assert filled.messages[-1].content == (Text(text=said.rstrip()),)
    assert filled.max_tokens is not None and 80 <= filled.max_tokens < 100
    own = msgspec.structs.replace(
        chat, messages=(*chat.messages, Message(role="assistant", content=(Text(text="zero "),)))
    )
    assert [m.role for m in continued(own, said, prefill=True).messages] == ["user", "assistant"]
    assert continued(own, said, prefill=True).messages[-1].content == (Text(text="zero " + said.rstrip()),)
    asked = continued(chat, said, prefill=False).messages
    assert [m.role for m in asked] == ["user", "assistant", "user"]
    assert asked[-1].content == (Text(text=ASKED + anchor(said)),)
