"""Words that were typed wrongly, as they were meant.

Only slips that hardly ever lead from one real word to another: two letters swapped, a letter lost or doubled, in a word that is not known, where
exactly one known word is that near. A letter taken for another is not mended: names differ so. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["mended"]

SHORTEST_SWAP, SHORTEST_LOSS = 3, 6
"""Letters of a word from which on swaps, and lost or doubled letters, are looked for: short words have too many neighbours."""

LONGEST = 24
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def mended(word: str, known: Callable[[str], bool]) -> str:
    """`word`, in lower case, or the one known word that it is a slip of."""
    if not SHORTEST_SWAP <= len(word) <= LONGEST or not (word.isascii() and word.isalpha()) or known(word):
        return word
    found = {other for other in _swaps(word) if known(other)}
    if not found and len(word) >= SHORTEST_LOSS:
        found = {other for other in _losses(word) if known(other)}
    return found.pop() if len(found) == 1 else word


def _swaps(word: str) -> Iterator[str]:
    for at in range(len(word) - 1):
        if word[at] != word[at + 1]:
            yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _losses(word: str) -> Iterator[str]:
    for at in range(1, len(word)):
        if word[at] == word[at - 1]:
            yield word[:at] + word[at + 1 :]
        for letter in _LETTERS:
            yield word[:at] + letter + word[at:]
