"""The conversation as it was said: an append-only list of turns, each counted once.

A turn is one message as its sender wrote it (one element of the wire's `messages`; Anthropic's user messages may hold results
and text, and so several typed messages). Nothing ever changes a turn: plans say what is sent of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from headrace.context.recall import Index
from headrace.context.tally import Tally
from headrace.context.turn import Turn, make_turn
from headrace.tokens import Estimate, TextCounter, estimate_text
from headrace.types import Message

if TYPE_CHECKING:
    from headrace.context.likeness import Likeness

__all__ = ["Log", "as_bytes", "next_digest", "start_digest"]

_encode = msgspec.json.Encoder().encode

QUOTE_CHARS = 1_200
"""The longest part of a turn that is recalled: some 300 tokens; tool outputs are longer and say little in their middle."""


class Log:
    """Turns in order. Appending costs the new turn alone; so does what is derived of them: sums, index, counts of what is quoted.

    Args:
        seed: What stands before the first turn on the wire (system, tools): part of every digest.
        count: Counts text; the plan counts what it adds with the same function.
        likeness: Finds turns by alike words too (`recall.shipped`).
    """

    __slots__ = (
        "_common",
        "_counted",
        "_digest",
        "_index",
        "_likeness",
        "_quotes",
        "_seed",
        "_tally",
        "count",
        "turns",
    )

    def __init__(
        self,
        *,
        seed: bytes = b"",
        count: TextCounter = estimate_text,
        likeness: type[Likeness] | None = None,
    ) -> None:
        self.turns: list[Turn] = []
        self.count = count
        self._seed = seed
        self._digest = start_digest(seed)
        self._likeness = likeness
        self._index = self._empty()
        self._common: int | None = None
        self._quotes: dict[int, tuple[str, Estimate]] = {}
        self._counted: dict[str, Estimate] = {}
        self._tally: Tally | None = None

    @classmethod
    def of(cls, messages: Sequence[Message], *, count: TextCounter = estimate_text) -> Log:
        """A log with one turn a message."""
        log = cls(count=count)
        for message in messages:
            log.append((message,))
        return log

    def __len__(self) -> int:
        return len(self.turns)

    def append(self, messages: Sequence[Message], *, raw: bytes | None = None, label: str = "") -> Turn:
        """Add a turn; `raw` is its form on the wire, if it has one, and then decides its digest."""
        self._digest = next_digest(self._digest, as_bytes(messages) if raw is None else raw)
        turn = make_turn(len(self.turns), tuple(messages), self._digest.hex(), label, self.count)
        self.turns.append(turn)
        return turn

    def fork(self, length: int) -> Log:
        """A log of its own with the first `length` turns; nothing is counted again, and what is indexed stays so."""
        log = Log(seed=self._seed, count=self.count, likeness=self._likeness)
        log.turns = self.turns[:length]
        log._quotes = {turn: quote for turn, quote in self._quotes.items() if turn < length}
        log._counted = dict(self._counted)
        if self._index.upto <= length:
            common = length if self._common is None else min(length, self._common)
            log._index, log._common, self._common = self._index, common, common
        if self._tally is not None and len(self._tally.costs) == length:
            log._tally = self._tally.copy()
        if length:
            log._digest = bytes.fromhex(log.turns[-1].digest)
        return log

    def index(self, length: int) -> Index:
        """What can be recalled of the first `length` turns; grows with `length`, made anew where it shrinks, or leaves what a fork shares."""
        upto = self._index.upto
        if upto > length or (self._common is not None and length > max(upto, self._common)):
            self._index, self._common = self._empty(), None
        for turn in self.turns[self._index.upto : length]:
            self._index.add(turn.id, "" if turn.role == "system" else turn.text)
        return self._index

    def _empty(self) -> Index:
        return Index(None if self._likeness is None else self._likeness())

    def tally(self, factor: float | None, pins: frozenset[int]) -> Tally:
        """The sums over all turns for plans with that factor and those pins; made anew when these are others."""
        tally = self._tally
        if tally is None or (tally.factor, tally.pins) != (factor, pins):
            tally = self._tally = Tally(factor, pins, self.count)
        tally.extend(self.turns)
        return tally

    def counted(self, text: str) -> Estimate:
        """The tokens of `text`, remembered: of what is counted for every summary."""
        found = self._counted.get(text)
        if found is None:
            found = self._counted[text] = self.count(text)
        return found

    def quote(self, turn: int) -> tuple[str, Estimate]:
        """The line that recalls a turn, and its tokens."""
        found = self._quotes.get(turn)
        if found is None:
            said = self.turns[turn]
            text = said.text
            if len(text) > QUOTE_CHARS:
                text = f"{text[:QUOTE_CHARS].rstrip()}…"
            line = f"#{turn} {said.role}: {text}\n"
            found = self._quotes[turn] = (line, self.count(line))
        return found


def start_digest(seed: bytes) -> bytes:
    """The digest of no turns."""
    return hashlib.blake2b(seed, digest_size=16).digest()


def as_bytes(messages: Sequence[Message]) -> bytes:
    """Bytes that differ where the messages do."""
    return _encode([[type(block).__name__ for m in messages for block in m.content], messages])


def next_digest(digest: bytes, raw: bytes) -> bytes:
    """The rolling digest after `raw`."""
    return hashlib.blake2b(raw, key=digest, digest_size=16).digest()
