"""Finds the JSON in what a model wrote around and into it, without ever guessing a value.

`candidates` gives every JSON value that the text can be read as, each as strict JSON text with the names of the repairs that were
made. Numbers and well-formed strings keep their own characters. What would need a guess is not repaired: a value that is cut,
a quote inside a string, a key that stands twice, an unknown escape, `NaN`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["MAX_DEPTH", "Candidate", "Unrepairable", "candidates"]

MAX_DEPTH = 128
"""The deepest nesting that is read; above any real answer, far below what overflows a recursive parser."""

MAX_STARTS = 32
"""Brackets in prose that are tried as the beginning of a value, so that hostile text costs a bounded time."""


class Unrepairable(ValueError):
    """No JSON value can be read without a guess; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value as strict JSON text, and what was repaired to get it (`fence`, `extra text`, `comment`, `trailing comma`,
    `quotes`, `keys`, `literal`, `control character`)."""

    text: str
    steps: tuple[str, ...]


_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_FENCE = re.compile(r"\A\s*```[A-Za-z0-9_-]*[ \t]*\r?\n?(.*?)\r?\n?[ \t]*```\s*\Z", re.DOTALL)
_FENCES_ONLY = re.compile(r"(?:\s*```[A-Za-z0-9_-]*)?\s*")
_START = re.compile(r"[{\[]")


def candidates(text: str) -> list[Candidate]:
    """The values that `text` can be read as, in order; one or more.

    Raises:
        Unrepairable: There is none.
    """
    steps: list[str] = []
    if (thinking := _THINKING.match(text)) is not None:
        text = text[thinking.end() :]
        steps.append("extra text")
    if (fenced := _FENCE.match(text)) is not None and "```" not in fenced[1]:
        text = fenced[1]
        steps.append("fence")
    text = text.strip().removeprefix("\ufeff")
    found, outside, failure = _bracketed(text)
    if found:
        if "".join(outside).strip():
            steps.append("fence" if all(_FENCES_ONLY.fullmatch(part) for part in outside) else "extra text")
        return [Candidate(candidate.text, _unique(steps, candidate.steps)) for candidate in found]
    reader = _Reader(text, 0)
    try:
        value = reader.value(0)
        reader.space()
    except Unrepairable as error:
        raise Unrepairable(failure or str(error)) from None
    if reader.at != len(text):
        raise Unrepairable(failure or "there is no JSON value in the answer")
    return [Candidate(value, _unique(steps, reader.steps))]


def _bracketed(text: str) -> tuple[list[Candidate], list[str], str]:
    """The objects and arrays in `text`, what stands around them, and why the first bracket that is none is none.

    Raises:
        Unrepairable: One of them is broken, or they are parts of something that is: a part must not pass for the whole.
    """
    found: list[Candidate] = []
    outside: list[str] = []
    failure = ""
    at, last = 0, 0
    for _ in range(MAX_STARTS):
        start = _START.search(text, at)
        if start is None:
            break
        reader = _Reader(text, start.start())
        try:
            value = reader.value(0)
        except Unrepairable as error:
            if reader.began:
                raise
            failure = failure or str(error)
            at = _closed(text, start.start())
            if at < 0:
                raise
            continue
        before, at = text[last : start.start()], reader.at
        if _MEMBER.search(before) is not None or _GOES_ON.match(text, at) is not None:
            raise Unrepairable(
                f"the value at character {start.start()} is a part of something that is not JSON"
            )
        outside.append(before)
        found.append(Candidate(value, tuple(reader.steps)))
        last = at
    outside.append(text[last:])
    return found, outside, failure


_MEMBER = re.compile(r"[\"'\u201d]\s*:\s*\Z")
_GOES_ON = re.compile(r"\s*,\s*[\"'{\[]")
_BRACKETS = re.compile(r"[{}\[\]]")


def _closed(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`, whatever stands between; -1 if none does."""
    depth = 0
    for bracket in _BRACKETS.finditer(text, start):
        depth += 1 if bracket[0] in "{[" else -1
        if depth == 0:
            return bracket.end()
    return -1


def _unique(*groups: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(step for group in groups for step in group))


_SPACE = re.compile(r"[ \t\r\n\ufeff\u00a0]+")
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_LITERALS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
}
_CLOSING = {'"': '"', "'": "'", "\u201c": "\u201d"}
_PLAIN = {quote: re.compile(rf"[^{re.escape(close)}\\]*") for quote, close in _CLOSING.items()}
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_CONTROL = re.compile(r"[\x00-\x1f]")


class _Reader:
    """Reads one value and writes it as strict JSON. `began`: a key or an element was read, so that this is JSON and not prose."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at
        self.began = False
        self.steps: dict[str, None] = {}

    def value(self, depth: int) -> str:
        """The value that begins here."""
        if depth > MAX_DEPTH:
            self.began = True
            raise Unrepairable(f"the JSON nests deeper than {MAX_DEPTH} levels")
        self.space()
        text, at = self.text, self.at
        first = text[at : at + 1]
        if first == "{":
            return self._members(depth)
        if first == "[":
            return self._elements(depth)
        if first in _CLOSING:
            self.began = self.began or depth > 0
            return self._string(first)
        if (number := _NUMBER.match(text, at)) is not None:
            self.at = number.end()
            self._delimited("number")
            return number[0]
        if (word := _WORD.match(text, at)) is not None and word[0] in _LITERALS:
            self.at = word.end()
            self._delimited("word")
            literal = _LITERALS[word[0]]
            if literal != word[0]:
                self._step("literal")
            return literal
        raise self._wrong("a value")

    def space(self) -> None:
        """Skip white space and comments."""
        while True:
            if (found := _SPACE.match(self.text, self.at)) is not None:
                self.at = found.end()
            elif (found := _COMMENT.match(self.text, self.at)) is not None:
                self.at = found.end()
                self._step("comment")
            else:
                return

    def _members(self, depth: int) -> str:
        self.at += 1
        written: list[str] = []
        keys: set[str] = set()
        while not self._closes("}", bool(written)):
            key = self._key()
            self.space()
            if self.text[self.at : self.at + 1] != ":":
                raise self._wrong("':'")
            self.at += 1
            self.began = True
            name = json.loads(key)
            if name in keys:
                raise Unrepairable(f"the key {key} stands twice in one object")
            keys.add(name)
            written.append(f"{key}:{self.value(depth + 1)}")
        return "{" + ",".join(written) + "}"

    def _elements(self, depth: int) -> str:
        self.at += 1
        written: list[str] = []
        while not self._closes("]", bool(written)):
            written.append(self.value(depth + 1))
            self.began = True
        return "[" + ",".join(written) + "]"

    def _closes(self, bracket: str, after_one: bool) -> bool:
        """Whether the container ends here; takes the comma before another member or element."""
        self.space()
        here = self.text[self.at : self.at + 1]
        if here == bracket:
            self.at += 1
            return True
        if not after_one:
            return False
        if here != ",":
            raise self._wrong(f"',' or '{bracket}'")
        self.at += 1
        self.space()
        if self.text[self.at : self.at + 1] == bracket:
            self._step("trailing comma")
            self.at += 1
            return True
        return False

    def _key(self) -> str:
        first = self.text[self.at : self.at + 1]
        if first in _CLOSING:
            self.began = True  # prose has no quote right behind a brace
            return self._string(first)
        if (word := _WORD.match(self.text, self.at)) is not None:
            self.at = word.end()
            self._step("keys")
            return json.dumps(word[0])
        raise self._wrong("a key")

    def _string(self, quote: str) -> str:
        close, plain = _CLOSING[quote], _PLAIN[quote]
        if quote != '"':
            self._step("quotes")
        pieces: list[str] = []
        start, self.at = self.at, self.at + 1
        while True:
            found = plain.match(self.text, self.at)
            assert found is not None  # it may be empty
            piece = found[0]
            if _CONTROL.search(piece) is not None:
                self._step("control character")
                piece = _CONTROL.sub(lambda control: json.dumps(control[0])[1:-1], piece)
            pieces.append(piece.replace('"', '\\"') if quote != '"' else piece)
            self.at = found.end()
            here = self.text[self.at : self.at + 1]
            if here == close:
                self.at += 1
                return '"' + "".join(pieces) + '"'
            if not here:
                self.began = True
                raise Unrepairable(f"the string at character {start} is cut at the end")
            if (escape := _ESCAPE.match(self.text, self.at)) is not None:
                pieces.append(escape[0])
                self.at = escape.end()
            elif self.text[self.at + 1 : self.at + 2] == "'":
                self._step("quotes")
                pieces.append("'")
                self.at += 2
            else:
                self.began = True
                raise Unrepairable(f"the escape at character {self.at} is not one of JSON's")

    def _delimited(self, what: str) -> None:
        """A number or word ends at a delimiter, not at the end of a text that may be cut, nor inside another word."""
        here = self.text[self.at : self.at + 1]
        if here and here not in ",]}: \t\r\n/#\u00a0":
            raise self._wrong(f"the end of a {what}")

    def _step(self, name: str) -> None:
        self.steps[name] = None

    def _wrong(self, wanted: str) -> Unrepairable:
        if self.at >= len(self.text):
            return Unrepairable(f"the JSON is cut at its end, where {wanted} should be")
        near = self.text[self.at : self.at + 20]
        return Unrepairable(f"{wanted} expected at character {self.at}, not {near!r}")
