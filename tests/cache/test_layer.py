"""The cache as a layer, on a manual clock in front of scripted providers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.cache.layer import Cache
from headrace.cache.shelf import Shelf
from headrace.call import Call
from headrace.dialects import by_name
from headrace.handler import Body, CachePolicy, Handler, Request, Route, collect, stack
from headrace.layers.cascade import Cascade
from headrace.layers.deadline import Deadline
from headrace.layers.ledger import Ledger
from headrace.layers.retry import Retry
from headrace.layers.timeout import Timeout
from headrace.testing import ManualClock, ScriptedHandler, run
from headrace.types import (
    Reply,
    Target,
    Text,
    Usage,
)

OPENAI, ANTHROPIC = by_name("openai-chat"), by_name("anthropic")


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
        **members: Any,
    ) -> Request:
        self.calls += 1
        pairs = (target.split("/") for target in targets)
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
        )
        return Request(
            body=Body(wire=json.dumps(body).encode(), dialect=by_name(dialect)),
            route=route,
            call=call,
            stream=stream,
            cache_control=cache_control,
            timeout_s=timeout_s,
        )

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
