"""Which deployment of a target is asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.layers.test_cascade import request

from headrace.dialects import OPENAI_CHAT
from headrace.errors import (
    AllTargetsFailed,
    CredentialsInvalid,
    HeadraceError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
)
from headrace.handler import Body, Handler, OneBatch, Request, Stream, collect, stack
from headrace.layers.balance import Balance, conversation, ranked
from headrace.layers.breaker import Breaker
from headrace.layers.cascade import Cascade
from headrace.layers.deadline import Deadline
from headrace.layers.retry import Retry
from headrace.testing import ManualClock, make_request, run
from headrace.types import Complete, Deployment, Frame, Message, Reply, Text

T, OTHER = "a/one", "b/two"
DEAD = ProviderUnavailable("dead", http=503)


def silent() -> ProviderTimeout:
    """Nothing came within its time."""
    error = ProviderTimeout("silent")
    error.phase = "first_content"
    return error


def place(name: str, domain: str = "", weight: float = 1.0) -> Deployment:
    """A deployment of the target, of an account of its own unless another is named."""
    return Deployment(name=name, provider="a", model="one", quota_domain=domain or name, weight=weight)


class House:
    """The stack over a provider that fails by the deployment's name; `asked` is the order of the names."""

    def __init__(self, *places: Deployment, **failures: HeadraceError) -> None:
        self.clock: Any = ManualClock()
        self.failures: dict[str, HeadraceError] = dict(failures)
        self.asked: list[str] = []
        breaker = Breaker(self.clock)
        balance = Balance({("a", "one"): places}, breaker.shut, lambda: 0.5)
        self.handle: Handler = stack(
            Deadline(self.clock),
            Cascade(self.clock, lambda *_: None, lambda *_: False),
            Retry(self.clock, lambda: 0.5, elsewhere=balance.elsewhere),
            balance,
            breaker,
            handler=self.provide,
        )

    async def provide(self, request: Request) -> Stream:
        """An answer with the deployment's name."""
        name = request.target.provider if request.deployment is None else request.deployment.name  # type: ignore[union-attr]
        self.asked.append(name)
        if name in self.failures:
            raise self.failures[name]
        assert request.attempt is not None
        request.attempt.end("ok", self.clock.now())
        reply = Reply(id="1", model="m", content=(Text(text=name),), finish="stop")
        return OneBatch([Frame((Complete(reply),))])

    def ask(self, *targets: str, attempts: int = 3, text: str = "Hello", **rules: Any) -> str:
        """Who answered."""
        house: Any = self
        asked = request(*targets, attempts=attempts, house=house, **rules)
        self.last = msgspec.structs.replace(asked, body=make_request(text).body)

        async def main() -> str:
            return (await collect(await self.handle(self.last))).text

        return str(run(main(), self.clock))


def test_a_target_without_deployments_is_asked_as_ever() -> None:
    """And nothing is noted on its attempt."""
    house = House(place("x"))
    assert house.ask(OTHER) == "b"
    assert house.last.call.attempts[0].deployment is None


def test_a_conversation_stays_where_it_began() -> None:
    """Whatever comes after its first user message; others go elsewhere."""
    house = House(place("x"), place("y"), place("z"))
    assert len({house.ask(T, text="The same") for _ in range(10)}) == 1
    assert {house.ask(T, text=f"Question {n}") for n in range(60)} == {"x", "y", "z"}
    turns = make_request("The same").body.chat.messages
    longer = Body(
        chat=msgspec.structs.replace(
            make_request("x").body.chat,
            messages=(
                *turns,
                Message(role="assistant", content=(Text(text="Yes."),)),
                *make_request("And?").body.chat.messages,
            ),
        )
    )
    first, second = make_request("The same"), msgspec.structs.replace(make_request("x"), body=longer)
    assert conversation(first) == conversation(second)
    assert conversation(first) != conversation(make_request("Another"))


def test_what_cannot_be_read_goes_by_chance() -> None:
    """Its provider says what is wrong with it."""
    broken = Body(wire=b'{"model": "m", "messages": 7}', dialect=OPENAI_CHAT)
    assert conversation(msgspec.structs.replace(make_request(), body=broken)) is None


@pytest.mark.parametrize(
    "error",
    [DEAD, CredentialsInvalid("key", http=401), QuotaExhausted("money", http=429), silent()],
)
def test_a_retry_goes_to_another_at_once(error: HeadraceError) -> None:
    """Another key, account or server may well answer; nothing is waited for, and it counts as one of the level's attempts."""
    house = House(place("x"), place("y"))
    house.failures[house.ask(T)] = error
    before = house.clock.now()
    house.asked.clear()
    assert house.ask(T, OTHER) in ("x", "y")
    assert len(house.asked) == 2
    assert house.clock.now() == before
    assert [attempt.deployment for attempt in house.last.call.attempts] == house.asked


def test_one_attempt_is_one_attempt() -> None:
    """A level with a single attempt does not try the other place."""
    house = House(place("x"), place("y"), x=DEAD, y=DEAD)
    assert house.ask(T, OTHER, attempts=1) == "b"
    assert len(house.asked) == 2


def test_a_bad_request_is_not_taken_elsewhere() -> None:
    """It is bad everywhere."""
    bad = ProviderRejected("bad", http=400)
    house = House(place("x"), place("y"), x=bad, y=bad)
    with pytest.raises(ProviderRejected):
        house.ask(T)
    assert len(house.asked) == 1


def test_a_dead_place_is_left_alone() -> None:
    """Once its circuit is open nobody begins there, also those whose conversation belongs there; the target goes on."""
    house = House(place("x"), place("y"), x=DEAD)
    for number in range(40):
        house.ask(T, text=f"Question {number}")
    house.asked.clear()
    for number in range(40):
        house.ask(T, text=f"Question {number}")
    assert set(house.asked) == {"y"}


@pytest.mark.parametrize(("domain", "spared"), [("shared", True), ("", False)])
def test_an_account_shares_its_rate_limit(domain: str, spared: bool) -> None:
    """A 429 with a time is heeded by all deployments of the account, and by no other."""
    limited = ProviderRateLimited("slow down", http=429, retry_after_s=30.0)
    house = House(place("x", domain), place("y", domain), x=limited, y=limited)
    assert house.ask(T, OTHER, attempts=2) == "b"
    assert len(house.asked) == (2 if spared else 3)
    house.failures.clear()
    house.asked.clear()
    house.clock.advance(1.0)
    assert house.ask(T, OTHER, attempts=1) == "b"
    assert house.asked == ["b"]
    house.clock.advance(30.0)
    assert house.ask(T, OTHER, attempts=1) in ("x", "y")


def test_when_all_are_dead_the_target_is() -> None:
    """One error with each place's attempt."""
    house = House(place("x"), place("y"), x=DEAD, y=DEAD)
    with pytest.raises(AllTargetsFailed) as caught:
        house.ask(T, attempts=2)
    assert {attempt.deployment for attempt in caught.value.attempts} == {"x", "y"}


def test_weights_are_shares() -> None:
    """Of 8,000 conversations each place has its share, within four standard deviations."""
    places = [place("x", weight=1.0), place("y", weight=2.0), place("z", weight=5.0)]
    seen = Counter(ranked(places, str(n).encode())[0].name for n in range(8000))
    for each in places:
        share = each.weight / 8.0
        assert abs(seen[each.name] - 8000 * share) < 4 * (8000 * share * (1 - share)) ** 0.5


@given(
    st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=8, unique=True),
    st.binary(max_size=30),
    st.integers(0, 7),
)
def test_taking_one_out_moves_only_its_own(names: list[str], key: bytes, out: int) -> None:
    """The order of the others is as it was."""
    places = [place(name) for name in names]
    gone = places[out % len(places)]
    rest = [each for each in places if each is not gone]
    assert ranked(rest, key) == [each for each in ranked(places, key) if each is not gone]
