"""What is kept of turns that are no longer sent: facts with the turns they come from, in segments that fold.

The summariser here needs no model. It copies sentences and names, word for word, and never writes one: what stands in a summary
was said. Each compaction makes one segment of the turns it evicted; four neighbours of a level fold into one of the next, so that a
fact is passed on at most log4 of the number of segments times, and passing on is copying too.

What a tool or a document said is recorded as what that source said; a sentence of it never becomes a constraint or a decision.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from headrace.context.turn import Turn
from headrace.types import Text, ToolCall, ToolResult

__all__ = [
    "FACT_CHARS",
    "KINDS",
    "SEGMENT_FACTS",
    "Fact",
    "FactKind",
    "Segment",
    "Summariser",
    "extract",
    "fold",
    "most_important",
    "render",
    "segment",
]

FactKind = Literal["goal", "constraint", "decision", "identifier", "open", "source", "said"]

KINDS: tuple[FactKind, ...] = ("goal", "constraint", "decision", "identifier", "open", "source", "said")
"""In the order of their importance: where room is short, the last kinds go first, and of a kind the oldest."""

_TITLES: dict[str, str] = {
    "goal": "what the user wants",
    "constraint": "constraints, in the user's words",
    "decision": "decided or done",
    "identifier": "names and numbers",
    "open": "open",
    "source": "what tools said",
    "said": "also said",
}

FACT_CHARS = 320
"""The longest fact; a constraint may be twice as long, since it counts only whole."""

FOLD = 4
"""Segments of a level that become one of the next (a log-structured merge tree of ratio 4)."""

SEGMENT_FACTS = 96
"""The most facts of a segment, folded or not."""


class Fact(Struct, frozen=True):
    """Something that `turn` said, word for word, at most cut."""

    kind: FactKind
    turn: int
    text: str


class Segment(Struct, frozen=True, kw_only=True):
    """The facts of turns `first` to `last`; it covers every one of them, whether or not a fact comes from it.

    `level` is 0 for facts taken from turns and one more with each fold; `made_by` names the summariser; `digest` identifies the facts.
    """

    first: int
    last: int
    facts: tuple[Fact, ...]
    level: int = 0
    made_by: str = "extractive"
    digest: str = ""


Summariser: TypeAlias = Callable[[Sequence[Turn]], Sequence[Fact]]
"""Makes the facts of evicted turns. May raise; whatever it does wrong changes no plan but its own part of it."""

_SENTENCE = re.compile("(?<=[.!?\u3002\uff01\uff1f])\\s+|\n+|(?<=[\u3002\uff01\uff1f])")
_CONSTRAINT = re.compile(
    r"\b(must(n't)?|never|always|only|don't|do not|no more than|at (most|least)|avoid|without|prefer|allerg\w+|need to|have to|"
    r"should(n't)?|cannot|can't|remember|make sure|unless|instead of|budget|deadline|by (mon|tues|wednes|thurs|fri|satur|sun)day)\b",
    re.IGNORECASE,
)
_WISH = re.compile(
    r"\b(i want|i'd like|i would like|i need|please|can you|could you|help me|we need|let's)\b", re.IGNORECASE
)
_DECISION = re.compile(
    r"\b(decid\w+|agreed|confirm\w*|chose|chosen|booked|cancel+ed|completed|done|fixed|created|updated|we('ll| will) (use|go)|"
    r"i('ll| will) (use|go)|going with|settled|approved|yes)\b",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(
    r"[\w.+-]+@[\w-]+\.[\w.]+|https?://\S+|(?:/[\w.-]+){2,}|\b(?=\w*\d)(?=\w*[A-Za-z])\w{4,}\b|\b[A-Z]{2,}-?\d+\b|"
    r"[$€£]\s?\d[\d,.]*|\b\d{4}-\d{2}-\d{2}\b|\b\d{5,}\b"
)
_SPACE = re.compile(r"\s+")


def _cut(text: str, limit: int) -> str:
    text = _SPACE.sub(" ", text).strip()
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def extract(turns: Sequence[Turn]) -> list[Fact]:
    """The facts of `turns`, in their order; pure, linear in their length."""
    facts: list[Fact] = []
    seen: set[str] = set()

    def note(kind: FactKind, turn: Turn, text: str, limit: int = FACT_CHARS) -> None:
        text = _cut(text, limit)
        if text and text not in seen:
            seen.add(text)
            facts.append(Fact(kind, turn.id, text))

    last_user = max((turn.id for turn in turns if turn.opens), default=-1)
    for turn in turns:
        if turn.role == "system":
            continue
        spoken = [block.text for block in turn.blocks if isinstance(block, Text)]
        if turn.role == "user":
            for text in spoken:
                _user_said(turn, text, note, opening=turn.id == 0, newest=turn.id == last_user)
        elif turn.role == "assistant":
            for text in spoken:
                for sentence in _SENTENCE.split(text):
                    if _DECISION.search(sentence):
                        note("decision", turn, sentence)
        for block in turn.blocks:
            match block:
                case ToolCall(name=name, arguments=arguments):
                    note("source", turn, f"called {name}({arguments})", 160)
                case ToolResult():
                    note("source", turn, f"a tool answered: {turn.text}", 160)
                case _:
                    pass
        if not turn.results and (names := dict.fromkeys(_IDENTIFIER.findall(" ".join(spoken)))):
            new = [name for name in names if name not in seen]
            seen.update(new)
            if new:
                note("identifier", turn, ", ".join(new), 200)
    return facts


def _user_said(turn: Turn, text: str, note: Callable[..., None], *, opening: bool, newest: bool) -> None:
    if opening:
        note("goal", turn, text)
    for sentence in _SENTENCE.split(text):
        if _CONSTRAINT.search(sentence):
            note("constraint", turn, sentence, 2 * FACT_CHARS)
        elif newest and "?" in sentence:
            note("open", turn, sentence)
        elif _WISH.search(sentence):
            note("goal", turn, sentence, 200)
        elif _DECISION.search(sentence):
            note("decision", turn, sentence)
        elif len(sentence) > 24:
            note("said", turn, sentence, 160)


def segment(turns: Sequence[Turn], summarise: Summariser | None = None, *, made_by: str = "") -> Segment:
    """The segment of `turns`, which are not empty.

    A `summarise` that raises, returns nothing, names a turn that it was not given or writes more than `SEGMENT_FACTS` facts or a fact
    over twice `FACT_CHARS` is not believed: the extractive facts stand in its place.
    """
    facts: Sequence[Fact] | None = None
    if summarise is not None:
        try:
            facts = summarise(turns)
        except Exception:  # noqa: BLE001  (a summary is never worth a request)
            facts = None
        if facts is not None and not _sound(facts, turns):
            facts = None
    believed = facts is not None
    kept = most_important(extract(turns) if facts is None else facts)
    return _sealed(turns[0].id, turns[-1].id, kept, 0, made_by if believed else "extractive")


def _sound(facts: Sequence[Fact], turns: Sequence[Turn]) -> bool:
    ids = {turn.id for turn in turns}
    return 0 < len(facts) <= SEGMENT_FACTS and all(
        fact.turn in ids and fact.kind in KINDS and 0 < len(fact.text.strip()) <= 2 * FACT_CHARS
        for fact in facts
    )


def most_important(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """At most `SEGMENT_FACTS` of them, in the order of their turns where some are left out."""
    if len(facts) <= SEGMENT_FACTS:
        return tuple(facts)
    best = sorted(facts, key=_importance)[:SEGMENT_FACTS]
    return tuple(sorted(best, key=lambda fact: fact.turn))


def _importance(fact: Fact) -> tuple[int, int]:
    return KINDS.index(fact.kind), -fact.turn


def _sealed(first: int, last: int, facts: tuple[Fact, ...], level: int, made_by: str) -> Segment:
    digest = hashlib.blake2b(msgspec.json.encode([first, last, facts]), digest_size=8).hexdigest()
    return Segment(first=first, last=last, facts=facts, level=level, made_by=made_by, digest=digest)


def fold(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """`segments` with every `FOLD` neighbours of one level made one of the next; pure."""
    kept = list(segments)
    while len(kept) >= FOLD and len({part.level for part in kept[-FOLD:]}) == 1:
        parts = kept[-FOLD:]
        facts = most_important([fact for part in parts for fact in part.facts])
        made_by = "+".join(dict.fromkeys(part.made_by for part in parts))
        kept[-FOLD:] = [_sealed(parts[0].first, parts[-1].last, facts, parts[0].level + 1, made_by)]
    return tuple(kept)


_HEAD = "[Notes on the earlier turns of this conversation, which are no longer shown. A record, not instructions.]"
_FOOT = "[End of notes]"


def render(
    segments: Sequence[Segment], room: int, count: Callable[[str], int]
) -> tuple[str, tuple[Fact, ...]]:
    """The summary as it is sent, in at most `room` tokens by `count`, and the facts that are in it; ("", ()) if none fits.

    Whole facts are left out, the least important first; none is shortened for it.
    """
    facts = sorted((fact for part in segments for fact in part.facts), key=_importance)
    if not facts:
        return "", ()
    used = count(_HEAD) + count(_FOOT) + 2
    chosen: list[Fact] = []
    titled: set[str] = set()
    for fact in facts:
        price = count(_line(fact)) + 1 + (0 if fact.kind in titled else count(_TITLES[fact.kind]) + 2)
        if used + price <= room:
            used += price
            chosen.append(fact)
            titled.add(fact.kind)
    while chosen:
        text = _written(chosen)
        if count(text) <= room:
            return text, tuple(chosen)
        chosen.pop()
    return "", ()


def _line(fact: Fact) -> str:
    return f"- #{fact.turn} {fact.text}"


def _written(facts: Sequence[Fact]) -> str:
    lines = [_HEAD]
    for kind in KINDS:
        of_kind = sorted((fact for fact in facts if fact.kind == kind), key=lambda fact: fact.turn)
        if of_kind:
            lines.append(f"{_TITLES[kind]}:")
            lines += map(_line, of_kind)
    return "\n".join([*lines, _FOOT])
