"""What must not leave, what must not be believed, and what must not come back. See docs/guards.md.

`redact` exchanges values for placeholders and `restore` puts them back; `untrusted` fences text from outside, and `find_injections` looks
for what in it speaks to the model.
"""

from __future__ import annotations

from headrace.guards.judge import Judge, Judgement
from headrace.guards.redact import KINDS, Finding, Redactor, Restorer, Values, redact, restore
from headrace.guards.untrusted import find_injections, untrusted

__all__ = [
    "KINDS",
    "Finding",
    "Judge",
    "Judgement",
    "Redactor",
    "Restorer",
    "Values",
    "find_injections",
    "redact",
    "restore",
    "untrusted",
]
