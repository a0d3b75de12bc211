"""How alike the turns of a log are to a question by the meaning of their words: NumPy, and the encoder that ships."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from headrace.encoder import Encoder

if TYPE_CHECKING:
    from headrace.encoder import Vector

__all__ = ["Likeness"]

PREVIOUS = 0.6
"""The weight of the turn before in the second vector of a turn."""


@functools.cache
def _encoder() -> Encoder:
    return Encoder.load()


class Likeness:
    """Two vectors a turn, its own and one mixed with the turn's before; adding one costs its own length.

    Raises OSError or ValueError when the encoder cannot be read.
    """

    __slots__ = ("_encoder", "_last", "_size", "_vectors")

    def __init__(self) -> None:
        self._encoder = _encoder()
        self._vectors = np.empty((2, 64, self._encoder.dimensions), dtype=np.float32)
        self._size = 0
        self._last: Vector | None = None

    def add(self, text: str) -> None:
        """Take in the next turn."""
        own = self._encoder.encode(text)
        if self._size == self._vectors.shape[1]:
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)], axis=1)
        mixed = own if self._last is None else own + np.float32(PREVIOUS) * self._last
        norm = float(np.sqrt(mixed @ mixed))
        self._vectors[0, self._size] = own
        self._vectors[1, self._size] = mixed / np.float32(norm) if norm > 1e-9 else mixed
        self._size += 1
        self._last = own

    def to(self, question: str) -> list[float]:
        """For each turn the sum of both cosines, each put on the scale from 0, the least alike, to 1, the most; rounded, so that the order
        of sums, which differs between machines, decides nothing. Empty where the question has no known word."""
        asked = self._encoder.encode(question)
        if not self._size or not asked.any():
            return []
        cosines = (self._vectors[:, : self._size] @ asked).astype(np.float64)
        least = cosines.min(axis=1, keepdims=True)
        width = cosines.max(axis=1, keepdims=True) - least
        scaled: list[float] = np.round(((cosines - least) / np.maximum(width, 1e-6)).sum(axis=0), 5).tolist()
        return scaled
