"""`[idempotency]`."""

from __future__ import annotations

from headrace.config.settings import IdempotencySettings
from headrace.config.table import Table


def read_idempotency(root: Table) -> IdempotencySettings:
    table = root.table("idempotency")
    usual = IdempotencySettings()
    settings = IdempotencySettings(
        retention_s=table.duration("retention", usual.retention_s),
        max_bytes=table.integer("max_bytes", usual.max_bytes, 1 << 20, 1 << 40),
    )
    table.close()
    return settings
