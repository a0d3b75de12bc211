"""What a process wrote down before its store has taken it in: append-only files beside the database.

A write into an open file takes two microseconds, and from then on the kernel has it: the death of the process cannot take it back. A
commit takes a thread, a lock and a sync. So the event loop writes here before an attempt is sent and before the last byte of its answer
is released, and the database follows in groups. What is here and not there is taken in by whoever opens the
database next (`headrace.store.recovery`).

A process has one journal, a lock on it as long as it lives, and one or two files of it: when one grows over `ROTATE_BYTES` the
next begins with what is still open. A frame is its length, its CRC-32, its kind and its payload; the first that does not
check is where the file was torn.

Nothing is synced: a power cut may take what is younger than the last commit. The header has the boot's id, so that a
journal from before one is not taken for complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from headrace.budget.leases import Charge, Hold, Slot
from headrace.store.rows import AttemptRow, StoredRequest

__all__ = [
    "Abandoned",
    "Charged",
    "Ended",
    "Entry",
    "Held",
    "Journal",
    "Started",
    "abandoned",
    "journal_ids",
    "lives",
]

ROTATE_BYTES = 4 << 20
"""Some ten thousand requests; read back in a fraction of a second."""

_FRAME = struct.Struct("<II")
_MAGIC = b"headrace ledger 1\n"


class Started(msgspec.Struct, frozen=True, array_like=True):
    """An attempt is about to be sent. `row` is what the ledger says if nothing more is heard of it; `holds` is what it has
    reserved, and `worker` for whom."""

    row: AttemptRow
    worker: str
    holds: tuple[Hold, ...]


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """An attempt with what it means for the budgets: the two are never parted."""

    row: AttemptRow
    worker: str
    charges: tuple[Charge, ...]


class Charged(msgspec.Struct, frozen=True, array_like=True):
    """What a worker reports to the budgets (`Store.settle`)."""

    worker: str
    charges: tuple[Charge, ...]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """All that is reserved under a counter, at the beginning of a file that continues another."""

    worker: str
    slot: Slot
    amount: int


Entry: TypeAlias = Started | Ended | AttemptRow | StoredRequest | Charged | Held

_KINDS: dict[bytes, type] = {
    b"B": Started,
    b"E": Ended,
    b"A": AttemptRow,
    b"R": StoredRequest,
    b"C": Charged,
    b"H": Held,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_DECODERS: dict[bytes, msgspec.msgpack.Decoder[Any]] = {
    name: msgspec.msgpack.Decoder(kind) for name, kind in _KINDS.items()
}
_encode = msgspec.msgpack.Encoder().encode


def _frame(entry: Entry) -> bytes:
    try:
        payload = _NAMES[type(entry)] + _encode(entry)
    except UnicodeEncodeError:  # lone surrogates
        payload = _NAMES[type(entry)] + _encode(_clean(msgspec.to_builtins(entry)))
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _clean(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value


AttemptKey: TypeAlias = tuple[str, float, int]


class _Open:
    """What has begun and not ended."""

    def __init__(self) -> None:
        self.attempts: dict[AttemptKey, Started] = {}
        self.held: dict[str, dict[Slot, int]] = defaultdict(dict)

    def note(self, entry: Entry) -> None:
        match entry:
            case Started(row=row, worker=worker, holds=holds):
                self.attempts[row.request_id, row.call_wall, row.number] = entry
                for hold in holds:
                    self._add(worker, (hold.cap, hold.start), hold.need)
            case AttemptRow():
                self._end(entry)
            case Ended(row=row, worker=worker, charges=charges):
                self._end(row)
                self._settle(worker, charges)
            case Charged(worker=worker, charges=charges):
                self._settle(worker, charges)
            case Held(worker=worker, slot=slot, amount=amount):
                self.held[worker][slot] = amount
            case StoredRequest():
                pass

    def _end(self, row: AttemptRow) -> None:
        self.attempts.pop((row.request_id, row.call_wall, row.number), None)

    def _settle(self, worker: str, charges: Sequence[Charge]) -> None:
        for charge in charges:
            self._add(worker, (charge.cap, charge.start), -charge.need)

    def _add(self, worker: str, slot: Slot, amount: int) -> None:
        if amount:
            held = self.held[worker]
            held[slot] = held.get(slot, 0) + amount
            if held[slot] <= 0:
                del held[slot]

    def entries(self) -> Iterator[Entry]:
        """What says the same at the beginning of another file. What the attempts hold is in the sums."""
        for started in self.attempts.values():
            yield msgspec.structs.replace(started, holds=())
        for worker, slots in self.held.items():
            for slot, amount in slots.items():
                yield Held(worker, slot, amount)


class Journal:
    """One process's journal beside `database`. Its owner appends from one thread at a time.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, database: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self._database = database
        self._rotate_bytes = rotate_bytes
        self._open = _Open()
        self._generation = 0
        self._size = 0
        while True:
            self.id = secrets.token_hex(6)
            self._file = self._make()
            # Somebody who looks for abandoned journals may have seen it before it was locked.
            if self._file is not None:
                break

    @property
    def name(self) -> str:
        """The name of the file that is appended to."""
        return _name(self._database, self.id, self._generation)

    @property
    def idle(self) -> bool:
        """Whether nothing is open."""
        return not self._open.attempts and not any(self._open.held.values())

    def _make(self) -> int | None:
        path = self._database.with_name(self.name)
        file = os.open(
            path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink == 0:
                raise BlockingIOError
            header = _MAGIC + _boot() + b"\n"
            self._write(file, header, 0)
            self._size = len(header)
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        return file

    @staticmethod
    def _write(file: int, data: bytes, size: int) -> None:
        try:
            written = os.write(file, data)
        except OSError:
            os.ftruncate(file, size)
            raise
        if written != len(data):
            os.ftruncate(file, size)
            raise OSError(errno.ENOSPC, "no space left for the journal")

    def append(self, entry: Entry) -> int:
        """Write it; the kernel has it on return. Gives the position after it in the file called `name`.

        Raises:
            OSError: It could not be written, and nothing of it was; ENOSPC, EFBIG and the like.
        """
        assert self._file is not None
        data = _frame(entry)
        self._write(self._file, data, self._size)
        self._size += len(data)
        self._open.note(entry)
        return self._size

    def rotate(self) -> str | None:
        """Go on in a new file once this one is long: the name of the old one, to be removed when the database has all of it. None where
        there is nothing to do, or the new one cannot be made now."""
        if self._size < self._rotate_bytes:
            return None
        old, old_file, old_size = self.name, self._file, self._size
        self._generation += 1
        data = b"".join(map(_frame, self._open.entries()))
        file = None
        try:
            file = self._make()
            if file is None:
                raise BlockingIOError
            self._write(file, data, self._size)
        except OSError:
            if file is not None:
                os.close(file)
            self._database.with_name(self.name).unlink(missing_ok=True)
            self._generation -= 1
            self._size = old_size
            return None
        self._file = file
        self._size += len(data)
        assert old_file is not None
        # Its lock goes too; the new file's holds for the journal.
        os.close(old_file)
        return old

    def close(self, *, remove: bool) -> None:
        """Let go of it; idempotent. `remove` when the database has all of it and nothing is open."""
        if self._file is not None:
            if remove:
                self._database.with_name(self.name).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


class Abandoned:
    """A journal whose process is dead, locked by us until `close`."""

    def __init__(self, id_: str, files: Sequence[tuple[Path, int]]) -> None:
        self.id = id_
        self._files = files
        self.torn = 0
        self.complete = True

    @property
    def names(self) -> list[str]:
        """Its files, the oldest first."""
        return [path.name for path, _ in self._files]

    def read(
        self, positions: dict[str, int]
    ) -> tuple[list[Entry], list[Started], dict[str, dict[Slot, int]]]:
        """What the database has not taken in, the attempts that never ended, and what each worker had reserved.

        Sets `torn`, the bytes after the last whole frame, and `complete`: whether nothing can be missing, since the machine has
        run on.

        Args:
            positions: How far the database has each file; -1 for all of it.
        """
        new: list[Entry] = []
        open_ = _Open()
        for path, file in self._files:
            position = positions.get(path.name, 0)
            data, boot = _contents(file), _boot()
            at = data.find(b"\n", len(_MAGIC)) + 1 if data.startswith(_MAGIC) else 0
            if at == 0:
                self.complete = False
                self.torn += len(data)
                continue
            self.complete = self.complete and boot != b"" and data[len(_MAGIC) : at - 1] == boot
            for entry, end in _entries(data, at):
                at = end
                open_.note(entry)
                if position != -1 and end > position and not isinstance(entry, Started | Held):
                    new.append(entry)
            self.torn += len(data) - at
        return new, list(open_.attempts.values()), open_.held

    def close(self, *, remove: bool) -> None:
        """Let go of the files, and `remove` them."""
        try:
            for path, _ in self._files if remove else ():
                path.unlink(missing_ok=True)
        finally:
            for _, file in self._files:
                os.close(file)


def abandoned(database: Path) -> Iterator[Abandoned]:
    """The journals beside `database` whose processes are dead; each must be closed."""
    for id_ in sorted(journal_ids(database)):
        if (found := _lock(database, f"{database.name}{_INFIX}{id_}", id_)) is not None:
            yield found


def lives(database: Path, id_: str) -> bool:
    """Whether the process that has this journal lives; True while somebody else looks, too."""
    stem = f"{database.name}{_INFIX}{id_}"
    if not _files(database, stem):
        return False
    if (found := _lock(database, stem, id_)) is None:
        return bool(_files(database, stem))
    found.close(remove=False)
    return False


def journal_ids(database: Path) -> set[str]:
    """The journals beside `database`, of the living and the dead."""
    prefix = f"{database.name}{_INFIX}"
    return {
        path.name.removeprefix(prefix).partition(".")[0]
        for path in database.parent.glob(f"{_escaped(prefix)}*")
    }


def _lock(database: Path, stem: str, id_: str) -> Abandoned | None:
    paths = _files(database, stem)
    files: list[tuple[Path, int]] = []
    try:
        # The newest first: its owner locks it before it lets go of the others.
        for path in reversed(paths):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            files.insert(0, (path, file))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # What was removed meanwhile somebody else has taken in; what was added its owner goes on with.
        if _files(database, stem) != paths:
            raise FileNotFoundError(stem)
    except OSError:  # its owner lives, or somebody else has taken it
        for _, file in files:
            os.close(file)
        return None
    return Abandoned(id_, files) if files else None


def _files(database: Path, stem: str) -> list[Path]:
    return sorted(database.parent.glob(f"{_escaped(stem)}.*"), key=lambda path: int(path.suffix[1:]))


_INFIX: Literal["-ledger-"] = "-ledger-"


def _name(database: Path, id_: str, generation: int) -> str:
    return f"{database.name}{_INFIX}{id_}.{generation}"


def _escaped(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _contents(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "rb", closefd=False) as reader:
        return reader.read()


def _entries(data: bytes, at: int) -> Iterator[tuple[Entry, int]]:
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        start, end = at + _FRAME.size, at + _FRAME.size + length
        payload = data[start:end]
        if length < 1 or end > len(data) or zlib.crc32(payload) != checksum:
            return
        decoder = _DECODERS.get(payload[:1])
        if decoder is None:
            return
        try:
            entry: Entry = decoder.decode(payload[1:])
        except msgspec.MsgspecError:
            return
        yield entry, end
        at = end


def _boot() -> bytes:
    """What changes when the machine starts; empty where nobody says, and then nothing is taken for complete."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return b""
