"""What a broken history lacks, so that a provider takes it; pure.

Providers refuse a tool result without its call, a call without its result, and an empty message. `Mender` finds those: its findings
depend on the turns alone, so mending what is mended finds nothing.
"""

from __future__ import annotations

from msgspec import Struct

from headrace.context.turn import Turn, is_bound
from headrace.types import Text, ToolResult

__all__ = ["Mend", "Mender", "only_thinks"]


class Mend(Struct, frozen=True, kw_only=True):
    """What must change in `turn` so that a provider takes the history.

    `drop` says why the whole turn goes, empty if it stays; `orphans` are positions of results, among the turn's results, whose
    call is not there or was answered before; `missing` are the calls that nobody answered, to be answered right after it; `blank`:
    it must be given a word. A user's empty turn is not dropped: the request that ended with it has been sent.
    """

    turn: int
    drop: str = ""
    orphans: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    blank: bool = False


class Mender:
    """Finds what is broken in turns as they come; nothing in turns that every provider takes.

    A result counts only directly behind the message with its call, in the run of result-bearing turns there; the first one wins.

    Attributes:
        found: What must change, by turn id. Of an earlier turn only that of `open` may still change.
        open: The turn whose calls are not all answered yet, None where none is.
    """

    __slots__ = ("_caller", "_waiting", "found")

    def __init__(self) -> None:
        self.found: dict[int, Mend] = {}
        self._waiting: list[str] = []
        self._caller = -1

    @property
    def open(self) -> int | None:
        return self._caller if self._waiting else None

    def copy(self) -> Mender:
        """One that goes on apart from this one."""
        mender = Mender()
        mender.found, mender._waiting, mender._caller = dict(self.found), list(self._waiting), self._caller
        return mender

    def add(self, turn: Turn) -> None:
        """Take in the next turn."""
        found, results = self.found, turn.results
        if results:
            orphans = []
            for position, call in enumerate(results):
                if call in self._waiting:
                    self._waiting.remove(call)
                else:
                    orphans.append(position)
            self._note()
            if orphans:
                rest = [block for block in turn.blocks if not isinstance(block, ToolResult)]
                whole = len(orphans) == len(results) and not rest
                found[turn.id] = Mend(
                    turn=turn.id, drop="a result without its call" if whole else "", orphans=tuple(orphans)
                )
            if turn.role == "user":
                self._waiting, self._caller = [], -1
            return
        self._waiting, self._caller = list(turn.calls), turn.id
        if turn.calls:
            self._note()
        elif turn.empty and turn.role == "assistant":
            found[turn.id] = Mend(turn=turn.id, drop="empty")
        elif turn.empty and turn.role == "user":
            found[turn.id] = Mend(turn=turn.id, blank=True)

    def _note(self) -> None:
        """The open calls are missing their answers until these come."""
        if self._waiting:
            self.found[self._caller] = Mend(turn=self._caller, missing=tuple(self._waiting))
        else:
            self.found.pop(self._caller, None)


def only_thinks(turn: Turn) -> bool:
    """Whether nothing is left of it without its bound thinking."""
    return all(
        is_bound(block) or (isinstance(block, Text) and not block.text.strip()) for block in turn.blocks
    )
