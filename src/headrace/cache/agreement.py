"""Whether two answers say the same.

Errs towards no: a pair wrongly taken for different costs hits, one wrongly taken for the same serves wrong answers. Two answers agree
when they are the same words, or when their vectors nearly coincide and no guard sees what tells them apart; long ones only by their words.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headrace.cache.guards import signature, veto
from headrace.cache.index import pack, unpack
from headrace.cache.key import DIGEST_BYTES, digest
from headrace.cache.text import canonical
from headrace.encoder import Encoder

__all__ = ["agree", "mark"]

ALIKE = 0.9
"""The least cosine of two answers that agree in other words. Not measured on answers of models: no public set of them could be had."""


LONGEST = 64
"""Words of an answer that may agree in other words; longer ones differ in something that matters, and guards take their time."""


def mark(text: str, encoder: Encoder) -> bytes:
    """What is needed of an answer to compare it with many: its spelling's digest and its vector. As long as its vector, and 16 bytes."""
    return digest(canonical(text).encode()) + pack(encoder.encode(text))


def agree(a: bytes, b: bytes, texts: Callable[[], tuple[str, str]], encoder: Encoder) -> bool:
    """Whether two answers, known by their marks, say the same; symmetric. `texts` are asked for only where the marks leave it open."""
    if a[:DIGEST_BYTES] == b[:DIGEST_BYTES]:
        return True
    if float(np.dot(unpack(a[DIGEST_BYTES:]), unpack(b[DIGEST_BYTES:]))) < ALIKE:
        return False
    one, other = texts()
    if max(len(one.split()), len(other.split())) > LONGEST:
        return False
    return veto(signature(one, encoder.knows), signature(other, encoder.knows)) is None
