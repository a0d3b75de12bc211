"""The vectors of one scope, searched exactly.

One scope rarely has many entries, and a matrix product over 5,000 of them takes a tenth of a millisecond; an index for the scopes that
have more is not built yet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.cache.encoder import Vector

__all__ = ["VectorSlab", "pack", "unpack"]

FIRST_ROWS = 16


def pack(vector: Vector) -> bytes:
    """A unit vector in 8 bits a member; its cosines are off by some 0.002."""
    packed: bytes = np.rint(np.clip(vector, -1.0, 1.0) * 127.0).astype(np.int8).tobytes()
    return packed


def unpack(data: bytes) -> Vector:
    """The unit vector again."""
    vector = np.frombuffer(data, dtype=np.int8).astype(np.float32)
    norm = float(np.sqrt(vector @ vector))
    return vector / np.float32(norm) if norm else vector


class VectorSlab:
    """Ids and vectors; rows of removed ids are filled with the last one."""

    def __init__(self) -> None:
        self._rows: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
        self._ids: list[str] = []
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, id: str, vector: bytes) -> None:  # noqa: A002
        """Keep the packed `vector` under `id`. Raises `ValueError` when it has another size than those before."""
        row = unpack(vector)
        if id in self._at:
            self._rows[self._at[id]] = row
            return
        count = len(self._ids)
        if count == len(self._rows):
            grown = np.zeros((max(FIRST_ROWS, 2 * count), len(row)), dtype=np.float32)
            if count:
                grown[:count] = self._rows
            self._rows = grown
        self._rows[count] = row
        self._at[id] = count
        self._ids.append(id)

    def remove(self, id: str) -> None:  # noqa: A002
        """Forget `id`, if it is there."""
        at = self._at.pop(id, None)
        if at is None:
            return
        last = self._ids.pop()
        if last != id:
            self._rows[at] = self._rows[len(self._ids)]
            self._ids[at] = last
            self._at[last] = at

    def nearest(self, vector: Vector, count: int) -> list[tuple[str, float]]:
        """The ids of the `count` largest cosines with the unit `vector`, the largest first."""
        have = len(self._ids)
        if not have:
            return []
        cosines = self._rows[:have] @ vector
        if have > count:
            top = np.argpartition(cosines, -count)[-count:]
            top = top[np.argsort(-cosines[top], kind="stable")]
        else:
            top = np.argsort(-cosines, kind="stable")
        return [(self._ids[row], float(cosines[row])) for row in top]
