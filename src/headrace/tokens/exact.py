"""Exact counts for OpenAI's encodings, offline: the vocabularies are inside the `tokenizers` extra."""

from __future__ import annotations

import functools
import re

from headrace.tokens.estimate import Estimate, TextCounter

__all__ = ["encoding_of", "exact_counter"]

_O200K = re.compile(r"(gpt-4o|gpt-4\.|gpt-[5-9]|chatgpt-|o[1-9])")
_CL100K = re.compile(r"(gpt-4|gpt-3\.5)")


def encoding_of(provider: str, model: str) -> str | None:
    """The encoding of an OpenAI model by its family (tiktoken's own table, `tiktoken/model.py`), None for any other model."""
    if provider not in ("openai", "azure"):
        return None
    name = model.removeprefix("ft:")
    if _O200K.match(name):
        return "o200k_base"
    return "cl100k_base" if _CL100K.match(name) else None


@functools.cache
def exact_counter(encoding: str) -> TextCounter | None:
    """Counts text in `encoding` (`o200k_base`, `cl100k_base`), or None where the extra is not installed.

    Text that looks like a special token is counted as the text it is, as providers treat what users send.
    """
    try:
        from splintr import Tokenizer
    except ModuleNotFoundError:
        return None
    encode = Tokenizer.from_pretrained(encoding).encode_ordinary

    def count(text: str) -> Estimate:
        # A lone surrogate has no UTF-8; what is sent in its place is the replacement mark.
        clean = text if text.isascii() else text.encode("utf-8", "replace").decode()
        tokens = len(encode(clean))
        return Estimate(tokens, tokens)

    return count
