"""Token counts: exact offline where a vocabulary is installed, else bounded from above and corrected by what providers report."""

from __future__ import annotations

from headrace.tokens.anchor import Anchor
from headrace.tokens.correction import Correction
from headrace.tokens.estimate import (
    Estimate,
    TextCounter,
    estimate_block,
    estimate_chat,
    estimate_message,
    estimate_text,
)
from headrace.tokens.exact import encoding_of, exact_counter

__all__ = [
    "Anchor",
    "Correction",
    "Estimate",
    "TextCounter",
    "encoding_of",
    "estimate_block",
    "estimate_chat",
    "estimate_message",
    "estimate_text",
    "exact_counter",
]
