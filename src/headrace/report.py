"""What was spent, on what, where the month is heading, and what was not spent thanks to whom: from the ledger alone.

Every saving is an estimate against something that did not happen; `METHODS` says against what.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from headrace.budget.windows import window_at, zone_info
from headrace.call import Nanodollars, format_usd
from headrace.config import span_of
from headrace.errors import InvalidRequest
from headrace.store.spending import DIMENSIONS, WHEN, Avoided, Spend
from headrace.types import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.config import Settings
    from headrace.store import Store

    Price = Callable[[str, str, Usage], Nanodollars | None]

__all__ = ["METHODS", "chart", "cost_report", "dimensions", "period", "to_csv"]

DAY_S = 86_400.0

RATE_DAYS = 7
"""A week has each weekday once."""

LONGEST_DAYS = 3660

METHODS: Mapping[str, str] = {
    "forecast": f"spent this month, and for the rest of it the average of the last {RATE_DAYS} days, or since the first attempt where that is later",
    "cache": "for each answer from the cache what the answer had cost that was given again, where its price is known",
    "context": "the tokens that packing left out, counted as the provider counted the rest, at the answering target's price of input, less what summaries cost; "
    "a provider that would have read them from its own cache would have charged less",
    "targets": "for each route its successful attempts, had each gone to the dearest target that the route has or had: "
    "its price of today for the average attempt; less what they cost",
}


def period(text: str) -> float:
    """Seconds in `7d`, `24h`. Raises `InvalidRequest`."""
    try:
        seconds = span_of(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_DAYS * DAY_S:
        raise InvalidRequest(
            f"since must be a time such as 7d or 24h, at most {LONGEST_DAYS}d, not {text[:40]!r}",
            param="since",
        )
    return seconds


def dimensions(text: str) -> tuple[str, ...]:
    """`model,key,tag` as names. Raises `InvalidRequest`."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in DIMENSIONS and not re.fullmatch(r"tag:.{1,128}", name):
            raise InvalidRequest(
                f"by has {name[:40]!r}; there is {', '.join(DIMENSIONS)}, and tag:NAME for one tag's values",
                param="by",
            )
    if len(names) > 5 or len(set(names)) < len(names):
        raise InvalidRequest("by takes at most five different names", param="by")
    return names


async def cost_report(
    store: Store, settings: Settings, price: Price, *, since_s: float, by: Sequence[str], now: float
) -> dict[str, Any]:
    """The last `since_s` seconds before wall time `now`, as plain values; money as decimal strings of US dollars.

    Args:
        price: Provider, model and usage to nano-dollars, None for unknown (`headrace.prices.Catalog.cost`).
        by: See `dimensions`.

    Raises:
        StoreError: It could not be read.
    """
    since, until = now - since_s, now + 1.0  # what began in this very second is in it
    zone = settings.budgets.zone
    names = {key.id: key.name for key in await store.list_keys() if key.name is not None}
    groups = await store.spend(since, until, by)
    if "key" in by:
        place = by.index("key")
        for at, group in enumerate(groups):
            key = names.get(group.by[place], group.by[place])
            by_name = (*group.by[:place], key, *group.by[place + 1 :])
            groups[at] = Spend(
                **{name: getattr(group, name) for name in Spend.__struct_fields__} | {"by": by_name}
            )
    month = window_at("month", now, zone)
    times = await store.spend(min(since, month.start, now - RATE_DAYS * DAY_S), until, (WHEN,))
    total = await store.spend(since, until, ())
    routes = await store.spend(since, until, ("route", "model", "outcome"))
    summaries = await store.spend(since, until, ("purpose",))
    return {
        "since": datetime.fromtimestamp(since, zone_info(zone)).isoformat(timespec="seconds"),
        "until": datetime.fromtimestamp(now, zone_info(zone)).isoformat(timespec="seconds"),
        "timezone": zone,
        "by": list(by),
        "rows": [
            dict(zip(by, group.by, strict=True)) | _members(group)
            for group in sorted(groups, key=lambda group: -group.cost)
        ],
        "total": _members(total[0] if total else Spend(by=())),
        "days": _days(times, since, now, zone),
        "forecast": _forecast(times, month.start, month.end, now, zone),
        "savings": _savings(await store.avoided(since, until), routes, summaries, settings, price),
    }


def _members(group: Spend) -> dict[str, Any]:
    return {
        "requests": group.requests,
        "attempts": group.attempts,
        "input_tokens": group.input_tokens,
        "output_tokens": group.output_tokens,
        "cache_read_tokens": group.cache_read_tokens,
        "cost_usd": format_usd(group.cost),
        "wasted_usd": format_usd(group.wasted),
        "estimated_usd": format_usd(group.estimated),
        "unpriced_attempts": group.unknown,
    }


def _days(times: Iterable[Spend], since: float, now: float, zone: str) -> list[dict[str, str]]:
    """The cost of each day, also of those without any."""
    costs: dict[str, int] = {}
    at = since
    while at < now:
        window = window_at("day", at, zone)
        costs[_day(window.start, zone)] = 0
        at = window.end
    for group in times:
        began = int(group.by[0])
        if began + 900 > since:
            day = _day(began, zone)
            costs[day] = costs.get(day, 0) + group.cost
    return [{"day": day, "cost_usd": format_usd(cost)} for day, cost in sorted(costs.items())]


def _day(wall: float, zone: str) -> str:
    return datetime.fromtimestamp(wall, zone_info(zone)).date().isoformat()


def _forecast(times: Sequence[Spend], start: int, end: int, now: float, zone: str) -> dict[str, str]:
    spent = sum(group.cost for group in times if int(group.by[0]) >= start)
    begin = now - RATE_DAYS * DAY_S
    recent = [group for group in times if int(group.by[0]) + 900 > begin]
    first = min((int(group.by[0]) for group in recent), default=now)
    span = max(now - max(begin, first), 3600.0)  # of less than an hour nobody can say more
    rate = sum(group.cost for group in recent) / span
    return {
        "month": _day(start, zone)[:7],
        "spent_usd": format_usd(spent),
        "forecast_usd": format_usd(spent + round(rate * (end - now))),
        "method": METHODS["forecast"],
    }


def _savings(
    avoided: Sequence[Avoided],
    routes: Sequence[Spend],
    purposes: Sequence[Spend],
    settings: Settings,
    price: Price,
) -> dict[str, dict[str, Any]]:
    summaries = sum(group.cost for group in purposes if group.by[0] == "summary")
    packing = sum(one.packing for one in avoided)
    return {
        "cache": {
            "saved_usd": format_usd(sum(one.saved for one in avoided)),
            "hits": sum(one.hits for one in avoided),
            "unpriced_hits": sum(one.unpriced for one in avoided),
            "method": METHODS["cache"],
        },
        "context": {
            "saved_usd": format_usd(packing - summaries),
            "packed_requests": sum(one.packed for one in avoided),
            "summaries_usd": format_usd(summaries),
            "method": METHODS["context"],
        },
        "targets": {
            "saved_usd": format_usd(sum(_cheaper(routes, settings, price))),
            "method": METHODS["targets"],
        },
    }


def _cheaper(routes: Sequence[Spend], settings: Settings, price: Price) -> Iterable[int]:
    """What each group of successful attempts did not cost."""
    targets: dict[str, set[str]] = defaultdict(set)
    for group in routes:
        targets[group.by[0]].add(group.by[1])
    for name, seen in targets.items():
        if (route := settings.routes.get(name)) is not None:
            seen.update(str(target) for target in route.cascade)
    for group in routes:
        route_name, _, outcome = group.by
        if outcome != "ok" or group.unknown:
            continue
        usual = Usage(
            input_tokens=round(group.input_tokens / group.attempts),
            output_tokens=round(group.output_tokens / group.attempts),
            cache_read_tokens=round(group.cache_read_tokens / group.attempts),
        )
        named = (target.partition("/") for target in targets[route_name])
        costs = (price(provider, model, usual) for provider, _, model in named)
        dearest = max((cost for cost in costs if cost is not None), default=0)
        yield max(0, dearest * group.attempts - group.cost)


# --- for people and for sheets ------------------------------------------------------------------------------------------


def to_csv(report: Mapping[str, Any]) -> str:
    """The rows, with a header; money in US dollars."""
    rows = report["rows"]
    text = io.StringIO()
    names = [*report["by"], *report["total"]]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    # What a sheet would take for a formula is a text.
    writer.writerows(
        {
            name: f"'{value}" if str(value).startswith(("=", "+", "-", "@")) else value
            for name, value in row.items()
        }
        for row in rows
    )
    return text.getvalue()


def chart(days: Sequence[Mapping[str, str]], width: int = 50) -> list[str]:
    """One bar a day, in eighths of a character; the longest has `width`."""
    costs = [float(day["cost_usd"]) for day in days]
    most = max(costs, default=0.0)
    lines = []
    for day, cost in zip(days, costs, strict=True):
        eighths = round(cost / most * width * 8) if most else 0
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        lines.append(f"{day['day']}  {bar or '·'} ${day['cost_usd']}")
    return lines
