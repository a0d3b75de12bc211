"""`[routes.X]`: the cascade and how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace.config.budgets import ON_LIMIT, read_budgets
from headrace.config.cache import read_cache
from headrace.config.context import read_context
from headrace.config.guard import read_guard
from headrace.config.known import known_providers
from headrace.config.limits import read_limits
from headrace.config.problem import Report, closest, kind_of
from headrace.config.providers import read_provider
from headrace.config.rules import read_rules
from headrace.config.settings import LOCAL, ProviderSettings
from headrace.config.table import Table, nano, span_of
from headrace.handler import Route
from headrace.lines import KeyPath
from headrace.types import Target


def read_routes(
    found: Report, root: Table, providers: dict[str, ProviderSettings], zone: str, folder: Path
) -> dict[str, Route]:
    """The routes. Known providers that only a route names are added to `providers`."""
    routes: dict[str, Route] = {}
    mentioned = set(root.table("providers").members) | {LOCAL}
    names = list(root.table("routes").members)
    plain = [name for name, table in root.tables("routes") if "rules" not in table.members]
    for name, table in root.tables("routes"):
        if not name or "/" in name or len(name) > 128 or not name.isprintable() or " " in name:
            found.add(
                table.path, "a route's name has no slash and no space", 'Write "provider/model" in a cascade.'
            )
        cascade = _cascade(found, table, mentioned, list(root.table("routes").members))
        usual = Route(name=name, cascade=())
        limit = table.integer("max_output_tokens", 0, 1, 10_000_000)
        routes[name] = Route(
            name=name,
            cascade=cascade,
            deadline_s=table.duration("deadline", usual.deadline_s),
            connect_s=table.duration("connect", usual.connect_s),
            first_content_s=table.duration("first_content", usual.first_content_s),
            between_events_s=table.duration("between_events", usual.between_events_s),
            max_wait_s=table.duration("max_wait", usual.max_wait_s, zero=True),
            max_output_tokens=limit or None,
            on_refusal=table.choice("on_refusal", ("stop", "next")) or usual.on_refusal,
            repair=table.boolean("repair") or False,
            breaker=table.boolean("breaker") is not False,
            mid_stream=table.choice("mid_stream", ("error", "hold", "restart", "continue"))
            or usual.mid_stream,
            hold_tokens=table.integer("hold_tokens", usual.hold_tokens, 1, 100_000),
            hold_s=table.duration("hold_time", usual.hold_s, zero=True),
            hedge=_hedge(table),
            priority=table.choice("priority", ("high", "normal", "low")) or usual.priority,
            tool_calls=table.choice("tool_calls", ("stream", "whole")) or usual.tool_calls,
            budgets=read_budgets(table, "budget", zone),
            limits=read_limits(table),
            retention_s=_retention(table, usual.retention_s),
            stores_content=table.choice("content", ("full", "hash-only")) != "hash-only",
            max_cost=nano(table.money("max_cost_usd")),
            max_total_tokens=table.integer("max_total_tokens", 0, 1, 10**12) or None,
            downgrade=table.choice("on_limit", ON_LIMIT) == "downgrade",
            cache=read_cache(table),
            context=read_context(table, folder),
            guard=read_guard(table),
            rules=read_rules(found, table, names, plain),
        )
        if routes[name].rules and routes[name].budgets:
            table.wrong(
                "budget",
                "a route with rules has no budget of its own",
                "Give it to the routes that the rules use.",
            )
        table.close()
        for target in cascade:
            row = known_providers().get(target.provider)
            if row is not None and target.provider not in mentioned | providers.keys():
                provider = read_provider(found, target.provider, None, row)
                if provider is not None:
                    providers[target.provider] = provider
    for name, route in routes.items():
        writer = "" if route.context is None else route.context.summariser
        if writer and "/" not in writer and writer not in routes:
            found.add(
                ("routes", name, "context", "summariser"),
                "is neither a route nor provider/model",
                f"There is: {', '.join(sorted(routes))}.",
                value=writer,
            )
    return routes


RETENTION_S = (60.0, 3660 * 86_400.0)
"""A minute to ten years."""


def _retention(route: Table, default: float) -> float:
    text = route.text("retention")
    if text is None:
        return default
    try:
        seconds = span_of(text)
    except ValueError:
        route.wrong("retention", "not a time", 'Write "30d" or "12h".')
        return default
    if not RETENTION_S[0] <= seconds <= RETENTION_S[1]:
        route.wrong("retention", "must be from 1m to 3660d")
    return seconds


def _hedge(route: Table) -> float:
    """The share of extra calls of `hedge = { max_extra = 0.05 }`; an empty table has the default, no table none."""
    table = route.table("hedge")
    share = table.number("max_extra", 0.05, 0.001, 0.5)
    table.close()
    return share if "hedge" in route.members else 0.0


def _cascade(found: Report, table: Table, mentioned: set[str], routes: Sequence[str]) -> tuple[Target, ...]:
    value = table.take("cascade")  # the one member with two forms
    path = (*table.path, "cascade")
    if value is None:
        found.add(table.path, "has no cascade", 'Write cascade = ["provider/model"].')
        return ()
    if not isinstance(value, list) or not value:
        found.add(path, "must be an array of at least one target", 'Write cascade = ["provider/model"].')
        return ()
    targets = []
    for index, item in enumerate(value):
        if isinstance(item, str):
            level = Table(found, path, {"target": item}, None)
            place: KeyPath = (*path, index)
            text, attempts = found.substitute(place, item), 1
        elif isinstance(item, dict):
            level = Table(found, (*path, index), item, "routes")
            place = (*path, index, "target")
            text, attempts = level.text("target"), level.integer("attempts", 1, 1, 100)
            level.close()
            if "target" not in item:
                found.add(
                    (*path, index), "has no target", 'Write { target = "provider/model", attempts = 2 }.'
                )
        else:
            found.add(
                (*path, index), f"must be a string or a table, not {kind_of(item)}", 'Write "provider/model".'
            )
            continue
        if text is None:
            continue
        written = item if isinstance(item, str) else item.get("target")
        provider, slash, model = text.partition("/")
        names = sorted(known_providers().keys() | mentioned)
        if not slash and text in routes:
            found.add(place, "a cascade names models, not routes", 'Write "provider/model".', value=written)
        elif not provider or not model or not text.isprintable() or " " in text:
            found.add(place, "must be provider/model", 'For instance "openai/gpt-5".', value=written)
        elif provider not in names:
            found.add(place, "no provider has that name", closest(provider, names), value=written)
        else:
            targets.append(Target(provider, model, attempts))
    return tuple(targets)
