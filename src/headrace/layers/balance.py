"""Picks the place where a target is asked, of the deployments that it has: other keys, accounts, regions or servers.

A conversation stays where it began, so that its prefix is still in that provider's cache: its first words choose by weighted
rendezvous hashing, which needs no memory and comes out alike in every worker. A deployment that failed in this call, or whose circuit
is not closed, is passed over while another is left.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from headrace.errors import InvalidRequest
from headrace.handler import Handler, Pending, Request
from headrace.types import Deployment, Target

__all__ = ["Balance", "conversation", "ranked"]


@dataclass(frozen=True, slots=True)
class Balance:
    """Sets `request.deployment` where the target has some, and notes it on the attempt.

    Args:
        deployments: Of each `(provider, model)`.
        shut: Whether a deployment of a target should not be asked now.
        random: Uniform on [0, 1); for requests whose conversation cannot be told.
    """

    deployments: Mapping[tuple[str, str], Sequence[Deployment]]
    shut: Callable[[Target, Deployment], bool]
    random: Callable[[], float]

    def __call__(self, inner: Handler) -> Handler:
        if not self.deployments:
            return inner

        def handle(request: Request) -> Pending:
            target, attempt = request.target, request.attempt
            assert target is not None and attempt is not None
            places = self.deployments.get((target.provider, target.model))
            if places is None:
                return inner(request)
            chosen = self._choose(places, target, request)
            attempt.deployment = chosen.name
            return inner(msgspec.structs.replace(request, deployment=chosen))

        return handle

    def elsewhere(self, request: Request) -> bool:
        """Whether the target has a deployment that was not tried in this call and is not shut."""
        target = request.target
        assert target is not None
        places = self.deployments.get((target.provider, target.model), ())
        tried = {attempt.deployment for attempt in request.call.attempts}
        return any(place.name not in tried and not self._is_shut(place, target, request) for place in places)

    def _is_shut(self, place: Deployment, target: Target, request: Request) -> bool:
        return request.route.breaker and self.shut(target, place)

    def _choose(self, places: Sequence[Deployment], target: Target, request: Request) -> Deployment:
        """The first in the conversation's order that has not failed in this call and is not shut; else the first not shut; else the
        first."""
        if len(places) == 1:
            return places[0]
        order = ranked(places, conversation(request) or self.random().hex().encode())
        tried = {attempt.deployment for attempt in request.call.attempts}
        is_open = [place for place in order if not self._is_shut(place, target, request)]
        return next((place for place in is_open if place.name not in tried), (is_open or order)[0])


def conversation(request: Request) -> bytes | None:
    """What stays the same over the turns of a conversation: whose it is, and everything up to its first user message. None where the
    body cannot be read."""
    try:
        messages = request.body.chat.messages
    except InvalidRequest:
        return None
    first = next((n for n, message in enumerate(messages) if message.role == "user"), len(messages) - 1)
    call = request.call
    return msgspec.json.encode((call.tenant, call.user, messages[: first + 1]))


def ranked(places: Sequence[Deployment], key: bytes) -> list[Deployment]:
    """`places` in the order of `key`: each is first for the share of keys that its weight is of all; taking one out moves only its own.

    Source: C. Schindelhauer and G. Schomaker, "Weighted Distributed Hash Tables", SPAA 2005, the logarithmic method: the score is
    -weight / ln(h), h uniform on (0, 1).
    """

    def score(place: Deployment) -> float:
        digest = hashlib.blake2b(key, digest_size=8, key=place.name.encode()[:64]).digest()
        uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
        return -place.weight / math.log(uniform)

    return sorted(places, key=score, reverse=True)
