"""`[prices."provider/model"]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from types import MappingProxyType

from headrace.config.problem import Report
from headrace.config.table import Table

PRICE_KINDS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning", "image")
"""Each is a key `<kind>_usd_per_mtok`. With the two below, the members of `headrace.prices.ModelOverride`; a test compares them."""


LIMITS = ("context_window", "max_input", "max_output")


ABILITIES = ("tools", "images", "documents", "json_schema", "reasoning", "prefill")


def read_prices(found: Report, root: Table) -> dict[str, Mapping[str, object]]:
    """Judged as strictly as the catalogue will, but kept as written: the catalogue reads money, this module does not."""
    prices: dict[str, Mapping[str, object]] = {}
    for model, table in root.tables("prices"):
        if not re.fullmatch(r"[^/\s]+/\S+", model):
            found.add(table.path, "a price is for provider/model", 'Write [prices."openai/my-model"].')
        money = {f"{kind}_usd_per_mtok": table.money(f"{kind}_usd_per_mtok") for kind in PRICE_KINDS}
        limits = {name: table.integer(name, 0, 1, 1_000_000_000) or None for name in LIMITS}
        abilities = {name: table.boolean(name) for name in ABILITIES}
        later = {day: _dated(found, table.table(day)) for day in table.members if _is_day(day)}
        table.close()
        missing = [name for name in list(money)[:2] if name not in table.members]
        if missing and any(name in table.members for name in money):
            found.add(table.path, f"must give {' and '.join(missing)} when it gives another price")
        row = money | limits | abilities | {"later": later or None}
        prices[model] = MappingProxyType({name: value for name, value in row.items() if value is not None})
    return prices


def _is_day(text: str) -> bool:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _dated(found: Report, table: Table) -> dict[str, str]:
    """The prices from a day on."""
    money = {f"{kind}_usd_per_mtok": table.money(f"{kind}_usd_per_mtok") for kind in PRICE_KINDS}
    table.close()
    missing = [name for name in list(money)[:2] if name not in table.members]
    if missing:
        found.add(table.path, f"must give {' and '.join(missing)}")
    return {name: value for name, value in money.items() if value is not None}
