"""The vectors of one scope, in cells of like ones.

A cell that is full is cut in two by two-means (S. Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 28, 1982), so that cells
stay small as the scope grows, whatever comes when. A search looks into the cells whose means are nearest until it has seen `PROBED` rows: a
scope that has no more is searched exactly, one of 100,000 in a fraction of a millisecond (recall and times: docs/semantic-cache.md). It takes
some 400 bytes an entry and is made again from the entries when they are read: it is never written, so that it cannot be out of step with them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.encoder import Vector

__all__ = ["VectorSlab", "pack", "unpack"]

FIRST_ROWS = 16
CELL_ROWS = 256
"""Rows of a full cell. Fewer cost more cells to rank and calls to NumPy, more a coarser choice."""

PROBED = 4_096
"""Rows that a search sees, at least, where there are so many."""

ROUNDS = 6
"""Of two-means; what moves after so many is on the border."""


def pack(vector: Vector) -> bytes:
    """A unit vector in 8 bits a member; its cosines are off by some 0.002."""
    packed: bytes = np.rint(np.clip(vector, -1.0, 1.0) * 127.0).astype(np.int8).tobytes()
    return packed


def unpack(data: bytes) -> Vector:
    """The unit vector again."""
    vector = np.frombuffer(data, dtype=np.int8).astype(np.float32)
    norm = float(np.sqrt(vector @ vector))
    return vector / np.float32(norm) if norm else vector


class _Cell:
    """Rows of one region: 8 bits a member, with the factor that makes each a unit vector."""

    __slots__ = ("factors", "ids", "rows", "total")

    def __init__(self, dimensions: int) -> None:
        self.ids: list[str] = []
        self.rows: NDArray[np.int8] = np.zeros((FIRST_ROWS, dimensions), dtype=np.int8)
        self.factors: NDArray[np.float32] = np.zeros(FIRST_ROWS, dtype=np.float32)
        self.total: Vector = np.zeros(dimensions, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, id: str, row: NDArray[np.int8], factor: float) -> int:  # noqa: A002
        at = len(self.ids)
        if at == len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
            self.factors = np.concatenate([self.factors, np.zeros_like(self.factors)])
        self.ids.append(id)
        self.rows[at] = row
        self.factors[at] = factor
        self.total += row * np.float32(factor)
        return at

    def remove(self, at: int) -> str | None:
        """Fill row `at` with the last one; the id of that, None where it was the last."""
        self.total -= self.rows[at] * self.factors[at]
        moved = self.ids.pop()
        last = len(self.ids)
        if at == last:
            return None
        self.ids[at] = moved
        self.rows[at] = self.rows[last]
        self.factors[at] = self.factors[last]
        return moved

    def units(self) -> NDArray[np.float32]:
        """All rows as unit vectors."""
        count = len(self.ids)
        units: NDArray[np.float32] = self.rows[:count] * self.factors[:count, None]
        return units

    def cosines(self, vector: Vector) -> Vector:
        count = len(self.ids)
        cosines: Vector = (self.rows[:count].astype(np.float32) @ vector) * self.factors[:count]
        return cosines


class VectorSlab:
    """Ids and vectors of one size."""

    def __init__(self) -> None:
        self._cells: list[_Cell] = []
        self._means: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
        self._at: dict[str, tuple[_Cell, int]] = {}

    def __len__(self) -> int:
        return len(self._at)

    def add(self, id: str, vector: bytes) -> None:  # noqa: A002
        """Keep the packed `vector` under `id`. Raises `ValueError` when it has another size than those before."""
        row = np.frombuffer(vector, dtype=np.int8)
        if self._cells and len(row) != self._means.shape[1]:
            raise ValueError(f"a vector of {len(row)} members among those of {self._means.shape[1]}")
        if id in self._at:
            self.remove(id)
        unit = unpack(vector)
        if not self._cells:
            self._cells = [_Cell(len(row))]
            self._means = np.zeros((1, len(row)), dtype=np.float32)
        number = int(np.argmax(self._means @ unit)) if len(self._cells) > 1 else 0
        cell = self._cells[number]
        norm = float(np.linalg.norm(row.astype(np.float32)))
        self._at[id] = cell, cell.append(id, row, 1.0 / norm if norm else 0.0)
        if len(cell) > CELL_ROWS:
            self._split(number)
        else:
            self._means[number] = _mean(cell)

    def _split(self, number: int) -> None:
        cell = self._cells[number]
        units = cell.units()
        # Begin with the row that is least like the mean, and the one that is least like it.
        first = units[np.argmin(units @ _mean(cell))]
        means = np.stack([first, units[np.argmin(units @ first)]])
        side = np.zeros(len(cell), dtype=bool)
        for _ in range(ROUNDS):
            near = units @ means.T
            side = near[:, 1] > near[:, 0]
            if side.all() or not side.any():
                side = np.arange(len(cell)) % 2 == 1  # all the same: any halves will do
                break
            means = np.stack([units[~side].mean(axis=0), units[side].mean(axis=0)])
        halves = [_Cell(units.shape[1]), _Cell(units.shape[1])]
        for at, id_ in enumerate(cell.ids):
            half = halves[int(side[at])]
            self._at[id_] = half, half.append(id_, cell.rows[at], float(cell.factors[at]))
        self._cells[number] = halves[0]
        self._cells.append(halves[1])
        self._means = np.concatenate([self._means, _mean(halves[1])[None]])
        self._means[number] = _mean(halves[0])

    def remove(self, id: str) -> None:  # noqa: A002
        """Forget `id`, if it is there."""
        found = self._at.pop(id, None)
        if found is None:
            return
        cell, at = found
        moved = cell.remove(at)
        if moved is not None:
            self._at[moved] = cell, at
        if not cell and len(self._cells) > 1:
            number = self._cells.index(cell)
            del self._cells[number]
            self._means = np.delete(self._means, number, axis=0)

    def nearest(self, vector: Vector, count: int) -> list[tuple[str, float]]:
        """The ids of the `count` largest cosines with the unit `vector` in the cells that are searched, the largest first."""
        ids: list[str] = []
        parts: list[Vector] = []
        for cell in self._searched(vector):
            ids += cell.ids
            parts.append(cell.cosines(vector))
            if len(ids) >= PROBED:
                break
        if not ids:
            return []
        cosines = np.concatenate(parts)
        if len(cosines) > count:
            top = np.argpartition(cosines, -count)[-count:]
            top = top[np.argsort(-cosines[top], kind="stable")]
        else:
            top = np.argsort(-cosines, kind="stable")
        return [(ids[row], float(cosines[row])) for row in top]

    def _searched(self, vector: Vector) -> list[_Cell]:
        if len(self) <= PROBED:
            return self._cells
        return [self._cells[number] for number in np.argsort(-(self._means @ vector))]


def _mean(cell: _Cell) -> Vector:
    """The direction of the cell's mean."""
    norm = float(np.sqrt(cell.total @ cell.total))
    return cell.total / np.float32(norm) if norm > 1e-6 else np.zeros_like(cell.total)
