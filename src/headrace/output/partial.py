"""A JSON value while it is being written: what is certain of it so far, and the strings that are growing.

Provisional by its nature; a number or a word appears when it is complete. Every character is looked at once, and what is decoded
is decoded by msgspec, so that a long answer costs little more than its pieces.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = ["Partial"]

_BEGIN = re.compile(r"[{\[]")
_TOKEN = re.compile(r'["{}\[\],:\\]')


class Partial:
    """Takes pieces of text and gives the value so far; one object per answer.

    Text before the first bracket is skipped. What is not JSON stops the growth; it never raises.
    """

    __slots__ = ("_begun", "_closers", "_cut", "_escape", "_key", "_last", "_string", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._begun = False
        self._closers: list[str] = []
        self._cut = 0
        self._string = False
        self._escape = -1
        self._key = False
        self._last: Any = None

    def feed(self, piece: str) -> Any | None:
        """The value so far where `piece` made it another one, else None."""
        at = len(self._text)
        self._text += piece
        if not self._begun:
            found = _BEGIN.search(self._text)
            if found is None:
                return None
            self._text = self._text[found.start() :]
            self._begun, at = True, 0
        for token in _TOKEN.finditer(self._text, at):
            self._take(token[0], token.start())
        value = self._value()
        if value is None or value == self._last:
            return None
        self._last = value
        return value

    def _take(self, mark: str, at: int) -> None:
        if self._string:
            if at == self._escape + 1 and self._escape >= 0:
                return
            if mark == "\\":
                self._escape = at
            elif mark == '"':
                self._string = False
                if not self._key:
                    self._cut = at + 1
            return
        match mark:
            case '"':
                self._string = True
                self._escape = -1
            case "{" | "[":
                self._closers.append("}" if mark == "{" else "]")
                self._key = mark == "{"
                self._cut = at + 1
            case "}" | "]":
                if self._closers:
                    self._closers.pop()
                self._key = False
                self._cut = at + 1
            case ",":
                self._cut = at
                self._key = self._closers[-1:] == ["}"]
            case ":":
                self._key = False
            case _:
                pass

    def _value(self) -> Any | None:
        closers = "".join(reversed(self._closers))
        if self._string and not self._key:
            found = _decoded(self._text[: self._certain()] + '"' + closers)
            if found is not None:
                return found
        return _decoded(self._text[: self._cut] + closers) if self._cut else None

    def _certain(self) -> int:
        """Where the growing string ends, without an escape that may be cut."""
        end, escape = len(self._text), self._escape
        if escape < 0:
            return end
        length = 6 if self._text[escape + 1 : escape + 2] == "u" else 2
        return escape if end - escape < length else end


def _decoded(text: str) -> Any | None:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
