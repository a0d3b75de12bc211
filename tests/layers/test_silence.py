"""Silent targets: asked once while somebody else is left, and never for more than their share of the deadline."""

from __future__ import annotations

import pytest
from tests.layers.test_cascade import A, B, House, request

from headrace.errors import AllTargetsFailed, ProviderTimeout
from headrace.layers.retry import Backoff, next_attempt
from headrace.testing import Hang

C = "c/three"


@pytest.mark.parametrize("last_level", [False, True])
def test_a_timeout_is_repeated_only_at_the_last_level(last_level: bool) -> None:
    """While another level is left the next attempt is there."""
    error = ProviderTimeout("silent")
    error.phase = "first_content"
    delay = next_attempt(
        error,
        made=1,
        allowed=3,
        now=0.0,
        deadline=100.0,
        max_wait_s=5.0,
        last_level=last_level,
        backoff=Backoff(),
        random=lambda: 0.5,
    )
    assert (delay is not None) is last_level


def test_a_silent_stream_is_left_after_its_first_content_limit() -> None:
    """One attempt, 60 s, then the next target, whatever attempts are left."""
    house = House()
    house.provider.on(A, always=Hang())
    house.provider.on(B, "from b")
    assert house.run(house.ask(request(A, B, attempts=3, stream=True, house=house))) == "from b"
    assert house.provider.targets == [A, B]
    assert house.clock.now() == 60.0


def test_a_silent_buffered_call_is_left_after_its_share_of_the_deadline() -> None:
    """With three levels and 60 s the first has 20 s, the second half of the 40 s that are left, the last all of the rest."""
    house = House()
    house.provider.default = Hang()
    asked = request(A, B, C, attempts=2, house=house, deadline_s=60.0)
    with pytest.raises(AllTargetsFailed) as caught:
        house.run(house.ask(asked))
    assert house.provider.targets == [A, B, C]
    assert [round(attempt.duration_s or 0.0, 6) for attempt in asked.call.attempts] == [20.0, 20.0, 20.0]
    assert caught.value.http_status == 504
    assert house.provider.open_streams == 0


def test_a_level_that_answers_soon_leaves_the_rest_to_the_others() -> None:
    """The share is of what is left, so what one level does not use is everybody's."""
    house = House()
    house.provider.on(A, always=ProviderTimeout("said at once"))
    house.provider.default = Hang()
    asked = request(A, B, C, house=house, deadline_s=60.0)
    with pytest.raises(AllTargetsFailed):
        house.run(house.ask(asked))
    assert [round(attempt.duration_s or 0.0, 6) for attempt in asked.call.attempts] == [0.0, 30.0, 30.0]
