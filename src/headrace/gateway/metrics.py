"""Prometheus metrics of the gateway: an observer of calls and attempts, and the text for `/metrics`.

Labels are routes, targets and words of closed sets. A caller may name any model of a provider, so only the first
`SERIES_LIMIT` names get series of their own; the rest share `other`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from headrace.call import Attempt, Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Metrics"]

M = TypeVar("M", Counter, Histogram)

SERIES_LIMIT = 500

CIRCUIT_STATES = ("closed", "limited", "half_open", "open")

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


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
        self._children: dict[tuple[object, ...], object] = {}
        disable_created_metrics()  # type: ignore[no-untyped-call]  # doubles the series for nothing we need
        self.registry = registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "headrace_requests", "Logical calls by route and status", ["route", "status"], registry=registry
        )
        self._duration = Histogram(
            "headrace_request_duration_seconds",
            "From the request to its last byte",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._attempts = Counter(
            "headrace_attempts",
            "Requests to providers by target, outcome and reason",
            ["target", "outcome", "reason"],
            registry=registry,
        )
        self._first = Histogram(
            "headrace_time_to_first_content_seconds",
            "From an attempt's start to its first content",
            ["target"],
            buckets=SECONDS,
            registry=registry,
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
        for key, state in self._circuits():
            self._circuit.labels(self._bounded(key)).set(CIRCUIT_STATES.index(state))
        return generate_latest(self.registry)

    def call_ended(self, call: Call) -> None:
        """See `headrace.layers.trace.Observer`."""
        route = self._bounded(call.route or "none")
        self._child(self._requests, route, str(call.status)).inc()
        self._child(self._duration, route).observe(call.duration_s or 0.0)
        for (action, kind), number in call.guarded.items():
            self._child(self._guarded, route, action, kind).inc(number)
        cached = call.cached
        if cached is not None:
            self._child(self._cache, route, cached.tier or call.cache).inc()
            for guard in cached.vetoes:
                self._child(self._vetoes, guard).inc()
            if cached.saved:
                self._child(self._saved, route).inc(cached.saved / 1e9)
            if cached.saved_s:
                self._child(self._saved_s, route).inc(cached.saved_s)

    def attempt_ended(self, call: Call, attempt: Attempt) -> None:
        """See `headrace.layers.trace.Observer`."""
        target = self._bounded(str(attempt.target))
        self._child(self._attempts, target, attempt.outcome, attempt.error_kind or "").inc()
        if attempt.first_content_s is not None:
            self._child(self._first, target).observe(attempt.first_content_s)
        usage = attempt.usage
        if usage is not None:
            self._count(target, "input", usage.input_tokens)
            self._count(target, "output", usage.output_tokens)
            self._count(target, "cache_read", usage.cache_read_tokens)
            self._count(target, "cache_write", usage.cache_write_tokens)
            self._count(target, "reasoning", usage.reasoning_tokens)
            self._count(target, "image", usage.image_tokens)
        if attempt.cost is None:
            self._child(self._unpriced, target).inc()
        elif attempt.cost:
            self._child(self._cost, target).inc(attempt.cost / 1e9)
            if attempt.estimated:
                self._child(self._estimated, target).inc(attempt.cost / 1e9)
            if attempt.wasted:
                self._child(self._wasted, target).inc(attempt.wasted / 1e9)

    def _count(self, target: str, kind: str, tokens: int) -> None:
        if tokens:
            self._child(self._tokens, target, kind).inc(tokens)

    def _child(self, metric: M, *labels: str) -> M:
        """The series with these labels; looking one up in the library takes four times as long."""
        key = (id(metric), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return cast(M, child)
