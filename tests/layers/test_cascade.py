"""The cascade with retry, ledger and timeout under it, on a manual clock against scripted providers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.call import Attempt, Call
from headrace.errors import (
    AllTargetsFailed,
    CircuitOpen,
    ContentFiltered,
    CredentialsInvalid,
    CredentialsMissing,
    ModelNotFound,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    QuotaExhausted,
    StreamBroken,
    Unsupported,
)
from headrace.handler import Handler, Request, Route, Stream, collect, stack
from headrace.layers.cascade import Cascade, spent_status
from headrace.layers.deadline import Deadline
from headrace.layers.fitness import Misfit
from headrace.layers.hedging import Hedging
from headrace.layers.ledger import Ledger
from headrace.layers.retry import Backoff, Retry, full_jitter, next_attempt
from headrace.layers.timeout import Timeout
from headrace.testing import Hang, ManualClock, Play, ScriptedHandler, Wait, make_request, run
from headrace.types import BlockStart, Delta, End, Finish, Start, Target, Text, Usage, UsageReport

A, B = "a/one", "b/two"


class House:
    """The default stack over one scripted provider."""

    def __init__(
        self, *, chance: float = 0.5, translated: bool = False, misfits: dict[str, Misfit] | None = None
    ) -> None:
        self.clock = ManualClock()
        self.provider = ScriptedHandler(self.clock)
        self.hedging = Hedging()
        self.rows: list[tuple[Call, Attempt]] = []
        self.handle: Handler = stack(
            Deadline(self.clock),
            Cascade(
                self.clock,
                lambda target, _: (misfits or {}).get(str(target)),
                lambda *_: translated,
                hedging=self.hedging,
            ),
            Retry(self.clock, lambda: chance),
            Ledger(
                lambda provider, model, usage: usage.total_tokens,
                lambda call, attempt: self.rows.append((call, attempt)),
            ),
            Timeout(self.clock),
            handler=self.provider,
        )

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run in virtual time."""
        return run(main, self.clock)

    async def ask(self, request: Request) -> str:
        """The answer's text."""
        return (await collect(await self.handle(request))).text


def request(*targets: str, attempts: int = 1, stream: bool = False, house: House, **rules: Any) -> Request:
    """A request for a cascade of `targets`."""
    pairs = (name.split("/", 1) for name in targets)
    cascade = tuple(Target(provider, model, attempts) for provider, model in pairs)
    route = Route(name="test", cascade=cascade, **rules)
    return make_request(stream=stream, clock=house.clock, route=route)


@pytest.mark.parametrize("stream", [False, True])
def test_goes_to_the_next_level_once_attempts_are_spent(stream: bool) -> None:
    """A level is asked as often as it says, then the next one answers, buffered and streamed alike."""
    house = House()
    house.provider.on(A, always=ProviderOverloaded("busy", http=529))
    house.provider.on(B, "from b")
    asked = request(A, B, attempts=3, stream=stream, house=house)
    assert house.run(house.ask(asked)) == "from b"
    assert house.provider.targets == [A, A, A, B]
    assert [attempt.outcome for attempt in asked.call.attempts] == ["error", "error", "error", "ok"]
    assert house.provider.open_streams == 0


def test_waits_with_full_jitter_between_attempts() -> None:
    """The waits are chance times 0.5 s, then 1 s: full jitter over a doubling cap."""
    house = House(chance=0.5)
    house.provider.script(ProviderOverloaded("busy"), ProviderOverloaded("busy"), "ok")
    house.run(house.ask(request(A, attempts=3, house=house)))
    assert house.clock.sleeps == [0.25, 0.5]


@pytest.mark.parametrize(
    "error",
    [
        QuotaExhausted("no money", http=429),
        CredentialsInvalid("bad key", http=401),
        ModelNotFound("no such model", http=404),
    ],
)
def test_final_errors_are_never_repeated(error: ProviderError) -> None:
    """A final error goes to the next target at once, whatever attempts are left."""
    house = House()
    house.provider.on(A, always=error)
    asked = request(A, B, attempts=5, house=house)
    house.run(house.ask(asked))
    assert house.provider.targets == [A, B]
    assert house.clock.sleeps == []


def test_obeys_the_providers_wait() -> None:
    """A hint below `max_wait` replaces the backoff exactly."""
    house = House()
    house.provider.script(ProviderRateLimited("slow down", retry_after_s=3.5), "ok")
    asked = request(A, B, attempts=2, house=house)
    house.run(house.ask(asked))
    assert house.provider.targets == [A, A]
    assert house.clock.sleeps == [3.5]
    assert asked.call.attempts[1].waited_s == 3.5


def test_a_long_wait_goes_to_the_next_level_at_once() -> None:
    """A hint above `max_wait` is not waited for while another level is left."""
    house = House()
    house.provider.on(A, always=ProviderRateLimited("slow down", retry_after_s=6.0))
    house.run(house.ask(request(A, B, attempts=3, house=house)))
    assert house.provider.targets == [A, B]
    assert house.clock.sleeps == []


def test_only_the_last_level_waits_longer() -> None:
    """The last level waits what its provider asks, within the deadline."""
    house = House()
    house.provider.script(ProviderRateLimited("slow down", retry_after_s=20.0), "ok")
    house.run(house.ask(request(A, attempts=2, house=house)))
    assert house.clock.sleeps == [20.0]


def test_a_wait_past_the_deadline_is_not_slept() -> None:
    """A wait that would reach the deadline ends the cascade now, with 429 and the hint."""
    house = House()
    house.provider.default = ProviderRateLimited("slow down", http=429, retry_after_s=20.0)
    with pytest.raises(AllTargetsFailed) as caught:
        house.run(house.ask(request(A, attempts=2, house=house, deadline_s=10.0)))
    assert house.clock.sleeps == []
    assert caught.value.http_status == 429
    assert caught.value.retry_after_s == 20.0


def test_a_provider_that_forbids_retries_is_left() -> None:
    """`x-should-retry: false` on a transient error means the next target."""
    house = House()
    house.provider.on(A, always=ProviderOverloaded("busy", should_retry=False))
    house.run(house.ask(request(A, B, attempts=3, house=house)))
    assert house.provider.targets == [A, B]


def test_bad_request_stops_in_the_same_dialect() -> None:
    """What the provider calls invalid in the caller's own words is the caller's to mend."""
    house = House()
    house.provider.default = ProviderRejected("no", http=400)
    with pytest.raises(ProviderRejected):
        house.run(house.ask(request(A, B, attempts=3, house=house)))
    assert house.provider.targets == [A]


def test_bad_request_after_a_translation_goes_on_with_a_warning() -> None:
    """What we translated may be our doing: the next target is asked and the warning names the first."""
    house = House(translated=True)
    house.provider.on(A, always=ProviderRejected("no such field", http=400))
    asked = request(A, B, house=house)
    house.run(house.ask(asked))
    assert house.provider.targets == [A, B]
    assert asked.call.warnings == [f"{A} rejected the translated request: no such field"]


@pytest.mark.parametrize(("rule", "asked_targets"), [("stop", [A]), ("next", [A, B])])
def test_content_filter_follows_the_routes_rule(rule: str, asked_targets: list[str]) -> None:
    """A filtered request stops, unless the route says to go on."""
    house = House()
    house.provider.on(A, always=ContentFiltered("filtered", http=400))
    asked = request(A, B, attempts=2, house=house, on_refusal=rule)
    if rule == "stop":
        with pytest.raises(ContentFiltered):
            house.run(house.ask(asked))
    else:
        house.run(house.ask(asked))
    assert house.provider.targets == asked_targets


def no(target: str, what: str, *, certain: bool = True) -> Misfit:
    """A target that lacks something."""
    return Misfit(Unsupported(f"{target} has no {what}"), certain)


KEYLESS = Misfit(CredentialsMissing("no key is configured for a: set A_API_KEY"), certain=True)


def test_a_target_that_cannot_serve_is_skipped() -> None:
    """Nothing is sent; it stands among the attempts with its reason and without a cost, and a warning says so."""
    house = House(misfits={A: no(A, "tools")})
    asked = request(A, B, house=house)
    house.run(house.ask(asked))
    assert house.provider.targets == [B]
    assert asked.call.warnings == [f"skipped {A}: {A} has no tools"]
    skipped, answered = asked.call.attempts
    assert (skipped.outcome, skipped.error_kind, skipped.note) == (
        "skipped",
        "unsupported",
        f"{A} has no tools",
    )
    assert (skipped.cost, answered.outcome, asked.call.sent) == (0, "ok", 1)


def test_no_target_can_serve() -> None:
    """When every target is skipped for certain the caller learns what each lacks."""
    house = House(misfits={A: no(A, "tools"), B: no(B, "images")})
    with pytest.raises(Unsupported, match=r"a/one has no tools; b/two has no images"):
        house.run(house.ask(request(A, B, house=house)))


def test_whoever_may_be_able_is_asked_when_nobody_fits() -> None:
    """A catalogue that errs does not refuse a request: its provider decides."""
    house = House(misfits={A: no(A, "tools"), B: no(B, "tools", certain=False)})
    asked = request(A, B, house=house)
    house.run(house.ask(asked))
    assert house.provider.targets == [B]
    assert [attempt.outcome for attempt in asked.call.attempts] == ["skipped", "ok"]


def test_a_provider_without_a_key_is_passed_over() -> None:
    """Others answer; with nobody else it is an error of ours, 502, that says what to set, and nothing was sent."""
    house = House(misfits={A: KEYLESS})
    house.run(house.ask(request(A, B, house=house)))
    assert house.provider.targets == [B]
    with pytest.raises(CredentialsMissing, match="set A_API_KEY") as caught:
        house.run(house.ask(request(A, attempts=3, house=house)))
    assert caught.value.http_status == 502
    house.provider.on(B, always=CredentialsInvalid("refused", http=401))
    with pytest.raises(AllTargetsFailed) as spent:
        house.run(house.ask(request(A, B, house=house)))
    assert spent.value.http_status == 401
    assert "credentials_missing" in spent.value.report()


def test_all_spent_lists_every_attempt() -> None:
    """The error has each attempt with target, status and reason, in order."""
    house = House()
    house.provider.on(A, always=ProviderOverloaded("at capacity", http=529))
    house.provider.on(B, always=CredentialsInvalid("bad key", http=401))
    with pytest.raises(AllTargetsFailed) as caught:
        house.run(house.ask(request(A, B, attempts=2, house=house)))
    error = caught.value
    assert [str(attempt.target) for attempt in error.attempts] == [A, A, B]
    assert [type(each) for each in error.errors] == [
        ProviderOverloaded,
        ProviderOverloaded,
        CredentialsInvalid,
    ]
    assert "529 overloaded" in error.report()
    assert "401 credentials_invalid" in error.report()
    assert error.http_status == 503


def test_silence_ends_at_the_deadline() -> None:
    """A provider that never answers is left at the deadline, as 504, and nothing is held."""
    house = House()
    house.provider.default = Hang()
    with pytest.raises(AllTargetsFailed) as caught:
        house.run(house.ask(request(A, B, attempts=2, house=house, deadline_s=30.0)))
    assert caught.value.http_status == 504
    assert house.clock.now() == pytest.approx(30.0, abs=1.0)
    assert house.provider.open_streams == 0


def test_first_content_timeout_counts_only_for_streams() -> None:
    """A stream without content is left after `first_content`; a buffered call has the whole deadline."""
    house = House()
    house.provider.on(A, always=Play(Wait(90.0), Start("1", "m"), Finish("stop"), End()))
    house.provider.on(B, "from b")
    asked = request(A, B, stream=True, house=house)
    assert house.run(house.ask(asked)) == "from b"
    assert asked.call.attempts[0].error_kind == "timeout"
    house = House()
    house.provider.on(
        A,
        always=Play(
            Wait(90.0),
            Start("1", "m"),
            BlockStart(0, Text(text="")),
            Delta(0, "text", "late"),
            Finish("stop"),
            End(),
        ),
    )
    assert house.run(house.ask(request(A, house=house))) == "late"


def stalled(pause: float) -> Play:
    """An answer that pauses in its middle."""
    return Play(
        Start("1", "m"),
        BlockStart(0, Text(text="")),
        Delta(0, "text", "begun "),
        Wait(pause),
        Delta(0, "text", "and done"),
        UsageReport(Usage(input_tokens=3, output_tokens=4)),
        Finish("stop"),
        End(),
    )


def test_a_pause_below_the_limit_is_no_failure() -> None:
    """A stream may be quiet for as long as the route allows."""
    house = House()
    house.provider.default = stalled(59.0)
    assert house.run(house.ask(request(A, stream=True, house=house))) == "begun and done"


def test_a_stalled_stream_ends_in_a_typed_error() -> None:
    """After the commit silence is `StreamBroken`, caused by the timeout; no other target is asked."""
    house = House()
    house.provider.default = stalled(61.0)
    asked = request(A, B, stream=True, house=house)
    with pytest.raises(StreamBroken) as caught:
        house.run(house.ask(asked))
    assert isinstance(caught.value.cause, ProviderTimeout)
    assert caught.value.cause.phase == "between_events"
    assert house.provider.targets == [A]
    assert asked.call.attempts[0].outcome == "broken"
    assert house.provider.open_streams == 0


def test_the_deadline_ends_a_stream_too() -> None:
    """One deadline spans the whole stream."""
    house = House()
    house.provider.default = stalled(50.0)
    with pytest.raises(StreamBroken, match="deadline"):
        house.run(house.ask(request(A, stream=True, house=house, deadline_s=40.0)))
    assert house.clock.now() == pytest.approx(40.0, abs=0.1)


def test_a_slow_reader_is_not_a_silent_provider() -> None:
    """Time in which the caller does not read does not count against the provider."""
    house = House()
    house.provider.default = stalled(10.0)

    async def main() -> str:
        stream = await house.handle(request(A, stream=True, house=house))
        texts = []
        async for batch in stream:
            texts += [event.text for frame in batch for event in frame.events if isinstance(event, Delta)]
            await house.clock.sleep(100.0)
        await stream.aclose()
        return "".join(texts)

    assert house.run(main()) == "begun and done"


def test_every_attempt_has_one_row_at_its_end() -> None:
    """The ledger has failed attempts too, priced by what arrived; a refusal with a status costs nothing."""
    house = House()
    house.provider.on(A, ProviderOverloaded("busy", http=529), stalled(1.0))
    asked = request(A, attempts=2, stream=True, house=house)
    house.run(house.ask(asked))
    assert [(row.outcome, row.cost, row.wasted) for _, row in house.rows] == [("error", 0, 0), ("ok", 7, 0)]


def test_an_attempt_of_unknown_cost_is_unknown() -> None:
    """A request that was sent and never answered may have cost anything."""
    house = House()
    house.provider.default = Hang()
    with pytest.raises(AllTargetsFailed):
        house.run(house.ask(request(A, house=house, deadline_s=5.0)))
    ((_, row),) = house.rows
    assert row.cost is None
    assert row.wasted is None


def test_leaving_early_is_booked_as_cancelled() -> None:
    """Closing a stream before its end releases it and closes its row."""
    house = House()
    house.provider.default = stalled(5.0)

    async def main() -> None:
        stream = await house.handle(request(A, stream=True, house=house))
        await stream.aclose()
        await stream.aclose()

    house.run(main())
    assert [row.outcome for _, row in house.rows] == ["cancelled"]
    assert house.provider.open_streams == 0


def test_cancelling_at_every_await_leaves_nothing_held() -> None:
    """Whenever the caller is cancelled, no stream stays open and no row stays pending."""
    for moment in range(60):
        house = House()
        house.provider.on(A, always=ProviderOverloaded("busy"))
        house.provider.on(B, stalled(2.0))
        asked = request(A, B, attempts=2, stream=True, house=house)

        async def main(house: House = house, asked: Request = asked, moment: int = moment) -> bool:
            task = asyncio.ensure_future(house.ask(asked))
            for _ in range(moment):
                await asyncio.sleep(0)  # noqa: TID251  (one turn of the loop)
            done = task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return done

        house.run(main())
        assert house.provider.open_streams == 0
        assert all(attempt.outcome != "pending" for attempt in asked.call.attempts)


@given(
    made=st.integers(1, 10),
    allowed=st.integers(1, 10),
    hint=st.none() | st.floats(0, 1e6),
    left=st.floats(0, 1e6),
    max_wait=st.floats(0, 100),
    last=st.booleans(),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_next_attempt_keeps_its_bounds(
    made: int, allowed: int, hint: float | None, left: float, max_wait: float, last: bool, chance: float
) -> None:
    """Never more attempts than allowed, never past the deadline, never above `max_wait` before the last level."""
    delay = next_attempt(
        ProviderOverloaded("busy", retry_after_s=hint),
        made=made,
        allowed=allowed,
        now=0.0,
        deadline=left,
        max_wait_s=max_wait,
        last_level=last,
        backoff=Backoff(),
        random=lambda: chance,
    )
    if delay is not None:
        assert made < allowed
        assert delay < left
        assert last or delay <= max_wait
        assert hint is None or delay == hint


@given(st.integers(1, 5000), st.floats(0, 1, exclude_max=True))
def test_full_jitter_is_within_its_interval(attempt: int, chance: float) -> None:
    """Uniform on [0, min(cap, base * 2 ** (attempt - 1)))."""
    top = min(8.0, 0.5 * 2.0 ** (attempt - 1)) if attempt < 100 else 8.0
    assert 0 <= full_jitter(attempt, base=0.5, cap=8.0, random=lambda: chance) <= top


def test_spent_status_table() -> None:
    """429 if all were rate limited, 504 at the deadline, the shared 4xx if all agree, 502 if none could be asked, else 503."""
    limited, busy = ProviderRateLimited("x", http=429), ProviderOverloaded("x", http=529)
    lost, forbidden = ModelNotFound("x", http=404), CredentialsInvalid("x", http=403)
    assert spent_status([limited, limited], deadline_passed=False) == 429
    assert spent_status([limited, busy], deadline_passed=False) == 503
    assert spent_status([lost, lost], deadline_passed=False) == 404
    broke = QuotaExhausted("x", http=429)
    assert spent_status([forbidden], deadline_passed=False) == 403
    assert spent_status([forbidden, broke], deadline_passed=False) == 503
    assert spent_status([forbidden, limited], deadline_passed=False) == 503
    assert spent_status([QuotaExhausted("x", http=402)], deadline_passed=False) == 402
    keyless = CredentialsMissing("x")
    assert spent_status([keyless, keyless], deadline_passed=False) == 502
    assert spent_status([keyless, forbidden], deadline_passed=False) == 403
    assert spent_status([lost, forbidden], deadline_passed=False) == 503
    assert spent_status([busy], deadline_passed=True) == 504
    assert spent_status([ProviderTimeout("x")], deadline_passed=False) == 503


@settings(max_examples=200, deadline=None)
@given(
    scenes=st.lists(
        st.sampled_from(
            [
                "ok",
                ProviderOverloaded("busy", http=529),
                ProviderRateLimited("slow", http=429, retry_after_s=2.0),
                ProviderRateLimited("slow", http=429, retry_after_s=50.0),
                CredentialsInvalid("key", http=401),
                ProviderRejected("bad", http=400),
                Hang(),
                stalled(5.0),
                stalled(100.0),
            ]
        ),
        max_size=12,
    ),
    attempts=st.integers(1, 4),
    stream=st.booleans(),
    deadline_s=st.floats(1.0, 120.0),
)
def test_any_schedule_keeps_the_contract(
    scenes: list[Any], attempts: int, stream: bool, deadline_s: float
) -> None:
    """Whatever the providers do: an answer or one typed error, within the deadline, attempts within their limits."""
    house = House()
    house.provider.script(*scenes)
    asked = request(A, B, attempts=attempts, stream=stream, house=house, deadline_s=deadline_s)

    async def main() -> None:
        try:
            stream_: Stream = await house.handle(asked)
            await collect(stream_)
        except (AllTargetsFailed, StreamBroken, ProviderRejected):
            pass

    house.run(main())
    assert house.clock.now() <= deadline_s + 0.001
    for target in (A, B):
        assert house.provider.targets.count(target) <= attempts
    assert house.provider.open_streams == 0
    assert len(house.rows) == len(asked.call.attempts)
    assert all(attempt.outcome != "pending" for attempt in asked.call.attempts)


@pytest.mark.parametrize("stream", [False, True])
def test_who_was_left_alone_is_asked_after_all(stream: bool) -> None:
    """An open circuit is passed over while others are left; when they have failed it is asked as the last level is, once more and no oftener."""
    house = House()
    house.provider.on(A, CircuitOpen("failing"), "from a")
    house.provider.on(B, always=ProviderOverloaded("busy", http=529))
    asked = request(A, B, stream=stream, house=house)
    assert house.run(house.ask(asked)) == "from a"
    assert house.provider.targets == [A, B, A]
    house.provider.on(A, always=CircuitOpen("failing"))
    with pytest.raises(AllTargetsFailed):
        house.run(house.ask(request(A, B, stream=stream, house=house)))
    assert house.provider.targets[3:] == [A, B, A]


def test_a_limited_target_is_not_asked_before_its_time() -> None:
    """Who said when to ask again is not asked sooner."""
    house = House()
    house.provider.on(A, always=CircuitOpen("limited", limited=True, retry_after_s=60.0))
    house.provider.on(B, always=ProviderOverloaded("busy", http=529))
    with pytest.raises(AllTargetsFailed):
        house.run(house.ask(request(A, B, house=house)))
    assert house.provider.targets == [A, B]
