"""Circuits as a state machine, and the layer that heeds them, on a manual clock against scripted providers."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.layers.test_cascade import A, B, request

from headrace.errors import (
    AllTargetsFailed,
    ConnectFailed,
    ContentFiltered,
    ContextTooLong,
    CredentialsInvalid,
    ModelFailed,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    StreamBroken,
)
from headrace.handler import Handler, Request, Route, collect, stack
from headrace.layers.breaker import (
    CIRCUITS_KEPT,
    LEASE_S,
    LIMIT_S,
    OPENS_AT_ONCE,
    Breaker,
    Change,
    Circuit,
    CircuitState,
    Rules,
    Verdict,
    account_weight,
    weight,
)
from headrace.layers.cascade import Cascade
from headrace.layers.deadline import Deadline
from headrace.layers.ledger import Ledger
from headrace.layers.retry import Retry
from headrace.layers.timeout import Timeout
from headrace.testing import Hang, ManualClock, Play, ScriptedHandler, Wait, make_request, run
from headrace.types import BlockStart, Delta, End, Finish, Start, Target, Text

DEAD = ProviderUnavailable("dead", http=503)


class House:
    """The stack from the deadline down, with a breaker."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.provider = ScriptedHandler(self.clock)
        self.changes: list[Change] = []
        self.breaker = Breaker(self.clock, told=self.changes.append)
        self.handle: Handler = stack(
            Deadline(self.clock),
            Cascade(self.clock, lambda *_: None, lambda *_: False),
            Retry(self.clock, lambda: 0.5),
            Ledger(lambda *_: 0, lambda *_: None),
            self.breaker,
            Timeout(self.clock),
            handler=self.provider,
        )

    async def ask(self, asked: Request) -> str:
        """The answer's text."""
        return (await collect(await self.handle(asked))).text

    async def fail(self, asked: Request) -> AllTargetsFailed:
        """The error that `asked` ends in."""
        with pytest.raises(AllTargetsFailed) as caught:
            await self.ask(asked)
        return caught.value

    def to(self, *targets: str, attempts: int = 1, stream: bool = False, **rules: object) -> Request:
        """A request for a cascade of `targets`."""
        return request(*targets, attempts=attempts, stream=stream, house=self, **rules)  # type: ignore[arg-type]

    def state(self, key: str) -> CircuitState:
        """Of the circuit `key`, now."""
        return self.breaker.circuit(key).state(self.clock.now())


# --- the circuit alone ------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_it() -> None:
    """Three over a quarter of a second are enough; of a burst it takes five."""
    slow = Circuit(Rules())
    assert [slow.failed(at, 1.0, "x", probe=False) for at in (1.0, 1.25, 1.5)] == [False, False, True]
    busy = Circuit(Rules())
    assert [busy.failed(0.0, 1.0, "x", probe=False) for _ in range(5)] == [False] * 4 + [True]


def test_a_success_between_them_does_not() -> None:
    """Four failures, a success, four failures, among many successes: closed."""
    circuit = Circuit(Rules())
    for _ in range(50):
        circuit.succeeded(0.0, probe=False)
    for _ in range(2):
        for _ in range(4):
            assert not circuit.failed(0.0, 1.0, "x", probe=False)
        circuit.succeeded(0.0, probe=False)
    assert circuit.state(0.0) is CircuitState.CLOSED


def test_a_bad_half_opens_it() -> None:
    """Half of twenty attempts failed within the window, though never two in a row; spread over minutes the same is nothing."""

    def opened(every_s: float) -> bool:
        circuit = Circuit(Rules())
        for step in range(40):
            now = step * every_s
            circuit.succeeded(now, probe=False)
            if circuit.failed(now, 1.0, "x", probe=False):
                return True
        return False

    assert opened(0.1)
    assert not opened(20.0)


def test_the_cooldown_doubles_until_a_success() -> None:
    """20, 30, 30 s; an end that is well starts it over, a probe's first content alone does not."""
    circuit, now, waits = Circuit(Rules()), 0.0, []
    circuit.failed(now, OPENS_AT_ONCE, "x", probe=False)
    for _ in range(5):
        waits.append(circuit.wait(now))
        now = circuit.until
        assert circuit.admit(now, last=False) is Verdict.PROBE
        circuit.failed(now, 1.0, "x", probe=True)
    assert waits == [20.0, 30.0, 30.0, 30.0, 30.0]
    now = circuit.until
    assert circuit.admit(now, last=False) is Verdict.PROBE
    assert circuit.begun(probe=True)
    circuit.failed(now, OPENS_AT_ONCE, "x", probe=True)
    assert circuit.wait(now) == 30.0
    now = circuit.until
    circuit.admit(now, last=False)
    assert circuit.succeeded(now, probe=True)
    circuit.failed(now, OPENS_AT_ONCE, "x", probe=False)
    assert circuit.wait(now) == 20.0


def test_the_providers_wait_is_a_floor() -> None:
    """A 503 with `Retry-After: 45` stays open for 45 s; a hint of a day for at most `LIMIT_S`."""
    circuit = Circuit(Rules())
    circuit.failed(0.0, OPENS_AT_ONCE, "x", probe=False, hint_s=45.0)
    assert circuit.wait(0.0) == 45.0
    circuit = Circuit(Rules())
    circuit.failed(0.0, OPENS_AT_ONCE, "x", probe=False, hint_s=86_400.0)
    assert circuit.wait(0.0) == LIMIT_S


def test_one_probe_at_a_time() -> None:
    """While one is out nobody else gets one, until it tells, is released, or is older than its lease."""
    circuit = Circuit(Rules())
    circuit.failed(0.0, OPENS_AT_ONCE, "x", probe=False)
    assert circuit.admit(20.0, last=False) is Verdict.PROBE
    assert circuit.admit(20.0, last=False) is Verdict.REFUSE
    circuit.released()
    assert circuit.admit(20.0, last=False) is Verdict.PROBE
    assert circuit.admit(20.0 + LEASE_S, last=False) is Verdict.PROBE


def test_who_has_nobody_else_needs_more_proof() -> None:
    """What three failures opened is still asked by those who have no other target, until there are ten."""
    circuit = Circuit(Rules())
    for at in (0.0, 0.5, 1.0):
        circuit.failed(at, 1.0, "x", probe=False)
    assert circuit.admit(1.0, last=False) is Verdict.REFUSE
    for _ in range(7):
        assert circuit.admit(1.0, last=True) is Verdict.PROBE
        circuit.failed(1.0, 1.0, "x", probe=True)
    assert circuit.admit(1.0, last=True) is Verdict.REFUSE


class Machine(RuleBasedStateMachine):
    """Attempts in any order against one circuit; the invariants of `docs/breaker.md`."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit(Rules())
        self.now = 0.0
        self.out: list[bool] = []
        self.opened_at: float | None = None
        self.closed_by_probe = True

    @rule(seconds=st.floats(0.0, 100.0))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(last=st.booleans())
    def ask(self, last: bool) -> None:
        """Somebody asks."""
        was_open, until = self.circuit.open, self.circuit.until
        verdict = self.circuit.admit(self.now, last=last)
        if verdict is Verdict.REFUSE:
            assert not self.circuit.quiet
            assert self.circuit.wait(self.now) >= 0
            return
        self.out.append(verdict is Verdict.PROBE)
        assert (verdict is Verdict.PROBE) == was_open
        assert not was_open or self.now >= until or last

    @precondition(lambda self: self.out)
    @rule(data=st.data(), how=st.sampled_from(["ok", "fail", "leave", "begin and fail"]))
    def end(self, data: st.DataObject, how: str) -> None:
        """An attempt ends."""
        probe = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        circuit, was_open = self.circuit, self.circuit.open
        if how == "begin and fail":
            circuit.begun(probe=probe)
        if how == "ok":
            circuit.succeeded(self.now, probe=probe)
        elif how == "leave":
            if probe:
                circuit.released()
        else:
            hard = data.draw(st.sampled_from([0.5, 1.0, 2.0]))
            if circuit.failed(self.now, hard, "x", probe=probe):
                assert circuit.wait(self.now) >= circuit.rules.first_s - 1e-9  # `until` was rounded
        if was_open and not circuit.open:
            assert probe, "an open circuit closes by a probe and by nothing else"

    @rule(seconds=st.floats(0.01, 1000.0))
    def be_limited(self, seconds: float) -> None:
        """The provider says when."""
        self.circuit.limit(self.now + min(seconds, LIMIT_S), "rate_limited")

    @rule(seconds=st.floats(0.01, 60.0))
    def be_hinted(self, seconds: float) -> None:
        """Its headers say that nothing is left."""
        self.circuit.hint(self.now + seconds)

    @invariant()
    def holds(self) -> None:
        """Quiet means closed and unlimited; every state ends."""
        circuit = self.circuit
        if circuit.quiet:
            assert circuit.state(self.now) is CircuitState.CLOSED
        assert circuit.wait(self.now) <= LIMIT_S + 1.0
        later = self.now + 2 * LIMIT_S
        assert circuit.state(later) in (CircuitState.CLOSED, CircuitState.HALF_OPEN)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# --- what errors say --------------------------------------------------------------------------------------------------


def timeout(phase: str) -> ProviderTimeout:
    """A timeout of `phase`."""
    error = ProviderTimeout("silent")
    error.phase = phase
    return error


@pytest.mark.parametrize(
    ("error", "target", "account"),
    [
        (DEAD, 1.0, 0.0),
        (ConnectFailed("x"), 1.0, 0.0),
        (ProviderOverloaded("x", http=529), 1.0, 0.0),
        (timeout("first_content"), 2.0, 0.0),
        (timeout("between_events"), 2.0, 0.0),
        (timeout("total"), 0.0, 0.0),
        (ProviderRateLimited("x"), 0.5, None),
        (ProviderRateLimited("x", retry_after_s=3.0), 0.0, None),
        (QuotaExhausted("x", http=429, code="insufficient_quota"), OPENS_AT_ONCE, OPENS_AT_ONCE),
        (QuotaExhausted("x", http=402), OPENS_AT_ONCE, OPENS_AT_ONCE),
        (QuotaExhausted("PerDay", http=429, code="RESOURCE_EXHAUSTED"), OPENS_AT_ONCE, None),
        (CredentialsInvalid("x", http=401), 0.0, 1.0),
        (CredentialsInvalid("x", http=403), 0.0, 0.0),
        (ContextTooLong("x", http=400), None, None),
        (ProviderRejected("x", http=400), None, None),
        (ContentFiltered("x", http=400), None, None),
        (ModelFailed("x", http=400), None, None),
    ],
)
def test_weights(error: ProviderError, target: float | None, account: float | None) -> None:
    """None: it works. 0: it says nothing. A model's own quota says nothing of the account's other models."""
    assert weight(error, silent_s=5.0) == target
    assert account_weight(error) == account


def test_the_callers_deadline_counts_after_a_long_silence() -> None:
    """Who gives a provider one second learns nothing about it; thirty seconds of silence say something."""
    assert weight(timeout("total"), silent_s=29.0) == 0.0
    assert weight(timeout("total"), silent_s=31.0) == 2.0


# --- the layer --------------------------------------------------------------------------------------------------------


def test_an_open_circuit_sends_callers_on_at_once() -> None:
    """The dead target is not asked, costs nothing, and stands among the attempts with its state."""
    house = House()
    house.provider.on(A, always=DEAD)

    async def main() -> None:
        await house.ask(house.to(A, B, attempts=3))
        asked = house.to(A, B, attempts=3)
        started = house.clock.now()
        assert await house.ask(asked) == "ok"
        assert house.clock.now() == started
        skipped, answered = asked.call.attempts
        assert (skipped.outcome, skipped.error_kind, skipped.breaker) == ("skipped", "circuit_open", "open")
        assert skipped.cost == skipped.wasted == 0
        assert (answered.outcome, answered.breaker) == ("ok", "closed")
        assert asked.call.sent == 1

    run(main(), house.clock)
    assert house.provider.targets == [A, A, A, B, B]


def test_a_single_target_fails_fast_and_says_when() -> None:
    """After ten failures callers get 503 at once, with the time after which asking makes sense."""
    house = House()
    house.provider.on(A, always=DEAD)

    async def main() -> None:
        for _ in range(2):
            await house.fail(house.to(A, attempts=5))
        started = house.clock.now()
        error = await house.fail(house.to(A, attempts=5))
        assert house.clock.now() == started
        assert error.http_status == 503
        assert error.retry_after_s == pytest.approx(20.0)
        assert "circuit of a/one is open" in str(error)

    run(main(), house.clock)
    assert len(house.provider.requests) == 10


def test_flapping() -> None:
    """A minute's outage under a request a second: every one is served, the dead target sees at most 5, and is back in 30 s."""
    house = House()
    back_at: list[float] = []

    def primary(_: Request) -> object:
        if 10.0 <= house.clock.now() < 70.0:
            return DEAD
        return "from a"

    house.provider.on(A, always=primary)  # type: ignore[arg-type]
    house.provider.on(B, always="from b")

    async def main() -> None:
        for _ in range(120):
            text = await house.ask(house.to(A, B, attempts=3))
            if text == "from a" and house.clock.now() >= 70.0:
                back_at.append(house.clock.now())
            await house.clock.sleep(1.0)

    run(main(), house.clock)
    dead = [
        time
        for time, asked in zip(house.provider.times, house.provider.targets, strict=True)
        if asked == A and 10.0 <= time < 70.0
    ]
    assert 3 <= len(dead) <= 5
    assert back_at[0] < 100.0
    assert [change.state for change in house.changes].count(CircuitState.CLOSED) == 1


def test_streams_count_at_their_real_end() -> None:
    """Streams that begin well and are cut open the circuit as failures do."""
    cut = Play(Start("1", "m"), BlockStart(0, Text(text="")), Delta(0, "text", "half"), ConnectFailed("gone"))
    house = House()
    house.provider.on(A, always=cut)

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(StreamBroken):
                await house.ask(house.to(A, B, stream=True))
            await house.clock.sleep(1.0)
        assert await house.ask(house.to(A, B, stream=True)) == "ok"

    run(main(), house.clock)
    assert house.provider.targets == [A, A, A, B]


def test_a_probe_closes_at_its_first_content() -> None:
    """Nobody waits for the end of a long stream to use a target that is back."""
    house = House()
    long = Play(
        Start("1", "m"),
        BlockStart(0, Text(text="")),
        Delta(0, "text", "a"),
        Wait(50.0),
        Delta(0, "text", "b"),
        Finish("stop"),
        End(),
    )
    house.provider.on(A, DEAD, DEAD, DEAD, long, always="ok")

    async def main() -> None:
        await house.ask(house.to(A, B, attempts=3))
        await house.clock.sleep(20.0)
        stream = await house.handle(house.to(A, B, stream=True))
        assert house.state("a/one") is CircuitState.CLOSED
        assert await house.ask(house.to(A, B)) == "ok"
        assert (await collect(stream)).text == "ab"

    run(main(), house.clock)
    assert house.provider.targets == [A, A, A, B, A, A]


@pytest.mark.parametrize("stream", [False, True])
def test_a_probe_whose_caller_leaves_is_not_the_last(stream: bool) -> None:
    """The next caller probes."""
    house = House()
    house.provider.on(A, DEAD, DEAD, DEAD, Hang(), always="back")

    async def main() -> None:
        await house.ask(house.to(A, B, attempts=3))
        await house.clock.sleep(20.0)
        leaving = asyncio.ensure_future(house.ask(house.to(A, B, stream=stream)))
        await house.clock.run_until_idle()
        assert await house.ask(house.to(A, B)) == "ok"  # by b: a is being probed
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert await house.ask(house.to(A, B)) == "back"

    run(main(), house.clock)
    assert house.provider.open_streams == 0


def test_nobody_asks_within_an_announced_window() -> None:
    """After a 429 with a time no caller asks before it is over; the one with another target does not wait either."""
    house = House()
    house.provider.on(A, ProviderRateLimited("slow down", http=429, retry_after_s=8.0), always="from a")

    async def main() -> None:
        await house.ask(house.to(A, B))
        for _ in range(7):
            await house.clock.sleep(1.0)
            asked = house.to(A, B)
            assert await house.ask(asked) == "ok"
            assert asked.call.attempts[0].breaker == "limited"
        await house.clock.sleep(1.0)
        assert await house.ask(house.to(A, B)) == "from a"

    run(main(), house.clock)
    assert house.provider.times[1:][house.provider.targets[1:].index(A)] >= 8.0


def test_the_last_level_waits_an_announced_window_out() -> None:
    """With nobody else to ask it waits as it would have for its own 429, within its attempts; without attempts it says 429."""
    house = House()
    house.provider.on(A, ProviderRateLimited("slow down", http=429, retry_after_s=8.0), always="from a")

    async def main() -> None:
        await house.fail(house.to(A))
        error = await house.fail(house.to(A))
        assert error.http_status == 429 and error.retry_after_s == pytest.approx(8.0, abs=0.01)
        assert await house.ask(house.to(A, attempts=2)) == "from a"
        assert house.clock.now() == pytest.approx(8.0, abs=0.01)

    run(main(), house.clock)
    assert house.provider.targets == [A, A]


def test_money_that_is_gone_closes_the_account() -> None:
    """No model of an account without money is asked again soon; other accounts are."""
    house = House()
    gone = QuotaExhausted("no money", http=429, code="insufficient_quota")
    house.provider.on(A, always=gone)

    async def main() -> None:
        await house.ask(house.to(A, B))
        asked = house.to("a/two", B)
        await house.ask(asked)
        assert "account 'a'" in (asked.call.attempts[0].error_message or "")

    run(main(), house.clock)
    assert house.provider.targets == [A, B, B]
    assert {change.key for change in house.changes} == {"a/one", "a"}


def test_an_account_comes_back() -> None:
    """A probe through the account's and the target's circuit closes both."""
    house = House()
    house.provider.on(A, QuotaExhausted("no money", http=402), always="paid")

    async def main() -> None:
        await house.ask(house.to(A, B))
        await house.clock.sleep(20.0)
        assert await house.ask(house.to(A, B)) == "paid"
        assert house.state("a") is house.state("a/one") is CircuitState.CLOSED

    run(main(), house.clock)


def test_headers_are_heeded_before_the_limit_is_hit() -> None:
    """An answer that used up the allowance sends the next callers elsewhere, but not those who have nobody else."""
    house = House()

    def used_up(asked: Request) -> str:
        assert asked.attempt is not None
        asked.attempt.used_up_s = 5.0
        return "from a"

    house.provider.on(A, used_up, always="from a")

    async def main() -> None:
        await house.ask(house.to(A, B))
        assert await house.ask(house.to(A, B)) == "ok"
        assert await house.ask(house.to(A)) == "from a"
        await house.clock.sleep(5.0)
        assert await house.ask(house.to(A, B)) == "from a"
        assert house.breaker.circuit("a/one").quiet

    run(main(), house.clock)


def test_a_route_may_do_without() -> None:
    """`breaker = false`: asked every time, and nothing counted."""
    house = House()
    house.provider.on(A, always=DEAD)

    async def main() -> None:
        for _ in range(20):
            await house.fail(house.to(A, breaker=False))

    run(main(), house.clock)
    assert len(house.provider.requests) == 20
    assert not list(house.breaker.states())


def test_an_impatient_caller_opens_nothing() -> None:
    """Deadlines of one second against a slow target are not the target's failures."""
    house = House()
    house.provider.on(A, always=Hang())

    async def main() -> None:
        for _ in range(10):
            await house.fail(house.to(A, deadline_s=1.0))

    run(main(), house.clock)
    assert house.state("a/one") is CircuitState.CLOSED
    assert len(house.provider.requests) == 10


def test_what_is_kept_is_bounded() -> None:
    """Callers that name ever new models cost no more than `CIRCUITS_KEPT` circuits; open ones are not forgotten."""
    house = House()
    house.breaker._of(Target("a", "open"), None).circuits[0].failed(0.0, OPENS_AT_ONCE, "x", probe=False)

    async def main() -> None:
        for number in range(CIRCUITS_KEPT + 10):
            route = Route(name="r", cascade=(Target("a", f"m{number}"),))
            await house.ask(make_request(route=route, clock=house.clock))

    run(main(), house.clock)
    assert len(house.breaker._watched) <= CIRCUITS_KEPT
    assert house.breaker.circuit("a/open").open


def test_waits_are_finite() -> None:
    """No rule makes a circuit wait for ever."""
    assert not math.isinf(Rules().cooldown(10_000))
