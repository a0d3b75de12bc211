"""The cache as the settings want it."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from headrace.cache.layer import Cache, Likeness
from headrace.cache.shelf import Shelf, Slab
from headrace.cache.stores.sqlite import SQLiteEntries, beside
from headrace.clock import Clock
from headrace.config import Settings
from headrace.errors import ConfigError, StoreError

__all__ = ["open_cache"]

SECRET_BYTES = 32


def open_cache(
    settings: Settings,
    clock: Clock,
    random: Callable[[], float],
    *,
    documents: Mapping[str, str] | None = None,
) -> tuple[Cache, SQLiteEntries | None]:
    """The cache of all routes, with what its file held; `documents` are the versions of what routes quote from.

    Raises:
        ConfigError: A route wants `semantic` and NumPy is not installed.
        StoreError: The file cannot be opened.
    """
    likeness: Likeness | None = None
    new_slab: Callable[[], Slab] | None = None
    policies = [route.cache for route in settings.routes.values() if route.cache is not None]
    if any(policy.semantic and policy.max_wrong > 0 for policy in policies):
        likeness, new_slab = _likeness()
    kept: SQLiteEntries | None = None
    shelf = Shelf(
        settings.cache.max_bytes,
        new_slab=new_slab,
        evicted=lambda gone: kept.remove([entry.id for entry in gone]) if kept is not None else None,
    )
    secret = secrets.token_bytes(SECRET_BYTES)
    if settings.store.path is not None:
        path = beside(settings.store.path)
        try:
            secret = _secret(path.with_suffix(".key"))
            kept = SQLiteEntries(path)
        except Exception as error:
            raise StoreError(f"the cache file {path} cannot be used: {error}") from error
    cache = Cache(
        clock, shelf, random=random, likeness=likeness, kept=kept, documents=documents, secret=secret
    )
    if kept is not None:
        cache.restore(kept.load(clock.wall()))
        kept.follow(cache.follow)
    return cache, kept


def _secret(path: Path) -> bytes:
    """What is in `path`, made at the first time, readable by its owner alone. Raises `OSError`."""
    with suppress(FileExistsError):
        made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(
            os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, stat.S_IRUSR | stat.S_IWUSR), "wb"
        ) as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
        try:
            os.link(made, path)  # whole or not at all, also when two processes begin at once
        finally:
            made.unlink()
    return path.read_bytes()[:64]


def _likeness() -> tuple[Likeness, Callable[[], Slab]]:
    try:
        from headrace.cache.index import VectorSlab
        from headrace.cache.match import Matcher
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"semantic = true needs the semantic extra ({error.name}): pip install 'headrace[semantic]'"
        ) from error
    return Matcher.load(), VectorSlab
