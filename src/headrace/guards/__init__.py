"""What must not leave, what must not be believed, and what must not come back. See docs/guards.md.

`redact` exchanges values for placeholders and back.
"""

from __future__ import annotations

from headrace.guards.redact import KINDS, Finding, Redactor, Restorer, Values, redact, restore

__all__ = ["KINDS", "Finding", "Redactor", "Restorer", "Values", "redact", "restore"]
