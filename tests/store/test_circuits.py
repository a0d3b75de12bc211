"""Circuits in the store: what one worker tells, the others read; a probe is taken once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from headrace.store import Store, StoredCircuit
from headrace.store.sqlite import SQLiteStore


def told(key: str, state: str, by: str = "one", until: float = 50.0) -> StoredCircuit:
    """A transition."""
    return StoredCircuit(key=key, state=state, until_wall=until, trips=1, reason="overloaded", by=by)


def test_transitions_are_read_once_and_in_order(with_store: Any) -> None:
    """The last transition of each circuit, after what was seen; the later one replaces the earlier."""

    async def body(store: Store) -> None:
        assert await store.circuits(0) == (0, [])
        store.record_circuit(told("a/x", "open"))
        store.record_circuit(told("b/y", "open"))
        store.record_circuit(told("a/x", "closed"))
        await store.flush()
        seen, circuits = await store.circuits(0)
        assert [(circuit.key, circuit.state) for circuit in circuits] == [("b/y", "open"), ("a/x", "closed")]
        assert await store.circuits(seen) == (seen, [])
        store.record_circuit(told("b/y", "closed"))
        await store.flush()
        assert [circuit.key for circuit in (await store.circuits(seen))[1]] == ["b/y"]

    with_store(body)


def test_a_probe_is_claimed_by_one(with_store: Any) -> None:
    """Until its lease is over, it is told otherwise, or it is the same worker."""

    async def body(store: Store) -> None:
        store.record_circuit(told("a/x", "open"))
        assert await store.claim_probe("a/x", 60.0, 180.0, "one")
        assert not await store.claim_probe("a/x", 61.0, 181.0, "two")
        assert await store.claim_probe("a/x", 62.0, 182.0, "one")
        assert await store.claim_probe("a/x", 182.0, 300.0, "two")
        store.record_circuit(told("a/x", "open", "two"))
        await store.flush()
        assert await store.claim_probe("a/x", 183.0, 300.0, "one")

    with_store(body)


def test_two_processes_share_one_file(tmp_path: Path) -> None:
    """Two stores on one file see each other's transitions, and of twenty claims at once one is granted."""

    async def main() -> None:
        first, second = SQLiteStore(tmp_path / "x.db"), SQLiteStore(tmp_path / "x.db")
        try:
            first.record_circuit(told("a/x", "open"))
            await first.flush()
            assert [circuit.key for circuit in (await second.circuits(0))[1]] == ["a/x"]
            claims = (
                (first, second)[n % 2].claim_probe("a/x", 60.0, 180.0, ("one", "two")[n % 2])
                for n in range(20)
            )
            granted = await asyncio.gather(*claims)
            assert {n % 2 for n, got in enumerate(granted) if got} in ({0}, {1})
        finally:
            await first.aclose()
            await second.aclose()

    asyncio.run(main())
