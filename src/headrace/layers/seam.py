"""Where the text of one model goes on in the words of another; pure.

A continuation may begin exactly where the text was cut, or repeat its last words, or begin anew, or with a few words of its own. `Seam`
keeps the beginning back until it knows, lets the rest through without what was said already, and refuses where it cannot know: an
error is better than doubled words.
"""

from __future__ import annotations

import re

__all__ = ["NoSeam", "Seam", "anchor", "join"]

REACH = 2_000
"""How far back a repetition may begin, in characters that are not white space; a repetition of the whole text may be of any length."""

LOOK = 60
"""Characters of a continuation that are looked at before it is believed to be one."""

PREAMBLE = 400
"""Characters that may come before the repetition."""

ANCHOR_WORDS = 8
"""Words that a model that takes no prefill is asked to begin with; mostly well above `PROOF`."""

TOLD_WORDS = 5
"""So many words of the text told again, and then others, are a new answer and no continuation."""

PROOF = 12
"""Characters that are not white space, those of writings without spaces counted twice: a repetition of so many is no chance."""

NEAR = 300
"""Characters at the beginning and at the end of the text whose words a continuation in other words would use again."""

STEM = 5
"""Letters of a word by which it is known again in another form."""

ALIKE = 0.6
"""The share of a continuation's first longer words, four or more, that make it the same in other words."""

NOT_REPEATED = "it does not repeat the words where the text was cut, as it was asked to"

_ALIKE = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u00a0": " "}
)

_PREAMBLE = re.compile(
    r"\W*(?:(?:sure|certainly|of course|absolutely|okay|ok|apologies|sorry|my apologies)\b[,.!:]"
    r"|[^\n:]{0,60}\b(?:rest|remain(?:der|ing)|continu(?:e|ing|ation|ed)|left off|cut off|interrupted|pick(?:ing)? up"
    r"|(?:full|whole|complete|entire) (?:answer|text|response)|again)\b[^\n:]{0,60}:)",
    re.IGNORECASE,
)
"""How a model speaks about the continuation instead of going on: it agrees, or announces."""


class NoSeam(ValueError):
    """The two do not fit together, or in more than one way; the message says why."""


def join(said: str, more: str, *, exact: bool = False) -> str:
    """What is to be added to `said`, of a continuation that begins with `more`; see `Seam`.

    Raises:
        NoSeam: Nobody can tell.
    """
    seam = Seam(said, exact=exact)
    return seam.feed(more) + seam.close()


def anchor(said: str) -> str:
    """The last words of `said`, with which a continuation is asked to begin: within the last paragraph where that has enough."""
    words = list(re.finditer(r"\S+", said))[-ANCHOR_WORDS:]
    tail = said[words[0].start() : words[-1].end()] if words else ""
    last = tail.rpartition("\n")[2]
    return last if len(last.split()) * 2 >= ANCHOR_WORDS else tail


class Seam:
    """One continuation of `said`, piece by piece.

    Args:
        said: The text so far, as its reader has it.
        exact: The model was given the text as the beginning of its own answer, so that it goes on where that ended unless it shows
            otherwise. Else it must repeat the end of the text, as it was asked to, and so prove where it goes on.

    Characters are compared without their case and white space, typographic quotes and dashes as plain ones.

    Raises:
        NoSeam: `said` has no text.
    """

    __slots__ = (
        "_exact",
        "_gap",
        "_live",
        "_more",
        "_normal",
        "_reached",
        "_said",
        "_seen",
        "_space",
        "_starts",
        "_told",
        "_where",
    )

    def __init__(self, said: str, *, exact: bool) -> None:
        self._exact = exact
        self._space = said[len(said.rstrip()) :]
        self._said = said
        self._normal, places = _normal(said)
        least = max(0, len(places) - REACH)
        self._starts = [n for n, place in enumerate(places) if not n or (n >= least and _begins(said, place))]
        self._more = ""  # all of the continuation so far
        self._seen = ""  # the same, normal; `_where` are the places of its characters in `_more`
        self._where: list[int] = []
        # What may be a repetition: where it begins in `_seen` and in `_normal`.
        self._live = [(0, start) for start in self._starts]
        self._reached: list[tuple[int, int]] = []  # those that have come to the end of the text
        self._told = 0  # the most words that were told again before other ones came
        self._gap: str | None = (
            None  # once it is open: the white space at the seam, until something follows it
        )
        if not places:
            raise NoSeam("there is no text to go on from")

    def feed(self, piece: str) -> str:
        """What may be shown of the continuation now.

        Raises:
            NoSeam: It does not go on from the text, or nobody can tell where.
        """
        if self._gap is not None:
            return self._through(piece, last=False)
        before, base = len(self._seen), len(self._more)
        seen, places = _normal(piece)
        self._more += piece
        self._seen += seen
        self._where += [base + place for place in places]
        for at in range(max(1, before), min(len(self._seen), PREAMBLE)):
            if self._may_begin(at):
                self._live += [(at, start) for start in self._starts]
        self._follow(before)
        return self._decided(last=False)

    def close(self) -> str:
        """The continuation has ended: the rest of it. Raises `NoSeam` as `feed` does."""
        return self._decided(last=True) if self._gap is None else self._through("", last=True)

    @property
    def fits(self) -> bool:
        """Whether it is known where the continuation goes on."""
        return self._gap is not None

    # --- repetitions --------------------------------------------------------------------------------------------------

    def _may_begin(self, at: int) -> bool:
        """Whether a repetition may begin there: after a colon, a sentence, a mark, or on a line of its own."""
        gap = self._more[self._where[at - 1] + 1 : self._where[at]]
        return "\n" in gap or (self._seen[at - 1] in ":.!?\"'*`" and _begins(self._more, self._where[at]))

    def _follow(self, before: int) -> None:
        """Go on with what may be a repetition, through what is new."""
        live: list[tuple[int, int]] = []
        for at, start in self._live:
            new = max(before, at)
            place = start + new - at
            length = min(len(self._seen) - new, len(self._normal) - place)
            if self._normal.startswith(self._seen[new : new + length], place):
                still = place + length < len(self._normal)
                (live if still else self._reached).append((at, start))
            elif not at:
                self._told = max(self._told, self._words_alike(start))
        self._live = live

    def _words_alike(self, start: int) -> int:
        same = 0
        while self._normal[start + same] == self._seen[same]:
            same += 1
        return len(self._more[: self._where[same]].split())

    def _decided(self, *, last: bool) -> str:
        if not last and any(not at for at, _ in self._live):
            return ""
        at_once = sorted(start for at, start in self._reached if not at)
        if at_once:
            length = len(self._normal) - at_once[0]
            if self._proves(at_once[0]) or (not self._exact and at_once[0] == 0):
                self._only_one(at_once)
                return self._open(length, last=last)
            if self._exact and self._doubtful(length):
                raise NoSeam(f"{self._normal[-length:]!r} may be a repetition, or what comes next")
        if self._told >= TOLD_WORDS:
            raise NoSeam("it tells again what was said, and goes on in another way")
        preamble = _PREAMBLE.match(self._more)
        if preamble or not self._exact:
            return self._behind(
                last=last, why="it begins with words of its own" if preamble else NOT_REPEATED
            )
        if not last and (len(self._seen) < LOOK or self._again(self._live)):
            return ""
        if self._again(self._reached):
            raise NoSeam("it says again what was said, behind words of its own")
        if self._seen:
            self._believe()
        return self._open(0, last=last)

    def _again(self, found: list[tuple[int, int]]) -> bool:
        """Whether one of `found` is longer than chance."""
        return any(len(self._seen) - at >= PROOF and self._proves(start) for at, start in found)

    def _behind(self, *, last: bool, why: str) -> str:
        """What is let through of a continuation with a preamble: what is behind the repetition after it."""
        proofs = [(at, start) for at, start in self._reached if at and self._proves(start)]
        if not proofs:
            if last or (len(self._seen) >= PREAMBLE and not self._live):
                raise NoSeam(why)
            return ""
        at, start = min(proofs)
        if not last and any(other == at for other, _ in self._live):
            return ""
        self._only_one(sorted(other for where, other in proofs if where == at))
        return self._open(at + len(self._normal) - start, last=last)

    def _proves(self, start: int) -> bool:
        """Whether a repetition from there on is too long to be chance."""
        again = self._normal[start : start + PROOF]
        return len(again) + sum(map(_is_wide, again)) >= PROOF

    def _only_one(self, starts: list[int]) -> None:
        """The text itself may be a repetition ("la la la"): how much of it was said again is not to be known then."""
        longest = len(self._normal) - starts[0]
        if any((len(self._normal) - start) * 2 >= longest for start in starts[1:]):
            raise NoSeam("the end of the text repeats itself, so that it fits in more than one place")

    def _doubtful(self, length: int) -> bool:
        """Whether the few characters at the beginning, which are the last of the text too, may be a repetition. Marks are none
        (`))`), but at the beginning of a line."""
        again = self._normal[-length:]
        line = "".join(self._said.rstrip().rpartition("\n")[2].split())
        return len(line) <= length or any(char.isalnum() for char in again)

    # --- no repetition ------------------------------------------------------------------------------------------------

    def _believe(self) -> None:
        """Raises `NoSeam` where a continuation that repeats nothing is none."""
        tail, first = self._said.rstrip()[-1], self._more[0]
        if first.isupper() and (tail.isalnum() or tail in ",;" or (tail in ".!?" and not self._space)):
            raise NoSeam("it begins a sentence without a space, or in the middle of one")
        words = _long_words(self._more)
        for part in (self._said[:NEAR], self._said[-NEAR:]):
            if len(words) >= 4 and len(words & _long_words(part)) >= ALIKE * len(words):
                raise NoSeam("it says again what was said, in other words")

    # --- open ---------------------------------------------------------------------------------------------------------

    def _open(self, length: int, *, last: bool) -> str:
        """Let through what is behind the first `length` characters."""
        rest = self._more[self._where[length - 1] + 1 :] if length else self._more
        self._more = self._seen = self._gap = ""
        self._where, self._live = [], []
        return self._through(rest, last=last)

    def _through(self, piece: str, *, last: bool) -> str:
        """`piece`; before the first word, with the white space that the text ends with not given twice."""
        if not self._space:
            return piece
        self._gap = (self._gap or "") + piece
        if not last and not self._gap.strip():
            return ""
        rest, had, self._space, self._gap = self._gap, self._space, "", ""
        space = rest[: len(rest) - len(rest.lstrip())]
        if space.startswith(had):
            return rest[len(had) :]
        return rest.lstrip() if had.startswith(space) else rest


def _long_words(text: str) -> set[str]:
    return {word[:STEM] for word in re.findall(r"\w{4,}", text.casefold())}


def _normal(text: str) -> tuple[str, list[int]]:
    """`text` without white space and case, and where each character stood."""
    chars, places = [], []
    for place, char in enumerate(text.translate(_ALIKE)):
        if not char.isspace():
            lower = char.lower()
            chars.append(lower if len(lower) == 1 else char)
            places.append(place)
    return "".join(chars), places


def _is_wide(char: str) -> bool:
    """Whether it is of a writing without spaces between words (from CJK radicals on)."""
    return char >= "\u2e80"


def _begins(text: str, place: int) -> bool:
    """Whether a word, or a mark, begins there."""
    char = text[place]
    return not place or not char.isalnum() or not text[place - 1].isalnum() or _is_wide(char)
