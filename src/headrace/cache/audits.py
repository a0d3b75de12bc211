"""What audits said, by route, and what follows for it (`headrace.cache.bound`).

Audits of all scopes of a route count together: one scope alone rarely has the hundreds that a bound needs. They count for the targets, the encoder and the
verifier that they were made with: another model or version begins with none.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from headrace.cache.bound import Bound, Ruling
from headrace.cache.key import digest
from headrace.handler import CachePolicy, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Audit", "Audits", "Scale", "made_by"]

MOST = 50_000
"""Audits of a route that are remembered, the newest."""


class Audit(Struct, frozen=True):
    """One entry that would have been given with the probability `p`, and whether the fresh answer was the same (`right`). `made` is
    `made_by` of its route; `at` in seconds since 1970."""

    route: str
    made: bytes
    p: float
    right: bool
    at: float


class Scale(Protocol):
    """Where probabilities come from."""

    @property
    def version(self) -> str: ...

    @property
    def thresholds(self) -> Mapping[float, float]:
        """Shares of wrong answers to the least probabilities that kept them elsewhere."""

    def tau(self, max_wrong: float) -> float | None:
        """The one for `max_wrong`, None without."""


def made_by(route: Route, version: str) -> bytes:
    """What an audit holds for: the route's targets, in order, and the version of the semantic tier."""
    return digest(version.encode(), *(str(target).encode() for target in route.cascade))


class Audits:
    """Of all routes."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._said: dict[tuple[str, bytes], deque[tuple[float, bool]]] = defaultdict(
            lambda: deque(maxlen=MOST)
        )
        self._bounds: dict[tuple[str, bytes, float], Bound] = {}

    def add(self, audits: Iterable[Audit]) -> None:
        """Learn from them, the oldest first."""
        for audit in audits:
            self._said[audit.route, audit.made].append((audit.p, audit.right))
            for (route, made, _), bound in self._bounds.items():
                if (route, made) == (audit.route, audit.made):
                    bound.learn(audit.p, audit.right)

    def bound(self, route: Route, max_wrong: float) -> Bound:
        """The evidence for `max_wrong`, above 0."""
        key = (route.name, made_by(route, self._scale.version), max_wrong)
        bound = self._bounds.get(key)
        if bound is None:
            scale = self._scale
            bound = self._bounds[key] = Bound(scale.thresholds.values(), scale.tau(max_wrong), max_wrong)
            for p, right in self._said[key[:2]]:
                bound.learn(p, right)
        return bound

    def ruling(self, route: Route, policy: CachePolicy) -> Ruling:
        """What holds for `route` now; `policy.max_wrong` is above 0."""
        ruling = self.bound(route, policy.max_wrong).ruling()
        return ruling._replace(state="shadow", serves=False) if policy.shadow else ruling

    def report(self, routes: Sequence[Route]) -> list[dict[str, object]]:
        """The rulings of those of `routes` that have a semantic tier, as plain values."""
        return [
            {
                "route": route.name,
                "max_wrong": policy.max_wrong,
                **(ruling := self.ruling(route, policy))._asdict(),
                "at_most": ruling.at_most,
            }
            for route in routes
            if (policy := route.cache) is not None and policy.semantic and policy.max_wrong > 0
        ]
