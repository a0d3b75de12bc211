"""What became of each row: a JSON Lines file that is only appended to, so that a run that is killed goes on where it was.

A row's last line counts. What a kill leaves half written is cut off when the file is opened again. In memory there are 17 bytes a row,
however long the answers are.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from array import array
from pathlib import Path
from typing import IO

import msgspec

from headrace.errors import InvalidRequest

__all__ = ["NO_VALUE", "Journal", "Line"]

_UNDONE, _OK, _FAILED = 0, 1, 2


NO_VALUE = msgspec.Raw()
"""Left out of the file: it is known by being this very object."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one row, as it stands in the file.

    Attributes:
        row: Its number, from 0; `id` is the row's own `id` or `custom_id`.
        input: A digest of what was asked; another one means that the rows or the question have changed.
        text: The answer, where no form was asked for; `value` the answer's JSON where one was.
        reason: Why it failed, as the error's kind; `message` in words.
        cost_nano: Nano-dollars over all of its attempts, None where unknown. `attempts` counts the requests that were sent.
    """

    row: int
    ok: bool
    input: str
    id: str | None = None
    text: str | None = None
    value: msgspec.Raw = NO_VALUE
    finish: str | None = None
    target: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    reason: str | None = None
    message: str | None = None
    cost_nano: int | None = None
    attempts: int = 0
    request_id: str | None = None


_decoder = msgspec.json.Decoder(Line)


class Journal:
    """The file at `path`, or one of its own that is gone when it is closed.

    Raises:
        InvalidRequest: It cannot be written, is another run's at this moment, or is no journal.
    """

    __slots__ = (
        "_end",
        "_file",
        "_inputs",
        "_offsets",
        "_state",
        "cost",
        "failed",
        "ok",
        "path",
        "reasons",
        "unpriced",
    )

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._state = bytearray()
        self._inputs = array("Q")
        self._offsets = array("Q")
        self.ok = self.failed = self.cost = self.unpriced = 0
        self.reasons: dict[str, int] = {}
        self._file: IO[bytes] = self._open()
        self._end = 0
        try:
            self.lock()
            self._scan()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> IO[bytes]:
        if self.path is None:
            return tempfile.TemporaryFile("w+b")
        try:
            file = self.path.open("a+b")
        except OSError as error:
            raise InvalidRequest(
                f"{str(self.path)!r} cannot be written: {error.strerror}", param="resume"
            ) from None
        return file

    def lock(self) -> None:
        """Be the only one who writes, until `unlock`. Raises `InvalidRequest` when another run is."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidRequest(f"another run is writing {str(self.path)!r}", param="resume") from None

    def unlock(self) -> None:
        """Let others write."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def _scan(self) -> None:
        """Read what is there; a last line that a kill cut off is taken away."""
        self._file.seek(0)
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):
                break
            try:
                line = _decoder.decode(raw)
            except (msgspec.DecodeError, RecursionError) as error:
                raise InvalidRequest(
                    f"{str(self.path)!r}, line {number} is not of a batch: {error}", param="resume"
                ) from None
            self._note(line, self._end)
            self._end += len(raw)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _note(self, line: Line, offset: int) -> None:
        missing = line.row + 1 - len(self._state)
        if missing > 0:
            self._state.extend(bytes(missing))
            self._inputs.extend([0] * missing)
            self._offsets.extend([0] * missing)
        if self._state[line.row] == _FAILED:
            before = self[line.row].reason or ""
            self.failed -= 1
            self.reasons[before] -= 1
        elif self._state[line.row] == _OK:
            self.ok -= 1
        self._state[line.row] = _OK if line.ok else _FAILED
        self._inputs[line.row] = int(line.input, 16)
        self._offsets[line.row] = offset
        self.ok += line.ok
        self.failed += not line.ok
        if not line.ok:
            self.reasons[line.reason or ""] = self.reasons.get(line.reason or "", 0) + 1
        self.cost += line.cost_nano or 0
        self.unpriced += line.cost_nano is None

    def __len__(self) -> int:
        return self.ok + self.failed

    def __getitem__(self, row: int) -> Line:
        """Raises `KeyError` for a row that is not done."""
        if row >= len(self._state) or not self._state[row]:
            raise KeyError(row)
        here = self._file.tell()
        self._file.seek(self._offsets[row])
        line = _decoder.decode(self._file.readline())
        self._file.seek(here)
        return line

    def done(self, row: int, asked: str, *, failed_too: bool) -> bool:
        """Whether the row need not be asked; `failed_too`: one that failed need not either.

        Raises:
            InvalidRequest: It was asked, and something else.
        """
        state = self._state[row] if row < len(self._state) else _UNDONE
        if state == _UNDONE:
            return False
        if self._inputs[row] != int(asked, 16):
            raise InvalidRequest(
                f"row {row} is not what {str(self.path)!r} has the answer to: the rows, the prompt or the settings of the run have "
                "changed; write to another file",
                param="resume",
            )
        return state == _OK or failed_too

    def rows(self) -> range:
        """The numbers of all rows up to the last that is done."""
        return range(len(self._state))

    def has(self, row: int) -> bool:
        """Whether the row is done."""
        return row < len(self._state) and self._state[row] != _UNDONE

    def write(self, line: Line) -> None:
        """One more line; the operating system has it on return, so that a kill does not lose it."""
        raw = msgspec.json.encode(line) + b"\n"
        self._note(line, self._end)
        self._file.seek(self._end)
        self._file.write(raw)
        self._file.flush()
        self._end += len(raw)

    def sync(self) -> None:
        """Have it on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # it may be that it was never opened
            self._file.close()
