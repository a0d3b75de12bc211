"""`cost`: what was spent, from the store's file, whether a gateway runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headrace import config, report
from headrace.cli import options
from headrace.cli.console import Console
from headrace.cli.storage import opened, store_file
from headrace.clock import SystemClock
from headrace.errors import ConfigError
from headrace.prices import Catalog
from headrace.store import Store

__all__ = ["cost"]

MOST_BARS = 62
"""Two months; of a longer time the last days are drawn."""

_SHORT = {
    "input_tokens": "in",
    "output_tokens": "out",
    "cache_read_tokens": "cache read",
    "cost_usd": "cost $",
    "wasted_usd": "wasted $",
    "estimated_usd": "estimated $",
    "unpriced_attempts": "unpriced",
}
"""Heads of columns that fit a terminal."""


@click.command(short_help="Say what was spent, and where the month is heading.")
@options.config_file
@click.option("--since", default="7d", metavar="TIME", help="How far back: 24h, 7d, 30d; default: 7d.")
@click.option(
    "--by",
    default="model",
    metavar="NAMES",
    help="model, provider, deployment, route, key, tenant, user, team, tag, tag:NAME, purpose, outcome, with commas; default: model.",
)
@click.option("--csv", "as_csv", is_flag=True, help="The rows as CSV.")
@options.as_json
def cost(path: Path | None, since: str, by: str, as_csv: bool, as_json: bool) -> None:
    """Add up the ledger: a table, a chart of the days, the forecast of the month, and what cache, packing and cheap targets saved.

    With `tag` an attempt counts in the row of each of its tags. Days and months are those of [budgets] timezone.

    Exit codes: 0 shown, 2 the settings are wrong, there is no ledger, or a name is none of these.
    """
    console, settings = Console(as_json=as_json), config.load(path)
    since_s, names = report.period(since), report.dimensions(by)
    if as_json and as_csv:
        raise click.UsageError("--json or --csv, not both")
    if not (file := store_file(settings)).exists():
        raise ConfigError(f"there is no {file}: nothing has been spent yet")
    price, now = Catalog.from_settings(settings.prices).cost, SystemClock.wall()

    async def work(store: Store) -> dict[str, Any]:
        return await report.cost_report(store, settings, price, since_s=since_s, by=names, now=now)

    made = opened(settings, work)
    if as_json:
        console.json(made)
    elif as_csv:
        click.echo(report.to_csv(made), nl=False)
    else:
        _show(console, made)


def _cell(value: object) -> str:
    """Nothing for 0, so that a column of zeros is not drawn."""
    return "" if value in (0, "0") else str(value)


def _show(console: Console, made: dict[str, Any]) -> None:
    columns = [*made["by"], *made["total"]]
    if not made["rows"]:
        console.note("nothing was asked in that time")
    rows = [[_cell(row[name]) for name in columns] for row in made["rows"]]
    total = made["total"]
    rows.append(["total" if at == 0 else _cell(total.get(name, "")) for at, name in enumerate(columns)])
    console.table([_SHORT.get(name, name) for name in columns], rows)
    console.line()
    for line in report.chart(made["days"][-MOST_BARS:]):
        console.line(line)
    forecast, savings = made["forecast"], made["savings"]
    cache, context, targets = savings["cache"], savings["context"], savings["targets"]
    console.line()
    console.line(
        f"{forecast['month']}: ${forecast['spent_usd']} so far, ${forecast['forecast_usd']} by its end"
    )
    console.line(
        f"saved by the cache: ${cache['saved_usd']} ({cache['hits']} hits, {cache['unpriced_hits']} of unknown price)"
    )
    console.line(f"saved by packing: ${context['saved_usd']} ({context['packed_requests']} requests)")
    console.line(f"saved by cheap targets: ${targets['saved_usd']}")
    console.note("these are estimates: --json says how each is made")
