"""Kept answers over the admin API: what there is, what was saved, why a question is or is not answered, throwing away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from headrace import config
from headrace.errors import InvalidRequest
from headrace.handler import CachePolicy

if TYPE_CHECKING:
    from headrace.cache.bound import Ruling
    from headrace.cache.layer import Cache
    from headrace.cache.selection import Selection
    from headrace.engine import Engine

__all__ = ["explained", "purged", "report", "selected"]

_FILTERS = ("route", "tenant", "user", "model", "tag", "documents", "prefix", "older_than")


def report(engine: Engine) -> dict[str, Any]:
    """Entries and counters of this worker."""
    cache = engine.cache
    if cache is None:
        return {"enabled": False}
    groups: dict[tuple[str, str], list[int]] = {}
    for entry in cache.shelf:
        group = groups.setdefault((entry.route, entry.tenant), [0, 0, 0])
        group[0] += 1
        group[1] += entry.size
        group[2] += entry.hits
    return {
        "enabled": True,
        "entries": len(cache.shelf),
        "bytes": cache.shelf.bytes,
        "max_bytes": cache.shelf.max_bytes,
        "evictions": cache.shelf.evictions,
        "failures": cache.failures,
        "store_errors": cache.store_errors,
        "in_flight": len(cache.flights),
        "groups": [
            {"route": route, "tenant": tenant, "entries": entries, "bytes": size, "hits": hits}
            for (route, tenant), (entries, size, hits) in sorted(groups.items())
        ],
        **cache.counts.report(),
        "bounds": cache.bounds(list(engine.settings.routes.values())),
    }


def selected(engine: Engine, query: str) -> Selection:
    """What `query` describes (`tenant=acme&older_than=24h`); an empty one is everything.

    Raises:
        InvalidRequest: A filter is not known, comes twice, or has no value; or no route has a cache.
    """
    from headrace.cache.selection import Selection

    _cache(engine)
    said: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _FILTERS:
            raise InvalidRequest(
                f"{name[:40]!r} is no filter of kept answers; there is: {', '.join(_FILTERS)}"
            )
        if name in said or not value:
            raise InvalidRequest(f"the filter {name} takes one value")
        said[name] = value
    age = said.pop("older_than", None)
    try:
        before = None if age is None else engine.clock.wall() - config.parse_duration(age)
    except ValueError as error:
        raise InvalidRequest(f"older_than: {error}") from error
    return Selection(before=before, **said)


def purged(engine: Engine, selection: Selection) -> dict[str, Any]:
    """Throw it away."""
    return {"purged": _cache(engine).purge(selection)}


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    question: str
    route: str | None = None
    max_wrong: float | None = None


def explained(engine: Engine, body: bytes) -> dict[str, Any]:
    """The nearest entries to a question with the verdict on each, in its own scope.

    Raises:
        InvalidRequest: The body is not `{"question": ..., "route": ..., "max_wrong": ...}`, the route is none, or the semantic
            extra is not installed.
    """
    cache = _cache(engine)
    try:
        asked = msgspec.json.decode(body, type=_Asked)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f'the body must be {{"question": "...", "route": "..."}}: {error}') from error
    if asked.route is not None and asked.route not in engine.settings.routes:
        raise InvalidRequest(f"there is no route {asked.route[:100]!r}", param="route")
    try:
        from headrace.cache.explain import explain, prior
        from headrace.cache.match import Matcher
    except ModuleNotFoundError as error:
        raise InvalidRequest(f"this needs the semantic extra ({error.name}) in the gateway") from error
    matcher = cache.likeness if isinstance(cache.likeness, Matcher) else Matcher.load()
    share = asked.max_wrong
    if share is None:
        share = (policy if (policy := _policy(engine, asked.route)) is not None else CachePolicy()).max_wrong
    rulings = {} if asked.max_wrong is not None else _rulings(engine, cache)
    ruling = rulings.get(asked.route or "", prior(matcher, share))
    verdicts = explain(
        asked.question,
        [entry for entry in cache.shelf if asked.route is None or entry.route == asked.route],
        matcher,
        max_wrong=share,
        wall=engine.clock.wall(),
        rulings=rulings,
    )
    return {
        "question": asked.question,
        "max_wrong": share,
        "tau": ruling.tau,
        "state": ruling.state,
        "candidates": [msgspec.to_builtins(verdict) for verdict in verdicts],
    }


def _rulings(engine: Engine, cache: Cache) -> dict[str, Ruling]:
    if cache.likeness is None:
        return {}
    return {
        name: cache.ruling(route, policy)
        for name, route in engine.settings.routes.items()
        if (policy := route.cache) is not None and policy.semantic and policy.max_wrong > 0
    }


def _policy(engine: Engine, route: str | None) -> CachePolicy | None:
    return None if route is None else engine.settings.routes[route].cache


def _cache(engine: Engine) -> Cache:
    if engine.cache is None:
        raise InvalidRequest("no route has a cache here")
    return engine.cache
