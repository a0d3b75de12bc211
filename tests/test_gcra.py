"""The arithmetic of rate limits."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace import gcra
from headrace.gcra import KEPT, MINUTE, OWED, Claim, Counter, Counters, Grant, Rate, rates, share
from headrace.types import Limits

SECOND = MINUTE // 60
REQUESTS = Rate("key k|requests", "key k", "requests", 60)
TOKENS = Rate("key k|tokens", "key k", "tokens", 1000)


def test_a_minutes_worth_comes_at_once_and_is_renewed_evenly() -> None:
    """Sixty requests are let in at once, the next waits a second, and says so."""
    counters = Counters()
    for left in range(59, -1, -1):
        admission = counters.admit([Claim(REQUESTS, 1)], 5)
        assert admission.refused is None
        assert admission.standings[0].left == left
    refused = counters.admit([Claim(REQUESTS, 1)], 5)
    assert (refused.refused, refused.wait) == (Claim(REQUESTS, 1), SECOND)
    assert refused.standings[0].left == 0 and refused.standings[0].full_in == MINUTE
    assert counters.admit([Claim(REQUESTS, 1)], 5 + SECOND - 1).refused is not None
    assert counters.admit([Claim(REQUESTS, 1)], 5 + SECOND).refused is None


def test_all_claims_or_none() -> None:
    """What one limit refuses is taken from no other, and the longest wait is told."""
    counters = Counters()
    counters.admit([Claim(TOKENS, 1000)], 0)
    refused = counters.admit([Claim(REQUESTS, 1), Claim(TOKENS, 500)], 0)
    assert refused.refused == Claim(TOKENS, 500)
    assert refused.wait == MINUTE // 2
    assert [one.left for one in refused.standings] == [60, 0]


def test_what_was_not_used_comes_back() -> None:
    """A reservation that used a tenth leaves nine tenths to the next."""
    counters = Counters()
    grants = counters.admit([Claim(TOKENS, 1000)], 0).grants
    counters.settle([(grants[0], 100)], 0)
    assert counters.admit([Claim(TOKENS, 901)], 0).refused is not None
    assert counters.admit([Claim(TOKENS, 900)], 0).refused is None


def test_an_old_reservation_is_not_lent_twice() -> None:
    """What time has given back does not come back again when the request ends."""
    counters = Counters()
    old = counters.admit([Claim(TOKENS, 1000)], 0).grants
    counters.admit([Claim(TOKENS, 1000)], MINUTE)
    counters.settle([(old[0], 0)], MINUTE)
    assert counters.admit([Claim(TOKENS, 1)], MINUTE).refused is not None


def test_what_went_back_moves_the_others_on() -> None:
    """A reservation that stood behind one that was given back is given back by time so much sooner, and is not lent twice either."""
    counters = Counters()
    first = counters.admit([Claim(TOKENS, 500)], 0).grants[0]
    second = counters.admit([Claim(TOKENS, 400)], 0).grants[0]
    counters.settle([(first, 0)], 20 * SECOND)
    assert counters.admit([Claim(TOKENS, 900)], 40 * SECOND).refused is None
    counters.settle([(second, 0)], 45 * SECOND)
    # 900 of this moment's 1,083: all of the second one had come back with time by then.
    assert counters.admit([Claim(TOKENS, 117)], 45 * SECOND).refused is not None
    assert counters.admit([Claim(TOKENS, 116)], 45 * SECOND).refused is None


def test_what_was_used_above_the_reservation_is_owed() -> None:
    """The next wait is longer by it, and never longer than ten minutes."""
    counters = Counters()
    grants = counters.admit([Claim(TOKENS, 10)], 0).grants
    counters.settle([(grants[0], 1500)], 0)
    assert counters.admit([Claim(TOKENS, 500)], 0).wait == MINUTE
    grant = Grant(TOKENS, 10, 0)
    assert gcra.settle(grant, 10**12, Counter(), 7) == Counter(7 + OWED, 0)


def test_a_clock_that_was_set_back_locks_nobody_out_for_long() -> None:
    """Ten minutes, whatever it was set back by."""
    counters = Counters()
    counters.admit([Claim(REQUESTS, 60)], 10**6 * SECOND)
    assert counters.admit([Claim(REQUESTS, 60)], 0).wait == OWED


def test_equal_parts() -> None:
    """Each worker has its part of a limit, at least one, and nothing is asked for that it can never have."""
    claims = share([Claim(TOKENS, 900), Claim(Rate("r", "r", "requests", 2), 1)], 4)
    assert [(claim.rate.limit, claim.need) for claim in claims] == [(250, 250), (1, 1)]


def test_limits_make_rates() -> None:
    """One for each that is set; none where nothing is."""
    assert rates("key", "k", None) == []
    assert rates("key", "k", Limits(rpm=60, tpm=1000)) == [REQUESTS, TOKENS]
    assert rates("user", "u", Limits(tpm=5)) == [Rate("user u|tokens", "user u", "tokens", 5)]


def test_full_counters_are_forgotten() -> None:
    """Memory does not grow with the number of users that once asked; what is reserved is kept."""
    counters = Counters()
    held = counters.admit([Claim(TOKENS, 1)], 0).grants
    for user in range(KEPT + 10):
        (grant,) = counters.admit([Claim(Rate(f"{user}", "u", "requests", 60), 1)], 0).grants
        counters.settle([(grant, 1)], 0)
    counters.admit([Claim(Rate("last", "u", "requests", 60), 1)], MINUTE * 2)
    assert len(counters._counters) == 2
    counters.settle([(held[0], 0)], MINUTE * 2)
    assert counters.open == 1


class Limiter(RuleBasedStateMachine):
    """Requests come, run and end in any order, over limits of any size, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.counters = Counters()
        self.rate = TOKENS
        self.open: list[tuple[Grant, int]] = []
        self.used: list[tuple[int, int]] = []
        """When each request that has ended was let in, and what it used of its reservation."""

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)

    @rule(need=st.integers(1, 1000))
    def come(self, need: int) -> None:
        admission = self.counters.admit([Claim(self.rate, need)], self.now)
        if admission.refused is not None:
            assert admission.wait > 0 and not admission.grants
            # Without an ending, exactly then there is room.
            again = Counters()
            again._counters = dict(self.counters._counters)
            assert again.admit([Claim(self.rate, need)], self.now + admission.wait - 1).refused is not None
            assert again.admit([Claim(self.rate, need)], self.now + admission.wait).refused is None
        else:
            self.open.append((admission.grants[0], self.now))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 1000), part=st.floats(0, 1))
    def end(self, which: int, part: float) -> None:
        grant, at = self.open.pop(which % len(self.open))
        used = int(grant.need * part)
        self.counters.settle([(grant, used)], self.now)
        self.used.append((at, used))

    @invariant()
    def reservations_are_open_requests(self) -> None:
        assert self.counters.open == len(self.open)

    @invariant()
    def never_negative_and_never_more_than_a_minute(self) -> None:
        (standing,) = self.counters.admit([Claim(self.rate, 1001)], self.now).standings
        assert 0 <= standing.left <= self.rate.limit
        assert 0 <= standing.full_in <= MINUTE

    @invariant()
    def no_span_has_more_than_its_share_and_a_burst(self) -> None:
        kept = sorted([*self.used, *((at, grant.need) for grant, at in self.open)])
        for first, (start, _) in enumerate(kept):
            total = 0
            for at, used in kept[first:]:
                total += used
                assert total * MINUTE <= self.rate.limit * (MINUTE + at - start)


TestLimiter = Limiter.TestCase
TestLimiter.settings = settings(max_examples=40, deadline=None)
