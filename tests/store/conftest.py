from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from headrace.store import MemoryStore, Store
from headrace.store.sqlite import SQLiteStore

T = TypeVar("T")
With = Callable[[Callable[[Store], Coroutine[Any, Any, T]]], T]


@pytest.fixture(params=["memory", "sqlite"])
def with_store(request: pytest.FixtureRequest, tmp_path: Path) -> With[Any]:
    """Runs a coroutine function with a fresh store of each kind, and closes it."""

    def run(body: Callable[[Store], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            store: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "x.db")
            try:
                return await body(store)
            finally:
                await store.aclose()

        return asyncio.run(main())

    return run
