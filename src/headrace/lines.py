"""Where each key of a TOML text stands, for messages that name the line: `tomllib` gives values without places."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import TypeAlias

__all__ = ["KeyPath", "key_lines"]

KeyPath: TypeAlias = tuple[str | int, ...]
"""Names of tables and keys, positions in arrays: `("routes", "smart", "cascade", 1, "target")`."""


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each table, key and element of an array in `text`; pure.

    `text` must be TOML that `tomllib` accepts. No values are made here: it is only found where keys begin and values end.
    """
    return _Scanner(text).scan()


class _Scanner:
    _BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
    _SPACE = re.compile(r"[ \t]*")
    _BARE = re.compile(r"[A-Za-z0-9_-]+")
    _SCALAR = re.compile(r"[^,\]}#\r\n]*")
    # Up to two more quotes may stand before the closing three.
    _STRING = re.compile(
        r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:\'{0,2})|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'',
        re.DOTALL,
    )

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.lines: dict[KeyPath, int] = {}
        self.counts: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip(self._BLANK) < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _line(self) -> int:
        return bisect_right(self.starts, self.at)

    def _skip(self, what: re.Pattern[str]) -> int:
        match = what.match(self.text, self.at)
        assert match is not None, "not TOML"
        self.at = match.end()
        return self.at

    def _take(self, what: re.Pattern[str]) -> str:
        start = self.at
        return self.text[start : self._skip(what)]

    def _header(self) -> KeyPath:
        line, array = self._line(), self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        parts = self._key()
        self.at += 2 if array else 1
        path: KeyPath = ()
        for number, part in enumerate(parts, start=1):
            path = (*path, part)
            if number == len(parts):
                self.lines[path] = line
                if array:
                    self.counts[path] = self.counts.get(path, 0) + 1
            self.lines.setdefault(path, line)
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(self._SPACE)
            if self.text[self.at] in "\"'":
                quoted = self._take(self._STRING)
                parts.append(str(tomllib.loads(f"k = {quoted}")["k"]) if "\\" in quoted else quoted[1:-1])
            else:
                parts.append(self._take(self._BARE))
            self._skip(self._SPACE)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.at += 1  # =
        self._skip(self._SPACE)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        match self.text[self.at]:
            case '"' | "'":
                self._skip(self._STRING)
            case "[":
                self.at += 1
                index = 0
                while self.text[self._skip(self._BLANK)] != "]":
                    self.lines[(*path, index)] = self._line()
                    self._value((*path, index))
                    index += 1
                    self._comma()
                self.at += 1
            case "{":
                self.at += 1
                while self.text[self._skip(self._BLANK)] != "}":
                    self._pair(path)
                    self._comma()
                self.at += 1
            case _:
                self._skip(self._SCALAR)

    def _comma(self) -> None:
        if self.text[self._skip(self._BLANK)] == ",":
            self.at += 1
