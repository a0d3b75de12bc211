"""What was spent, added up: the SQL of reports, and the same over rows in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from headrace.store.rows import AttemptRow, StoredRequest

__all__ = ["DIMENSIONS", "WHEN", "Avoided", "Spend", "avoided", "avoided_of", "spend", "spend_of"]

QUARTER_S = 900
"""Every time zone's days begin at a quarter of an hour."""

WHEN = "when"
"""The dimension of time: the quarter of an hour in which an attempt began, as seconds since 1970."""

_COLUMNS: Mapping[str, tuple[str, Callable[[AttemptRow], str | None]]] = MappingProxyType(
    {
        "model": ("provider || '/' || target_model", lambda row: row.target),
        "provider": ("provider", lambda row: row.provider),
        "deployment": ("deployment", lambda row: row.deployment),
        "route": ("route", lambda row: row.route),
        "key": ("key_id", lambda row: row.key_id),
        "tenant": ("tenant", lambda row: row.tenant),
        "user": ("user", lambda row: row.user),
        "team": ("team", lambda row: row.team),
        "purpose": ("purpose", lambda row: row.purpose),
        "outcome": ("outcome", lambda row: row.outcome),
        WHEN: (
            f"CAST(started_wall / {QUARTER_S} AS INTEGER) * {QUARTER_S}",
            lambda row: str(int(row.started_wall // QUARTER_S) * QUARTER_S),
        ),
    }
)

DIMENSIONS = (*(name for name in _COLUMNS if name != WHEN), "tag")
"""What a report can be grouped by; `tag` is each `name=value`, `tag:NAME` the value of one name."""


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of one group. Costs are nano-dollars of those that are known; `estimated` is the part of `cost` that is an upper
    bound, `unknown` the number of attempts without a price. `by` are the group's values, empty where there is none."""

    by: tuple[str, ...]
    requests: int = 0
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cost: int = 0
    wasted: int = 0
    estimated: int = 0
    unknown: int = 0


class Avoided(msgspec.Struct, frozen=True, kw_only=True):
    """What a route's requests did not cost, in nano-dollars: `hits` were answered from the cache, of which `unpriced` have no known
    cost; `packed` requests were sent without what `packing` would have cost."""

    route: str
    hits: int = 0
    unpriced: int = 0
    saved: int = 0
    packed: int = 0
    packing: int = 0


_SUMS = (
    "count(DISTINCT request_id || ' ' || call_wall), count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),"
    " coalesce(sum(cache_read_tokens), 0), coalesce(sum(cost_nano), 0), coalesce(sum(wasted_nano), 0),"
    " coalesce(sum(CASE WHEN estimated THEN cost_nano END), 0), coalesce(sum(cost_nano IS NULL), 0)"
)


def spend(connection: sqlite3.Connection, since: float, until: float, by: Sequence[str]) -> list[Spend]:
    """See `Store.spend`."""
    names: list[str] = []
    values: list[object] = []
    for name in by:
        if name == "tag":
            names.append("coalesce(t.key || '=' || t.value, '')")
        elif name.startswith("tag:"):
            names.append("coalesce((SELECT value FROM json_each(tags) WHERE key = ?), '')")
            values.append(name.removeprefix("tag:"))
        else:
            names.append(f"CAST(coalesce({_COLUMNS[name][0]}, '') AS TEXT)")
    tags = " LEFT JOIN json_each(attempts.tags) t" if "tag" in by else ""
    chosen = "".join(f"{name}, " for name in names)
    grouped = f" GROUP BY {', '.join(str(place + 1) for place in range(len(names)))}" if names else ""
    rows = connection.execute(
        f"SELECT {chosen}{_SUMS} FROM attempts{tags}"  # noqa: S608  (names of the table above)
        f" WHERE started_wall >= ? AND started_wall < ? AND outcome != 'skipped'{grouped}",
        (*values, since, until),
    ).fetchall()
    fields = Spend.__struct_fields__[1:]
    return sorted(
        (
            Spend(by=tuple(row[: len(by)]), **dict(zip(fields, row[len(by) :], strict=True)))
            for row in rows
            if row[len(by) + 1]
        ),
        key=lambda group: group.by,
    )


def spend_of(rows: Iterable[AttemptRow], since: float, until: float, by: Sequence[str]) -> list[Spend]:
    """The same over rows in memory."""
    groups: dict[tuple[str, ...], list[AttemptRow]] = {}
    for row in rows:
        if since <= row.started_wall < until and row.outcome != "skipped":
            for values in _values(row, by):
                groups.setdefault(values, []).append(row)
    return [
        Spend(
            by=values,
            requests=len({(row.request_id, row.call_wall) for row in found}),
            attempts=len(found),
            input_tokens=sum(row.input_tokens or 0 for row in found),
            output_tokens=sum(row.output_tokens or 0 for row in found),
            cache_read_tokens=sum(row.cache_read_tokens or 0 for row in found),
            cost=sum(row.cost_nano or 0 for row in found),
            wasted=sum(row.wasted_nano or 0 for row in found),
            estimated=sum(row.cost_nano or 0 for row in found if row.estimated),
            unknown=sum(row.cost_nano is None for row in found),
        )
        for values, found in sorted(groups.items())
    ]


def _values(row: AttemptRow, by: Sequence[str]) -> list[tuple[str, ...]]:
    """The groups that a row belongs to: one, or with `tag` one for each tag."""
    found: list[tuple[str, ...]] = [()]
    for name in by:
        if name == "tag":
            tags = [f"{tag}={value}" for tag, value in row.tags.items()] or [""]
            found = [(*values, tag) for values in found for tag in tags]
        else:
            known = name.startswith("tag:")
            value = row.tags.get(name.removeprefix("tag:")) if known else _COLUMNS[name][1](row)
            found = [(*values, value or "") for values in found]
    return found


def avoided(connection: sqlite3.Connection, since: float, until: float) -> list[Avoided]:
    """See `Store.avoided`."""
    rows = connection.execute(
        "SELECT route, sum(cache LIKE 'hit%'), sum(cache LIKE 'hit%' AND saved_nano IS NULL), coalesce(sum(saved_nano), 0),"
        " sum(packed_nano IS NOT NULL), coalesce(sum(packed_nano), 0)"
        " FROM calls WHERE started_wall >= ? AND started_wall < ? GROUP BY route ORDER BY route",
        (since, until),
    )
    fields = Avoided.__struct_fields__
    return [Avoided(**dict(zip(fields, row, strict=True))) for row in rows if row[1] or row[4]]


def avoided_of(requests: Iterable[StoredRequest], since: float, until: float) -> list[Avoided]:
    """The same over requests in memory."""
    groups: dict[str, list[StoredRequest]] = {}
    for request in requests:
        if since <= request.started_wall < until:
            groups.setdefault(request.route, []).append(request)
    made = []
    for route, found in sorted(groups.items()):
        hits = [request for request in found if request.cache.startswith("hit")]
        packed = [request.packed_nano for request in found if request.packed_nano is not None]
        if hits or packed:
            made.append(
                Avoided(
                    route=route,
                    hits=len(hits),
                    unpriced=sum(request.saved_nano is None for request in hits),
                    saved=sum(request.saved_nano or 0 for request in hits),
                    packed=len(packed),
                    packing=sum(packed),
                )
            )
    return made
