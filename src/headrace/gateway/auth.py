"""Who is asking: a presented key becomes an identity, or nothing.

Keys are compared by their SHA-256 in a dictionary: the time of a lookup tells nothing about a key, and no key is kept in
plain text after start. Both `Authorization: Bearer` and `x-api-key` are read, since SDK versions differ in what they send.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from headrace.config import KeySettings, Secret
from headrace.errors import Forbidden, Unauthorized

__all__ = ["Identity", "Keyring"]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A key's owner. `routes` empty means all."""

    key_id: str
    tenant: str
    user: str | None = None
    team: str | None = None
    routes: frozenset[str] = frozenset()


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
    """The keys that the gateway accepts, and the one for its admin API."""

    __slots__ = ("_admin", "_identities")

    def __init__(self, keys: Iterable[KeySettings], admin_key: Secret | None) -> None:
        self._identities: dict[bytes, Identity] = {}
        for key in keys:
            self.add(
                key.value.reveal(),
                Identity(
                    key_id=key.name,
                    tenant=key.tenant,
                    user=key.user,
                    team=key.team,
                    routes=frozenset(key.routes),
                ),
            )
        self._admin = None if admin_key is None else _digest(admin_key.reveal())

    def __len__(self) -> int:
        return len(self._identities)

    def add(self, key: str, identity: Identity) -> None:
        """Accept `key` from now on."""
        self._identities[_digest(key)] = identity

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Raises `Unauthorized` without a key that is ours; the message never repeats what was sent."""
        key = presented(headers)
        if key is None:
            raise Unauthorized("no API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        identity = self._identities.get(_digest(key))
        if identity is None:
            raise Unauthorized("this API key is not known here; it must be one of this gateway's own keys")
        return identity

    def admit_admin(self, headers: Mapping[str, str]) -> None:
        """Raises `Unauthorized` or `Forbidden` unless the admin key is presented."""
        key = presented(headers)
        if key is None:
            raise Unauthorized("the admin API needs the admin key: 'Authorization: Bearer KEY'")
        if self._admin is None or _digest(key) != self._admin:
            raise Forbidden("this key is not the admin key")
