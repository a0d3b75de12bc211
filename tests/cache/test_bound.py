"""The bound from audits: what it certifies, how often it errs, and that it notices when answers change."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cache.audits import Audit, Audits, made_by
from headrace.cache.bound import Bound, upper, wealth
from headrace.handler import CachePolicy, Route
from headrace.types import Target

LIMIT = 0.05
TAUS = (0.5, 0.9, 0.99)


def taught(audits: int, wrong_share: float, seed: int, *, p: float = 0.95) -> tuple[Bound, bool]:
    """A bound after so many audits at `p`, and whether it ever certified 0.9 or looser."""
    lot, bound, ever = random.Random(seed), Bound(TAUS, 0.9, LIMIT), False
    for _ in range(audits):
        bound.learn(p, lot.random() >= wrong_share)
        ruling = bound.ruling()
        ever = ever or (ruling.state == "certified" and ruling.tau in (0.5, 0.9))
    return bound, ever


@given(st.integers(0, 400), st.floats(0.0, 1.0), st.floats(0.001, 0.5))
def test_the_gambler_never_gains_on_average_where_the_share_is_not_less(
    audits: int, part: float, limit: float
) -> None:
    """One more audit with the promised share, or more, wrong leaves the fortune on average as it is, or smaller."""
    wrong = int(audits * part)
    for share in (limit, min(1.0, 1.5 * limit)):
        now, right, not_right = (
            wealth(audits, wrong, limit),
            wealth(audits + 1, wrong, limit),
            wealth(audits + 1, wrong + 1, limit),
        )
        mean = (1 - share) * math.exp(right - now) + share * math.exp(not_right - now)
        assert mean <= 1.0 + 1e-9


def test_what_is_no_better_than_promised_is_rarely_certified() -> None:
    """Looked at after each of 400 audits, in 200 runs at a share just above the promise; a fixed-sample bound errs five times as often."""
    assert sum(taught(400, LIMIT * 1.01, seed)[1] for seed in range(200)) <= 14


def test_what_is_better_than_promised_is_certified_and_the_loosest_threshold_taken() -> None:
    """All right: 0.5 too, which sees the same audits; wrong ones below 0.9 take it back, and 0.9 stays."""
    bound, ever = taught(200, 0.0, 1)
    ruling = bound.ruling()
    assert ever and (ruling.state, ruling.tau, ruling.wrong) == ("certified", 0.5, 0)
    assert 0 < ruling.at_most < LIMIT
    for _ in range(5):
        bound.learn(0.6, False)
    assert bound.ruling()[:4] == ("certified", 0.9, True, 200)


def test_a_stricter_threshold_is_certified_where_the_known_one_fails() -> None:
    """Half of what is between 0.9 and 0.99 is wrong: infeasible at first, then certified at 0.99."""
    bound, states = Bound(TAUS, 0.9, LIMIT), []
    for number in range(600):
        bound.learn(0.95 if number % 3 == 0 else 0.995, number % 6 != 0)
        states.append(bound.ruling().state)
    assert [state for at, state in enumerate(states) if state not in states[:at]] == [
        "prior",
        "infeasible",
        "certified",
    ]
    assert bound.ruling().tau == 0.99


def test_answers_that_change_take_the_certificate_back() -> None:
    """A fifth wrong from one day on is noticed within 100 audits in nearly every run."""
    late = 0
    for seed in range(50):
        bound, _ = taught(300, 0.0, seed)
        assert bound.ruling().state == "certified"
        lot = random.Random(seed + 1000)
        for _ in range(100):
            bound.learn(0.95, lot.random() >= 0.2)
            if bound.drifts:
                break
        late += not bound.drifts
        if bound.drifts:
            assert bound.ruling().state != "certified" or bound.ruling().tau == 0.99
    assert late <= 4


def test_a_wrong_audit_asks_for_more_until_right_ones_outweigh_it() -> None:
    """At a promise of one in a hundred that takes 40."""
    bound, doubts = Bound((0.9,), 0.9, 0.01), 0
    assert not bound.ruling().doubt
    bound.learn(0.95, False)
    while bound.ruling().doubt:
        doubts += 1
        bound.learn(0.95, True)
    assert doubts == 40


def test_the_upper_bound_holds_and_narrows() -> None:
    """Above the share that was seen, below 1, and closer with more of the same."""
    assert upper(0, 0) == 1.0
    assert 1 - 0.05 ** (1 / 300) < upper(300, 0) < 0.02
    assert 0.01 < upper(3000, 30) < upper(300, 3) < 0.06
    assert upper(5, 5) == 1.0


def test_nothing_known_and_nothing_said() -> None:
    """Without a prior nothing is served until certified; a share that is none is refused."""
    assert Bound((), None, 0.01).ruling().state == "infeasible"
    bound = Bound((0.9,), None, LIMIT)
    assert bound.ruling()[:3] == ("infeasible", None, False)
    for _ in range(150):
        bound.learn(0.95, True)
    assert bound.ruling()[:3] == ("certified", 0.9, True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Bound((), None, 0.0)


class Scale:
    """One threshold."""

    def __init__(self) -> None:
        self.version = "v1"
        self.thresholds = {LIMIT: 0.9}

    def tau(self, max_wrong: float) -> float | None:
        """See `headrace.cache.audits.Scale`."""
        return self.thresholds.get(max_wrong)


def test_audits_of_other_targets_or_versions_say_nothing() -> None:
    """Those of the route as it is certify, also when they were there before anybody asked; a new model begins in `prior`."""
    policy = CachePolicy(semantic=True, max_wrong=LIMIT)
    route = Route(name="faq", cascade=(Target("a", "one"),), cache=policy)
    other = Route(name="faq", cascade=(Target("a", "two"),), cache=policy)
    audits = Audits(Scale())
    audits.add([Audit("faq", made_by(route, "v1"), 0.95, True, 0.0)] * 100)
    assert audits.ruling(route, policy).audits == 100
    audits.add([Audit("faq", made_by(route, "v1"), 0.95, True, 0.0)] * 100)
    audits.add([Audit("faq", made_by(route, "v0"), 0.95, False, 0.0)] * 100)
    assert audits.ruling(route, policy).state == "certified"
    assert audits.ruling(other, policy).state == "prior"
    (told,) = audits.report([route])
    assert (told["route"], told["state"], told["audits"], told["wrong"]) == ("faq", "certified", 200, 0)
    shadow = CachePolicy(semantic=True, max_wrong=LIMIT, shadow=True)
    assert audits.ruling(route, shadow)[:3] == ("shadow", 0.9, False)
