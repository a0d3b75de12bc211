"""The cache as the settings want it."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from headrace.cache.aid import Aid, Rewrite, named
from headrace.cache.layer import Cache, Likeness
from headrace.cache.shelf import Shelf, Slab
from headrace.cache.stores.sqlite import SQLiteEntries, beside
from headrace.clock import Clock
from headrace.config import Settings
from headrace.errors import ConfigError, StoreError, UnknownModel
from headrace.handler import Route

__all__ = ["build_cache", "open_cache"]

SECRET_BYTES = 32


def open_cache(
    settings: Settings,
    clock: Clock,
    random: Callable[[], float],
    *,
    documents: Mapping[str, str] | None = None,
    resolve: Callable[[str], Route] | None = None,
) -> tuple[Cache, SQLiteEntries | None]:
    """The cache of all routes, with what its file held; `documents` are the versions of what routes quote from, `resolve` knows
    the names of models that judge.

    Raises:
        ConfigError: A route wants `semantic` and NumPy is not installed, or names a part that there is not.
        StoreError: The file cannot be opened.
    """
    policies = [route.cache for route in settings.routes.values() if route.cache is not None]
    path = settings.store.path
    return build_cache(
        clock,
        random,
        max_bytes=settings.cache.max_bytes,
        path=None if path is None else beside(path),
        semantic=any(policy.semantic and policy.max_wrong > 0 for policy in policies),
        aid=_aid(settings, resolve),
        documents=documents,
    )


def build_cache(
    clock: Clock,
    random: Callable[[], float],
    *,
    max_bytes: int,
    path: Path | None,
    semantic: bool,
    aid: Aid,
    documents: Mapping[str, str] | None = None,
) -> tuple[Cache, SQLiteEntries | None]:
    """The cache with what the file at `path` held; None keeps entries in memory only.

    Raises:
        ConfigError: `semantic`, and NumPy is not installed.
        StoreError: The file cannot be opened.
    """
    likeness, new_slab = _likeness() if semantic else (None, None)
    kept: SQLiteEntries | None = None
    shelf = Shelf(
        max_bytes,
        new_slab=new_slab,
        evicted=lambda gone: kept.remove([entry.id for entry in gone]) if kept is not None else None,
    )
    secret = secrets.token_bytes(SECRET_BYTES)
    if path is not None:
        try:
            secret = _secret(path.with_suffix(".key"))
            kept = SQLiteEntries(path)
        except Exception as error:
            raise StoreError(f"the cache file {path} cannot be used: {error}") from error
    cache = Cache(
        clock,
        shelf,
        random=random,
        likeness=likeness,
        aid=aid,
        kept=kept,
        documents=documents,
        secret=secret,
    )
    if kept is not None:
        cache.restore(kept.load(clock.wall()))
        if likeness is not None:
            cache.audits.add(kept.audits)
        kept.follow(cache.follow)
    return cache, kept


def _secret(path: Path) -> bytes:
    """What is in `path`, made at the first time, readable by its owner alone. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        return path.read_bytes()[:64]
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


def _aid(settings: Settings, resolve: Callable[[str], Route] | None) -> Aid:
    judges: dict[str, Route] = {}
    rewrites: dict[str, Rewrite] = {}
    for route in settings.routes.values():
        policy = route.cache
        if policy is None:
            continue
        if policy.judge is not None and resolve is not None:
            try:
                judges[route.name] = resolve(policy.judge)
            except UnknownModel as error:
                raise ConfigError(f"routes.{route.name}.cache.judge: {error.message}") from error
        if policy.rewrite is not None:
            rewrites[route.name] = named(policy.rewrite, f"routes.{route.name}.cache.rewrite")
    path = settings.cache.scorer
    return Aid(
        scorer=None if path is None else named(path, "cache.scorer")(), judges=judges, rewrites=rewrites
    )


def _likeness() -> tuple[Likeness, Callable[[], Slab]]:
    try:
        from headrace.cache.index import VectorSlab
        from headrace.cache.match import Matcher
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"semantic = true needs the semantic extra ({error.name}): pip install 'headrace[semantic]'"
        ) from error
    return Matcher.load(), VectorSlab
