"""How fast somebody may ask: the arithmetic of rate limits; pure, in whole nanoseconds.

The generic cell rate algorithm in its virtual-scheduling form (ITU-T I.371, annex A; ATM Forum TM 4.1, section 4.4.2): a counter is one time, when all
that the limit gives would be there again. What a minute gives may be taken at once. Over any span of t seconds, what is granted and kept
is at most `limit * (1 + t / 60)`.

Tokens are reserved before they are known and settled after. What was reserved and not used goes back only as far as time has not given
it back already, oldest first; else an old reservation would be lent a second time and the bound would not hold. What was used above the reservation
is owed, and the next wait is longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from headrace.types import Limits

__all__ = [
    "MINUTE",
    "Admission",
    "Claim",
    "Counter",
    "Counters",
    "Grant",
    "Rate",
    "Standing",
    "admit",
    "rates",
    "settle",
    "share",
]

MINUTE = 60_000_000_000

OWED = 10 * MINUTE
"""No counter runs further ahead: what one request can owe at most, and what a clock that was set back can cost."""

KEPT = 4096
"""Counters in memory before those that are full again are forgotten."""


class Rate(msgspec.Struct, frozen=True):
    """A limit a minute and whose it is. `id` names its counter, `owner` is for people: `key dev`."""

    id: str
    owner: str
    unit: Literal["requests", "tokens"]
    limit: int

    def span(self, amount: int) -> int:
        """Nanoseconds in which the limit gives `amount`, rounded up."""
        return -(-amount * MINUTE // self.limit)


def rates(kind: str, name: str, limits: Limits | None) -> list[Rate]:
    """`kind` is `key`, `route` or `user`. The limit is not part of the id: it may be changed."""
    if limits is None:
        return []
    owner = f"{kind} {name}"
    found = []
    if limits.rpm is not None:
        found.append(Rate(f"{owner}|requests", owner, "requests", limits.rpm))
    if limits.tpm is not None:
        found.append(Rate(f"{owner}|tokens", owner, "tokens", limits.tpm))
    return found


def share(claims: Sequence[Claim], workers: int) -> list[Claim]:
    """The same under one of `workers` equal parts of each limit, at least 1; what is asked for is cut to what can ever be had."""
    parts = []
    for claim in claims:
        limit = max(1, claim.rate.limit // workers)
        parts.append(Claim(msgspec.structs.replace(claim.rate, limit=limit), min(claim.need, limit)))
    return parts


class Counter(msgspec.Struct, frozen=True):
    """`full_at`: when all is there again; `returned`: all that ever went back, so that a reservation knows where it stands."""

    full_at: int = 0
    returned: int = 0


class Claim(msgspec.Struct, frozen=True):
    """`need` (1 to the limit) of what a rate gives."""

    rate: Rate
    need: int


class Grant(msgspec.Struct, frozen=True):
    """What one request has taken of a rate: `mark` is where its part ends among all that was taken."""

    rate: Rate
    need: int
    mark: int


class Standing(msgspec.Struct, frozen=True):
    """How a rate stands: what is `left`, and nanoseconds until all is there again."""

    rate: Rate
    left: int
    full_in: int


class Admission(msgspec.Struct, frozen=True):
    """Everything was granted, or `refused` names the claim that waits longest, `wait` nanoseconds, and nothing was."""

    standings: tuple[Standing, ...]
    grants: tuple[Grant, ...] = ()
    refused: Claim | None = None
    wait: int = 0


def admit(
    claims: Sequence[Claim], counters: Mapping[str, Counter], now: int
) -> tuple[Admission, dict[str, Counter]]:
    """Grant all of `claims` at `now`, or none; gives the counters that changed, too.

    Args:
        claims: No rate twice.
        counters: By the rates' ids; one that is missing has never been used.
    """
    start = {claim.rate.id: _at(counters.get(claim.rate.id, Counter()), now) for claim in claims}
    waits = [start[claim.rate.id] + claim.rate.span(claim.need) - MINUTE - now for claim in claims]
    wait = max(waits, default=0)
    if wait > 0:
        standings = tuple(_standing(claim.rate, start[claim.rate.id], now) for claim in claims)
        return Admission(standings, refused=claims[waits.index(wait)], wait=wait), {}
    changed: dict[str, Counter] = {}
    grants = []
    for claim in claims:
        rate = claim.rate
        returned = counters.get(rate.id, Counter()).returned
        full_at = start[rate.id] + rate.span(claim.need)
        changed[rate.id] = Counter(full_at, returned)
        grants.append(Grant(rate, claim.need, full_at + returned))
    standings = tuple(_standing(claim.rate, changed[claim.rate.id].full_at, now) for claim in claims)
    return Admission(standings, tuple(grants)), changed


def settle(grant: Grant, used: int, counter: Counter, now: int) -> Counter:
    """The counter, when what `grant` was for has used `used` (0 or more). Once for each grant."""
    rate, full_at = grant.rate, _at(counter, now)
    over = rate.span(used) - rate.span(grant.need)
    if over > 0:
        return Counter(min(full_at + over, now + OWED), counter.returned)
    ahead = min(grant.mark - counter.returned, full_at) - now  # of it, what time has not given back
    back = max(0, min(-over, ahead))
    return Counter(full_at - back, counter.returned + back)


def _at(counter: Counter, now: int) -> int:
    return min(max(counter.full_at, now), now + OWED)


def _standing(rate: Rate, full_at: int, now: int) -> Standing:
    left = max(0, (MINUTE - (full_at - now)) * rate.limit // MINUTE)
    return Standing(rate, left, full_at - now)


class Counters:
    """Counters in memory, for one process. `now` is in nanoseconds, on whichever scale."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}
        self._open: dict[str, int] = {}

    @property
    def open(self) -> int:
        """Grants that are not settled."""
        return sum(self._open.values())

    def admit(self, claims: Sequence[Claim], now: int) -> Admission:
        """See `admit`."""
        admission, changed = admit(claims, self._counters, now)
        self._counters.update(changed)
        for grant in admission.grants:
            self._open[grant.rate.id] = self._open.get(grant.rate.id, 0) + 1
        if len(self._counters) > KEPT:
            self._forget(now)
        return admission

    def settle(self, settled: Sequence[tuple[Grant, int]], now: int) -> None:
        """What each grant's request has used; see `settle`."""
        for grant, used in settled:
            name = grant.rate.id
            self._counters[name] = settle(grant, used, self._counters.get(name, Counter()), now)
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]

    def _forget(self, now: int) -> None:
        self._counters = {
            name: counter
            for name, counter in self._counters.items()
            if counter.full_at > now or name in self._open
        }
