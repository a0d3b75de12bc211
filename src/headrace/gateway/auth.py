"""Who is asking: a presented key becomes an identity, or nothing.

Keys are compared by their SHA-256 in a dictionary: the time of a lookup tells nothing about a key, and no key is kept in
plain text after start. Both `Authorization: Bearer` and `x-api-key` are read, since SDK versions differ in what they send.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

import msgspec

from headrace.clock import Clock
from headrace.config import KeySettings, Secret
from headrace.errors import Forbidden, Unauthorized
from headrace.store import Store
from headrace.types import Budget

__all__ = ["Identity", "Keyring"]

FRESH_S = 0.5
SEEN_LIMIT = 10_000


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A key's owner. `routes` empty means all. From `expires_wall` on, seconds since 1970, the key is good no more."""

    key_id: str
    tenant: str
    user: str | None = None
    team: str | None = None
    routes: frozenset[str] = frozenset()
    budgets: tuple[Budget, ...] = ()
    expires_wall: float | None = None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def presented(headers: Mapping[str, str]) -> str | None:
    """The key that a request carries, from either header."""
    authorization = headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None


class Keyring:
    """The keys that the gateway accepts: those of the configuration, those in the store, and the one for its admin API.

    A key of the store is looked up again after `FRESH_S`, so that a revocation takes effect within that time in every worker.
    """

    __slots__ = ("_admin", "_clock", "_configured", "_seen", "_store")

    def __init__(
        self, keys: Iterable[KeySettings], admin_key: Secret | None, *, store: Store, clock: Clock
    ) -> None:
        self._configured = {
            _digest(key.value.reveal()): Identity(
                key_id=key.name,
                tenant=key.tenant,
                user=key.user,
                team=key.team,
                routes=frozenset(key.routes),
                budgets=key.budgets,
            )
            for key in keys
        }
        self._seen: dict[bytes, tuple[float, Identity | None]] = {}
        self._admin = None if admin_key is None else _digest(admin_key.reveal())
        self._store = store
        self._clock = clock

    async def identify(self, headers: Mapping[str, str]) -> Identity:
        """Raises `Unauthorized` without a key that is ours; the message never repeats what was sent."""
        key = presented(headers)
        if key is None:
            raise Unauthorized("no API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        digest = _digest(key)
        identity = self._configured.get(digest)
        if identity is None:
            identity = await self._stored(digest, key)
            if identity is not None and identity.expires_wall is not None:
                identity = identity if self._clock.wall() < identity.expires_wall else None
        if identity is None:
            raise Unauthorized("this API key is not known here; it must be one of this gateway's own keys")
        return identity

    async def _stored(self, digest: bytes, key: str) -> Identity | None:
        now = self._clock.now()
        seen = self._seen.get(digest)
        if seen is not None and now - seen[0] < FRESH_S:
            return seen[1]
        found = await self._store.find_key(self._store.key_hash(key))
        identity = None
        if found is not None and found.revoked_wall is None:
            identity = Identity(
                key_id=found.id,
                tenant=found.tenant,
                user=found.user,
                team=found.team,
                routes=frozenset(found.routes),
                budgets=found.budgets,
                expires_wall=found.expires_wall,
            )
        if len(self._seen) >= SEEN_LIMIT:
            self._seen.clear()
        self._seen[digest] = (now, identity)
        return identity

    def admit_admin(self, headers: Mapping[str, str]) -> None:
        """Raises `Unauthorized` or `Forbidden` unless the admin key is presented."""
        key = presented(headers)
        if key is None:
            raise Unauthorized("the admin API needs the admin key: 'Authorization: Bearer KEY'")
        if self._admin is None or not hmac.compare_digest(_digest(key), self._admin):
            raise Forbidden("this key is not the admin key")
