"""The sentence encoder that ships with Headrace: a table of word pieces, summed.

It finds candidates in some 30 microseconds and knows related words; it knows nothing of order, negation or numbers, so that its
cosine decides nothing (`docs/semantic-cache.md`). Made by `scripts/distill_encoder.py`; NumPy is the `semantic` extra.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoder", "Vector", "words_of"]

Vector: TypeAlias = NDArray[np.float32]

DATA = Path(__file__).parent / "data" / "encoder.npz"

LONGEST_WORD = 64
"""Characters; a longer run is no word, and looking for its pieces would take quadratic time."""

MOST_WORDS = 256
"""Words of a text that count, as the model that the table was made from reads at most 256 pieces."""

_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


class Encoder:
    """Texts to unit vectors of `dimensions` members.

    Args:
        table: One row a piece, `scale` times its real value. pieces: Their texts, continuations beginning with `##`.
    """

    def __init__(self, table: NDArray[np.int8], scale: float, pieces: list[str], version: str) -> None:
        self._table = table
        self._scale = np.float32(scale)
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self.dimensions = int(table.shape[1])
        self.version = version
        self.word = functools.lru_cache(maxsize=50_000)(self._word)

    @classmethod
    def load(cls, path: Path = DATA) -> Encoder:
        """The shipped one: 30 ms, 6 MB of memory."""
        data = path.read_bytes()
        with np.load(path) as arrays:
            pieces = arrays["pieces"].tobytes().decode().split("\n")
            return cls(arrays["table"], float(arrays["scale"]), pieces, hashlib.sha256(data).hexdigest()[:12])

    def knows(self, word: str) -> bool:
        """Whether `word`, in lower case, is one piece: a common word."""
        return word in self._ids

    def _word(self, word: str) -> Vector:
        """The sum of a word's pieces: longest match first, as BERT does (Wu et al. 2016, WordPiece). Zero for an unknown word."""
        rows: list[int] = []
        at = 0
        while at < len(word):
            end = len(word)
            while end > at:
                row = self._ids.get(word[at:end] if at == 0 else "##" + word[at:end])
                if row is not None:
                    break
                end -= 1
            else:
                return np.zeros(self.dimensions, dtype=np.float32)
            rows.append(row)
            at = end
        vector: Vector = self._table[rows].sum(axis=0, dtype=np.float32) * self._scale
        # A rare word of many pieces would outweigh a known one.
        return vector / np.float32(max(1.0, len(rows) ** 0.5))

    def encode(self, text: str) -> Vector:
        """The unit vector of `text`; zero where it has no known word."""
        words = [word for word in words_of(text)[:MOST_WORDS] if len(word) <= LONGEST_WORD]
        if not words:
            return np.zeros(self.dimensions, dtype=np.float32)
        total = self.word(words[0]).copy()
        for word in words[1:]:
            total += self.word(word)
        norm = float(np.sqrt(total @ total))
        return total / np.float32(norm) if norm > 1e-9 else np.zeros_like(total)


def words_of(text: str) -> list[str]:
    """Words and marks in lower case without accents, as the table was made."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return _WORD.findall(text.lower())
