# ruff: noqa: SIM905  (a word list reads best as one text)
"""What speaks against taking two questions for one: a guard can only veto, never make a hit.

Each looks at one thing that changes an answer and that a sentence vector does not see. What a guard needs of a text is computed once and
kept with the entry (`Signature`); two signatures are compared in some ten microseconds. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from itertools import pairwise

from msgspec import Struct

from headrace.cache.frames import plain
from headrace.cache.lexicon import (
    CURRENCIES,
    FILLERS,
    FORMS,
    FUNCTION,
    MODALS,
    NEGATIONS,
    NUMBERS,
    PLACES,
    POLES,
    SYMMETRIC,
    SYNONYMS,
    TIMES,
    UNITS,
    VAGUE,
)
from headrace.cache.spelling import mended
from headrace.cache.text import looks_like_code, stem, words

__all__ = ["GUARDS", "Signature", "signature", "veto"]

GUARDS = (
    "length", "script", "code", "quotes", "identifiers", "numbers", "units", "currency", "time", "places", "names", "rare words",
    "negation", "opposites", "particle", "direction", "order", "persons", "roles", "possessives", "question word", "modality", "conjunction",
    "form", "substitution", "addition",
)  # fmt: skip
"""In the order in which they are asked."""


class Signature(Struct, frozen=True, gc=False):
    """What the guards know of one text. `content` are the stems of the words that carry meaning, `surface` those words."""

    words: tuple[str, ...]
    content: tuple[str, ...]
    surface: tuple[str, ...]
    stems: frozenset[str]
    numbers: tuple[str, ...]
    units: frozenset[str]
    currency: frozenset[str]
    times: frozenset[str]
    places: frozenset[str]
    names: frozenset[str]
    rare: frozenset[str]
    negations: int
    denied: frozenset[str]
    poles: frozenset[str]
    after: dict[str, tuple[str, ...]]
    particles: frozenset[str]
    persons: frozenset[str]
    roles: str
    possessives: frozenset[str]
    question: str
    modals: frozenset[str]
    conjunctions: frozenset[str]
    forms: frozenset[str]
    quotes: frozenset[str]
    identifiers: frozenset[str]
    scripts: frozenset[str]
    code: str


_QUOTE = re.compile(
    r"\"([^\"\n]{1,200})\"|“([^”\n]{1,200})”|(?<!\w)'([^'\n]{2,200})'(?!\w)|«([^»\n]{1,200})»"
)
_IDENTIFIER = re.compile(
    r"https?://\S+|www\.\S+|\S+@\S+\.\w+|[#@]\w+|\b\w+\.(?:com|org|net|io|py|js|ts|txt|csv|json|exe|dll|md|html?)\b|(?:/\w+){2,}|\w+_\w+|"
    r"\b[a-z]+[A-Z]\w*|\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9][\w.-]*\b|\bv?\d+\.\d+(?:\.\d+)+\b|(?<!\S)--?\w[\w-]+"
)
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_GLUED = re.compile(r"(\d[\d.,]*)([a-zA-Z]{1,4}|%)")
_NUMBER = re.compile(r"\d[\d.,:/-]*")
_PRONOUN = {
    "he": "he", "him": "he", "himself": "he", "she": "she", "herself": "she", "they": "they", "them": "they", "themselves": "they",
    "we": "we", "ourselves": "we",
}  # fmt: skip
_POSSESSIVE = {
    "my": "my", "mine": "my", "your": "your", "yours": "your", "his": "his", "her": "her", "hers": "her", "our": "our", "ours": "our",
    "their": "their", "theirs": "their", "its": "its",
}  # fmt: skip
_AFTER = frozenset(
    "from to into onto than before after by for with without over under between in on at against of as via through toward towards about instead".split()
)
_DIRECTED = (
    "from",
    "to",
    "into",
    "onto",
    "than",
    "before",
    "after",
    "against",
    "over",
    "under",
    "towards",
    "via",
    "through",
    "by",
    "without",
)
_MULTI_PLACES = tuple(sorted((place for place in PLACES if " " in place), key=len, reverse=True))
_MULTI_PLACE = re.compile(rf"\b(?:{'|'.join(map(re.escape, _MULTI_PLACES))})\b")
_MULTI_PLACE_ANY_CASE = re.compile(_MULTI_PLACE.pattern, re.IGNORECASE)
_BEING = frozenset("is are was were be been being".split())
_PARTICLES = frozenset("on off up down out away back".split())
_PLACE_NAMES = frozenset(place.replace(" ", "_") for place in PLACES.values()) - {"us"}
_POLES: dict[str, tuple[tuple[str, int], ...]] = {}
for _key, (_word, _side) in POLES.items():
    _POLES[_word] = (*_POLES.get(_word, ()), (_key.partition(":")[0], _side))


def signature(text: str, known: Callable[[str], bool]) -> Signature:
    """What the guards need of `text`. `known`: whether a lower-case word is a common one."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'")  # noqa: RUF001
    code = looks_like_code(text)
    lower, spoken = plain(" ".join(mended(token, known) for token in words(text)))
    tokens = lower.split()
    rest = _MULTI_PLACE.sub(lambda match: _place(match[0]), lower).split()
    rest = [token if token == "us" else _place(token) for token in rest]  # noqa: S105
    places: set[str] = set()
    numbers: list[str] = []
    units: set[str] = set()
    currency: set[str] = set()
    times: set[str] = set()
    content: list[str] = []
    surface: list[str] = []
    rare: set[str] = set()
    after: dict[str, list[str]] = {}
    waiting: list[str] = []
    poles: set[str] = set()
    previous_number = False
    for at, token in enumerate(rest):
        word = token.removeprefix("^").removesuffix("'s")
        following = rest[at + 1] if at + 1 < len(rest) else ""
        if word == "one" and not (
            following in UNITS or (not following and surface and rest[at - 1] == surface[-1])
        ):
            number = None  # a pronoun; "one hour" and "radio one" are not
        else:
            number = _number(word)
        if number is not None:
            numbers += number[0]
            if number[1]:
                units.add(UNITS.get(number[1], number[1]))
        if word in CURRENCIES:
            currency.add(CURRENCIES[word])
        elif word[:1] in CURRENCIES:
            currency.add(CURRENCIES[word[0]])
        if word in UNITS and (len(word) > 2 or previous_number):
            units.add(UNITS[word])
        if word in TIMES and (word not in ("am", "pm") or previous_number):
            times.add(TIMES[word])
        elif word == "may" and token.startswith("^"):
            times.add(word)
        if word in _PLACE_NAMES or (word == "us" and token != word):
            places.add(word)
        for group, side in _POLES.get(word, ()):
            poles.add(f"{group}{'+-'[side]}")
        previous_number = number is not None
        if word in _AFTER:
            if word != "to" or not at or rest[at - 1] != "how":
                waiting.append(word)
        elif word not in FUNCTION or number is not None:
            base = stem(word)
            for preposition in waiting:
                after.setdefault(preposition, []).append(base)
            waiting.clear()
            if number is None and word not in VAGUE and word not in FILLERS:
                content.append(base)
                surface.append(word)
                if len(word) >= 4 and word.isalpha() and word not in _PLACE_NAMES and not known(word):
                    rare.add(base)
    bare = {token.removeprefix("^") for token in tokens}
    return Signature(
        words=tuple(rest),
        content=tuple(content),
        surface=tuple(surface),
        stems=frozenset(stem(word) for word in bare),
        numbers=tuple(numbers),
        units=frozenset(units),
        currency=frozenset(currency),
        times=frozenset(times),
        places=frozenset(places),
        names=_names(text),
        rare=frozenset(rare),
        negations=sum(token in NEGATIONS for token in tokens),
        denied=_denied(tokens),
        poles=frozenset(poles),
        after={preposition: tuple(found) for preposition, found in after.items()},
        particles=_PARTICLES.intersection(tokens),
        persons=frozenset(_PRONOUN[word] for word in bare if word in _PRONOUN),
        roles=_roles(spoken),
        possessives=frozenset(_POSSESSIVE[word] for word in bare if word in _POSSESSIVE),
        question=_question(tokens),
        modals=_modals(tokens),
        conjunctions=frozenset(bare & {"or", "either"} and {"or"})
        | frozenset(bare & {"and", "both"} and {"and"}),
        forms=frozenset(FORMS[word] for word in bare if word in FORMS),
        quotes=frozenset(
            next(filter(None, match.groups())).strip().casefold() for match in _QUOTE.finditer(text)
        ),
        identifiers=frozenset(match[0].strip(".,?!:;").casefold() for match in _IDENTIFIER.finditer(text)),
        scripts=_scripts(text),
        code=" ".join(text.split()) if code else "",
    )


def _place(name: str) -> str:
    if name not in PLACES:
        return name
    place = PLACES[name].replace(" ", "_")
    return "^us" if place == "us" else place  # "us" alone is a pronoun


def _number(word: str) -> tuple[tuple[str, ...], str] | None:
    """The values in `word` and the unit glued to it."""
    if word in NUMBERS:
        return (NUMBERS[word],), ""
    if not any(c.isdigit() for c in word):
        parts = word.split("-")
        if len(parts) > 1 and all(part in NUMBERS for part in parts):
            return tuple(NUMBERS[part] for part in parts), ""
        return None
    if match := _ORDINAL.fullmatch(word):
        return (f"#{int(match[1])}",), ""
    if match := _GLUED.fullmatch(word):
        return (_plain(match[1]),), match[2].replace("%", "percent").lower()
    found = tuple(_plain(match[0]) for match in _NUMBER.finditer(word))
    return found, "percent" if word.endswith("%") else ""


def _plain(number: str) -> str:
    number = number.strip(".,:/-")
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", number):
        number = number.replace(",", "")
    if re.fullmatch(r"\d+\.\d+", number):
        number = number.rstrip("0").rstrip(".")
    return number


def _names(text: str) -> frozenset[str]:
    """Capitalised words inside sentences but places; none of a text that is all capitals or a title."""
    text = _MULTI_PLACE_ANY_CASE.sub(" x ", text)
    raw = text.split()
    if text.isupper():
        return frozenset()
    found: set[str] = set()
    first = True
    for word in raw:
        bare = word.strip("\"'“”().,?!:;").removesuffix("'s")
        if bare[:1].isupper() and not first and bare not in ("I", "I'm", "I'd", "I've", "I'll"):
            if bare.istitle() and bare.lower() in FUNCTION:
                return frozenset()  # a title
            if bare.lower() not in FUNCTION and bare.lower() not in PLACES:
                found.add(stem(bare.casefold()))
        first = word[-1:] in ".?!:"
    return frozenset(found)


def _scripts(text: str) -> frozenset[str]:
    if text.isascii():
        return frozenset({"LATIN"})
    return frozenset(unicodedata.name(c, "?").partition(" ")[0] for c in text if c.isalpha()) or frozenset(
        {"LATIN"}
    )


_WH = {
    "what": "what", "which": "what", "who": "who", "whom": "who", "whose": "whose", "when": "when", "where": "where", "why": "why",
    "how": "how", "whats": "what", "wheres": "where", "whos": "who", "hows": "how",
}  # fmt: skip
_HOW = frozenset(
    "many much long often old far big tall fast late soon early high deep heavy large likely hard".split()
)
_AUXILIARY = frozenset("do does did is are was were am has have had should must".split())
_MAY = frozenset("can could may might would will".split())
_SAME_HOW = {"much": "amount", "many": "count"}


def _question(tokens: list[str]) -> str:
    """The first question word; `how` with the word that it measures."""
    for at, token in enumerate(tokens):
        kind = _WH.get(token)
        if kind is None:
            continue
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        if kind == "how":
            if following == "come":
                return "why"
            return f"how {_SAME_HOW.get(following, following)}" if following in _HOW else "how"
        if kind == "what" and following in ("time", "date", "day"):
            return "when"
        return kind
    if tokens and tokens[0] in _AUXILIARY:
        return "polar"
    return "may" if tokens and tokens[0] in _MAY and tokens[1:2] != ["you"] else ""


_FRAME = re.compile(
    r"\b(?:(?:can|could|would|will) you )?(?:please )?(?:tell|help|show|give|explain to|let|remind) (?:me|us)\b|\b(?:can|could|would|will) you\b|"
    r"\b(?:do you know|i (?:want|need|would like) (?:you )?to)\b"
)
_ROLE = {"i": "1", "me": "1", "my": "1", "mine": "1", "you": "2", "your": "2", "yours": "2"}


def _roles(lower: str) -> str:
    """Who is spoken of, in order: 1 for the one who asks, 2 for the one who is asked; frames of politeness left out."""
    found = ""
    for word in _FRAME.sub(" ", lower).split():
        role = _ROLE.get(word, "")
        if role and not found.endswith(role):
            found += role
    return found


_SCOPED = frozenset(
    "all every everyone everything always only even just one two a more less many much".split()
)


def _denied(tokens: list[str]) -> frozenset[str]:
    """Where it matters what a `not` stands before: `not all` is not `all ... not`, `not only` is not `not even`."""
    return frozenset(
        following for word, following in pairwise(tokens) if word == "not" and following in _SCOPED
    )


def _modals(tokens: list[str]) -> frozenset[str]:
    found = {MODALS[token] for token in tokens if token in MODALS}
    if "used" in found and "used to" not in " ".join(tokens):
        found.discard("used")
    return frozenset(found)


# --- the verdict ------------------------------------------------------------------------------------------------------


def veto(a: Signature, b: Signature) -> str | None:
    """The first guard that speaks against `a` and `b` meaning the same, or None."""
    longest, shortest = max(len(a.words), len(b.words)), min(len(a.words), len(b.words))
    if longest > 64 or longest > 3 * shortest + 4:
        return "length"
    if a.scripts != b.scripts:
        return "script"
    if a.code != b.code:
        return "code"
    if a.quotes != b.quotes:
        return "quotes"
    if a.identifiers != b.identifiers:
        return "identifiers"
    if a.numbers != b.numbers:
        return "numbers"
    if a.units != b.units:
        return "units"
    if a.currency != b.currency:
        return "currency"
    if a.times != b.times:
        return "time"
    if a.places != b.places:
        return "places"
    if _missing(a.names, b) or _missing(b.names, a):
        return "names"
    if _missing(a.rare, b) or _missing(b.rare, a):
        return "rare words"
    if (a.negations - b.negations) % 2 or a.denied != b.denied:
        return "negation"
    if _opposed(a.poles, b.poles):
        return "opposites"
    if a.particles - b.particles and b.particles - a.particles:
        return "particle"
    if not _symmetric(a, b):
        if any(p in a.after and p in b.after and _led_elsewhere(a.after[p], b.after[p]) for p in _DIRECTED):
            return "direction"
        if _reordered(a, b):
            return "order"
    if a.persons != b.persons:
        return "persons"
    if a.roles != b.roles and a.roles and b.roles and len(a.roles + b.roles) > 2:
        return "roles"
    if a.possessives and b.possessives and a.possessives != b.possessives:
        return "possessives"
    if a.question != b.question and ((a.question and b.question) or "polar" in (a.question, b.question)):
        return "question word"
    if _modality(a.modals, b.modals):
        return "modality"
    if ("or" in a.conjunctions) != ("or" in b.conjunctions):
        return "conjunction"
    if a.forms != b.forms:
        return "form"
    return _replaced(a, b)


def _missing(wanted: frozenset[str], there: Signature) -> bool:
    return any(
        word not in there.stems and not any(_alike(word, other) for other in there.content) for word in wanted
    )


def _alike(a: str, b: str) -> bool:
    """The same word: by stem, by a list of synonyms, or but for one slip of the fingers."""
    if a == b:
        return True
    group = SYNONYMS.get(a)
    if group is not None and group == SYNONYMS.get(b):
        return True
    return len(a) >= 5 and len(b) >= 5 and a[0] == b[0] and _slip(a, b)


def _slip(a: str, b: str) -> bool:
    """One letter more, less, other, or two swapped (Damerau 1964)."""
    if abs(len(a) - len(b)) > 1:
        return False
    at = 0
    while at < min(len(a), len(b)) and a[at] == b[at]:
        at += 1
    x, y = a[at:], b[at:]
    return x[1:] == y[1:] or x[1:] == y or x == y[1:] or (x[2:] == y[2:] and x[:2] == y[1::-1])


def _opposed(a: frozenset[str], b: frozenset[str]) -> bool:
    """One side of a pair here and the other there."""
    for mark in a:
        other = mark[:-1] + ("-" if mark[-1] == "+" else "+")
        if (other in b and other not in a) or (other in b and mark not in b):
            return True
    return False


def _symmetric(a: Signature, b: Signature) -> bool:
    """The same words about two that stand to each other as each to the other: order says nothing."""
    return not SYMMETRIC.isdisjoint(a.content) and sorted(a.content) == sorted(b.content)


def _led_elsewhere(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """What follows one preposition here is not what follows it there, as far as both have it."""
    fewer, more = (a, b) if len(a) <= len(b) else (b, a)
    return not all(any(_alike(x, y) for y in more) for x in fewer)


def _reordered(a: Signature, b: Signature) -> bool:
    """The same words, where their order or voice says who does what to whom."""
    names = (a.names | a.rare | a.places) & set(a.content) & set(b.content)
    if [word for word in a.content if word in names] != [word for word in b.content if word in names]:
        return True
    if _done_by(a, b) or _done_by(b, a):
        return True
    if a.content == b.content or sorted(a.content) != sorted(b.content):
        return False
    return any(a.after[p] != b.after[p] for p in ("for", "as", "with", "of") if p in a.after and p in b.after)


def _done_by(a: Signature, b: Signature) -> bool:
    """A passive whose agent is named in the other, which is none: "was X seen by Y", "did X see Y"."""
    if "by" not in a.after or "by" in b.after or _BEING.isdisjoint(a.words):
        return False
    return any(word in b.stems for word in a.after["by"])


def _modality(a: frozenset[str], b: frozenset[str]) -> bool:
    for strict in ("used", "become"):
        if (strict in a) != (strict in b):
            return True
    duty = frozenset({"should", "must", "may"})
    return a & duty != b & duty


def _replaced(a: Signature, b: Signature) -> str | None:
    """One content word exchanged for one that is no synonym, or added."""
    only_a = [w for w in a.content if w not in b.stems and not any(_alike(w, other) for other in b.content)]
    only_b = [w for w in b.content if w not in a.stems and not any(_alike(w, other) for other in a.content)]
    if len(only_a) == 1 and len(only_b) == 1:
        return "substitution"
    if len(only_a) + len(only_b) == 1:
        return "addition"
    return None
