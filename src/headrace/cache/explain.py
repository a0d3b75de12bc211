"""Why a question is or is not answered from the cache, told without asking anyone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from headrace.cache.entry import Entry
from headrace.cache.index import VectorSlab
from headrace.cache.key import Key, is_personal
from headrace.cache.match import Candidate, Matcher
from headrace.cache.shelf import Shelf
from headrace.cache.text import canonical

__all__ = ["Verdict", "explain"]

SHOWN = 16

MOST_SCOPES = 2_000
"""Scopes that are looked into, those with most entries first; each takes half a millisecond."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What would become of one kept answer. `age_s` in seconds; `hit` if it would be given, were it of the asker's scope."""

    entry: str
    tenant: str
    route: str
    text: str
    age_s: float
    cosine: float
    veto: str | None
    p: float | None
    hit: bool
    why: str


def explain(
    question: str, entries: Iterable[Entry], matcher: Matcher, *, max_wrong: float, wall: float
) -> list[Verdict]:
    """The verdict on the entries that are nearest to `question`, the nearest first, at the time `wall`; each as if it were asked in the
    entry's own scope, among that scope's neighbours. An entry is never given outside it.
    """
    shelf = Shelf(1 << 62, new_slab=VectorSlab)
    for entry in entries:
        if entry.text is not None:
            copy = msgspec.structs.replace(entry, exact=entry.id.encode())
            if not copy.vector or copy.encoder != matcher.version:
                matcher.prepare(copy)
            shelf.put(copy)
    key = Key(scope=b"", exact=b"", tenant="", text=question)
    against = "personal" if is_personal(question) else matcher.why_not(key)
    tau = matcher.verifier.tau(max_wrong)
    spelled = canonical(question)
    scopes = Counter(entry.scope for entry in shelf).most_common(MOST_SCOPES)
    found = [
        candidate
        for scope, _ in scopes
        for candidate in matcher.candidates(question, scope, shelf, fresh=lambda _: True)
    ]
    found.sort(key=lambda candidate: -candidate.cosine)
    return [_verdict(candidate, spelled, against, tau, wall) for candidate in found[:SHOWN]]


def _verdict(found: Candidate, spelled: str, against: str | None, tau: float | None, wall: float) -> Verdict:
    entry = found.entry
    hit = False
    if entry.expires <= wall:
        why = "expired"
    elif against == "personal":
        why = "a personal ask is not answered from the cache"
    elif entry.canonical == spelled:
        hit, why = True, "the same words"
    elif against is not None:
        why = f"not matched by likeness: {against}"
    elif found.veto is not None:
        why = f"guard: {found.veto}"
    elif tau is None:
        why = "infeasible: no threshold is strict enough for max_wrong"
    elif found.p is None:
        why = "a nearer one is asked"
    else:
        hit = found.p >= tau
        why = f"p {found.p:.4f} {'>=' if hit else '<'} tau {tau:.4f}"
    return Verdict(
        entry=entry.id,
        tenant=entry.tenant,
        route=entry.route,
        text=entry.text or "",
        age_s=max(0.0, wall - entry.created),
        cosine=round(found.cosine, 4),
        veto=found.veto,
        p=None if found.p is None else round(found.p, 4),
        hit=hit,
        why=why,
    )
