"""`[cache]` and `[routes.X.cache]`."""

from __future__ import annotations

import re

from headrace.config.settings import CacheSettings
from headrace.config.table import Table
from headrace.handler import CachePolicy

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def read_cache(route: Table) -> CachePolicy | None:
    """What `[routes.X.cache]` allows; None where there is none."""
    table = route.table("cache")
    if "cache" not in route.members:
        return None
    usual = CachePolicy()
    policy = CachePolicy(
        semantic=table.boolean("semantic") or False,
        max_wrong=table.number("max_wrong", usual.max_wrong, 0.0, 0.5),
        audit=table.number("audit", usual.audit, 0.0, 1.0),
        shadow=table.boolean("shadow") or False,
        ttl_s=table.duration("ttl", usual.ttl_s),
        volatile_ttl_s=table.duration("volatile_ttl", usual.volatile_ttl_s),
        fallback_ttl_s=table.duration("fallback_ttl", usual.fallback_ttl_s),
        max_temperature=table.number("max_temperature", usual.max_temperature, 0.0, 2.0),
        max_entry_bytes=table.integer("max_entry_bytes", usual.max_entry_bytes, 1024, 64 << 20),
        lookup_s=table.duration("lookup", usual.lookup_s),
        hook_s=table.duration("hook_timeout", usual.hook_s),
        judge=table.text("judge"),
        rewrite=_import_path(table, "rewrite"),
    )
    table.close()
    return policy


def _import_path(table: Table, name: str) -> str | None:
    path = table.text(name)
    if path is not None and not _IMPORT_PATH.fullmatch(path):
        table.wrong(name, "must name something that can be imported", 'Write "package.module:name".')
        return None
    return path


def read_cache_settings(root: Table) -> CacheSettings:
    table = root.table("cache")
    settings = CacheSettings(
        max_bytes=table.integer("max_bytes", CacheSettings().max_bytes, 1 << 20, 1 << 40),
        scorer=_import_path(table, "scorer"),
    )
    table.close()
    return settings
