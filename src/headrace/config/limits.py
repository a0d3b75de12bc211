"""Rate limits: `limits` of keys and of routes, and `[limits.users]`."""

from __future__ import annotations

from headrace.config.table import Table
from headrace.types import Limits

MOST = 10**9
"""A minute. Above it the arithmetic in nanoseconds has nothing left to count with."""


def read_limits(table: Table, name: str = "limits") -> Limits | None:
    """`{ rpm = 60, tpm = 100000 }`; None where there is none, or a wrong one."""
    if name not in table.members:
        table.take(name)
        return None
    inner = table.table(name)
    rpm, tpm = inner.integer("rpm", 0, 1, MOST), inner.integer("tpm", 0, 1, MOST)
    inner.close()
    if not {"rpm", "tpm"} & inner.members.keys() and isinstance(table.members[name], dict):
        table.found.add(inner.path, "limits nothing", "Write { rpm = 60, tpm = 100000 }.")
    return Limits(rpm=rpm or None, tpm=tpm or None) if rpm or tpm else None


def read_user_limits(root: Table) -> dict[str, Limits]:
    """By user; `*` is for each who has none of his own."""
    table = root.table("limits")
    users = table.table("users")
    read = {name: read_limits(users, name) for name in users.members}
    table.close()
    return {name: limits for name, limits in read.items() if limits is not None}
