"""The cache as a layer, on a manual clock in front of scripted providers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from headrace.cache.layer import Cache
from headrace.cache.selection import Selection
from headrace.cache.shelf import Shelf
from headrace.call import Call
from headrace.dialects import by_name
from headrace.errors import (
    AllTargetsFailed,
    BudgetExceeded,
    DeadlineExceeded,
    ProviderOverloaded,
    StreamBroken,
)
from headrace.handler import Body, CachePolicy, Handler, Request, Route, collect, stack
from headrace.layers.cascade import Cascade
from headrace.layers.deadline import Deadline
from headrace.layers.ledger import Ledger
from headrace.layers.retry import Retry
from headrace.layers.timeout import Timeout
from headrace.testing import Hang, ManualClock, Play, ScriptedHandler, Wait, after, run
from headrace.types import (
    BlockStart,
    Complete,
    Delta,
    End,
    Finish,
    Frame,
    Refusal,
    Reply,
    Start,
    Target,
    Text,
    Thinking,
    ToolCall,
    Usage,
)


class House:
    """The default stack with the cache, over one scripted provider."""

    def __init__(self, policy: CachePolicy | None = None, *, max_bytes: int = 1 << 24) -> None:
        self.clock = ManualClock()
        self.provider = ScriptedHandler(self.clock)
        self.cache = Cache(self.clock, Shelf(max_bytes), random=lambda: 0.0)
        self.policy = policy if policy is not None else CachePolicy()
        self.calls = 0
        self.handle: Handler = stack(
            Deadline(self.clock),
            self.cache,
            Cascade(self.clock, lambda *_: None, lambda *_: False),
            Retry(self.clock, lambda: 0.5),
            Ledger(lambda provider, model, usage: usage.total_tokens, lambda call, attempt: None),
            Timeout(self.clock),
            handler=self.provider,
        )

    def request(
        self,
        text: str = "What is an annulment?",
        *,
        stream: bool = False,
        dialect: str = "openai-chat",
        tenant: str | None = "acme",
        cache_control: str = "",
        timeout_s: float | None = None,
        targets: tuple[str, ...] = ("a/one",),
        headers: tuple[tuple[str, str], ...] = (),
        tags: dict[str, str] | None = None,
        **members: Any,
    ) -> Request:
        self.calls += 1
        pairs = [target.split("/") for target in targets]
        cascade = tuple(Target(provider, model) for provider, model in pairs)
        route = Route(name="smart", cascade=cascade, cache=self.policy)
        body = {"model": "smart", "messages": [{"role": "user", "content": text}]} | members
        call = Call(
            id=f"req_{self.calls:024x}",
            started_at=self.clock.now(),
            started_wall=self.clock.wall(),
            tenant=tenant,
            dialect=dialect,
            attempts=[],
            tags=tags or {},
        )
        return Request(
            headers=headers,
            body=Body(wire=json.dumps(body).encode(), dialect=by_name(dialect)),
            route=route,
            call=call,
            stream=stream,
            cache_control=cache_control,
            timeout_s=timeout_s,
        )

    def _key_of(self, **how: Any) -> Any:
        key = self.cache._key(self.request(**how), self.policy)
        assert key is not None
        return key.exact

    async def ask(self, text: str = "What is an annulment?", **how: Any) -> tuple[Reply, Call]:
        request = self.request(text, **how)
        return await collect(await self.handle(request)), request.call


def answer(text: str = "It is void.", **members: Any) -> Reply:
    """An answer with usage."""
    usage = Usage(input_tokens=10, output_tokens=5)
    return Reply(id="up-1", model="one", content=(Text(text=text),), usage=usage, **members)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_the_same_request_is_answered_once(first: bool, second: bool) -> None:
    """Buffered or streamed, the second one costs nothing and gets the same answer under a new id."""
    house = House()

    async def main() -> None:
        house.provider.script(answer())
        one, call_one = await house.ask(stream=first)
        two, call_two = await house.ask(stream=second)
        assert (one.text, two.text) == ("It is void.", "It is void.")
        assert (call_one.cache, call_two.cache) == ("miss", "hit-exact")
        assert len(house.provider.requests) == 1
        assert two.usage == one.usage
        assert two.id != one.id
        assert call_two.cost == 0
        assert call_two.cached is not None
        assert (call_two.cached.saved, call_two.cached.target) == (15, "a/one")

    run(main(), house.clock)


def test_the_same_words_are_answered_once() -> None:
    """Case, space, punctuation, contractions and politeness do not make another question; function words do."""
    house = House()

    async def main() -> None:
        await house.ask("What is an annulment?")
        _, call = await house.ask("please, what's  AN annulment")
        assert call.cache == "hit-canonical"
        _, call = await house.ask("What is the annulment?")
        assert call.cache == "miss"

    run(main(), house.clock)


# --- what is asked and what is kept ------------------------------------------------------------------------------------


def test_a_hit_across_dialects_does_not_happen() -> None:
    """What one dialect asked is not what another asked, however alike it looks: parameters mean different things."""
    house = House()

    async def main() -> None:
        await house.ask(dialect="openai-chat")
        _, call = await house.ask(dialect="anthropic", max_tokens=64)
        assert call.cache == "miss"

    run(main(), house.clock)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"temperature": 0.7}, "temperature"),
        ({"n": 2}, "more than one answer"),
        ({"logprobs": True}, "more than text"),
        ({"messages": [{"role": "user", "content": "Where is my order?"}]}, "personal"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "Hello."},
                            {"type": "text", "text": "Where is my order?"},
                        ],
                    }
                ]
            },
            "personal",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "content beside text",
        ),
        (
            {
                "messages": [
                    {"role": "tool", "tool_call_id": "1", "content": "4"},
                    {"role": "user", "content": "a"},
                ]
            },
            "tool turn",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "last turn is not the user's",
        ),
    ],
)
def test_what_the_cache_must_not_answer_goes_past_it(members: dict[str, Any], why: str) -> None:
    """The reason is said, nothing is looked up and nothing is kept."""
    house = House()

    async def main() -> None:
        for _ in range(2):
            _, call = await house.ask(**members)
            assert call.cache == "bypass"
            assert call.cached is not None
            assert call.cached.why == why
        assert len(house.provider.requests) == 2
        assert len(house.cache.shelf) == 0

    run(main(), house.clock)


@pytest.mark.parametrize("messages", [[], "x", [1], [{"role": "user", "content": "\ud800"}]])
def test_a_body_that_cannot_be_read_is_no_failure_of_the_cache(messages: Any) -> None:
    """It goes past it, to whoever says what is wrong with it."""
    house = House()

    async def main() -> None:
        _, call = await house.ask(messages=messages)
        assert call.cached is not None and call.cache == "bypass"
        assert call.cached.why == "the request cannot be read"
        assert house.cache.failures == 0

    run(main(), house.clock)


def test_cache_control_is_obeyed() -> None:
    """`no-store` neither looks nor keeps; `no-cache` does not look, but keeps the fresh answer."""
    house = House()

    async def main() -> None:
        house.provider.script("old", "unseen", "new")
        await house.ask()
        reply, call = await house.ask(cache_control="no-store")
        assert (reply.text, call.cache) == ("unseen", "bypass")
        reply, call = await house.ask(cache_control="max-age=0, No-Cache")
        assert (reply.text, call.cache) == ("new", "bypass")
        reply, call = await house.ask()
        assert (reply.text, call.cache) == ("new", "hit-exact")

    run(main(), house.clock)


@pytest.mark.parametrize(
    "scene",
    [
        answer(finish="length"),
        answer(finish="content_filter"),
        answer(""),
        answer("I'm sorry, but I can't help with that."),
        answer("Internal server error"),
        Reply(content=(Refusal(text="No."),), finish="refusal"),
        Reply(content=(ToolCall(id="1", name="f", arguments="{}"),), finish="tool_calls"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_only_a_whole_good_answer_is_kept(scene: Reply, stream: bool) -> None:
    """Cut, filtered, empty, refusing and failing answers are given once and never again."""
    house = House()

    async def main() -> None:
        house.provider.script(scene)
        await house.ask(stream=stream)
        assert len(house.cache.shelf) == 0
        _, call = await house.ask(stream=stream)
        assert call.cache == "miss"

    run(main(), house.clock)


def test_a_broken_stream_is_not_kept() -> None:
    """An answer that died is nobody's answer."""
    house = House()

    async def main() -> None:
        house.provider.script(
            Play(
                Start("1", "one"),
                BlockStart(0, Text(text="")),
                Delta(0, "text", "It is"),
                ProviderOverloaded("x"),
            )
        )
        with pytest.raises(StreamBroken):
            await house.ask(stream=True)
        assert len(house.cache.shelf) == 0

    run(main(), house.clock)


def test_thinking_is_given_again_only_to_the_same_request() -> None:
    """A hit by other words gets the text alone."""
    house = House()

    async def main() -> None:
        thought = Thinking(text="hm", signature="sig")
        house.provider.script(Reply(content=(thought, Text(text="It is void."))))
        await house.ask("What is an annulment?")
        same, _ = await house.ask("What is an annulment?")
        alike, call = await house.ask("what is an annulment")
        assert same.content[0] == thought
        assert call.cache == "hit-canonical"
        assert alike.content == (Text(text="It is void."),)

    run(main(), house.clock)


def test_lifetimes() -> None:
    """A volatile ask lives for a minute, an answer from below the first target for five, another one for a day."""
    house = House()

    async def main() -> None:
        two = ("a/one", "b/two")
        await house.ask("How is the weather?")
        await house.ask("What is an annulment?")
        house.provider.on("a/one", ProviderOverloaded("x"))
        await house.ask("What is a tort?", targets=two)
        for wait, hits in ((59, (True, True, True)), (2, (False, True, True)), (240, (None, True, False))):
            await house.clock.sleep(wait)
            for text, targets, hit in (
                ("How is the weather?", ("a/one",), hits[0]),
                ("What is an annulment?", ("a/one",), hits[1]),
                ("What is a tort?", two, hits[2]),
            ):
                if hit is not None:
                    request = house.request(text, targets=targets)
                    key = house.cache._key(request, house.policy)
                    assert key is not None
                    assert (house.cache.find(key, house.policy, request.route)[0] is not None) == hit, (
                        text,
                        wait,
                    )

    run(main(), house.clock)


def test_what_has_ended_makes_room_without_being_asked_for() -> None:
    """The next answer that is kept drops it, in memory and in the file."""
    house = House()
    gone: list[str] = []

    class File:
        errors = 0

        def remove(self, ids: list[str]) -> None:
            gone.extend(ids)

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    async def main() -> None:
        house.cache._kept = File()
        await house.ask("How is the weather?")
        (old,) = house.cache.shelf
        await house.ask("What is a tort?")
        assert len(house.cache.shelf) == 2 and gone == []
        await house.clock.sleep(61)
        await house.ask("What is an annulment?")
        assert [entry.text for entry in house.cache.shelf] == ["What is a tort?", "What is an annulment?"]
        assert gone == [old.id]

    run(main(), house.clock)


def test_a_failure_of_a_part_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    """Shelf, kept file, encoder, damaged entry: the request is answered as if there were no cache."""

    class Bad:
        version = "x"

        def __getattr__(self, name: str) -> Any:
            raise OSError(name)

    async def asked(house: House) -> None:
        for _ in range(2):
            reply, _ = await house.ask()
            assert reply.text == "ok"
        assert house.cache.failures > 0

    for part in ("shelf", "likeness", "_kept"):
        house = House(CachePolicy(semantic=True))
        setattr(house.cache, part, Bad())
        run(asked(house), house.clock)

    house = House()

    async def damaged() -> None:
        await house.ask()
        (entry,) = house.cache.shelf
        entry.body = b"{"
        reply, call = await house.ask()
        assert (reply.text, call.cache) == ("ok", "miss")
        _, call = await house.ask()
        assert call.cache == "hit-exact"

    run(damaged(), house.clock)


def test_tenants_never_meet() -> None:
    """10,000 questions of one tenant, asked by another, under another system prompt, on another key: 0 hits."""
    house = House(max_bytes=1 << 28)
    texts = [f"What does paragraph {number} of the contract say?" for number in range(10_000)]

    def key_of(text: str, **how: Any) -> Any:
        return house.cache._key(house.request(text, **how), house.policy)

    async def main() -> None:
        for text in texts:
            key = key_of(text, tenant="acme")
            house.cache.keep(key, house.policy, house.request(text), [[Frame((Complete(answer()),))]])
        system = [{"role": "system", "content": "Be rude."}]
        crossed = found = 0
        route = house.request().route
        others: list[dict[str, Any]]
        for number, text in enumerate(texts):
            found += house.cache.find(key_of(text, tenant="acme"), house.policy, route)[0] is not None
            others = [
                {"tenant": "other"},
                {"tenant": None},
                {"tenant": "acme", "messages": [*system, {"role": "user", "content": text}]},
                {"tenant": "acme", "targets": ("a/two",)},
            ]
            other = others[number % 4]
            crossed += house.cache.find(key_of(text, **other), house.policy, route)[0] is not None
        assert (found, crossed) == (10_000, 0)

    run(main(), house.clock)


def test_what_a_provider_sees_is_in_scope_and_who_asks_is_not() -> None:
    """Beta features, unknown members and formats part two requests; users, metadata and the way of delivery do not."""
    house = House()
    base = house._key_of()
    beta = (("anthropic-beta", "context-1m"),)
    for apart in (
        {"headers": beta},
        {"shiny_new_member": 1},
        {"response_format": {"type": "json_object"}},
        {"seed": 1},
        {"top_p": 0.5},
        {"reasoning_effort": "low"},
    ):
        assert house._key_of(**apart) != base, apart
    for same in (
        {"user": "u"},
        {"metadata": {"a": "b"}},
        {"stream": True},
        {"stream_options": {"include_usage": True}},
        {"prompt_cache_key": "k"},
    ):
        assert house._key_of(**same) == base, same


def test_answers_from_other_documents_are_others() -> None:
    """An answer was made from one version of what the route quotes from, and is found under that version alone."""
    house = House()

    async def main() -> None:
        house.cache._documents = {"smart": "v1"}
        await house.ask()
        house.cache._documents = {"smart": "v2"}
        _, call = await house.ask()
        assert call.cache == "miss"
        assert sorted(entry.documents for entry in house.cache.shelf) == ["v1", "v2"]
        assert house.cache.purge(Selection(documents="!v2")) == 1
        assert [entry.documents for entry in house.cache.shelf] == ["v2"]

    run(main(), house.clock)


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (Selection(), set()),
        (Selection(tenant="acme"), {"other"}),
        (Selection(tenant="tenant:other"), {"tagged", "plain"}),
        (Selection(tag="team=law"), {"plain", "other"}),
        (Selection(tag="team"), {"plain", "other"}),
        (Selection(tag="team=l"), {"tagged", "plain", "other"}),
        (Selection(model="a/one"), set()),
        (Selection(model="a/two"), {"tagged", "plain", "other"}),
        (Selection(prefix="what is a t"), {"plain", "other"}),
        (Selection(route="smart", tenant="acme", prefix="what is an"), {"tagged", "other"}),
        (Selection(before=ManualClock().wall() + 5), {"other"}),
    ],
)
def test_what_is_selected_is_thrown_away(selection: Selection, left: set[str]) -> None:
    """By tenant, tag, model, question, age; all conditions together."""
    house = House()

    async def main() -> None:
        await house.ask("What is a tort?", tags={"team": "law"})
        await house.ask("What is an annulment?")
        await house.clock.sleep(10)
        await house.ask("How old is the law?", tenant="other")
        names = {
            "What is a tort?": "tagged",
            "What is an annulment?": "plain",
            "How old is the law?": "other",
        }
        house.cache.purge(selection)
        assert {names[entry.text or ""] for entry in house.cache.shelf} == left

    run(main(), house.clock)


def test_what_was_asked_before_a_purge_is_not_kept_after_it() -> None:
    """An answer on its way is as old as the question; one asked later is new."""
    house = House()

    async def main() -> None:
        house.provider.script(after(5.0, "old"), "new")
        asked = asyncio.ensure_future(house.ask())
        await house.clock.sleep(1)
        house.cache.purge(Selection(route="smart"))
        reply, _ = await asked
        assert reply.text == "old" and len(house.cache.shelf) == 0
        await house.ask()
        assert len(house.cache.shelf) == 1

    run(main(), house.clock)


# --- single flight -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_hundred_identical_misses_are_one_request(stream: bool) -> None:
    """All get the whole answer; the one who began pays."""
    house = House()

    async def main() -> None:
        house.provider.script(after(1.0, answer("one two three")))
        got = await asyncio.gather(*(house.ask(stream=stream) for _ in range(100)))
        assert len(house.provider.requests) == 1
        assert {reply.text for reply, _ in got} == {"one two three"}
        assert sorted(call.cost or 0 for _, call in got) == [0] * 99 + [15]
        assert sum(call.cache == "miss" for _, call in got) == 1
        assert len(house.cache.flights) == 0

    run(main(), house.clock)
    assert house.provider.open_streams == 0


def slow(*pieces: str) -> Play:
    """A stream with a second between the pieces."""
    steps: list[Any] = [Start("1", "one"), BlockStart(0, Text(text=""))]
    for piece in pieces:
        steps += [Delta(0, "text", piece), Wait(1.0)]
    return Play(*steps, Finish("stop"), End())


def test_who_comes_late_gets_the_beginning_and_then_the_live_stream() -> None:
    """Nothing is missing and nothing waits for the end."""
    house = House()

    async def main() -> None:
        house.provider.script(slow("a", "b", "c"))
        first = asyncio.create_task(house.ask(stream=True))
        await house.clock.sleep(1.5)
        stream = await house.handle(house.request(stream=True))
        seen = [
            (event.text, house.clock.now())
            async for batch in stream
            for frame in batch
            for event in frame.events
            if isinstance(event, Delta)
        ]
        begun = house.provider.times[0]
        assert [(text, round(at - begun, 1)) for text, at in seen] == [("a", 1.5), ("b", 1.5), ("c", 2.0)]
        assert (await first)[0].text == "abc"
        assert len(house.provider.requests) == 1

    run(main(), house.clock)


def test_who_leaves_takes_nobody_along_and_the_last_one_ends_it() -> None:
    """The one who began may hang up, before the first content or after; with the last one the request upstream ends."""
    house = House()

    async def main() -> None:
        house.provider.script(after(1.0, slow("a", "b")), Hang())
        leader = asyncio.create_task(house.ask(stream=True))
        await house.clock.sleep(0.5)
        others = [asyncio.create_task(house.ask(stream=True)) for _ in range(3)]
        await house.clock.sleep(0.1)
        leader.cancel()
        await house.clock.sleep(1.0)
        others[0].cancel()
        assert [(await task)[0].text for task in others[1:]] == ["ab", "ab"]
        assert len(house.provider.requests) == 1
        alone = asyncio.create_task(house.ask("What is a tort?", stream=True))
        await house.clock.sleep(0.5)
        assert house.provider.open_streams == 1
        alone.cancel()
        await house.clock.sleep(0.1)
        assert house.provider.open_streams == 0
        assert len(house.cache.flights) == 0

    run(main(), house.clock)


def test_a_failed_flight_is_tried_once_more_and_then_shared() -> None:
    """The next one gets a turn; if that fails too, nobody waits for a hundredth failure."""
    house = House()

    async def main() -> None:
        house.provider.script(after(1.0, ProviderOverloaded("1")), after(1.0, answer()))
        got = await asyncio.gather(*(house.ask() for _ in range(10)), return_exceptions=True)
        assert sum(isinstance(one, AllTargetsFailed) for one in got) == 1
        assert len(house.provider.requests) == 2
        house.provider.script(*[after(1.0, ProviderOverloaded("2"))] * 2)
        got = await asyncio.gather(*(house.ask("What is a tort?") for _ in range(10)), return_exceptions=True)
        assert all(isinstance(one, AllTargetsFailed) for one in got)
        assert len(house.provider.requests) == 4

    run(main(), house.clock)


def test_a_refusal_of_one_key_is_not_another_ones() -> None:
    """Each starts on its own after the one before was refused by its budget."""
    house = House()

    async def main() -> None:
        house.provider.script(*[after(0.5, BudgetExceeded("no"))] * 5, answer())
        got = await asyncio.gather(*(house.ask() for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(one, BudgetExceeded) for one in got) == 5
        assert len(house.provider.requests) == 6

    run(main(), house.clock)


def test_each_leaves_at_its_own_deadline() -> None:
    """A caller with little time ends alone, whether it began the flight or joined it."""
    house = House()

    async def main() -> None:
        house.provider.script(after(5.0, answer()))
        hasty = asyncio.create_task(house.ask(timeout_s=2.0))
        await house.clock.sleep(0.1)
        patient = asyncio.create_task(house.ask())
        joined = asyncio.create_task(house.ask(timeout_s=1.0))
        for task in (hasty, joined):
            with pytest.raises(DeadlineExceeded):
                await task
        assert (await patient)[0].text == "It is void."
        assert len(house.provider.requests) == 1

    run(main(), house.clock)
