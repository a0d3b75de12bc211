"""The SQL of the ledger: attempts and calls to rows and back, each function inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.store.rows import AttemptRow, StoredRequest, request_of

__all__ = ["clean", "find", "insert", "insert_into", "recent", "to_json", "to_texts"]

_ATTEMPT_COLUMNS = AttemptRow.__struct_fields__
_CALL_COLUMNS = tuple(name for name in StoredRequest.__struct_fields__ if name != "attempts")
_ESTIMATED = _ATTEMPT_COLUMNS.index("estimated")
_TAGS = _ATTEMPT_COLUMNS.index("tags")


def insert_into(table: str, columns: Sequence[str]) -> str:
    """The statement that takes one row."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608


_INSERT_ATTEMPT = insert_into("attempts", _ATTEMPT_COLUMNS)
_INSERT_CALL = insert_into("calls", _CALL_COLUMNS)
_SELECT_ATTEMPT = f"SELECT {', '.join(_ATTEMPT_COLUMNS)} FROM attempts"  # noqa: S608
_SELECT_CALL = f"SELECT {', '.join(_CALL_COLUMNS)} FROM calls"  # noqa: S608


def insert(connection: sqlite3.Connection, rows: Sequence[object]) -> int:
    """Append the attempts and calls among `rows`; the number of those that SQLite does not take, which hold up no other."""
    attempts = [_attempt_values(row) for row in rows if isinstance(row, AttemptRow)]
    calls = [_request_values(row) for row in rows if isinstance(row, StoredRequest)]
    return _insert_all(connection, _INSERT_ATTEMPT, attempts) + _insert_all(connection, _INSERT_CALL, calls)


def _insert_all(connection: sqlite3.Connection, statement: str, rows: list[tuple[Any, ...]]) -> int:
    if not rows:
        return 0
    connection.execute("SAVEPOINT batch")
    try:
        connection.executemany(statement, rows)
    except (OverflowError, UnicodeError, sqlite3.IntegrityError, sqlite3.ProgrammingError):
        connection.execute("ROLLBACK TO batch")
    else:
        return 0
    bad = 0
    for row in rows:
        try:
            connection.execute(statement, tuple(clean(value) for value in row))
        except (OverflowError, UnicodeError, sqlite3.IntegrityError, sqlite3.ProgrammingError):
            bad += 1
    return bad


def find(connection: sqlite3.Connection, request_id: str, tenant: str | None) -> StoredRequest | None:
    """See `Store.request`."""
    whose = "" if tenant is None else " AND tenant = ?"
    values = (request_id,) if tenant is None else (request_id, tenant)
    last = connection.execute(
        f"{_SELECT_ATTEMPT} WHERE request_id = ?{whose} ORDER BY call_wall DESC, id DESC LIMIT 1",
        values,
    ).fetchone()
    call = connection.execute(
        f"{_SELECT_CALL} WHERE request_id = ?{whose} ORDER BY started_wall DESC, id DESC LIMIT 1",
        values,
    ).fetchone()
    if call is not None:
        ended = _request(call)
        if last is None or _attempt(last).call_wall <= ended.started_wall:
            return _whole(connection, ended)
    if last is None:
        return None
    running = _attempt(last)
    return request_of(_attempts(connection, request_id, running.tenant, running.call_wall))


def recent(connection: sqlite3.Connection, limit: int) -> list[StoredRequest]:
    """See `Store.recent`."""
    rows = connection.execute(f"{_SELECT_CALL} ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
    return [_whole(connection, _request(row)) for row in rows]


def _attempts(
    connection: sqlite3.Connection, request_id: str, tenant: str | None, call_wall: float
) -> tuple[AttemptRow, ...]:
    rows = connection.execute(
        f"{_SELECT_ATTEMPT} WHERE request_id = ? AND tenant IS ? AND call_wall = ? ORDER BY number, id",
        (request_id, tenant, call_wall),
    )
    return tuple(_attempt(row) for row in rows)


def _whole(connection: sqlite3.Connection, request: StoredRequest) -> StoredRequest:
    attempts = _attempts(connection, request.request_id, request.tenant, request.started_wall)
    return msgspec.structs.replace(request, attempts=attempts)


# --- values to rows and back -------------------------------------------------------------------------------------------


def to_json(value: dict[str, str] | tuple[str, ...]) -> str | None:
    """None for nothing."""
    if not value:
        return None
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        if isinstance(value, dict):
            value = {clean(name): clean(text) for name, text in value.items()}
        else:
            value = tuple(clean(text) for text in value)
        return msgspec.json.encode(value).decode()


def to_texts(text: str | None) -> tuple[str, ...]:
    """What `to_json` made of a tuple."""
    return () if text is None else msgspec.json.decode(text, type=tuple[str, ...])


def clean(value: Any) -> Any:
    """Text without lone surrogates, which UTF-8 has not; everything else as it is."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _tags(text: str | None) -> dict[str, str]:
    return {} if text is None else msgspec.json.decode(text, type=dict[str, str])


def _attempt_values(row: AttemptRow) -> tuple[Any, ...]:
    values = list(msgspec.structs.astuple(row))
    values[_TAGS] = to_json(values[_TAGS])
    return tuple(values)


def _request_values(row: StoredRequest) -> tuple[Any, ...]:
    values = {name: getattr(row, name) for name in _CALL_COLUMNS}
    values |= {"tags": to_json(row.tags), "warnings": to_json(row.warnings)}
    return tuple(values.values())


def _attempt(row: tuple[Any, ...]) -> AttemptRow:
    values = list(row)
    values[_ESTIMATED] = bool(values[_ESTIMATED])
    values[_TAGS] = _tags(values[_TAGS])
    return AttemptRow(*values)


def _request(row: tuple[Any, ...]) -> StoredRequest:
    values = dict(zip(_CALL_COLUMNS, row, strict=True))
    values |= {"stream": bool(values["stream"]), "tags": _tags(values["tags"])}
    return StoredRequest(**values | {"warnings": to_texts(values["warnings"])})
