"""The sentence encoder that ships with Headrace; NumPy is the `semantic` extra. The cache and the context layer use it."""

from __future__ import annotations

from headrace.encoder.encoder import Encoder, Vector, words_of

__all__ = ["Encoder", "Vector", "words_of"]
