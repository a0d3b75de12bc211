"""Values that must not leave, exchanged for placeholders, and put back; pure.

A value is found by its kind (`headrace.guards.personal`, `credentials`, patterns of one's own) and then exchanged wherever else the same
characters stand, so that no text of a request has it any more. Placeholders (`[EMAIL_1]`) are numbered by first appearance: one value
has one placeholder in a request, and in the next one of the same conversation, whose beginning is the same. A number that a text
already uses is left out, so that putting back is exact: `restore(*redact(text)) == text`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from headrace.guards.credentials import find_secrets
from headrace.guards.pattern import compiled
from headrace.guards.personal import Span, find_cards, find_emails, find_ibans, find_ips, find_phones

__all__ = ["KINDS", "Finding", "Redactor", "Restorer", "Values", "as_json", "redact", "restore"]

Values: TypeAlias = Mapping[str, str]
"""Placeholders to what they stand for, in order of first appearance."""

_FINDERS: Mapping[str, Callable[[str], Iterator[Span]]] = MappingProxyType(
    {
        "secret": find_secrets,
        "iban": find_ibans,
        "card": find_cards,
        "email": find_emails,
        "ip": find_ips,
        "phone": find_phones,
    }
)

KINDS = tuple(_FINDERS)
"""The kinds that are known, the most certain first: where two overlap, the first one has it."""

PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]{0,40}_[1-9][0-9]{0,8}\]")

FEW = 64
"""Values up to which one pattern of them all is faster than a table."""

SHORT = 6
"""A value with fewer characters is exchanged elsewhere only where it stands as a word."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A value of some kind at `text[start:end]`."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Redactor:
    """Finds values of `kinds`, and of `patterns`: names to regular expressions.

    Raises:
        ValueError: A kind or a name is not known, or a pattern could run long.
    """

    kinds: tuple[str, ...] = KINDS
    patterns: Mapping[str, str] = field(default_factory=dict)
    _finders: tuple[tuple[str, Callable[[str], Iterator[Span]]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        finders: list[tuple[str, Callable[[str], Iterator[Span]]]] = []
        for name, pattern in self.patterns.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) or name in _FINDERS:
                raise ValueError(
                    f"a pattern's name is a word in small letters and no kind of our own, not {name!r}"
                )
            try:
                finders.append((name, _spans(compiled(pattern))))
            except ValueError as error:
                raise ValueError(f"pattern {name!r}: {error}") from None
        for kind in self.kinds:
            if kind not in _FINDERS:
                raise ValueError(f"a kind is one of {', '.join(KINDS)}, not {kind!r}")
        finders += [(kind, find) for kind, find in _FINDERS.items() if kind in self.kinds]
        object.__setattr__(self, "_finders", tuple(finders))

    def find(self, text: str) -> list[Finding]:
        """The values in `text`, in order, none over another. Patterns of one's own come before the known kinds."""
        found: list[Finding] = []
        taken = bytearray(len(text))
        for kind, finder in self._finders:
            for start, end in finder(text):
                if 1 not in taken[start:end]:
                    taken[start:end] = b"\1" * (end - start)
                    found.append(Finding(kind, start, end))
        found.sort(key=lambda finding: finding.start)
        return found

    def values(
        self,
        texts: Sequence[str],
        own: Sequence[str] | None = None,
        find: Callable[[str], Sequence[Finding]] | None = None,
    ) -> dict[str, str]:
        """Placeholders for the values in `texts`, which are those of one request in their order.

        Args:
            own: Those whose placeholders are their own, to be left as they are; None for all.
            find: In place of `self.find`, where findings are remembered.
        """
        kinds: dict[str, str] = {}
        for text in texts:
            for finding in (find or self.find)(text):
                kinds.setdefault(text[finding.start : finding.end], finding.kind)
        if not kinds:
            return {}
        used = {match[0] for text in (texts if own is None else own) for match in PLACEHOLDER.finditer(text)}
        numbers: dict[str, int] = {}
        values: dict[str, str] = {}
        for value, kind in kinds.items():
            placeholder = ""
            while not placeholder or placeholder in used:
                numbers[kind] = numbers.get(kind, 0) + 1
                placeholder = f"[{kind.upper()}_{numbers[kind]}]"
            values[placeholder] = value
        return values


def _spans(pattern: re.Pattern[str]) -> Callable[[str], Iterator[Span]]:
    return lambda text: (match.span() for match in pattern.finditer(text))


def exchanger(values: Values, *, also_json: bool = False) -> Callable[[str], str]:
    """What exchanges the values of `values` for their placeholders, wherever they stand.

    Args:
        also_json: Also as JSON strings write them, for texts that are JSON: a tool's result.
    """
    if not values:
        return lambda text: text
    names = {value: placeholder for placeholder, value in values.items()}
    if also_json:
        for value, placeholder in list(names.items()):
            names.setdefault(as_json(value), placeholder)
            names.setdefault(json.dumps(value)[1:-1], placeholder)
    return _few(names) if len(names) <= FEW else _many(names)


def _few(names: Mapping[str, str]) -> Callable[[str], str]:
    # The longest first: one value may be the beginning of another.
    pattern = re.compile("|".join(map(_literal, sorted(names, key=len, reverse=True))))

    def exchange(text: str) -> str:
        # Most texts have none: to look for each is far cheaper than to look for any at each place.
        if not any(value in text for value in names):
            return text
        return pattern.sub(lambda match: names[match[0]], text)

    return exchange


def _many(names: Mapping[str, str]) -> Callable[[str], str]:
    """A pattern of thousands of words tries them all at each place; here a place is looked up, by its first letters and by how long
    the values are that begin so."""
    size = min(4, *map(len, names))
    lengths: dict[str, list[int]] = {}
    for length, beginning in sorted({(len(value), value[:size]) for value in names}, reverse=True):
        lengths.setdefault(beginning, []).append(length)

    def exchange(text: str) -> str:
        pieces: list[str] = []
        done = at = 0
        while at < len(text):
            for length in lengths.get(text[at : at + size], ()):
                value = text[at : at + length]
                if value in names and _stands(value, text, at):
                    pieces += (text[done:at], names[value])
                    done = at = at + length
                    break
            else:
                at += 1
        return "".join([*pieces, text[done:]]) if pieces else text

    return exchange


def _stands(value: str, text: str, at: int) -> bool:
    """Whether a short value is a word of its own there; a longer one need not be."""
    return len(value) >= SHORT or re.compile(_literal(value)).match(text, at) is not None


def _literal(value: str) -> str:
    escaped = re.escape(value)
    return escaped if len(value) >= SHORT else rf"(?<!\w){escaped}(?!\w)"


def redact(
    text: str, kinds: Sequence[str] = KINDS, patterns: Mapping[str, str] | None = None
) -> tuple[str, dict[str, str]]:
    """`text` without values of `kinds` and `patterns`, and what its placeholders stand for.

    Raises:
        ValueError: See `Redactor`.
    """
    values = Redactor(tuple(kinds), patterns or {}).values([text])
    return exchanger(values)(text), values


def as_json(value: str) -> str:
    """`value` as it stands inside a JSON string."""
    return json.dumps(value, ensure_ascii=False)[1:-1]


def restore(text: str, values: Values, *, encode: Callable[[str], str] = str) -> str:
    """`text` with its placeholders exchanged for what they stand for, once; others stay.

    Args:
        encode: How a value is written: `as_json` where `text` is JSON.
    """
    if not values or "[" not in text:
        return text

    def put_back(match: re.Match[str]) -> str:
        value = values.get(match[0])
        return match[0] if value is None else encode(value)

    return PLACEHOLDER.sub(put_back, text)


def beginnings(values: Values) -> frozenset[str]:
    """With what a placeholder of `values` may begin, short of the whole."""
    return frozenset(name[:end] for name in values for end in range(1, len(name)))


class Restorer:
    """`restore` of a text that comes in pieces: whatever the pieces, the same text comes out.

    Kept back is only the end of a piece with which a placeholder of `values` may begin.
    """

    __slots__ = ("_beginnings", "_encode", "_held", "_longest", "_values")

    def __init__(self, values: Values, *, encode: Callable[[str], str] = str) -> None:
        self._values = values
        self._encode = encode
        self._longest = max(map(len, values), default=0)
        self._beginnings = beginnings(values)
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be said once `piece` has come."""
        text = self._held + piece
        at = text.rfind("[", -self._longest + 1 if self._longest > 1 else len(text))
        if at >= 0 and text[at:] in self._beginnings:
            self._held = text[at:]
            text = text[:at]
        else:
            self._held = ""
        return restore(text, self._values, encode=self._encode)

    def close(self) -> str:
        """What was kept back, once nothing more comes."""
        held, self._held = self._held, ""
        return held
