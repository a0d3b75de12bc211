"""Token counts without a tokenizer: bounded from above, marked as estimates wherever they are shown."""

from __future__ import annotations

from headrace.tokens.estimate import Estimate, estimate_chat, estimate_text

__all__ = ["Estimate", "estimate_chat", "estimate_text"]
