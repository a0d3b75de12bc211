"""Who is asking: a presented key becomes an identity, and may or may not do what it asks.

Keys are looked up by their HMAC under the store's own secret: what the time of a comparison tells is about a value that nobody
outside can compute, and no key is kept in plain text after start. Both `Authorization: Bearer` and `x-api-key` are read, since
SDK versions differ in what they send.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from headrace.access import KeyRole, KeyTerms
from headrace.clock import Clock
from headrace.config import KeySettings, Secret
from headrace.errors import Forbidden, KeysUnavailable, StoreError, Unauthorized
from headrace.store import Store

__all__ = ["ADMIN_KEY", "Identity", "Keyring", "admit"]

FRESH_S = 0.5
"""Seconds for which a worker takes what the store said of a key: a revocation holds everywhere within a second."""

SEEN_LIMIT = 10_000

ADMIN_KEY = "admin_key"
"""The id of the admin key of the settings; no other key has one like it."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whose key it is and what it may. `allowed` are the routes and models it may ask for, empty for all."""

    key_id: str
    terms: KeyTerms
    allowed: frozenset[str] = frozenset()
    revoked_wall: float | None = None


def admit(identity: Identity, roles: frozenset[KeyRole]) -> None:
    """Raises `Forbidden` unless the key's role is one of `roles`."""
    if identity.terms.role not in roles:
        needed = " or ".join(sorted(roles))
        raise Forbidden(
            f"this takes a key with the role {needed}; this one has the role {identity.terms.role}"
        )


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

    __slots__ = ("_clock", "_configured", "_seen", "_store")

    def __init__(
        self, keys: Iterable[KeySettings], admin_key: Secret | None, *, store: Store, clock: Clock
    ) -> None:
        self._store = store
        self._clock = clock
        self._configured = {
            store.key_hash(key.value.reveal()): Identity(key_id=key.name, terms=key, allowed=key.allowed)
            for key in keys
        }
        if admin_key is not None:
            terms = KeyTerms(tenant=ADMIN_KEY, role="admin")
            self._configured[store.key_hash(admin_key.reveal())] = Identity(key_id=ADMIN_KEY, terms=terms)
        self._seen: dict[bytes, tuple[float, Identity | None]] = {}

    async def identify(self, headers: Mapping[str, str]) -> Identity:
        """Whose key the request carries.

        Raises:
            Unauthorized: None, or not one of ours, or no longer; the message never repeats what was sent.
            KeysUnavailable: The store cannot be asked.
        """
        key = presented(headers)
        if key is None:
            raise Unauthorized("no API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        hashed = self._store.key_hash(key)
        identity = self._configured.get(hashed)
        if identity is None:
            identity = await self._stored(hashed)
        if identity is None:
            raise Unauthorized("this API key is not known here; it must be one of this gateway's own keys")
        if identity.revoked_wall is not None:
            raise Unauthorized("this API key was revoked")
        expires = identity.terms.expires_wall
        if expires is not None and self._clock.wall() >= expires:
            raise Unauthorized(
                f"this API key expired on {datetime.fromtimestamp(expires, UTC):%Y-%m-%d at %H:%M:%S} UTC"
            )
        return identity

    async def admit(self, headers: Mapping[str, str], roles: frozenset[KeyRole]) -> Identity:
        """As `identify`; raises `Forbidden` unless the key's role is one of `roles`."""
        identity = await self.identify(headers)
        admit(identity, roles)
        return identity

    async def _stored(self, hashed: bytes) -> Identity | None:
        now = self._clock.now()
        seen = self._seen.get(hashed)
        if seen is not None and now - seen[0] < FRESH_S:
            return seen[1]
        try:
            found = await self._store.find_key(hashed)
        except StoreError as error:
            raise KeysUnavailable(
                "keys cannot be looked up: the store cannot be read", retry_after_s=1.0
            ) from error
        identity = None
        if found is not None:
            identity = Identity(
                key_id=found.id, terms=found, allowed=found.allowed, revoked_wall=found.revoked_wall
            )
        if len(self._seen) >= SEEN_LIMIT:
            self._seen.clear()
        self._seen[hashed] = (now, identity)
        return identity
