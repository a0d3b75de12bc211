"""An answer with its placeholders put back, frame by frame; pure.

A placeholder may be cut anywhere. A frame whose text ends with what may be the beginning of one waits, and those behind it, until the
text that follows decides: then its part of the placeholder is taken out of it, and the value stands where the placeholder ended. A frame in
which nothing is put back is given out as the very object that came, with its bytes; of the others only the strings that change
are written anew.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw

from headrace.dialects.literals import rewrite
from headrace.dialects.texts import (
    ARGUMENTS,
    FREE,
    TEXT_MEMBERS,
    THOUGHTS,
    change_details,
    change_raw,
    change_reply,
    member,
)
from headrace.guards import Values, restore
from headrace.guards.redact import PLACEHOLDER, as_json, beginnings
from headrace.types import (
    Batch,
    BlockStart,
    BlockStop,
    Complete,
    Delta,
    End,
    Event,
    Finish,
    Frame,
    Opaque,
    Restart,
)

__all__ = ["Restored"]

_GROWING = frozenset({"text", "refusal", "arguments"})
"""Thinking is left with its placeholders: a signature may follow that holds it to the letter."""


_PLACEHOLDER_BYTES = re.compile(PLACEHOLDER.pattern.encode())


@dataclass(slots=True)
class _Held:
    """A frame, and the texts of its deltas as they will be, by their position among its events."""

    frame: Frame
    texts: dict[int, str] = field(default_factory=dict)
    others: dict[int, Event] = field(default_factory=dict)


@dataclass(slots=True)
class _Tail:
    """What may be the beginning of a placeholder, and which deltas end with it, each with its number of characters of it."""

    text: str
    parts: list[tuple[_Held, int, int]]


class Restored:
    """Frames in, frames out.

    Args:
        values: Placeholders to what they stand for, at least one.
        json_text: The answer's text is JSON, so that values in it are written as JSON writes them.
    """

    __slots__ = ("_beginnings", "_held", "_json_text", "_longest", "_tails", "_values")

    def __init__(self, values: Values, *, json_text: bool = False) -> None:
        self._values = values
        self._json_text = json_text
        self._longest = max(map(len, values))
        self._beginnings = beginnings(values)
        self._tails: dict[tuple[int, str], _Tail] = {}
        self._held: deque[_Held] = deque()

    def feed(self, batch: Batch) -> Batch:
        """The frames that are decided once `batch` has come; may be empty."""
        out: Batch = []
        for frame in batch:
            held = _Held(frame)
            for position, event in enumerate(frame.events):
                self._take(held, position, event)
            self._held.append(held)
            if not self._tails:
                out += self.close()
        return out

    def close(self) -> Batch:
        """The frames that wait, once nothing more comes: what may have begun there did not."""
        self._tails.clear()
        out = [self._frame(held) for held in self._held]
        self._held.clear()
        return out

    def _take(self, held: _Held, position: int, event: Event) -> None:
        match event:
            case Delta(kind=kind) if kind in _GROWING:
                self._grow(held, position, event)
            case Delta(kind="opaque", text=text):
                changed = change_raw(text.encode(), self._put_back).decode()
                if changed != text:
                    held.others[position] = msgspec.structs.replace(event, text=changed)
            case BlockStart(block=Opaque(raw=raw) as block):
                given = bytes(raw)
                if (changed_raw := change_raw(given, self._put_back)) is not given:
                    block = msgspec.structs.replace(block, raw=Raw(changed_raw))
                    held.others[position] = msgspec.structs.replace(event, block=block)
            case BlockStop(index=index, provider_details=details):
                for grown in _GROWING:
                    self._tails.pop((index, grown), None)
                if details is not None:
                    changed_details = change_details(details, self._put_back)
                    held.others[position] = msgspec.structs.replace(event, provider_details=changed_details)
            case Complete(reply=reply):
                text_change = self._put_back_json if self._json_text else self._put_back
                held.others[position] = Complete(change_reply(reply, text_change, self._put_back_json))
            case Finish() | End() | Restart():
                self._tails.clear()
            case _:
                pass

    def _grow(self, held: _Held, position: int, event: Delta) -> None:
        key = (event.index, event.kind)
        text, begun = event.text, self._tails.pop(key, None)
        value = ""
        if begun is not None:
            joined = begun.text + text
            if joined in self._beginnings:
                held.texts[position] = text
                begun.parts.append((held, position, len(text)))
                begun.text = joined
                self._tails[key] = begun
                return
            name = PLACEHOLDER.match(joined)
            if name is not None and name[0] in self._values:
                for before, at, share in begun.parts:
                    before.texts[at] = before.texts[at][:-share]
                value, text = self._written(name[0], event.kind), joined[name.end() :]
        at = text.rfind("[", max(0, len(text) - self._longest))
        tail = text[at:] if at >= 0 and text[at:] in self._beginnings else ""
        whole = text[: len(text) - len(tail)]
        put_back = self._put_back_json if self._is_json(event.kind) else self._put_back
        held.texts[position] = value + put_back(whole) + tail
        if tail:
            self._tails[key] = _Tail(tail, [(held, position, len(tail))])

    def _is_json(self, kind: str) -> bool:
        return kind == "arguments" or (kind == "text" and self._json_text)

    def _written(self, name: str, kind: str) -> str:
        value = self._values[name]
        return as_json(value) if self._is_json(kind) else value

    def _put_back(self, text: str, name: str = "") -> str:
        return restore(text, self._values)

    def _put_back_json(self, text: str, name: str = "") -> str:
        return restore(text, self._values, encode=as_json)

    # --- frames -------------------------------------------------------------------------------------------------------

    def _frame(self, held: _Held) -> Frame:
        frame = held.frame
        changes: dict[str, list[str]] = {}
        events = list(frame.events)
        for position, event in held.others.items():
            events[position] = event
        for position, text in held.texts.items():
            event = events[position]
            assert isinstance(event, Delta)
            changes.setdefault(event.text, []).append(text)
            if text != event.text:
                events[position] = msgspec.structs.replace(event, text=text)
        raw = None if frame.raw is None else self._patched(frame.raw, changes)
        new = tuple(event for event in events if not (isinstance(event, Delta) and not event.text))
        if raw is frame.raw and all(a is b for a, b in zip(events, frame.events, strict=True)):
            return frame
        return msgspec.structs.replace(frame, events=new, raw=raw)

    def _patched(self, raw: bytes, changes: dict[str, list[str]]) -> bytes:
        """The frame's bytes with its texts as `changes` says, those of deltas in their order, and whole placeholders put back wherever
        else the same text is said again."""
        if all(
            text == new[0] for text, new in changes.items() if len(new) == 1
        ) and not _PLACEHOLDER_BYTES.search(raw):
            return raw

        def changed(path: Sequence[str], text: str, is_name: bool) -> str:
            name = member(path)
            if not is_name and name in TEXT_MEMBERS and text in changes and THOUGHTS.isdisjoint(path):
                new = changes[text]
                return new.pop(0) if len(new) > 1 else new[0]
            if not THOUGHTS.isdisjoint(path):
                return text
            quoted = name in ARGUMENTS or (self._json_text and name in TEXT_MEMBERS)
            quoted = quoted and FREE.isdisjoint(path)
            return self._put_back_json(text) if quoted else self._put_back(text)

        start = max(0, raw.find(b"data:")) if not raw.startswith(b"{") else 0
        patched = rewrite(raw[start:], changed)
        return raw if patched == raw[start:] else raw[:start] + patched
