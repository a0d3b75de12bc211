"""The idempotency layer on a manual clock; two of them over one store are two processes."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from unittest import mock

import pytest

from headrace.call import Call
from headrace.dialects import by_name
from headrace.errors import (
    AllTargetsFailed,
    DeadlineExceeded,
    IdempotencyKeyReused,
    InvalidRequest,
    ProviderOverloaded,
    StillAnswering,
    StreamBroken,
)
from headrace.handler import Body, Handler, Request, Route, collect, stack
from headrace.layers.cascade import Cascade
from headrace.layers.deadline import Deadline
from headrace.layers.idempotency import Idempotency, read_key
from headrace.layers.idempotency.layer import fingerprint
from headrace.layers.ledger import Ledger
from headrace.layers.retry import Retry
from headrace.layers.timeout import Timeout
from headrace.store import MemoryStore
from headrace.testing import Hang, ManualClock, Play, ScriptedHandler, Wait, after, run
from headrace.tickets import Ticket
from headrace.types import BlockStart, Delta, End, Finish, Start, Target, Text

HALF = (Start("i", "m"), BlockStart(0, Text(text="")), Delta(0, "text", "half "))
REST = (Delta(0, "text", "whole"), Finish("stop", "stop"), End())


class Process:
    """The layers of one worker."""

    def __init__(self, clock: ManualClock, store: MemoryStore, provider: ScriptedHandler) -> None:
        self.clock = clock
        self.layer = Idempotency(
            clock,
            store,
            retention_s=86_400.0,
            max_bytes=1 << 20,
            route=lambda name: Route(name=name, cascade=()),
        )
        self.handle: Handler = stack(
            Deadline(clock),
            self.layer,
            Cascade(clock, lambda *_: None, lambda *_: False),
            Retry(clock, lambda: 0.5),
            Ledger(lambda provider, model, usage: usage.total_tokens, lambda call, attempt: None),
            Timeout(clock),
            handler=provider,
        )

    def request(
        self, key: str | None = "k", text: str = "hi", *, stream: bool = True, timeout_s: float | None = None
    ) -> Request:
        route = Route(name="r", cascade=(Target("a", "one"),), deadline_s=100.0)
        now, wall = self.clock.now(), self.clock.wall()
        call = Call(
            id=f"req_{id(object()):x}",
            started_at=now,
            started_wall=wall,
            tenant="acme",
            attempts=[],
            on_end=[],
        )
        body = {"model": "r", "messages": [{"role": "user", "content": text}], "stream": stream}
        return Request(
            body=Body(wire=json.dumps(body).encode(), dialect=by_name("openai-chat")),
            route=route,
            call=call,
            stream=stream,
            timeout_s=timeout_s,
            idempotency_key=key,
        )

    async def ask(self, key: str | None = "k", text: str = "hi", **how: Any) -> tuple[str, Call]:
        request = self.request(key, text, **how)
        reply = await collect(await self.handle(request))
        request.call.end(200, self.clock.now())
        return reply.text, request.call


class House:
    """Two processes over one store and one provider."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.provider = ScriptedHandler(self.clock)
        self.one = Process(self.clock, self.store, self.provider)
        self.two = Process(self.clock, self.store, self.provider)

    async def aclose(self) -> None:
        await self.one.layer.aclose()
        await self.two.layer.aclose()


def housed(body: Any) -> None:
    """Runs `body` with a house; nothing is left of it afterwards: no task, no timer."""
    house = House()

    async def main() -> None:
        await body(house)
        await house.aclose()
        assert len(asyncio.all_tasks()) == 1

    run(main(), house.clock)


def test_the_other_process_waits_and_gets_the_same() -> None:
    """It asks nobody, costs nothing, and knows what it saved."""

    async def body(house: House) -> None:
        house.provider.script(Play(*HALF, Wait(3.0), *REST))
        first = asyncio.ensure_future(house.one.ask())
        await house.clock.sleep(0.5)
        (said, asked), (again, _) = await house.two.ask(), await first
        assert said == again == "half whole"
        assert asked.cost == 0 and asked.attempts == [] and asked.cache == "hit-idempotent"
        assert asked.cached is not None and asked.cached.tier == "idempotency"
        assert 3.0 <= house.clock.now() <= 3.5

    housed(body)


def test_the_other_process_asks_where_the_first_has_failed() -> None:
    """A failure, and a stream that breaks off, let the key go."""

    async def body(house: House) -> None:
        for end in (ProviderOverloaded("no"), StreamBroken("cut")):
            scene = Play(*HALF, Wait(1.0), end) if isinstance(end, StreamBroken) else after(1.0, end)
            house.provider.script(scene, "second")
            first = asyncio.ensure_future(house.one.ask(type(end).__name__))
            await house.clock.sleep(0.5)
            assert (await house.two.ask(type(end).__name__))[0] == "second"
            with pytest.raises((AllTargetsFailed, StreamBroken, ProviderOverloaded)):
                await first

    housed(body)


def test_whoever_has_no_more_time_is_told_that_it_goes_on() -> None:
    """In the same process and in the other one; the answer is there afterwards, and was asked for once."""

    async def body(house: House) -> None:
        house.provider.script(after(20.0, "late"))
        with pytest.raises(DeadlineExceeded):
            await house.one.ask(timeout_s=1.0)
        with pytest.raises(StillAnswering, match="same key"):
            await house.one.ask(timeout_s=2.0)
        assert house.clock.now() == 3.0
        await house.clock.sleep(20.0)
        assert (await house.two.ask())[0] == "late"
        assert len(house.provider.targets) == 1

    housed(body)


def test_waiting_ends_with_the_deadline() -> None:
    """The process that answers is stuck: 409 after the route's deadline, and once its lease is over the next one asks."""

    async def body(house: House) -> None:
        request = house.one.request()
        key = json.dumps(["acme", None, "k"], separators=(",", ":"))
        ticket = Ticket(key=house.store.key_hash(key), fingerprint=fingerprint(request), token="stuck")
        await house.store.claim_answer(ticket, house.clock.wall(), house.clock.wall() + 150.0)
        with pytest.raises(StillAnswering):
            await house.one.ask()
        assert house.clock.now() == 100.0
        house.provider.script("mine now")
        assert (await house.two.ask())[0] == "mine now"
        assert 150.0 <= house.clock.now() < 151.0

    housed(body)


def test_another_body_is_refused_while_the_first_is_under_way() -> None:
    """In the same process and in the other one; nobody is asked for it, and the first is not disturbed."""

    async def body(house: House) -> None:
        house.provider.script(after(5.0, "yes"))
        first = asyncio.ensure_future(house.one.ask())
        await house.clock.sleep(1.0)
        for process in (house.one, house.two):
            with pytest.raises(IdempotencyKeyReused):
                await process.ask(text="ho")
        assert (await first)[0] == "yes"
        assert len(house.provider.targets) == 1

    housed(body)


def test_who_leaves_is_waited_for_and_a_shutdown_lets_go() -> None:
    """A cancelled caller's answer is finished and kept; one that a closing process cannot finish is free for the next."""

    async def body(house: House) -> None:
        house.provider.script(after(5.0, "kept"), Hang(), "anew")
        leaving = asyncio.ensure_future(house.one.ask())
        await house.clock.sleep(1.0)
        leaving.cancel()
        await house.clock.sleep(5.0)
        assert (await house.one.ask())[0] == "kept" and len(house.provider.targets) == 1
        leaving = asyncio.ensure_future(house.one.ask("hangs"))
        await house.clock.sleep(1.0)
        leaving.cancel()
        await house.one.layer.aclose()
        before = house.clock.now()
        assert (await house.two.ask("hangs"))[0] == "anew" and house.clock.now() < before + 1.0

    housed(body)


def test_a_waiting_process_stops_when_its_callers_leave() -> None:
    """Only what is paid for goes on alone."""

    async def body(house: House) -> None:
        house.provider.script(after(50.0, "late"))
        first = asyncio.ensure_future(house.one.ask())
        await house.clock.sleep(1.0)
        waiting = asyncio.ensure_future(house.two.ask())
        await house.clock.sleep(1.0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await house.clock.sleep(0.0)
        assert len(house.two.layer.flights) == 0 and len(house.one.layer.flights) == 1
        await first

    housed(body)


def test_a_cancelled_claim_is_let_go() -> None:
    """The store grants it when nobody waits for it any more: the next one is not held up."""

    async def body(house: House) -> None:
        granted = house.store.claim_answer

        async def slow(*args: Any) -> Any:
            found = await granted(*args)
            await house.clock.sleep(5.0)
            return found

        with mock.patch.object(house.store, "claim_answer", slow):
            asking = asyncio.ensure_future(house.one.ask())
            await house.clock.sleep(1.0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await house.clock.sleep(0.0)
        house.provider.script("yes")
        before = house.clock.now()
        assert (await house.two.ask())[0] == "yes" and house.clock.now() < before + 1.0

    housed(body)


def test_what_is_over_is_deleted_without_another_request() -> None:
    """A day and a second after the last answer nothing is left, and the timer neither."""

    async def body(house: House) -> None:
        house.provider.script("yes")
        await house.one.ask()
        assert house.store._answers
        await house.clock.sleep(86_402.0)
        assert not house.store._answers and house.clock.next_timer is None

    house = House()
    run(body(house), house.clock, limit_s=90_000.0)


def test_a_follower_that_gets_no_answer_saved_nothing() -> None:
    """A stream that breaks is no replay in the reports."""

    async def body(house: House) -> None:
        house.provider.script(Play(*HALF, Wait(2.0), StreamBroken("cut")))
        first = asyncio.ensure_future(house.one.ask())
        await house.clock.sleep(1.0)
        request = house.one.request()
        with pytest.raises(StreamBroken):
            await collect(await house.one.handle(request))
        request.call.end(502, house.clock.now())
        assert (request.call.cache, request.call.cached) == ("bypass", None)
        with pytest.raises(StreamBroken):
            await first

    housed(body)


def test_without_a_key_the_layer_is_not_there() -> None:
    """The request goes to the handler below as it came, and no frame is added."""
    seen: list[Request] = []

    async def inner(request: Request) -> Any:
        seen.append(request)

    async def body(house: House) -> None:
        handle, request = house.one.layer(inner), house.one.request(None)
        pending: Any = handle(request)
        assert pending.cr_code is inner.__code__
        await pending
        assert seen == [request]

    housed(body)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a", "a"),
        ("x" * 255, "x" * 255),
        ('"a b"', "a b"),
        (r'"a\"b\\c"', 'a"b\\c'),
        ('"open', '"open'),
        ("two, three", "two, three"),
    ],
)
def test_what_a_key_is(text: str, key: str) -> None:
    """Bare, or in the quotes of a structured field."""
    assert read_key(text) == key


@pytest.mark.parametrize("text", ["", '""', "x" * 256, "ü", "a\x7f", "a\nb"])
def test_what_no_key_is(text: str) -> None:
    """The error names the rule."""
    with pytest.raises(InvalidRequest, match="1 to 255 printable ASCII"):
        read_key(text)
