"""What the turns of a log cost, as running sums that grow with it: planning asks for the tokens of a range, not of turns."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.context.atoms import Mend, Mender
from headrace.context.plan import BLANK, Keep, Verdict, answers_to
from headrace.context.recall import asks
from headrace.context.turn import Turn
from headrace.tokens import Estimate, TextCounter, estimate_message

__all__ = ["Tally", "price"]


def price(estimate: Estimate, factor: float | None) -> int:
    """The count to plan with: the likely one times `factor`, rounded up, never above the bound; the bound where `factor` is None."""
    if factor is None:
        return estimate.bound
    return min(estimate.bound, -int(-estimate.likely * factor // 1))


_COLUMNS = (
    "always",
    "costs",
    "fixed",
    "rest",
    "thought",
    "asked",
    "opens",
    "compacted",
    "bound",
    "sent",
    "kept",
    "gone",
)


class Tally:
    """Sums over the turns of one log for one factor and one set of pins.

    Attributes:
        mends: What is broken, by turn.
        always: Whether a turn is sent in every plan: system messages and pins.
        costs: Tokens of each turn as it is sent when nothing is left out.
        fixed, rest, thought: Before each turn and at the end, the sums of `costs` that are always sent, of the others, and of bound
            thinking.
        asked: Before each turn and at the end, how many turns of the user hold a question mark.
        opens: The turns that a request may begin with; `compacted` those with a provider's own summary; `bound` those with bound
            thinking.
        newest: The last turn with words of the user, -1 without.
        sent, kept, gone: What becomes of each turn when nothing more is to say of it: its item and verdict if it is sent, its verdict if not.
    """

    __slots__ = (
        "_count",
        "_mender",
        "always",
        "asked",
        "bound",
        "compacted",
        "costs",
        "factor",
        "fixed",
        "gone",
        "kept",
        "newest",
        "opens",
        "pins",
        "rest",
        "sent",
        "thought",
    )

    def __init__(self, factor: float | None, pins: frozenset[int], count: TextCounter) -> None:
        self.factor = factor
        self.pins = pins
        self._count = count
        self._mender = Mender()
        self.always: list[bool] = []
        self.costs: list[int] = []
        self.fixed, self.rest, self.thought, self.asked = [0], [0], [0], [0]
        self.opens: list[int] = []
        self.compacted: list[int] = []
        self.bound: list[int] = []
        self.newest = -1
        self.sent: list[Keep] = []
        self.kept: list[Verdict] = []
        self.gone: list[Verdict] = []

    def copy(self) -> Tally:
        """One that grows apart from this one."""
        tally = Tally(self.factor, self.pins, self._count)
        tally._mender = self._mender.copy()
        for name in _COLUMNS:
            setattr(tally, name, list(getattr(self, name)))
        tally.newest = self.newest
        return tally

    @property
    def mends(self) -> dict[int, Mend]:
        return self._mender.found

    def extend(self, turns: Sequence[Turn]) -> None:
        """Take in what `turns` has more; what its open calls were thought to cost is taken back first."""
        known = len(self.costs)
        if len(turns) == known:
            return
        start = self._mender.open if self._mender.open is not None else known
        for turn in turns[known:]:
            self._mender.add(turn)
        self._forget(start)
        for turn in turns[start:]:
            self._add(turn)

    def _forget(self, start: int) -> None:
        for column in (self.always, self.costs, self.sent, self.kept, self.gone):
            del column[start:]
        for sums in (self.fixed, self.rest, self.thought, self.asked):
            del sums[start + 1 :]
        for ids in (self.opens, self.compacted, self.bound):
            while ids and ids[-1] >= start:
                ids.pop()

    def _add(self, turn: Turn) -> None:
        factor, number = self.factor, turn.id
        cost = price(turn.tokens, factor)
        broken = self.mends.get(number)
        if broken is not None:
            if broken.drop:
                cost = 0
            elif broken.blank:
                cost += price(self._count(BLANK), factor)
            else:
                answers = answers_to(broken.missing)
                cost += sum(price(estimate_message(answer, self._count), factor) for answer in answers)
        pinned = number in self.pins
        always = pinned or turn.role == "system"
        self.always.append(always)
        self.costs.append(cost)
        self.fixed.append(self.fixed[-1] + (cost if always else 0))
        self.rest.append(self.rest[-1] + (0 if always else cost))
        self.thought.append(self.thought[-1] + (price(turn.thinking, factor) if turn.bound else 0))
        self.asked.append(self.asked[-1] + (turn.opens and asks(turn.said)))
        dropped = broken is not None and broken.drop != ""
        if turn.opens and not dropped:
            self.opens.append(number)
        if turn.compacted:
            self.compacted.append(number)
        if turn.bound:
            self.bound.append(number)
        if turn.role == "user":
            self.newest = number
        why = "pinned" if pinned else "system" if always else "recent"
        self.sent.append(Keep(turn=number))
        self.kept.append(Verdict(turn=number, role=turn.role, what="kept", why=why, tokens=cost))
        self.gone.append(
            Verdict(
                turn=number,
                role=turn.role,
                what="dropped",
                why=broken.drop
                if broken is not None and broken.drop
                else "older than what is sent word for word, and not in the summary",
                tokens=cost,
            )
        )
