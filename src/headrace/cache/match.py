"""The semantic tier: candidates by their vectors, guards that may veto, a verifier that must be sure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from headrace.cache.encoder import Encoder, Vector, words_of
from headrace.cache.entry import Entry
from headrace.cache.guards import Signature, signature, veto
from headrace.cache.index import VectorSlab, pack
from headrace.cache.key import Key
from headrace.cache.layer import Found
from headrace.cache.shelf import Shelf
from headrace.cache.text import looks_like_code
from headrace.cache.verifier import Verifier, features
from headrace.handler import CachePolicy

__all__ = ["CANDIDATES", "FLOOR", "Candidate", "Matcher", "is_elliptic"]

CANDIDATES = 8
"""Entries that are looked at, nearest first."""

FLOOR = 0.5
"""The least cosine of a candidate; no pair below it was ever likely enough to be served."""

SHORTEST, LONGEST = 3, 48
"""Words of a question that may be matched by likeness: fewer say too little, more hide the one that matters."""

_ELLIPTIC = re.compile(
    r"^(?:and|or|but|so|then|also|what about|how about|what if|why not|why|how so|really|yes|yeah|yep|no|nope|ok|okay|sure|"
    r"the (?:first|second|third|last|other|same|former|latter)|same|another|more|again|continue|go on|next|it|its|it's|that|that's|"
    r"this|these|those|they|them|he|she|him|her|his)\b",
    re.IGNORECASE,
)


def is_elliptic(text: str) -> bool:
    """Whether `text` leaves to the turns before what it is about ("and tomorrow?"); pure. Errs towards yes."""
    return len(words_of(text)) < 5 or _ELLIPTIC.match(text.strip()) is not None


_packed = msgspec.msgpack.Encoder().encode
_unpacked = msgspec.msgpack.Decoder(Signature).decode
"""A signature takes 6 KB as objects, a tenth of that packed; unpacking takes a tenth of making it."""


class Candidate(NamedTuple):
    """What was made of one entry that is near."""

    entry: Entry
    cosine: float
    veto: str | None
    p: float | None


class Matcher:
    """Decides with the shipped encoder and verifier; state `prior`."""

    def __init__(self, encoder: Encoder, verifier: Verifier) -> None:
        self.encoder = encoder
        self.verifier = verifier
        self.version = f"{encoder.version}-{verifier.version}"

    @classmethod
    def load(cls) -> Matcher:
        """With the shipped parts."""
        return cls(Encoder.load(), Verifier.load())

    def may(self, key: Key) -> bool:
        """Whether a question of this kind may be matched by likeness, asked or answered."""
        return self.why_not(key) is None

    def why_not(self, key: Key) -> str | None:
        """See `headrace.cache.layer.Likeness`."""
        text = key.text
        if text is None:
            return "no text"
        if looks_like_code(text):
            return "code"
        if _ELLIPTIC.match(text.strip()) or (key.turns and is_elliptic(text)):
            return "elliptic"
        words = len(text.split())
        return "short" if words < SHORTEST else "long" if words > LONGEST else None

    def prepare(self, entry: Entry) -> None:
        """See `headrace.cache.layer.Likeness`."""
        assert entry.text is not None
        entry.vector = pack(self.encoder.encode(entry.text))
        entry.encoder = self.version
        entry.signature = _packed(self.signature(entry.text))

    def signature(self, text: str) -> Signature:
        """What the guards need of `text`."""
        return signature(text, self.encoder.knows)

    def _signature_of(self, entry: Entry) -> Signature:
        if entry.signature:
            return _unpacked(entry.signature)
        made = self.signature(entry.text or "")
        entry.signature = _packed(made)
        return made

    def candidates(
        self, text: str, scope: bytes, shelf: Shelf, *, fresh: Callable[[Entry], bool]
    ) -> list[Candidate]:
        """The nearest entries of the scope with the verdict on each, the nearest first."""
        slab = shelf.slab(scope)
        if not isinstance(slab, VectorSlab):
            return []
        vector: Vector = self.encoder.encode(text)
        near = [
            (entry, cosine)
            for id_, cosine in slab.nearest(vector, CANDIDATES)
            if cosine >= FLOOR and (entry := shelf.get(id_)) is not None and entry.text and fresh(entry)
        ]
        if not near:
            return []
        own = self.signature(text)
        found: list[Candidate] = []
        for entry, cosine in near:
            other = self._signature_of(entry)
            guard = veto(own, other)
            p = (
                None
                if guard is not None
                else self.verifier.probability(features(own, other, cosine, self.encoder))
            )
            found.append(Candidate(entry, cosine, guard, p))
        return found

    def find(self, key: Key, shelf: Shelf, policy: CachePolicy, *, fresh: Callable[[Entry], bool]) -> Found:
        """See `headrace.cache.layer.Likeness`."""
        tau = self.verifier.tau(policy.max_wrong)
        if tau is None or key.text is None:
            return Found(None, None, None, "infeasible", ())
        found = self.candidates(key.text, key.scope, shelf, fresh=fresh)
        vetoes = tuple(candidate.veto for candidate in found if candidate.veto is not None)
        best = max(
            (candidate for candidate in found if candidate.p is not None),
            key=lambda candidate: candidate.p or 0.0,
            default=None,
        )
        if best is None:
            return Found(None, None, tau, "prior", vetoes)
        served = best.entry if best.p is not None and best.p >= tau else None
        return Found(served, best.p, tau, "prior", vetoes)
