"""`[prices."provider/model"]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from headrace.config.problem import Report
from headrace.config.table import Table

PRICE_KINDS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")
"""Each is a key `<kind>_usd_per_mtok`. With the two below, the members of `headrace.prices.ModelOverride`; a test compares them."""


LIMITS = ("context_window", "max_input", "max_output")


ABILITIES = ("tools", "images", "documents", "json_schema", "reasoning", "prefill")


def read_prices(found: Report, root: Table) -> dict[str, Mapping[str, str | int]]:
    """Judged as strictly as the catalogue will, but kept as written: the catalogue reads money, this module does not."""
    prices: dict[str, Mapping[str, str | int]] = {}
    for model, table in root.tables("prices"):
        if not re.fullmatch(r"[^/\s]+/\S+", model):
            found.add(table.path, "a price is for provider/model", 'Write [prices."openai/my-model"].')
        money = {f"{kind}_usd_per_mtok": table.money(f"{kind}_usd_per_mtok") for kind in PRICE_KINDS}
        limits = {name: table.integer(name, 0, 1, 1_000_000_000) or None for name in LIMITS}
        abilities = {name: table.boolean(name) for name in ABILITIES}
        table.close()
        missing = [name for name in list(money)[:2] if name not in table.members]
        if missing and any(name in table.members for name in money):
            found.add(table.path, f"must give {' and '.join(missing)} when it gives another price")
        row = money | limits | abilities
        prices[model] = MappingProxyType({name: value for name, value in row.items() if value is not None})
    return prices
