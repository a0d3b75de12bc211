"""Answers a request once for each idempotency key. See docs/idempotency.md."""

from __future__ import annotations

from headrace.layers.idempotency.layer import Idempotency, read_key

__all__ = ["Idempotency", "read_key"]
