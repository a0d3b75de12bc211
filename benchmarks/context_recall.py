"""How much of the evidence for a question is in what is sent, at a budget: `context_recall.py FILE [--json]`.

FILE has the schema of LoCoMo (long dialogues between two people, questions with the turns that answer them). The whole dialogue is the
history, the question the new turn. Every strategy gets the same budget, counted by the same exact tokenizer (o200k_base) on the text
that would be sent, the question apart; a quarter of it is kept for the newest turns. A cell is the mean share of evidence turns sent.

Ours is the product: `headrace.context.plan` with a recency share of 25 % and the rest for recall, by words alone and with the encoder that ships. The dialogues that its weights were looked
at with are reported apart from the others. `--disguised` renames the speakers and moves the dates, so that no name is known by heart.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.context import Log, Period, Plan, Profile, pack, plan
from headrace.context.recall import shipped
from headrace.handler import ContextPolicy
from headrace.tokens import Estimate, exact_counter
from headrace.types import Message, Text

if TYPE_CHECKING:
    from headrace.context.likeness import Likeness

BUDGETS = (1000, 2000, 4000, 8000)
SEEN = ("conv-30", "conv-42", "conv-43")
"""Dialogues that were looked at while weights were chosen."""

FRAMING = 4
RESERVE = 0.25
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
POLICY = ContextPolicy(
    trigger=RESERVE, target=RESERVE, summary=0.0, recall=1 - RESERVE, recall_turn=1.0, documents=0.0
)


@dataclass(frozen=True)
class Dialogue:
    """Turns as (text, label), and questions as (text, evidence turns, category)."""

    name: str
    turns: list[tuple[str, str]]
    questions: list[tuple[str, frozenset[int], int]]


def read(path: Path, *, disguised: bool) -> list[Dialogue]:
    """The dialogues of a file in LoCoMo's schema. Malformed evidence strings are read where they name a turn."""
    found = []
    for row in json.loads(path.read_text("utf-8")):
        talk, turns, ids = row["conversation"], [], {}
        session = 1
        swap = _disguise(talk) if disguised else (lambda text: text)
        while f"session_{session}" in talk:
            when = swap(talk.get(f"session_{session}_date_time", ""))
            for turn in talk[f"session_{session}"]:
                ids[turn["dia_id"]] = len(turns)
                shown = f" [shares {turn['blip_caption']}]" if turn.get("blip_caption") else ""
                turns.append((swap(f"{turn['speaker']}: {turn['text']}{shown}"), when))
            session += 1
        questions = []
        for asked in row["qa"]:
            cited = (
                f"D{a}:{b}" for e in asked.get("evidence", []) for a, b in re.findall(r"D:?(\d+):0*(\d+)", e)
            )
            evidence = frozenset(ids[name] for name in cited if name in ids)
            if evidence:
                questions.append((swap(asked["question"]), evidence, asked["category"]))
        found.append(Dialogue(row["sample_id"], turns, questions))
    return found


def _disguise(talk: dict[str, Any]) -> Callable[[str], str]:
    """Other names for the two speakers, and years 11 later."""
    names = {talk["speaker_a"]: "Thorvald", talk["speaker_b"]: "Ximena"}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")

    def swap(text: str) -> str:
        text = pattern.sub(lambda match: names[match[1]], text)
        return re.sub(r"\b20(2\d)\b", lambda match: str(2000 + int(match[1]) + 11), text)

    return swap


class Packer:
    """A strategy prepared for one dialogue: the turns that it sends for a question, and the text that it sends them as."""

    def __init__(self, dialogue: Dialogue, count: Callable[[str], int]) -> None:
        self.dialogue = dialogue
        self.count = count
        self.costs = [count(text) + FRAMING for text, _ in dialogue.turns]

    def rendered(self, chosen: Sequence[int]) -> int:
        """Tokens of the turns, and of a line with the date before each run of neighbours."""
        total, last = 0, -2
        for turn in sorted(chosen):
            if turn != last + 1:
                total += self.count(f"({self.dialogue.turns[turn][1]})\n")
            total += self.costs[turn]
            last = turn
        return total

    def fitted(self, chosen: list[int], budget: int) -> list[int]:
        """Without the last ones chosen, as many as are needed."""
        while chosen and self.rendered(chosen) > budget:
            chosen.pop()
        return chosen

    def newest(self, budget: float) -> list[int]:
        """The newest turns that fit, the newest first."""
        taken: list[int] = []
        room = budget - 16
        for turn in range(len(self.costs) - 1, -1, -1):
            room -= self.costs[turn]
            if room < 0:
                break
            taken.append(turn)
        return taken


class LastN(Packer):
    """The newest turns."""

    def __call__(self, question: str, budget: int) -> tuple[set[int], int]:
        chosen = self.fitted(self.newest(budget), budget)
        return set(chosen), self.rendered(chosen)


class HeadTail(Packer):
    """A quarter from the beginning, the rest from the end."""

    def __call__(self, question: str, budget: int) -> tuple[set[int], int]:
        head: list[int] = []
        room = budget * 0.25
        for turn, cost in enumerate(self.costs):
            room -= cost
            if room < 0:
                break
            head.append(turn)
        tail = [turn for turn in self.newest(budget * 0.75) if turn not in head]
        chosen = self.fitted(head + tail, budget)
        return set(chosen), self.rendered(chosen)


class BM25(Packer):
    """A quarter for the newest turns, then whole words by BM25 (k1 1.5, b 0.75), best first."""

    def __init__(self, dialogue: Dialogue, count: Callable[[str], int]) -> None:
        super().__init__(dialogue, count)
        self.words = [Counter(re.findall(r"\w+", text.lower())) for text, _ in dialogue.turns]
        self.lengths = [sum(words.values()) for words in self.words]
        self.frequency = Counter(word for words in self.words for word in words)

    def __call__(self, question: str, budget: int) -> tuple[set[int], int]:
        size, mean = len(self.words), sum(self.lengths) / len(self.lengths)
        scores = [0.0] * size
        for word in re.findall(r"\w+", question.lower()):
            rarity = math.log(1 + (size - self.frequency[word] + 0.5) / (self.frequency[word] + 0.5))
            for turn, words in enumerate(self.words):
                if words[word]:
                    norm = words[word] + 1.5 * (0.25 + 0.75 * self.lengths[turn] / mean)
                    scores[turn] += rarity * words[word] * 2.5 / norm
        chosen = self.newest(budget * RESERVE)
        for turn in sorted(range(size), key=lambda turn: -scores[turn]):
            if scores[turn] > 0 and turn not in chosen and self.rendered([*chosen, turn]) <= budget:
                chosen.append(turn)
            elif self.rendered(chosen) > budget - 24:
                break
        return set(chosen), self.rendered(chosen)


class Ours(Packer):
    """The product."""

    def __init__(
        self,
        dialogue: Dialogue,
        count: Callable[[str], int],
        exact: Callable[[str], Estimate],
        likeness: type[Likeness] | None = None,
    ) -> None:
        super().__init__(dialogue, count)
        self.log = Log(count=exact, likeness=likeness)
        for number, (text, label) in enumerate(dialogue.turns):
            role: Any = "user" if number % 2 == 0 else "assistant"
            self.log.append((Message(role=role, content=(Text(text=text),)),), label=label)
            self.log.quote(
                number
            )  # as in a conversation that has gone on for a while: each turn is counted once
        self.seconds: list[float] = []
        self._periods: dict[int, tuple[Log, Period]] = {}

    def __call__(self, question: str, budget: int) -> tuple[set[int], int]:
        # The question is not part of the budget, so that all strategies have the same.
        limit = budget + self.count(question) + FRAMING
        if budget not in self._periods:
            # The dialogue is history: nobody asked for a recall before the question.
            history = self.log.fork(len(self.log))
            before = plan(history, POLICY, Profile(limit=budget, factor=1.0)).period
            self._periods[budget] = history, msgspec.structs.replace(before, inserts=())
        history, period = self._periods[budget]
        log = history.fork(len(history))
        log.append((Message(role="user", content=(Text(text=question),)),))
        began = time.thread_time()
        made = plan(log, POLICY, Profile(limit=limit, factor=1.0), period=period)
        self.seconds.append(time.thread_time() - began)
        sent = [message for part in pack(log, made) for message in part.messages]
        tokens = sum(
            self.count(block.text) + FRAMING
            for message in sent
            for block in message.content
            if isinstance(block, Text)
        )
        return _seen(made) - {len(self.log)}, tokens - self.count(question) - FRAMING


def _seen(made: Plan) -> set[int]:
    return {verdict.turn for verdict in made.turns if verdict.what in ("kept", "changed", "recalled")}


@dataclass
class Cell:
    """One strategy at one budget."""

    recalls: list[float] = field(default_factory=list)
    whole: int = 0
    over: int = 0
    by: dict[str, list[float]] = field(default_factory=dict)

    def add(self, recall: float, *groups: str) -> None:
        self.recalls.append(recall)
        self.whole += recall == 1.0
        for group in groups:
            self.by.setdefault(group, []).append(recall)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="dialogues in LoCoMo's schema")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--disguised", action="store_true", help="other names and years")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth question")
    options = parser.parse_args()
    exact = exact_counter("o200k_base")
    if exact is None:
        print("exact counts need the extra tokenizers", file=sys.stderr)
        return 3

    def count(text: str) -> int:
        return exact(text).likely

    dialogues = read(options.file, disguised=options.disguised)
    cells: dict[str, dict[int, Cell]] = {}
    seconds: list[float] = []
    total = sum(len(d.questions[:: options.every]) for d in dialogues) * len(BUDGETS)
    for done, (dialogue, strategies, (question, evidence, category)) in enumerate(
        _cases(dialogues, count, exact, options.every)
    ):
        best = list(strategies)[-1]
        for name, strategy in strategies.items():
            for budget in BUDGETS:
                chosen, tokens = strategy(question, budget)
                cell = cells.setdefault(name, {}).setdefault(budget, Cell())
                held = "seen" if dialogue.name in SEEN else "held out"
                cell.add(len(evidence & chosen) / len(evidence), CATEGORIES.get(category, "other"), held)
                cell.over += tokens > budget
                if strategy is strategies[best]:
                    seconds.append(strategy.seconds[-1])
        if sys.stderr.isatty() or done % 100 == 0:
            filled = round(40 * (done + 1) * len(BUDGETS) / max(1, total))
            print(
                f"\r[{'#' * filled:40}] {dialogue.name} {done + 1}/{total // len(BUDGETS)}",
                end="",
                file=sys.stderr,
            )
    print(file=sys.stderr)
    seconds.sort()
    timing = {f"p{q}_ms": round(seconds[int(len(seconds) * q / 100)] * 1e3, 3) for q in (50, 95)}
    rows = {
        name: {
            str(budget): {
                "recall": round(mean(cell.recalls), 4),
                "all_present": round(cell.whole / len(cell.recalls), 4),
                "over_budget": cell.over,
                "by": {group: round(mean(values), 4) for group, values in sorted(cell.by.items())},
            }
            for budget, cell in by_budget.items()
        }
        for name, by_budget in cells.items()
    }
    if options.json:
        print(
            json.dumps(
                {
                    "questions": total // len(BUDGETS),
                    "disguised": options.disguised,
                    "plan": timing,
                    "strategies": rows,
                },
                indent=1,
            )
        )
        return 0
    print(f"{'recall / all present':24}" + "".join(f"{budget:>16}" for budget in BUDGETS) + "   over budget")
    for name, row in rows.items():
        shown = "".join(f"{row[str(b)]['recall']:>9.3f} /{row[str(b)]['all_present']:.3f}" for b in BUDGETS)
        print(f"{name:24}{shown}{sum(row[str(b)]['over_budget'] for b in BUDGETS):>14}")
    for group in ("seen", "held out", *CATEGORIES.values()):
        shown = "".join(f"{rows[best][str(b)]['by'].get(group, 0.0):>16.3f}" for b in BUDGETS)
        print(f"  {best}, {group:12}{shown}")
    print(f"plan: p50 {timing['p50_ms']} ms, p95 {timing['p95_ms']} ms over {len(seconds)} plans")
    return 0


def _cases(
    dialogues: Sequence[Dialogue], count: Callable[[str], int], exact: Callable[[str], Estimate], every: int
) -> Iterator[tuple[Dialogue, dict[str, LastN | HeadTail | BM25 | Ours], tuple[str, frozenset[int], int]]]:
    for dialogue in dialogues:
        strategies: dict[str, LastN | HeadTail | BM25 | Ours] = {
            "last N": LastN(dialogue, count),
            "head 25 % + tail 75 %": HeadTail(dialogue, count),
            "BM25 + 25 % newest": BM25(dialogue, count),
            "headrace, words alone": Ours(dialogue, count, exact),
        }
        if (likeness := shipped()) is not None:
            strategies["headrace"] = Ours(dialogue, count, exact, likeness)
        for asked in dialogue.questions[::every]:
            yield dialogue, strategies, asked


if __name__ == "__main__":
    sys.exit(main())
