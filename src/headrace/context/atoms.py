"""What may be sent alone: turns that belong together, and what a broken history lacks; pure.

Providers refuse a tool result without its call, a call without its result, and an empty message. `mend` finds those: its findings
depend on the turns alone, so mending what is mended finds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from headrace.context.log import Turn, is_bound
from headrace.types import Text, ToolResult

__all__ = ["Mend", "atoms", "mend", "only_thinks"]


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


def mend(turns: Sequence[Turn]) -> dict[int, Mend]:
    """What is broken in `turns`, by turn id. Nothing is found in turns that every provider takes.

    A result counts only directly behind the message with its call, in the run of result-bearing turns there; the first one wins.
    """
    found: dict[int, Mend] = {}
    waiting: list[str] = []
    caller = -1
    for turn in turns:
        results = turn.results
        if not results and waiting:
            found[caller] = Mend(turn=caller, missing=tuple(waiting))
            waiting = []
        if results:
            orphans = []
            for position, call in enumerate(results):
                if call in waiting:
                    waiting.remove(call)
                else:
                    orphans.append(position)
            if orphans:
                rest = [block for block in turn.blocks if not isinstance(block, ToolResult)]
                whole = len(orphans) == len(results) and not rest
                found[turn.id] = Mend(
                    turn=turn.id, drop="a result without its call" if whole else "", orphans=tuple(orphans)
                )
            if turn.role == "user" and waiting:
                found[caller] = Mend(turn=caller, missing=tuple(waiting))
                waiting = []
        elif turn.calls:
            waiting, caller = list(turn.calls), turn.id
        elif turn.empty and turn.role == "assistant":
            found[turn.id] = Mend(turn=turn.id, drop="empty")
        elif turn.empty and turn.role == "user":
            found[turn.id] = Mend(turn=turn.id, blank=True)
    if waiting:
        found[caller] = Mend(turn=caller, missing=tuple(waiting))
    return found


def atoms(turns: Sequence[Turn]) -> list[tuple[int, ...]]:
    """The turns in groups that are kept or dropped together, as ids in order; pure.

    A system message is alone. Everything else belongs to the user's turn before it: the model's calls with their results, thinking with
    the calls it led to, the answer. What comes before the first user's turn is one group.
    """
    groups: list[list[int]] = []
    current: list[int] | None = None
    for turn in turns:
        if turn.role == "system":
            groups.append([turn.id])
        elif turn.opens or current is None:
            current = [turn.id]
            groups.append(current)
        else:
            current.append(turn.id)
    return [tuple(group) for group in groups]


def only_thinks(turn: Turn) -> bool:
    """Whether nothing is left of it without its bound thinking."""
    return all(
        is_bound(block) or (isinstance(block, Text) and not block.text.strip()) for block in turn.blocks
    )
