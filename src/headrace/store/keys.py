"""The SQL of keys and of the audit log, each function inside the caller's transaction: what changes a key writes its line too."""

from __future__ import annotations

import hmac
import sqlite3
from typing import Any

import msgspec

from headrace.errors import Conflict
from headrace.store.rows import Actor, AuditRow, StoredKey
from headrace.types import Budget, Limits

__all__ = ["add", "audit", "find", "listed", "log", "revoke", "rotate"]

_COLUMNS = StoredKey.__struct_fields__
_JSON: dict[str, tuple[Any, Any]] = {
    "routes": (tuple[str, ...], ()),
    "models": (tuple[str, ...], ()),
    "budgets": (tuple[Budget, ...], ()),
    "limits": (Limits, None),
}
"""Columns that hold JSON, each with its type, and with what is NULL there."""

_SELECT = f"SELECT {', '.join(_COLUMNS)}, hash, old_hash FROM keys"  # noqa: S608
_INSERT = f"INSERT INTO keys ({', '.join(_COLUMNS)}, hash) VALUES ({', '.join('?' * (len(_COLUMNS) + 1))})"  # noqa: S608
_AUDIT_COLUMNS = AuditRow.__struct_fields__


def add(connection: sqlite3.Connection, key: StoredKey, hash: bytes, by: Actor) -> None:  # noqa: A002
    """Keep a key. Raises `Conflict` where its id, its value or its name (of a key that is not revoked) is taken."""
    values = msgspec.structs.asdict(key)
    for name in _JSON:
        values[name] = msgspec.json.encode(values[name]).decode() if values[name] else None
    try:
        connection.execute(_INSERT, (*(values[name] for name in _COLUMNS), hash))
    except sqlite3.IntegrityError as error:
        raise Conflict(f"there is a key {key.name or key.id!r} already") from error
    log(connection, by.did("key.create", key.id, key.created_wall, key.summary))


def find(connection: sqlite3.Connection, hash: bytes) -> StoredKey | None:  # noqa: A002
    """The key whose value has that hash. By its former value it is found as one that expires when that does."""
    row = connection.execute(f"{_SELECT} WHERE hash = ?1 OR old_hash = ?1", (hash,)).fetchone()
    if row is None:
        return None
    *values, current, former = row
    key = _key(values)
    # What the index found says how near a guess was to a keyed hash, of which a guesser knows nothing.
    if hmac.compare_digest(hash, current):
        return key
    if former is None or not hmac.compare_digest(hash, former):
        return None
    return key.by_former_value()


def listed(connection: sqlite3.Connection) -> list[StoredKey]:
    """All keys, the oldest first."""
    rows = connection.execute(f"{_SELECT} ORDER BY created_wall, id").fetchall()
    return [_key(row[:-2]) for row in rows]


def revoke(connection: sqlite3.Connection, key_id: str, now: float, by: Actor) -> bool:
    """End a key. False if there is none, or it has ended."""
    done = connection.execute(
        "UPDATE keys SET revoked_wall = ? WHERE id = ? AND revoked_wall IS NULL", (now, key_id)
    )
    if done.rowcount == 1:
        log(connection, by.did("key.revoke", key_id, now))
    return done.rowcount == 1


def rotate(
    connection: sqlite3.Connection,
    key_id: str,
    new_hash: bytes,
    prefix: str,
    now: float,
    until: float,
    by: Actor,
) -> bool:
    """Give a key a new value; the one it had is good until wall time `until`. False if there is no such key, or it is revoked."""
    lasting = until > now
    done = connection.execute(
        "UPDATE keys SET old_hash = CASE WHEN ?1 THEN hash END, old_until_wall = ?2, hash = ?3, prefix = ?4"
        " WHERE id = ?5 AND revoked_wall IS NULL",
        (lasting, until if lasting else None, new_hash, prefix, key_id),
    )
    if done.rowcount == 1:
        said = f"prefix {prefix}, the former value ends in {max(0.0, until - now):g} s"
        log(connection, by.did("key.rotate", key_id, now, said))
    return done.rowcount == 1


def log(connection: sqlite3.Connection, row: AuditRow) -> None:
    """Append a line to the audit log."""
    connection.execute(
        f"INSERT INTO audit ({', '.join(_AUDIT_COLUMNS)}) VALUES ({', '.join('?' * len(_AUDIT_COLUMNS))})",  # noqa: S608
        msgspec.structs.astuple(row),
    )


def audit(connection: sqlite3.Connection, limit: int, subject: str | None) -> list[AuditRow]:
    """The last lines, the newest first; of one key, or of all."""
    rows = connection.execute(
        f"SELECT {', '.join(_AUDIT_COLUMNS)} FROM audit WHERE ?1 IS NULL OR subject = ?1 ORDER BY id DESC LIMIT ?2",  # noqa: S608
        (subject, limit),
    ).fetchall()
    return [AuditRow(**dict(zip(_AUDIT_COLUMNS, row, strict=True))) for row in rows]


def _key(row: Any) -> StoredKey:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name, (kind, nothing) in _JSON.items():
        values[name] = nothing if values[name] is None else msgspec.json.decode(values[name], type=kind)
    return StoredKey(**values)
