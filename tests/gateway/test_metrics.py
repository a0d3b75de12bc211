from __future__ import annotations

from collections.abc import Sequence

from headrace.call import Attempt, Call, Outcome
from headrace.gateway.metrics import SERIES_LIMIT, Metrics
from headrace.types import Target, Usage


def made() -> Metrics:
    return Metrics(busy=lambda: 0, dropped=lambda: 0)


def ended(
    metrics: Metrics, outcome: Outcome, *, first: float | None = None, cost: int | None = 0, model: str = "m"
) -> None:
    """A call of the route `r` with one attempt at `p/m`."""
    attempt = Attempt(
        number=1,
        target=Target("p", model),
        started_at=0.0,
        started_wall=0.0,
        outcome=outcome,
        usage=Usage(input_tokens=10, output_tokens=2),
        cost=cost,
        wasted=0 if outcome == "ok" else cost,
        first_content_s=first,
    )
    call = Call(
        id="x", started_at=0.0, started_wall=0.0, route="r", attempts=[attempt], status=200, duration_s=0.2
    )
    metrics.attempt_ended(call, attempt)
    metrics.call_ended(call)


def values(metrics: Metrics, name: str) -> Sequence[str]:
    return [line for line in metrics.text().decode().splitlines() if line.startswith(name)]


def test_counts_add_up_over_scrapes() -> None:
    """What was counted before a scrape and after it is in the next one, and no scrape counts anything twice."""
    metrics = made()
    ended(metrics, "ok", cost=1_500_000)
    ended(metrics, "ok", cost=1_500_000)
    assert values(metrics, "headrace_requests_total") == [
        'headrace_requests_total{route="r",status="200"} 2.0'
    ]
    ended(metrics, "broken", cost=1_000_000)
    for _ in range(2):
        assert values(metrics, "headrace_attempts_total") == [
            'headrace_attempts_total{outcome="ok",reason="",target="p/m"} 2.0',
            'headrace_attempts_total{outcome="broken",reason="",target="p/m"} 1.0',
        ]
        assert values(metrics, "headrace_tokens_total") == [
            'headrace_tokens_total{target="p/m",type="input"} 30.0',
            'headrace_tokens_total{target="p/m",type="output"} 6.0',
        ]
        assert values(metrics, "headrace_cost_usd_total") == ['headrace_cost_usd_total{target="p/m"} 0.004']
        assert values(metrics, "headrace_wasted_usd_total") == [
            'headrace_wasted_usd_total{target="p/m"} 0.001'
        ]
    ended(metrics, "ok", cost=None)
    assert values(metrics, "headrace_unpriced_attempts_total") == [
        'headrace_unpriced_attempts_total{target="p/m"} 1.0'
    ]


def test_a_bucket_has_all_up_to_its_bound() -> None:
    """Buckets count what is no longer than their bound, the bound included, and each has those below."""
    metrics = made()
    for seconds in (0.005, 0.0051, 700.0):
        ended(metrics, "ok", first=seconds)
    name = "headrace_time_to_first_content_seconds"
    found = dict(line.rsplit(" ", 1) for line in values(metrics, name))
    bounds = {"0.005": "1.0", "0.025": "2.0", "600.0": "2.0", "+Inf": "3.0"}
    assert bounds.items() <= {le: found[f'{name}_bucket{{le="{le}",target="p/m"}}'] for le in bounds}.items()
    assert found[f'{name}_count{{target="p/m"}}'] == "3.0"
    assert float(found[f'{name}_sum{{target="p/m"}}']) == 700.0101


def test_callers_do_not_make_series() -> None:
    """However many models are named, the first get series and the rest share one; nothing of them is lost."""
    metrics = made()
    for number in range(3 * SERIES_LIMIT):
        ended(metrics, "ok", model=str(number))
    lines = values(metrics, "headrace_attempts_total")
    assert len(lines) <= SERIES_LIMIT + 1
    assert sum(float(line.rsplit(" ", 1)[1]) for line in lines) == 3 * SERIES_LIMIT
    assert any('target="other"' in line for line in lines)
