"""The values of a plan: what is sent of a log, in order, what became of every turn, and the state that the next plan starts from.

All are plain and frozen; `Plan` and `Period` can be stored as JSON. What decides is in `planner`, what writes messages from it in `pack`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

from msgspec import Struct

from headrace.context.summarize import Segment
from headrace.types import Message, Text, ToolResult

__all__ = [
    "BLANK",
    "MISSING",
    "Became",
    "Cleared",
    "Decision",
    "Insert",
    "Item",
    "Keep",
    "Note",
    "Period",
    "Plan",
    "Recalled",
    "Section",
    "Verdict",
    "answers_to",
]

BLANK = "[empty]"
"""What an empty message of the user says: several providers refuse one without text."""

MISSING = "[not recorded]"
"""What stands in for the result of a call that nobody answered."""


class Cleared(Struct, frozen=True):
    """The result at `position` among those of `turn` is sent as `text`; `saved` tokens are not sent."""

    turn: int
    position: int
    text: str
    saved: int


class Recalled(Struct, frozen=True):
    """A turn (its id) or a piece of a document (its name) that an insert quotes, and its score among those of its question."""

    what: int | str
    score: float


class Insert(Struct, frozen=True):
    """Text that is put before the user's words of `turn`, and stays there until the next compaction."""

    turn: int
    text: str
    tokens: int
    recalled: tuple[Recalled, ...]


class Period(Struct, frozen=True, kw_only=True):
    """The state between two compactions.

    Attributes:
        upto: Turns that have been planned.
        since: The length of the log when the last compaction took place, 0 before the first.
        cut: Turns before it are not sent word for word.
        bound_from: Bound thinking of turns before it was thought behind another prefix, and is not sent.
        summary: As it is sent; `kept` are the turns that a fact of it comes from.
    """

    upto: int = 0
    since: int = 0
    cut: int = 0
    bound_from: int = 0
    compactions: int = 0
    segments: tuple[Segment, ...] = ()
    summary: str = ""
    summary_tokens: int = 0
    kept: tuple[int, ...] = ()
    cleared: tuple[Cleared, ...] = ()
    inserts: tuple[Insert, ...] = ()


class Keep(Struct, frozen=True, kw_only=True, tag="turn", omit_defaults=True):
    """A turn that is sent.

    As it is, or: with `before` in front of the user's words, results at the positions of `cleared` exchanged for its texts, those
    at `orphans` left out, the calls in `missing` answered right after it, bound thinking left out with `unthought`, `BLANK` written into it with `blank`.
    """

    turn: int
    before: str = ""
    cleared: tuple[tuple[int, str], ...] = ()
    orphans: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    unthought: bool = False
    blank: bool = False

    @property
    def untouched(self) -> bool:
        """Whether the turn itself goes out as it came."""
        return not (self.before or self.cleared or self.orphans or self.unthought or self.blank)


class Note(Struct, frozen=True, kw_only=True, tag="summary"):
    """The summary, as a message in the user's voice."""

    text: str


Item: TypeAlias = Keep | Note


Became: TypeAlias = Literal["kept", "changed", "recalled", "summarised", "dropped"]


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a turn, and why. `score` of a recalled one; `segment` the digest of the segment with its facts."""

    turn: int
    role: str
    what: Became
    why: str
    tokens: int
    score: float | None = None
    segment: str | None = None


class Section(Struct, frozen=True):
    """Tokens that a section uses, and may use at most."""

    used: int
    limit: int


class Decision(Struct, frozen=True, kw_only=True):
    """What was decided about the prefix of this request, and the numbers behind it, in tokens.

    Attributes:
        action: `as is`; `wait`: over the trigger, but a new prefix would not pay for itself and all fits; `clear`: only tool output went;
            `compact`: turns were evicted.
        load, trigger: What counts towards the trigger, and where that is; None without a limit.
        freed, following: What a new prefix frees, and what has to be written to the prompt cache anew behind it.
        pays_after: Requests after which it has paid for itself: (write - read) / read x following / freed, with the prices of the prompt
            cache; 0 where the cache is cold, for all has to be written anyway. None where nothing is freed.
        expected: Requests that are expected to follow: as many as there were.
        read, write: What a token costs that is read from the prompt cache, or written to it, in prices of an input token.
        cache_age: Seconds since the request that this one goes on from; None where nobody knows.
        cold: Whether the prompt cache has forgotten it since.
    """

    action: Literal["as is", "wait", "clear", "compact"]
    load: int | None = None
    trigger: int | None = None
    freed: int = 0
    following: int = 0
    pays_after: float | None = None
    expected: int = 0
    read: float | None = None
    write: float | None = None
    cache_age: float | None = None
    cold: bool = False


class Plan(Struct, frozen=True, kw_only=True):
    """What is sent, in order, what became of every turn, and the numbers behind it. All values are plain: it can be stored as JSON.

    `tokens` is the count of the whole request, an upper bound where it is no exact one; it is at most `limit` where there is one.
    `anchored` is what the provider counted for the request that this one goes on from, None where nobody knows: then only what was added is
    estimated, in `tokens` from above, in `likely` as it probably is. `compacted` says that this request begins a new
    prefix, `changed` whether anything differs from sending the log as it is, `decision` why. `period` is what the next plan of this conversation starts from.
    """

    limit: int | None
    tokens: int
    items: tuple[Item, ...]
    turns: tuple[Verdict, ...]
    sections: dict[str, Section]
    period: Period
    compacted: bool
    changed: bool
    decision: Decision
    anchored: int | None = None
    likely: int | None = None

    @property
    def left_out(self) -> int:
        """Tokens of turns that are not sent, less those of what stands for them; below 0 where more is sent."""
        gone = sum(turn.tokens for turn in self.turns if turn.what in ("summarised", "dropped"))
        return gone - sum(self.sections[name].used for name in ("summary",) if name in self.sections)


def answers_to(calls: Collection[str]) -> list[Message]:
    """The messages that answer calls of which no result is known."""
    return [
        Message(role="tool", content=(ToolResult(call_id=call, content=(Text(text=MISSING),)),))
        for call in calls
    ]
