"""`[cache]` and `[routes.X.cache]`."""

from __future__ import annotations

from headrace.config.settings import CacheSettings
from headrace.config.table import Table
from headrace.handler import CachePolicy


def read_cache(route: Table) -> CachePolicy | None:
    """What `[routes.X.cache]` allows; None where there is none."""
    table = route.table("cache")
    if "cache" not in route.members:
        return None
    usual = CachePolicy()
    policy = CachePolicy(
        semantic=table.boolean("semantic") or False,
        max_wrong=table.number("max_wrong", usual.max_wrong, 0.0, 0.5),
        ttl_s=table.duration("ttl", usual.ttl_s),
        volatile_ttl_s=table.duration("volatile_ttl", usual.volatile_ttl_s),
        fallback_ttl_s=table.duration("fallback_ttl", usual.fallback_ttl_s),
        max_temperature=table.number("max_temperature", usual.max_temperature, 0.0, 2.0),
        max_entry_bytes=table.integer("max_entry_bytes", usual.max_entry_bytes, 1024, 64 << 20),
        lookup_s=table.duration("lookup", usual.lookup_s),
    )
    table.close()
    return policy


def read_cache_settings(root: Table) -> CacheSettings:
    table = root.table("cache")
    settings = CacheSettings(
        max_bytes=table.integer("max_bytes", CacheSettings().max_bytes, 1 << 20, 1 << 40)
    )
    table.close()
    return settings
