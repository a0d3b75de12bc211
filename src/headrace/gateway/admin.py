"""What the admin API and `GET /v1/requests/{id}` show, as plain values. No secret is in any of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from headrace.budget.windows import zone_info
from headrace.call import format_usd
from headrace.errors import InvalidRequest
from headrace.report import cost_report, dimensions, period

if TYPE_CHECKING:
    from headrace.budget import Balance
    from headrace.engine import Engine
    from headrace.store import StoredRequest

__all__ = ["budget_report", "cost_of", "overview", "request_report"]


def overview(engine: Engine, *, busy: int) -> dict[str, Any]:
    """Providers, routes and the stack; circuits and what is under way are those of the worker process that answers."""
    from headrace.engine import LAYERS

    settings = engine.settings
    return {
        "worker": os.getpid(),
        "busy": busy,
        "store": {
            "path": str(settings.store.path) if settings.store.path else None,
            "dropped": engine.store.dropped,
        },
        "providers": [
            {
                "name": provider.name,
                "dialect": provider.dialect,
                "base_url": provider.base_url,
                "key": "yes"
                if provider.api_key is not None
                else "none needed"
                if provider.keyless
                else "missing",
            }
            for provider in settings.providers.values()
        ],
        "deployments": [
            {
                "name": place.name,
                "target": f"{place.provider}/{place.model}",
                "quota_domain": place.quota_domain,
                "weight": place.weight,
                "base_url": settings.deployments[place.name].provider.base_url,
                "concurrency": place.concurrency or None,
                **_busy(engine, place.name),
            }
            for place in (each.deployment for each in settings.deployments.values())
        ],
        "routes": [
            {
                "name": route.name,
                "deadline_s": route.deadline_s,
                "cascade": [{"target": str(target), "attempts": target.attempts} for target in route.cascade],
            }
            for route in settings.routes.values()
        ],
        "circuits": circuits(engine),
        "stack": [{"layer": note.name, "reason": note.reason} for note in LAYERS],
    }


def circuits(engine: Engine) -> list[dict[str, Any]]:
    """Every circuit that saw an attempt in this worker, or was told of by another: targets and accounts."""
    now = engine.clock.now()
    return [
        {
            "circuit": key,
            "state": state.value,
            "wait_s": round(circuit.wait(now), 3),
            "failures_in_a_row": circuit.streak,
            "openings": circuit.trips,
            "reason": circuit.reason or None,
        }
        for key, state, circuit in engine.breaker.states()
    ]


def budget_report(balance: Balance) -> dict[str, Any]:
    """One budget in one window; money as decimal strings of US dollars. `held` is with workers: reserved by attempts, or kept for the
    next; `unsettled` is the part of `spent` that attempts of dead workers had reserved."""
    named = balance.named
    show: Callable[[int], str | int] = format_usd if named.unit == "usd" else int
    ends = [
        datetime.fromtimestamp(at, zone_info(named.zone)).isoformat() for at in (balance.start, balance.end)
    ]
    return {
        "budget": named.owner,
        "unit": named.unit,
        "window": named.window,
        "from": ends[0],
        "until": ends[1],
        "soft": named.soft,
        "limit": show(balance.limit) if balance.limit else None,
        "spent": show(balance.spent),
        "unsettled": show(balance.unsettled),
        "held": show(balance.held),
        "left": show(max(0, balance.limit - balance.spent - balance.held)) if balance.limit else None,
    }


async def cost_of(engine: Engine, query: str) -> tuple[dict[str, Any], bool]:
    """The report that `?since=&by=&format=` asks for, and whether as CSV. Raises `InvalidRequest`."""
    asked = parse_qs(query, keep_blank_values=True)
    if unknown := asked.keys() - {"since", "by", "format"}:
        raise InvalidRequest(f"there is no {min(unknown)[:40]!r}; there is since, by and format")
    shape = asked.get("format", ["json"])[-1]
    if shape not in ("json", "csv"):
        raise InvalidRequest(f"format must be json or csv, not {shape[:40]!r}", param="format")
    made = await cost_report(
        engine.store,
        engine.settings,
        engine.catalog.cost,
        since_s=period(asked.get("since", ["7d"])[-1]),
        by=dimensions(asked.get("by", ["model"])[-1]),
        now=engine.clock.wall(),
    )
    return made, shape == "csv"


def request_report(stored: StoredRequest) -> dict[str, Any]:
    """One request with every attempt; money as decimal strings of US dollars, `unknown` where it is."""
    attempts = [
        {
            "attempt": row.number,
            "purpose": row.purpose,
            "target": row.target,
            "deployment": row.deployment,
            "model": row.model,
            "outcome": row.outcome,
            "reason": row.error_kind,
            "note": row.note,
            "breaker": row.breaker,
            "http": row.http,
            "finish": row.finish,
            "provider_request_id": row.provider_request_id,
            "waited_s": row.waited_s,
            "first_content_s": row.first_content_s,
            "duration_s": row.duration_s,
            "tokens": {
                "input": row.input_tokens,
                "output": row.output_tokens,
                "cache_read": row.cache_read_tokens,
                "cache_write": row.cache_write_tokens,
                "reasoning": row.reasoning_tokens,
                "image": row.image_tokens,
            },
            "cost_usd": format_usd(row.cost_nano),
            "wasted_usd": format_usd(row.wasted_nano),
            "estimated": row.estimated,
        }
        for row in stored.attempts
    ]
    return {
        "id": stored.request_id,
        "started": stored.started_wall,
        "route": stored.route,
        "dialect": stored.dialect,
        "stream": stored.stream,
        "status": stored.status,
        "cache": stored.cache,
        "warnings": list(stored.warnings),
        "cost_usd": format_usd(_sum(row.cost_nano for row in stored.attempts)),
        "wasted_usd": format_usd(_sum(row.wasted_nano for row in stored.attempts)),
        "attempts": attempts,
    }


def _sum(amounts: Iterable[int | None]) -> int | None:
    """Unknown, if one of them is."""
    total = 0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def _busy(engine: Engine, deployment: str) -> dict[str, int]:
    """What this worker has under way there, and how many wait."""
    slots = engine.concurrency.slots.get(deployment)
    return {"busy": 0, "waiting": 0} if slots is None else {"busy": slots.busy, "waiting": slots.waiting}
