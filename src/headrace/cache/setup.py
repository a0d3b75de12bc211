"""The cache as the settings want it."""

from __future__ import annotations

from collections.abc import Callable

from headrace.cache.layer import Cache
from headrace.cache.shelf import Shelf
from headrace.cache.stores.sqlite import SQLiteEntries, beside
from headrace.clock import Clock
from headrace.config import Settings
from headrace.errors import StoreError

__all__ = ["open_cache"]


def open_cache(
    settings: Settings, clock: Clock, random: Callable[[], float]
) -> tuple[Cache, SQLiteEntries | None]:
    """The cache of all routes, with what its file held.

    Raises:
        StoreError: The file cannot be opened.
    """
    kept: SQLiteEntries | None = None
    shelf = Shelf(
        settings.cache.max_bytes,
        evicted=lambda gone: kept.remove([entry.id for entry in gone]) if kept is not None else None,
    )
    if settings.store.path is not None:
        path = beside(settings.store.path)
        try:
            kept = SQLiteEntries(path)
        except Exception as error:
            raise StoreError(f"the cache file {path} cannot be used: {error}") from error
    cache = Cache(clock, shelf, random=random, likeness=None, kept=kept)
    if kept is not None:
        cache.restore(kept.load(clock.wall()))
        kept.follow(cache.follow)
    return cache, kept
