"""Budgets: of keys, of routes, and `[budgets]`."""

from __future__ import annotations

import re
from typing import Literal

from headrace.config.problem import Report, kind_of
from headrace.config.settings import BudgetSettings, Settings
from headrace.config.table import Table, nano
from headrace.lines import KeyPath
from headrace.types import Budget

ON_LIMIT = ("refuse", "downgrade")


WINDOWS = ("minute", "hour", "day", "month")


def read_budget_settings(root: Table) -> BudgetSettings:
    table = root.table("budgets")
    zone = _zone(table) or "UTC"
    total = read_budgets(table, "total", zone)
    groups: dict[str, dict[str, tuple[Budget, ...]]] = {}
    for group in ("users", "teams", "tags"):
        inner = table.table(group)
        groups[group] = {name: read_budgets(inner, name, zone) for name in inner.members}
        for name in inner.members if group == "tags" else ():
            if not re.fullmatch(r"[^=,]+=[^,]*", name):
                inner.wrong(name, "a tag is name=value, or name=* for each value")
    table.close()
    return BudgetSettings(zone=zone, total=total, **groups)


def read_budgets(table: Table, name: str, zone: str) -> tuple[Budget, ...]:
    """The budgets under `name`: a table or an array of tables; money and tokens in one table are two budgets."""
    value = table.take(name)  # one of the few members with two forms
    if value is None:
        return ()
    path = (*table.path, name)
    items: list[tuple[KeyPath, object]] = (
        [((*path, index), item) for index, item in enumerate(value)]
        if isinstance(value, list)
        else [(path, value)]
    )
    budgets: list[Budget] = []
    for place, item in items:
        if not isinstance(item, dict):
            table.found.add(place, f"must be a table, not {kind_of(item)}", _SOME_BUDGET)
            continue
        budgets += _budget(Table(table.found, place, item, None), zone)
    seen: set[tuple[object, ...]] = set()
    for budget in budgets:
        what = budget.unit, budget.window, budget.zone, budget.hard
        if what in seen:
            said = "dollars" if budget.unit == "usd" else "tokens"
            table.found.add(path, f"has two budgets in {said} for a {budget.window}", "Keep the smaller one.")
        seen.add(what)
    return tuple(budgets)


_SOME_BUDGET = 'Write { usd = "5", window = "day" }.'


def _budget(table: Table, zone: str) -> list[Budget]:
    money, tokens = nano(table.money("usd")), table.integer("tokens", 0, 1, 10**15)
    window = table.choice("window", WINDOWS)
    soft = table.boolean("soft") or False
    downgrade = table.choice("on_limit", ON_LIMIT) == "downgrade"
    own = _zone(table)
    table.close()
    if "window" not in table.members:
        table.found.add(table.path, "has no window", _SOME_BUDGET)
    if not {"usd", "tokens"} & table.members.keys():
        table.found.add(table.path, "limits nothing", _SOME_BUDGET)
    amounts: list[tuple[Literal["usd", "tokens"], int]] = []
    if money is not None:
        amounts.append(("usd", money))
    if tokens:
        amounts.append(("tokens", tokens))
    return [
        Budget(
            unit=unit,
            amount=amount,
            window=window,  # type: ignore[arg-type]  # one of WINDOWS
            hard=not soft,
            downgrade=downgrade,
            zone=own or zone,
        )
        for unit, amount in amounts
        if window is not None
    ]


def _zone(table: Table) -> str | None:
    name = table.text("timezone")
    if name is None or name == "UTC":
        return name
    import zoneinfo  # only for those who name one

    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        table.wrong(
            "timezone",
            "no such time zone here",
            'Write "Europe/Berlin"; without a database of zones only "UTC".',
        )
        return None
    return name


def judge_budgets(found: Report, settings: Settings) -> None:
    """Several workers share a budget and a rate limit through a file only; each would else have the whole of it."""
    store = settings.store
    if settings.gateway.workers == 1 or store.path is not None or store.usual is not None:
        return
    for name, route in settings.routes.items():
        if route.budgets:
            found.add(("routes", name, "budget"), _NO_FILE, _SHARE)
        if route.limits is not None:
            found.add(("routes", name, "limits"), _NO_FILE, _SHARE)
    for name, key in settings.keys.items():
        if key.budgets:
            found.add(("keys", name, "budget"), _NO_FILE, _SHARE)
        if key.limits is not None:
            found.add(("keys", name, "limits"), _NO_FILE, _SHARE)
    if settings.budgets.any:
        found.add(("budgets",), _NO_FILE, _SHARE)
    if settings.user_limits:
        found.add(("limits",), _NO_FILE, _SHARE)


_NO_FILE = "several workers would each have the whole of it"


_SHARE = 'Give them a file: [store] path = "headrace.db".'
