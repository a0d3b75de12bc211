"""`/admin/keys` and `/admin/audit`: keys made, rotated and revoked over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from headrace import keys
from headrace.config import span_of
from headrace.errors import Forbidden, InvalidRequest
from headrace.gateway.depth import check_depth

if TYPE_CHECKING:
    from headrace.config import KeySettings
    from headrace.engine import Engine
    from headrace.gateway.auth import Identity
    from headrace.gateway.http import Exchange
    from headrace.store import Actor, StoredKey

__all__ = ["KeyAdmin"]

AUDIT_LINES = (100, 1000)
"""Lines of the audit log in one answer: without `limit`, and at most."""


class KeyAdmin:
    """What the admin API does with keys. Each method gives the JSON of its answer; the changes are in the audit log on return."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def listed(self) -> dict[str, Any]:
        """Every key: of the store, the oldest first, then of the configuration."""
        now = self.engine.clock.wall()
        stored = await self.engine.store.list_keys()
        every: list[StoredKey | KeySettings] = [*stored, *self.engine.settings.keys.values()]
        balances = await self.engine.store.balances(now)
        return {"keys": [keys.key_members(key, now, balances) for key in every]}

    async def one(self, word: str) -> dict[str, Any]:
        """Raises `NotFound`."""
        configured = self.engine.settings.keys.get(word)
        key = configured if configured is not None else await keys.find(self.engine.store, word)
        now = self.engine.clock.wall()
        return keys.key_members(key, now, await self.engine.store.balances(now))

    async def create(self, exchange: Exchange, identity: Identity, by: Actor) -> dict[str, Any]:
        """The new key with its value. Raises `InvalidRequest`, `Conflict`, or `Forbidden` (only an admin gives a key a role)."""
        members = self._body(exchange)
        if members.get("role", "caller") != "caller":
            _require_admin(identity)
        now = self.engine.clock.wall()
        issued = await keys.issue(self.engine.store, members, self.engine.settings, now=now, by=by)
        return keys.issued_members(issued, now)

    async def rotate(self, exchange: Exchange, identity: Identity, word: str, by: Actor) -> dict[str, Any]:
        """The key with its new value. The body may state a `grace`. Raises as `create`, and `NotFound`."""
        key = await self._to_change(identity, word)
        grace_s = _grace(self._body(exchange))
        now = self.engine.clock.wall()
        issued = await keys.rotate(self.engine.store, key, grace_s=grace_s, now=now, by=by)
        return keys.issued_members(issued, now)

    async def revoke(self, identity: Identity, word: str, by: Actor) -> dict[str, Any]:
        """The key as it has become. Raises `NotFound`, `Conflict` or `Forbidden`."""
        key = await self._to_change(identity, word)
        now = self.engine.clock.wall()
        return keys.key_members(await keys.revoke(self.engine.store, key, now=now, by=by), now)

    async def audit(self, exchange: Exchange) -> dict[str, Any]:
        """The last lines; `?limit=` and `?key=` choose. Raises `InvalidRequest`."""
        asked = parse_qs(exchange.query)
        text = asked.get("limit", [str(AUDIT_LINES[0])])[-1]
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0
        if not 1 <= limit <= AUDIT_LINES[1]:
            raise InvalidRequest(
                f"limit must be from 1 to {AUDIT_LINES[1]}, not {text[:40]!r}", param="limit"
            )
        rows = await self.engine.store.audit(limit, asked.get("key", [None])[-1])
        return {"audit": [keys.audit_members(row) for row in rows]}

    async def _to_change(self, identity: Identity, word: str) -> StoredKey:
        key = await keys.find(self.engine.store, word, self.engine.settings)
        if key.role != "caller":
            _require_admin(identity)
        return key

    def _body(self, exchange: Exchange) -> Mapping[str, object]:
        if not exchange.body:
            return {}
        check_depth(exchange.body, self.engine.settings.gateway.max_depth)
        try:
            return msgspec.json.decode(exchange.body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest("the body must be a JSON object") from error


def _grace(members: Mapping[str, object]) -> float:
    text = members.get("grace", "0s")
    if members.keys() - {"grace"} or not isinstance(text, str):
        raise InvalidRequest('a rotation takes {"grace": "24h"} or nothing', param="grace")
    try:
        return span_of(text)
    except ValueError as error:
        raise InvalidRequest('the grace is a time such as "24h" or "7d"', param="grace") from error


def _require_admin(identity: Identity) -> None:
    if identity.terms.role != "admin":
        raise Forbidden("keys with a role are made, rotated and revoked with the role admin only")
