"""The store's file, opened by a verb for a moment, whether a gateway runs on it or not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from headrace.config import Settings
from headrace.errors import ConfigError
from headrace.store import Actor, Store

__all__ = ["opened", "store_file", "whoami"]

T = TypeVar("T")


def store_file(settings: Settings) -> Path:
    """Where the gateway keeps what it keeps. Raises `ConfigError` where that is nowhere."""
    file = settings.store.path or settings.store.usual
    if file is None:
        raise ConfigError(
            "the store is in memory, which nobody but the gateway can reach: set [store] path to a file"
        )
    return file


def opened(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """`work` with the store. Raises `StoreError` where its file cannot be used, `ConfigError` where there is none."""
    from headrace.store.sqlite import SQLiteStore  # with a thread of its own, which few verbs need

    async def main() -> T:
        store = SQLiteStore(store_file(settings))
        try:
            return await work(store)
        finally:
            await store.aclose()

    return asyncio.run(main())


def whoami() -> Actor:
    """Whoever runs this, for the audit log: by the system's account and not by a variable, which anybody may set."""
    import pwd  # where there is none (Windows) only the verbs that change something miss it

    try:
        return Actor(f"cli:{pwd.getpwuid(os.getuid()).pw_name}")
    except KeyError:  # a container's user without an entry in the password file
        return Actor(f"cli:{os.getuid()}")
