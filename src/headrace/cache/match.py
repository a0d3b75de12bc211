"""The semantic tier: neighbours by their vectors, guards that may veto, a verifier that must be sure.

What came before teaches it: the fresh answer of a miss is compared with those of its neighbours, so that they know whose answers agree
(`Entry.agrees`), and the scope knows how far its traffic is from what the verifier was made with (`Shift`).
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from headrace.cache.agreement import agree, mark
from headrace.cache.bound import Ruling
from headrace.cache.entry import Entry, decode_reply
from headrace.cache.guards import Signature, signature, veto
from headrace.cache.index import VectorSlab, pack, unpack
from headrace.cache.key import Key
from headrace.cache.layer import Found
from headrace.cache.neighbourhood import WIDTH, side, standing
from headrace.cache.shelf import Shelf
from headrace.cache.shift import Shift
from headrace.cache.text import looks_like_code
from headrace.cache.verifier import Verifier, features, probability
from headrace.encoder import Encoder, Vector, words_of

__all__ = ["FLOOR", "NEIGHBOURS", "Candidate", "Matcher", "is_elliptic"]

NEIGHBOURS = 16
"""Entries that have a say, nearest first."""

FLOOR = 0.4
"""The least cosine of a neighbour."""

SHIFTS = 4_096
"""Scopes whose shift is remembered; the one that came first is forgotten first."""

SCARS = 64
"""Questions of a scope that are remembered for a wrong audit, the newest."""

HURT = 3.0
"""What a wrong audit takes off the log-odds of the very same question; of others less by the factor e for each `WIDTH` of cosine. An entry
that was just served (p 0.977) is then at p 0.68."""

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
    """What was made of one entry that is near. `score` is the verifier's, in log-odds, `p` the probability after the scope's
    shift: of the nearest that no guard vetoes, None of all others."""

    entry: Entry
    cosine: float
    veto: str | None
    score: float | None
    p: float | None


class Matcher:
    """Decides with the shipped encoder and verifier."""

    def __init__(self, encoder: Encoder, verifier: Verifier) -> None:
        self.encoder = encoder
        self.verifier = verifier
        self.version = f"{encoder.version}-{verifier.version}"
        self._shifts: dict[bytes, Shift] = {}
        self._scars: dict[bytes, deque[Vector]] = {}

    @classmethod
    def load(cls) -> Matcher:
        """With the shipped parts."""
        return cls(Encoder.load(), Verifier.load())

    @property
    def thresholds(self) -> Mapping[float, float]:
        """See `headrace.cache.audits.Scale`."""
        return self.verifier.thresholds

    def tau(self, max_wrong: float) -> float | None:
        """See `headrace.cache.audits.Scale`."""
        return self.verifier.tau(max_wrong)

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
        entry.agrees = entry.agrees or entry.id

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
        vector = self.encoder.encode(text)
        near = _near(vector, scope, shelf, fresh)
        return self._verdicts(self.signature(text), near, scope, self._hurt(vector, scope)) if near else []

    def _verdicts(
        self,
        own: Signature,
        near: list[tuple[Entry, float]],
        scope: bytes,
        hurt: float = 0.0,
        *,
        every: bool = True,
    ) -> list[Candidate]:
        """Without `every` up to the one that has a probability. `hurt` is taken off its log-odds."""
        cosines, agrees = [cosine for _, cosine in near], [entry.agrees for entry, _ in near]
        found: list[Candidate] = []
        chosen = False
        for at, (entry, cosine) in enumerate(near):
            other = self._signature_of(entry)
            guard = veto(own, other)
            score = p = None
            if guard is None and not chosen:
                chosen = True
                score = self.verifier.score(features(own, other, standing(cosines, agrees, at), self.encoder))
                shift = self._shifts.get(scope)
                p = probability(score + (0.0 if shift is None else shift.value) - hurt)
            found.append(Candidate(entry, cosine, guard, score, p))
            if chosen and not every:
                break
        return found

    def find(self, key: Key, shelf: Shelf, ruling: Ruling, *, fresh: Callable[[Entry], bool]) -> Found:
        """See `headrace.cache.layer.Likeness`."""
        tau, state = ruling.tau, ruling.state
        if key.text is None:
            return Found(None, None, tau, state, ())
        vector = self.encoder.encode(key.text)
        near = _near(vector, key.scope, shelf, fresh)
        if not near:
            return Found(None, None, tau, state, ())
        hurt = self._hurt(vector, key.scope)
        found = self._verdicts(self.signature(key.text), near, key.scope, hurt, every=False)
        vetoes = tuple(candidate.veto for candidate in found if candidate.veto is not None)
        best = found[-1]
        served = ruling.serves and tau is not None and best.p is not None and best.p >= tau
        return Found(
            best.entry if served else None, best.p, tau, state, vetoes, None if best.p is None else best.entry
        )

    def same(self, kept: Entry, fresh: Entry) -> bool:
        """See `headrace.cache.layer.Likeness`."""
        return self._agree(fresh, kept)

    def tighten(self, entry: Entry) -> None:
        """See `headrace.cache.layer.Likeness`."""
        scars = self._scars.get(entry.scope)
        if scars is None:
            if len(self._scars) >= SHIFTS:
                del self._scars[next(iter(self._scars))]
            scars = self._scars[entry.scope] = deque(maxlen=SCARS)
        scars.append(unpack(entry.vector))

    def _hurt(self, vector: Vector, scope: bytes) -> float:
        """What wrong audits near `vector` take off the log-odds."""
        scars = self._scars.get(scope)
        if not scars:
            return 0.0
        nearest = max(float(scar @ vector) for scar in scars)
        return HURT * math.exp((nearest - 1.0) / WIDTH)

    def learn(self, entry: Entry, shelf: Shelf) -> None:
        """See `headrace.cache.layer.Likeness`."""
        near = _near(unpack(entry.vector), entry.scope, shelf, lambda _: True)
        if not near:
            return
        agreed = [self._agree(entry, other) for other, _ in near]
        best = self._verdicts(self._signature_of(entry), near, entry.scope, every=False)[-1]
        if best.score is not None:
            taught = any(yes for (other, _), yes in zip(near, agreed, strict=True) if other is best.entry)
            self._shift_of(entry.scope).learn(best.score, taught)
        entry.agrees = side([other.agrees for other, _ in near], agreed) or entry.id

    def _shift_of(self, scope: bytes) -> Shift:
        shift = self._shifts.get(scope)
        if shift is None:
            if len(self._shifts) >= SHIFTS:
                del self._shifts[next(iter(self._shifts))]
            shift = self._shifts[scope] = Shift()
        return shift

    def _agree(self, entry: Entry, other: Entry) -> bool:
        return agree(
            self._mark_of(entry), self._mark_of(other), lambda: (_text(entry), _text(other)), self.encoder
        )

    def _mark_of(self, entry: Entry) -> bytes:
        if not entry.mark:
            entry.mark = mark(_text(entry), self.encoder)
        return entry.mark


def _text(entry: Entry) -> str:
    return decode_reply(entry.body, id="", created=0, alike=True).text


def _near(
    vector: Vector, scope: bytes, shelf: Shelf, fresh: Callable[[Entry], bool]
) -> list[tuple[Entry, float]]:
    """The neighbours and their cosines, the nearest first."""
    slab = shelf.slab(scope)
    if not isinstance(slab, VectorSlab):
        return []
    return [
        (entry, cosine)
        for id_, cosine in slab.nearest(vector, NEIGHBOURS)
        if cosine >= FLOOR and (entry := shelf.get(id_)) is not None and entry.text and fresh(entry)
    ]
