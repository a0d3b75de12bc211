"""Keys that are made, rotated and revoked while everything runs: what the command line and the admin API do to the store.

A key's value is shown once, when it is made or rotated. What is kept is its beginning, and its HMAC-SHA256 under a secret of the
store's own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from headrace.budget.leases import Balance, Cap
from headrace.call import format_usd
from headrace.config import KeySettings, Secret, Settings, key_terms
from headrace.errors import Conflict, InvalidRequest, NotFound
from headrace.store import Actor, StoredKey
from headrace.types import Budget

if TYPE_CHECKING:
    from headrace.access import KeyTerms
    from headrace.store import AuditRow, Store

__all__ = [
    "MAX_GRACE_S",
    "Issued",
    "audit_members",
    "find",
    "issue",
    "issued_members",
    "key_members",
    "moment",
    "revoke",
    "rotate",
    "shown",
    "state",
]

PREFIX = "hr-"
SECRET_BYTES = 32
"""256 bits: as many as the hash has; nobody guesses one."""

SHOWN = 9
"""Characters of a value that are kept and shown: `hr-` and 36 of the 256 bits."""

MAX_GRACE_S = 30 * 86_400.0
"""How long the value before a rotation can go on at most, seconds."""


class Issued(NamedTuple):
    """A key and its value, which is not kept anywhere."""

    key: StoredKey
    value: Secret


async def issue(
    store: Store, members: Mapping[str, object], settings: Settings, *, now: float, by: Actor
) -> Issued:
    """Make a key on the terms that `members` state (`headrace.config.key_terms`); durable on return.

    Raises:
        InvalidRequest: The terms cannot be.
        Conflict: A key that is not revoked has the name.
        StoreError: It could not be written.
    """
    key_id = f"key_{secrets.token_hex(6)}"
    name, terms = key_terms(members, settings, usual=key_id, now=now)
    if name is not None and name in settings.keys:
        raise Conflict(f"there is a key {name!r} already, in the configuration")
    value = _new_value()
    key = StoredKey(
        id=key_id,
        name=name,
        prefix=value[:SHOWN],
        created_wall=now,
        **msgspec.structs.asdict(terms),
    )
    await store.add_key(key, store.key_hash(value), by=by)
    return Issued(key, Secret(value))


async def rotate(store: Store, key: StoredKey, *, grace_s: float, now: float, by: Actor) -> Issued:
    """Give a key a new value; the one it has goes on for `grace_s` seconds (0: none), one before that no longer.

    Raises:
        InvalidRequest: `grace_s` is not from 0 to `MAX_GRACE_S`.
        Conflict: The key is revoked.
        StoreError: It could not be written.
    """
    if not 0 <= grace_s <= MAX_GRACE_S:
        raise InvalidRequest("the grace must be from 0s to 30d: how long the former value is still good")
    value, until = _new_value(), now + grace_s
    done = await store.rotate_key(key.id, store.key_hash(value), value[:SHOWN], now, until=until, by=by)
    if not done:
        raise Conflict(f"key {key.name or key.id} is revoked: make a new one")
    rotated = msgspec.structs.replace(key, prefix=value[:SHOWN], old_until_wall=until if grace_s else None)
    return Issued(rotated, Secret(value))


async def revoke(store: Store, key: StoredKey, *, now: float, by: Actor) -> StoredKey:
    """End a key for good; every worker of the gateway knows within a second.

    Raises:
        Conflict: It is revoked already.
        StoreError: It could not be written.
    """
    if not await store.revoke_key(key.id, now, by=by):
        raise Conflict(f"key {key.name or key.id} is revoked already")
    return msgspec.structs.replace(key, revoked_wall=now)


async def find(store: Store, word: str, settings: Settings | None = None) -> StoredKey:
    """The key whose id, value or name is `word`; of several with a name, the one that is not revoked, or was made last.

    Raises:
        NotFound: There is none.
        Conflict: It is one of `settings`, where it can be changed only.
    """
    value = word.startswith(PREFIX)
    # Whoever finds a value where it should not be can end the key with it.
    if value and (found := await store.find_key(store.key_hash(word))) is not None:
        word = found.id
    listed = await store.list_keys()
    for key in listed:
        if key.id == word:
            return key
    for key in listed:
        if key.name == word and key.revoked_wall is None:
            return key
    if settings is not None and word in settings.keys:
        raise Conflict(f"key {word!r} stands in the configuration: change it there")
    for key in reversed(listed):
        if key.name == word:
            return key
    raise NotFound(
        "there is no key with this value"
        if value
        else f"there is no key with the id or the name {word[:128]!r}"
    )


def shown(word: str) -> str:
    """What somebody called a key by, fit for the audit log: of a value no more than is kept of it."""
    if word.startswith(PREFIX):
        return word[:SHOWN]
    return "".join(c for c in word[:128] if c.isprintable())


def _new_value() -> str:
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


# --- what is shown ----------------------------------------------------------------------------------------------------


def state(key: KeyTerms, now: float) -> Literal["active", "expired", "revoked"]:
    """What a key is at wall time `now`."""
    if isinstance(key, StoredKey) and key.revoked_wall is not None:
        return "revoked"
    return "expired" if key.expires_wall is not None and now >= key.expires_wall else "active"


def key_members(key: StoredKey | KeySettings, now: float, balances: Iterable[Balance] = ()) -> dict[str, Any]:
    """A key in JSON; times are RFC 3339 in UTC, null where there is none. The id of a key of the configuration is its name. `balances` are
    those of the store, of windows that have not ended: they say what is used of a budget."""
    stored = key if isinstance(key, StoredKey) else None
    key_id = key.name if isinstance(key, KeySettings) else key.id
    used = {balance.cap: balance.spent + balance.held for balance in balances}
    return {
        "id": key_id,
        "name": key.name,
        "source": "configuration" if stored is None else "store",
        "prefix": None if stored is None else stored.prefix,
        "state": state(key, now),
        "role": key.role,
        "tenant": key.tenant,
        "user": key.user,
        "team": key.team,
        "routes": list(key.routes),
        "models": list(key.models),
        "budget": [
            budget_members(budget, used.get(Cap.of("key", key_id, budget).id, 0)) for budget in key.budgets
        ],
        "limits": None if key.limits is None else msgspec.structs.asdict(key.limits),
        "created": None if stored is None else moment(stored.created_wall),
        "expires": moment(key.expires_wall),
        "revoked": None if stored is None else moment(stored.revoked_wall),
        "former_value_until": None if stored is None else moment(stored.old_until_wall),
    }


def issued_members(issued: Issued, now: float) -> dict[str, Any]:
    """A new key in JSON, with its value: `key` is what callers present."""
    return key_members(issued.key, now) | {"key": issued.value.reveal()}


def budget_members(budget: Budget, used: int) -> dict[str, Any]:
    """A budget in JSON, as a configuration would write it, and what is used of it in the window that runs."""

    def amount(value: int) -> str | int:
        return format_usd(value) if budget.unit == "usd" else value

    return {
        budget.unit: amount(budget.amount),
        "used": amount(used),
        "window": budget.window,
        "soft": not budget.hard,
        "on_limit": "downgrade" if budget.downgrade else "refuse",
        "timezone": budget.zone,
    }


def audit_members(row: AuditRow) -> dict[str, Any]:
    """A line of the audit log in JSON."""
    return {
        "at": moment(row.at_wall),
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "result": row.result,
        "request_id": row.request_id,
        "detail": row.detail,
    }


def moment(wall: float | None) -> str | None:
    """`2030-01-31T12:00:00Z` for seconds since 1970."""
    return (
        None
        if wall is None
        else datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )
