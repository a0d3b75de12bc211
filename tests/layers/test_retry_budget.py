"""The budget of retries that all requests to a target share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.layers.test_cascade import A, B, House, request

from headrace.errors import AllTargetsFailed, ProviderUnavailable
from headrace.layers.retry import BUDGETS_KEPT, RetryBudget
from headrace.types import Target

TARGET = Target("a", "one")


def test_a_thousand_requests_against_a_dead_provider() -> None:
    """The provider sees at most 1.2 times the requests and the floor of 10; three attempts each would have been 3 times."""
    house = House()
    house.provider.on(A, always=ProviderUnavailable("dead", http=503))

    async def outage() -> None:
        for _ in range(1000):
            with pytest.raises(AllTargetsFailed):
                await house.ask(request(A, attempts=3, house=house))

    house.run(outage())
    seen = len(house.provider.requests)
    assert 1000 < seen <= 1.2 * 1000 + 10


def test_without_tokens_the_next_target_is_asked_and_the_attempt_says_why() -> None:
    """The last attempt at the spent target carries the reason; no wait is slept for it."""
    house = House(chance=0.0)
    house.provider.on(A, always=ProviderUnavailable("dead", http=503))
    asked = request(A, B, attempts=50, house=house)
    house.run(house.ask(asked))
    assert house.provider.targets == [A] * 11 + [B]
    assert [attempt.note for attempt in asked.call.attempts[-3:]] == [None, "retry budget spent", None]
    assert "(retry budget spent)" in asked.call.attempts[-2].line()


def test_targets_do_not_share() -> None:
    """One target's outage costs another none of its retries."""
    budget = RetryBudget(floor=1.0)
    assert budget.spend(TARGET)
    assert not budget.spend(TARGET)
    assert budget.spend(Target("a", "two"))
    assert budget.spend(Target("b", "one"))


def test_attempts_of_a_level_do_not_make_another_target() -> None:
    """The same model in two routes has one budget."""
    budget = RetryBudget(floor=1.0)
    assert budget.spend(Target("a", "one", 3))
    assert not budget.spend(Target("a", "one", 5))


def test_what_is_kept_is_bounded() -> None:
    """A caller that names ever new models costs no more memory than for `BUDGETS_KEPT` of them."""
    budget = RetryBudget()
    for number in range(BUDGETS_KEPT + 10):
        budget.spend(Target("a", f"model-{number}"))
    assert len(budget._tokens) == BUDGETS_KEPT


@given(st.lists(st.booleans(), max_size=400), st.integers(1, 20), st.sampled_from([0.0, 0.1, 0.2, 1.0]))
def test_retries_never_exceed_floor_and_ratio(steps: list[bool], floor: int, ratio: float) -> None:
    """Whatever the order of requests and retries, the allowed retries are at most `floor + ratio * requests`."""
    budget = RetryBudget(floor=float(floor), ratio=ratio)
    requests = retries = 0
    for is_request in steps:
        if is_request:
            budget.earn(TARGET)
            requests += 1
        else:
            retries += budget.spend(TARGET)
        assert retries <= floor + ratio * requests + 1e-6
