"""Prometheus metrics of the gateway: an observer of calls and attempts, and the text for `/metrics`.

Labels are routes, targets and words of closed sets. A caller may name any model of a provider, so only the first
`SERIES_LIMIT` names get series of their own; the rest share `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from headrace.call import Attempt, Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from headrace.types import Target

__all__ = ["Metrics"]

SERIES_LIMIT = 500

CIRCUIT_STATES = ("closed", "limited", "half_open", "open")

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
BOUNDS = [floatToGoString(bound) for bound in (*SECONDS, inf)]  # type: ignore[no-untyped-call]


TOKENS = ("input", "output", "cache_read", "cache_write", "reasoning", "image")


class _Seconds:
    """A histogram of seconds by one label, of one thread: the library's own takes two locks and half its buckets to each value."""

    def __init__(self, name: str, documentation: str, label: str, registry: CollectorRegistry) -> None:
        self._family = name, documentation, label
        self._series: dict[str, list[float]] = {}
        registry.register(self)

    def observe(self, name: str, seconds: float) -> None:
        """Count a value of the series `name`."""
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = [0] * (len(SECONDS) + 1) + [0.0]
        series[bisect_left(SECONDS, seconds)] += 1
        series[-1] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See `prometheus_client.registry.Collector`."""
        name, documentation, label = self._family
        family = HistogramMetricFamily(name, documentation, labels=(label,))
        for series, (*counts, total) in self._series.items():
            family.add_metric((series,), list(zip(BOUNDS, accumulate(counts), strict=True)), total)
        yield family


class _Tally:
    """What the attempts at a target came to that ended in the same way, until it is looked at. Money in nano-dollars."""

    __slots__ = ("attempts", "cost", "estimated", "tokens", "unpriced", "wasted")

    def __init__(self) -> None:
        self.attempts = self.unpriced = self.cost = self.estimated = self.wasted = 0
        self.tokens = [0] * len(TOKENS)


class Metrics:
    """Counts what ends. `busy` gives the answers under way, `dropped` the ledger rows that could not be written, `circuits` the
    circuit of each target and account with its state."""

    def __init__(
        self,
        *,
        busy: Callable[[], int],
        dropped: Callable[[], int],
        circuits: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        self._names: set[str] = set()
        self._circuits = circuits
        self._calls: dict[tuple[str, int | None], int] = {}
        self._tallies: dict[tuple[Target, str, str | None], tuple[str, _Tally]] = {}
        self._children: dict[tuple[object, ...], Counter] = {}
        disable_created_metrics()  # type: ignore[no-untyped-call]  # doubles the series for nothing we need
        self.registry = registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "headrace_requests", "Logical calls by route and status", ["route", "status"], registry=registry
        )
        self._duration = _Seconds(
            "headrace_request_duration_seconds", "From the request to its last byte", "route", registry
        )
        self._attempts = Counter(
            "headrace_attempts",
            "Requests to providers by target, outcome and reason",
            ["target", "outcome", "reason"],
            registry=registry,
        )
        self._first = _Seconds(
            "headrace_time_to_first_content_seconds",
            "From an attempt's start to its first content",
            "target",
            registry,
        )
        self._tokens = Counter(
            "headrace_tokens", "Tokens by target and type", ["target", "type"], registry=registry
        )
        self._cost = Counter("headrace_cost_usd", "Money by target", ["target"], registry=registry)
        self._wasted = Counter(
            "headrace_wasted_usd", "Money for what no caller received", ["target"], registry=registry
        )
        self._estimated = Counter(
            "headrace_estimated_usd",
            "Money booked at an upper bound, since nobody said what was used",
            ["target"],
            registry=registry,
        )
        self._unpriced = Counter(
            "headrace_unpriced_attempts", "Attempts whose cost is unknown", ["target"], registry=registry
        )
        self._cache = Counter(
            "headrace_cache_requests",
            "Calls of routes with a cache, by what it made of them",
            ["route", "result"],
            registry=registry,
        )
        self._vetoes = Counter(
            "headrace_cache_vetoes", "Near answers that a guard turned down", ["guard"], registry=registry
        )
        self._audits = Counter(
            "headrace_cache_audits",
            "Answers that likeness found and that were asked for anyway, by whether the fresh one was the same",
            ["route", "result"],
            registry=registry,
        )
        self._states = Counter(
            "headrace_cache_lookups",
            "Lookups by likeness, by the state of the route's bound",
            ["route", "state"],
            registry=registry,
        )
        self._saved = Counter(
            "headrace_cache_saved_usd", "Known cost of answers given again", ["route"], registry=registry
        )
        self._saved_s = Counter(
            "headrace_cache_saved_seconds",
            "Seconds that answers given again had taken",
            ["route"],
            registry=registry,
        )
        self._guarded = Counter(
            "headrace_guard_findings",
            "What guards found, by what they did about it and its kind",
            ["route", "action", "kind"],
            registry=registry,
        )
        Gauge("headrace_inflight", "Answers under way", registry=registry).set_function(busy)
        Gauge(
            "headrace_ledger_dropped", "Ledger rows that could not be written", registry=registry
        ).set_function(dropped)

        self._circuit = Gauge(
            "headrace_circuit_state",
            "Circuit breakers: 0 closed, 1 limited, 2 half-open, 3 open",
            ["target"],
            registry=registry,
        )

    def _bounded(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= SERIES_LIMIT:
            return "other"
        self._names.add(name)
        return name

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        self._flush()
        for key, state in self._circuits():
            self._circuit.labels(self._bounded(key)).set(CIRCUIT_STATES.index(state))
        return generate_latest(self.registry)

    def call_ended(self, call: Call) -> None:
        """See `headrace.layers.trace.Observer`."""
        route = self._bounded(call.route or "none")
        key = route, call.status
        self._calls[key] = self._calls.get(key, 0) + 1
        self._duration.observe(route, call.duration_s or 0.0)
        for (action, kind), number in call.guarded.items():
            self._child(self._guarded, route, action, kind).inc(number)
        cached = call.cached
        if cached is not None:
            self._child(self._cache, route, cached.tier or call.cache).inc()
            for guard in cached.vetoes:
                self._child(self._vetoes, guard).inc()
            if cached.audit:
                self._child(self._audits, route, cached.audit).inc()
            if cached.state:
                self._child(self._states, route, cached.state).inc()
            if cached.saved:
                self._child(self._saved, route).inc(cached.saved / 1e9)
            if cached.saved_s:
                self._child(self._saved_s, route).inc(cached.saved_s)

    def attempt_ended(self, call: Call, attempt: Attempt) -> None:
        """See `headrace.layers.trace.Observer`."""
        key = attempt.target, attempt.outcome, attempt.error_kind
        found = self._tallies.get(key)
        if found is None:
            if len(self._tallies) >= SERIES_LIMIT:  # callers may name any model
                self._flush()
            found = self._tallies[key] = self._bounded(str(attempt.target)), _Tally()
        target, tally = found
        tally.attempts += 1
        if attempt.first_content_s is not None:
            self._first.observe(target, attempt.first_content_s)
        usage = attempt.usage
        if usage is not None:
            tokens = tally.tokens
            tokens[0] += usage.input_tokens
            tokens[1] += usage.output_tokens
            tokens[2] += usage.cache_read_tokens
            tokens[3] += usage.cache_write_tokens
            tokens[4] += usage.reasoning_tokens
            tokens[5] += usage.image_tokens
        cost = attempt.cost
        if cost is None:
            tally.unpriced += 1
        elif cost:
            tally.cost += cost
            if attempt.estimated:
                tally.estimated += cost
            tally.wasted += attempt.wasted or 0

    def _flush(self) -> None:
        """Give the library what was counted since; one by one that would take four times as long."""
        for (route, status), number in self._calls.items():
            self._requests.labels(route, str(status)).inc(number)
        for (_, outcome, reason), (target, tally) in self._tallies.items():
            self._attempts.labels(target, outcome, reason or "").inc(tally.attempts)
            for kind, number in zip(TOKENS, tally.tokens, strict=True):
                if number:
                    self._tokens.labels(target, kind).inc(number)
            if tally.unpriced:
                self._unpriced.labels(target).inc(tally.unpriced)
            for counter, nano in (
                (self._cost, tally.cost),
                (self._estimated, tally.estimated),
                (self._wasted, tally.wasted),
            ):
                if nano:
                    counter.labels(target).inc(nano / 1e9)
        self._calls.clear()
        self._tallies.clear()

    def _child(self, metric: Counter, *labels: str) -> Counter:
        """The series with these labels; looking one up in the library takes four times as long."""
        key = (id(metric), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child
