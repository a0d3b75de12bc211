"""The rows of a batch: from memory or a file, one after the other, never all at once."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from headrace.errors import InvalidRequest

__all__ = ["TEXT", "Row", "Rows", "asked", "digest", "template"]

Row: TypeAlias = Mapping[str, Any]

FILE = "file"

TEXT = "{text}"
"""The prompt of rows that are texts, where none is given."""

_NAME = re.compile(r"\{\{|\}\}|\{(\w+)\}")


class Rows:
    """Rows that can be read again and again: a sequence, or a `.jsonl`, `.csv` or `.txt` file. A row that is a text is `{"text": ...}`, one that is
    the path of a file (an image, a PDF, a text) `{"file": ...}`.

    An iterator is read once, and cannot be resumed from or retried.

    Raises:
        InvalidRequest: The file cannot be read, or its kind is not known.
    """

    __slots__ = ("_iterator", "_path", "_rows")

    def __init__(self, rows: Iterable[object] | str | Path) -> None:
        self._path: Path | None = None
        self._rows: Sequence[object] = ()
        self._iterator: Iterator[object] | None = None
        if isinstance(rows, str | Path):
            self._path = Path(rows)
            if self._path.suffix not in (".jsonl", ".csv", ".txt"):
                raise InvalidRequest(
                    f"rows are read from .jsonl, .csv or .txt files, not {str(rows)!r}", param="rows"
                )
            if not self._path.is_file():
                raise InvalidRequest(f"there is no file {str(rows)!r}", param="rows")
        elif isinstance(rows, Sequence):
            self._rows = rows
        else:
            self._iterator = iter(rows)

    def __iter__(self) -> Iterator[Row]:
        if self._iterator is not None:
            iterator, self._iterator = self._iterator, iter(())
            return map(_row, iterator, _numbers())
        return map(_row, self._rows if self._path is None else _read(self._path), _numbers())

    @property
    def total(self) -> int | None:
        """How many there are; None for an iterator. A file is read through for it."""
        if self._iterator is not None:
            return None
        return len(self._rows) if self._path is None else sum(1 for _ in _read(self._path))

    @property
    def again(self) -> bool:
        """Whether they can be read once more."""
        return self._path is not None or self._iterator is None


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _row(row: object, number: int) -> Row:
    if isinstance(row, str):
        return {"text": row}
    if isinstance(row, Path):
        return {FILE: row}
    if isinstance(row, Mapping):
        return row
    raise InvalidRequest(
        f"row {number} is a {type(row).__name__}: rows are mappings, texts or paths", param="rows"
    )


def _read(path: Path) -> Iterator[object]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            match path.suffix:
                case ".csv":
                    yield from csv.DictReader(file)
                case ".txt":
                    yield from (line.rstrip("\r\n") for line in file if line.strip())
                case _:
                    for number, line in enumerate(file, 1):
                        if line.strip():
                            yield _decoded(line, path, number)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{str(path)!r} cannot be read: {error}", param="rows") from None


def _decoded(line: str, path: Path, number: int) -> object:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"{path}, line {number} is not JSON: {error}", param="rows") from None
    if not isinstance(row, dict | str):
        raise InvalidRequest(f"{path}, line {number} is no JSON object", param="rows")
    return row


def digest(job: str, row: Row) -> str:
    """16 hexadecimal digits of what a row asks, with `job` for everything that all rows share."""
    try:
        said = msgspec.json.encode([job, row], order="sorted", enc_hook=_told)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"a row has no JSON form: {error}", param="rows") from None
    return hashlib.sha256(said).hexdigest()[:16]


def _told(value: object) -> str:
    """A file is another one when its size or its time is."""
    if not isinstance(value, Path):
        return str(value)
    try:
        about = value.stat()
    except OSError as error:
        raise InvalidRequest(f"{str(value)!r} cannot be read: {error.strerror}", param="rows") from None
    return f"{value} {about.st_size} {about.st_mtime_ns}"


def asked(prompt: str) -> Callable[[Row], str | list[str | Path]]:
    """What a row is asked by a template: its text, and behind it the file where the row is one."""
    fill = template(prompt)

    def ask(row: Row) -> str | list[str | Path]:
        file = row.get(FILE)
        if not isinstance(file, Path):
            return fill(row)
        words = "" if prompt == TEXT else fill(row)
        return [*((words,) if words else ()), file]

    return ask


def template(text: str) -> Callable[[Row], str]:
    """`Summarise: {text}` as a function of a row. `{{` and `}}` are braces; only plain names stand between single ones."""

    def fill(row: Row) -> str:
        def put(found: re.Match[str]) -> str:
            name = found[1]
            if name is None:
                return found[0][0]
            if name not in row:
                raise InvalidRequest(
                    f"the prompt needs {name!r}; the row has {', '.join(map(repr, row)) or 'nothing'}",
                    param="prompt",
                )
            return str(row[name])

        return _NAME.sub(put, text)

    return fill
