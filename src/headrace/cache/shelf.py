"""The entries in memory, found by exact text, by canonical text, or by likeness within one scope.

Bounded in bytes. What goes first when it is full is what saves least a byte: GreedyDual-Size-Frequency (L. Cherkasova, "Improving
WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Laboratories, 1998), with the money that a hit saves as
its cost. Nothing here does I/O.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from headrace.cache.entry import Entry
from headrace.cache.key import digest

__all__ = ["Shelf", "Slab"]


class Slab(Protocol):
    """The vectors of one scope."""

    def add(self, id: str, vector: bytes) -> None: ...  # noqa: A002

    def remove(self, id: str) -> None: ...  # noqa: A002

    def __len__(self) -> int: ...


class Shelf:
    """All entries of one process.

    Args:
        max_bytes: Of entries, as `Entry.size` counts them.
        new_slab: Makes the index of a scope; None without a semantic tier.
        evicted: Told of entries that had to go.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        new_slab: Callable[[], Slab] | None = None,
        evicted: Callable[[list[Entry]], None] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.evictions = 0
        self._new_slab = new_slab
        self._evicted = evicted
        self._by_id: dict[str, Entry] = {}
        self._exact: dict[bytes, str] = {}
        self._canonical: dict[bytes, str] = {}
        self._slabs: dict[bytes, Slab] = {}
        self._heap: list[tuple[float, str]] = []
        self._ends: list[tuple[float, str]] = []
        self._floor = 0.0
        self._base: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._by_id.values()))

    def get(self, id: str) -> Entry | None:  # noqa: A002
        """The entry with that id."""
        return self._by_id.get(id)

    def exact(self, exact: bytes) -> Entry | None:
        """The entry made by the very same request."""
        id_ = self._exact.get(exact)
        return None if id_ is None else self._by_id.get(id_)

    def canonical(self, scope: bytes, text: str) -> Entry | None:
        """The entry of the scope whose canonical text is `text`."""
        id_ = self._canonical.get(digest(scope, text.encode()))
        return None if id_ is None else self._by_id.get(id_)

    def slab(self, scope: bytes) -> Slab | None:
        """The index of a scope, None while it has none."""
        return self._slabs.get(scope)

    def put(self, entry: Entry) -> None:
        """Keep `entry` in place of one made by the same request; evict what no longer fits. One larger than the shelf is not kept."""
        old = self.exact(entry.exact)
        if old is not None:
            entry.hits = max(entry.hits, old.hits)
            self.remove([old.id])
        if entry.size > self.max_bytes:
            return
        self._by_id[entry.id] = entry
        self._exact[entry.exact] = entry.id
        if entry.canonical is not None:
            self._canonical[digest(entry.scope, entry.canonical.encode())] = entry.id
        if entry.vector and self._new_slab is not None:
            slab = self._slabs.get(entry.scope)
            if slab is None:
                slab = self._slabs[entry.scope] = self._new_slab()
            slab.add(entry.id, entry.vector)
        self.bytes += entry.size
        self._base[entry.id] = self._floor
        heapq.heappush(self._heap, (self._priority(entry), entry.id))
        heapq.heappush(self._ends, (entry.expires, entry.id))
        if self.bytes > self.max_bytes:
            self._make_room()

    def ended(self, wall: float) -> list[str]:
        """The ids of entries whose life is over at `wall`, seconds since 1970; each is told once."""
        ids: list[str] = []
        while self._ends and self._ends[0][0] <= wall:
            _, id_ = heapq.heappop(self._ends)
            if id_ in self._by_id:
                ids.append(id_)
        return ids

    def _priority(self, entry: Entry) -> float:
        return self._base[entry.id] + (1 + entry.hits) * entry.worth / entry.size

    def hit(self, entry: Entry) -> None:
        """Note that `entry` was given out."""
        entry.hits += 1
        if entry.id in self._base:
            self._base[entry.id] = self._floor

    def _make_room(self) -> None:
        gone: list[Entry] = []
        while self.bytes > self.max_bytes and self._heap:
            priority, id_ = heapq.heappop(self._heap)
            entry = self._by_id.get(id_)
            if entry is None:
                continue
            now = self._priority(entry)
            if now > priority:  # it was given out since it was put into the heap
                heapq.heappush(self._heap, (now, id_))
                continue
            self._floor = max(self._floor, priority)
            self._forget(entry)
            gone.append(entry)
        self.evictions += len(gone)
        if gone and self._evicted is not None:
            self._evicted(gone)

    def _forget(self, entry: Entry) -> None:
        del self._by_id[entry.id]
        self._base.pop(entry.id, None)
        self.bytes -= entry.size
        if self._exact.get(entry.exact) == entry.id:
            del self._exact[entry.exact]
        if entry.canonical is not None:
            key = digest(entry.scope, entry.canonical.encode())
            if self._canonical.get(key) == entry.id:
                del self._canonical[key]
        slab = self._slabs.get(entry.scope)
        if slab is not None:
            slab.remove(entry.id)
            if not len(slab):
                del self._slabs[entry.scope]

    def remove(self, ids: Iterable[str]) -> list[Entry]:
        """Forget these; those that were there."""
        found = [entry for id_ in ids if (entry := self._by_id.get(id_)) is not None]
        for entry in found:
            self._forget(entry)
        if len(self._heap) > 64 + 4 * len(self._by_id):
            self._heap = [(self._priority(entry), id_) for id_, entry in self._by_id.items()]
            heapq.heapify(self._heap)
            self._ends = [(entry.expires, id_) for id_, entry in self._by_id.items()]
            heapq.heapify(self._ends)
        return found
