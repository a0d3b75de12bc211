"""Text in one spelling: what two askers who mean the same words may write differently.

Case, space, punctuation at the borders of words, contractions and politeness, nothing else: a function word is never dropped
("from Boston" is not "to Boston"). A text that looks like code, or that is long, keeps its spelling.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["canonical", "looks_like_code", "stem", "words"]

LONGEST = 2_000
"""Characters; longer texts are documents, whose line ends and case may matter."""

_CODE = re.compile(r"```|`|[{}<>\\|=;]|\w\(|^\s{4,}\S|^\s*(?:#|//|\$ )|\w_\w|\w/\w+/|--?\w+=", re.MULTILINE)

_CONTRACTIONS = {
    "can't": "cannot", "won't": "will not", "shan't": "shall not", "n't": " not", "let's": "let us",
    "'re": " are", "'ve": " have", "'ll": " will", "i'm": "i am",
}  # fmt: skip
_CONTRACTION = re.compile(r"\b(?:can't|won't|shan't|let's|i'm)\b|(?<=\w)(?:n't|'re|'ve|'ll)\b")
_IS = re.compile(r"\b(what|where|who|when|why|how|it|that|there|here|he|she|this)'s\b")
_CAN_NOT = re.compile(r"\bcan not\b")

_AMBIGUOUS = frozenset(
    [
        "us",
        "it",
        "who",
        "aids",
        "polish",
        "turkey",
        "china",
        "may",
        "march",
        "august",
        "mark",
        "bill",
        "will",
        "apple",
        "windows",
        "word",
        "excel",
        "rust",
        "swift",
        "go",
        "python",
        "java",
        "reading",
        "nice",
        "mobile",
        "job",
        "rose",
        "amber",
        "jordan",
        "chad",
        "mars",
        "mercury",
        "job",
        "lima",
        "pat",
        "frank",
        "sue",
        "rich",
        "ram",
        "lent",
        "ford",
    ]
)
"""Words that mean something else with a capital; their case is kept."""

_TOKEN = re.compile(r"\d+(?:[.,:/-]\d+)*%?|[$€£¥]\d[\d.,]*|\w+(?:'\w+)?(?:[-&.@]\w+)*|[^\w\s]")
_DROPPED = frozenset(".,?!\"'“”‘’…-–—:")  # noqa: RUF001
_POLITE_START = re.compile(
    r"^(?:(?:please|pls|hi|hello|hey|hi there|hello there|good morning|good afternoon|good evening|thanks|thank you) )+(?=\w)"
)
_POLITE_END = re.compile(r"(?<=\w)(?: (?:please|pls|thanks|thank you|thank you very much|many thanks|thx))+$")
_POLITE_INSIDE = re.compile(r"\b((?:could|can|would|will) you) please\b")


def looks_like_code(text: str) -> bool:
    """Whether case, space or punctuation of `text` may carry its meaning; pure."""
    return _CODE.search(text) is not None


def words(text: str) -> list[str]:
    """The words of `text` in one spelling, contractions written out; `^` before one whose capital may matter. Pure."""
    shouting = text.isupper()
    found: list[str] = []
    for match in _TOKEN.finditer(text.replace("’", "'")):  # noqa: RUF001
        token = match[0]
        if token in _DROPPED:
            continue
        lower = token.casefold()
        if not shouting and found and token != lower and lower in _AMBIGUOUS:
            lower = "^" + lower
        found.append(lower)
    out = " ".join(found)
    out = _CONTRACTION.sub(lambda m: _CONTRACTIONS[m[0]], out)
    out = _IS.sub(r"\1 is", out)
    return _CAN_NOT.sub("cannot", out).split()


def canonical(text: str) -> str:
    """The one spelling of `text`; pure. Equal results mean that the same was asked."""
    text = unicodedata.normalize("NFKC", text).strip()
    if len(text) > LONGEST or looks_like_code(text):
        return text
    out = _POLITE_INSIDE.sub(r"\1", " ".join(words(text)))
    polite = _POLITE_END.sub("", _POLITE_START.sub("", out))
    return polite or out


_SUFFIXES = ("ingly", "edly", "ings", "ing", "ied", "ies", "ers", "est", "ed", "es", "er", "ly", "s")


def stem(word: str) -> str:
    """`cards`, `carded` and `carding` as `card`; light, so that few different words meet."""
    if len(word) <= 3 or not word.isalpha():
        return word
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            if suffix == "s" and word.endswith(("ss", "us", "is")):
                return word
            if suffix in ("er", "ers", "est", "ly") and len(word) - len(suffix) < 4:
                return word
            base = word[: -len(suffix)]
            if suffix in ("ied", "ies"):
                return base + "y"
            if len(base) > 3 and base[-1] == base[-2] and base[-1] not in "lsz":
                base = base[:-1]
            return base[:-1] if len(base) > 3 and base.endswith("e") else base
    return word[:-1] if len(word) > 4 and word.endswith("e") else word
