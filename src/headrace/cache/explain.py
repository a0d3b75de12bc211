"""Why a question is or is not answered from the cache, told without asking anyone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from headrace.cache.bound import Bound, Ruling
from headrace.cache.entry import Entry
from headrace.cache.index import VectorSlab
from headrace.cache.key import Key, is_personal
from headrace.cache.match import Candidate, Matcher
from headrace.cache.shelf import Shelf
from headrace.cache.text import canonical

__all__ = ["Verdict", "explain", "prior"]

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
    question: str,
    entries: Iterable[Entry],
    matcher: Matcher,
    *,
    max_wrong: float,
    wall: float,
    rulings: Mapping[str, Ruling] | None = None,
) -> list[Verdict]:
    """The verdict on the entries that are nearest to `question`, the nearest first, at the time `wall`; each as if it were asked in the
    entry's own scope, among that scope's neighbours. An entry is never given outside it. `rulings` are what holds for an entry's route; where there
    is none, what was known for `max_wrong` before any audit.
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
    usual = prior(matcher, max_wrong)
    spelled = canonical(question)
    scopes = Counter(entry.scope for entry in shelf).most_common(MOST_SCOPES)
    found = [
        candidate
        for scope, _ in scopes
        for candidate in matcher.candidates(question, scope, shelf, fresh=lambda _: True)
    ]
    found.sort(key=lambda candidate: -candidate.cosine)
    known = rulings or {}
    return [
        _verdict(candidate, spelled, against, known.get(candidate.entry.route, usual), wall)
        for candidate in found[:SHOWN]
    ]


def prior(matcher: Matcher, max_wrong: float) -> Ruling:
    """What holds for `max_wrong` before any audit."""
    if max_wrong <= 0:
        return Ruling("infeasible", None, serves=False)
    return Bound(matcher.thresholds.values(), matcher.tau(max_wrong), max_wrong).ruling()


def _verdict(found: Candidate, spelled: str, against: str | None, ruling: Ruling, wall: float) -> Verdict:
    entry = found.entry
    hit, tau = False, ruling.tau
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
        if hit and not ruling.serves:
            hit, why = False, f"{ruling.state}: {why}, and nothing is given"
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
