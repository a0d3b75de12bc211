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


STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda path: MemoryStore(),
    "sqlite": lambda path: SQLiteStore(path),
}
"""Every store, by what opens it at a path; another one is put under all of these tests by a line here."""


@pytest.fixture(params=list(STORES))
def with_store(request: pytest.FixtureRequest, tmp_path: Path) -> With[Any]:
    """Runs a coroutine function with a fresh store of each kind, and closes it."""

    def run(body: Callable[[Store], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            store = STORES[request.param](tmp_path / "x.db")
            try:
                return await body(store)
            finally:
                await store.aclose()

        return asyncio.run(main())

    return run
