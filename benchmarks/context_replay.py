"""What a growing conversation costs, request by request, with a prompt cache: `context_replay.py FILE [--json]`.

FILE has the schema of LoCoMo. Every turn of the first speaker is a request; a system prompt of some 400 tokens stands first. A request's cost,
in units of one uncached input token: 1.25 for what is written to the cache, 0.1 for what is read from it. Read is what the request has in common
with the one before, from the beginning, by whole messages, if that is 1,024 tokens or more (Anthropic's prices and least prefix). A prefix
breaks when a request does not begin with all of the one before.

Dialogues are replayed at 4,000 and 8,000 tokens of budget each, and at 32,000 as one conversation, end to end. Counts are exact (o200k_base).
With `--pause N` every Nth request comes when the cache has forgotten all (nothing is read), and the planner is told so, or, in a line of its own, not.
The yardstick is "newest turns, cut to 50 % when full", which recalls nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from context_recall import read
from headrace.context import Log, Period, Profile, pack, plan
from headrace.context.recall import shipped
from headrace.handler import ContextPolicy
from headrace.tokens import TextCounter, estimate_message, exact_counter
from headrace.types import Message, Text

WRITE, READ, LEAST = 1.25, 0.1, 1_024
SYSTEM = "You talk with a friend. " * 66
NO_RECALL = ContextPolicy(recall=0.0)


@dataclass
class Cost:
    """One strategy over one conversation, or over several."""

    requests: int = 0
    sent: float = 0
    cost: float = 0
    breaks: int = 0
    compactions: int = 0
    over: int = 0
    generations: int = 0
    segments: int = 0

    def add(self, other: Cost) -> None:
        for part in fields(self):
            mine, its = getattr(self, part.name), getattr(other, part.name)
            setattr(
                self, part.name, max(mine, its) if part.name in ("generations", "segments") else mine + its
            )


Sent = list[tuple[Message, int]]
"""Messages with their tokens."""


class Replay:
    """A conversation that is asked turn by turn."""

    def __init__(self, turns: Sequence[str], count: TextCounter, pause: int = 0) -> None:
        self.count = count
        self.pause = pause
        self.system = self.message("system", SYSTEM)
        self.turns = [
            self.message("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(turns)
        ]

    def message(self, role: str, text: str) -> tuple[Message, int]:
        made = Message(role=role, content=(Text(text=text),))  # type: ignore[arg-type]
        return made, estimate_message(made, self.count).likely

    def run(self, budget: int | None, ask: Callable[[int], Sent], total: Cost | None = None) -> Cost:
        """The cost of asking at every user's turn; `ask` gives the request that ends with it."""
        cost, before = Cost(), list[tuple[Message, int]]()
        for end in range(1, len(self.turns) + 1, 2):
            sent = ask(end)
            common = 0
            while common < min(len(before), len(sent)) and sent[common][0] == before[common][0]:
                common += 1
            tokens = sum(part[1] for part in sent)
            read = sum(part[1] for part in sent[:common])
            read = read if read >= LEAST and not self.cold(end) else 0
            cost.requests += 1
            cost.sent += tokens
            cost.cost += READ * read + WRITE * (tokens - read)
            cost.breaks += common < len(before)
            cost.over += budget is not None and tokens > budget + self.system[1]
            before = sent
        return cost

    def cold(self, end: int) -> bool:
        """Whether the request comes after a pause."""
        return self.pause > 0 and (end // 2 + 1) % self.pause == 0

    def full(self, end: int) -> Sent:
        return [self.system, *self.turns[:end]]

    def newest(self, budget: int, *, cut_to: float) -> Callable[[int], Sent]:
        """The newest turns, from a start that moves when they are over the budget: to what leaves `cut_to` of it."""
        start = 0

        def ask(end: int) -> Sent:
            nonlocal start
            if sum(part[1] for part in self.turns[start:end]) > budget:
                while start < end - 1 and sum(part[1] for part in self.turns[start:end]) > budget * cut_to:
                    start += 1
            return [self.system, *self.turns[start:end]]

        return ask

    def ours(
        self, budget: int, policy: ContextPolicy, seconds: list[float], *, told: bool
    ) -> tuple[Callable[[int], Sent], Cost]:
        """The product, and what it says of itself."""
        log, said = Log(count=self.count, likeness=shipped()), Cost()
        log.append((self.system[0],))
        profile = Profile(limit=budget + self.system[1], factor=1.0)
        period = Period()

        def ask(end: int) -> Sent:
            nonlocal period
            for message, _ in self.turns[len(log) - 1 : end]:
                log.append((message,))
            began = time.thread_time()
            age = 3_600.0 if told and self.cold(end) else 0.0
            made = plan(log, policy, msgspec.structs.replace(profile, cache_age=age), period=period)
            seconds.append(time.thread_time() - began)
            period = made.period
            said.compactions += made.compacted
            said.segments = max(said.segments, period.compactions)
            said.generations = max([said.generations, *(part.level + 1 for part in period.segments)])
            sent = [message for part in pack(log, made) for message in part.messages]
            return [(message, estimate_message(message, self.count).likely) for message in sent]

        return ask, said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="dialogues in LoCoMo's schema")
    parser.add_argument(
        "--pause", type=int, default=0, metavar="N", help="every Nth request finds no prompt cache"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args()
    count = exact_counter("o200k_base")
    if count is None:
        print("exact counts need the extra tokenizers", file=sys.stderr)
        return 3
    talks = [[text for text, _ in talk.turns] for talk in read(options.file, disguised=False)]
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for budget, conversations in (
        (4_000, talks),
        (8_000, talks),
        (32_000, [[text for talk in talks for text in talk]]),
    ):
        results: dict[str, Cost] = {}
        seconds: list[float] = []
        for number, turns in enumerate(conversations, 1):
            replay = Replay(turns, count, options.pause)
            strategies = {
                "all of it": replay.full,
                "newest turns": replay.newest(budget, cut_to=1.0),
                "newest turns, cut to 50 %": replay.newest(budget, cut_to=0.5),
            }
            said: dict[str, Cost] = {}
            ours = [("headrace, no recall", NO_RECALL, True), ("headrace", ContextPolicy(), True)]
            if options.pause:
                ours += [("headrace, pauses not told", ContextPolicy(), False)]
            for name, policy, told in ours:
                strategies[name], said[name] = replay.ours(budget, policy, seconds, told=told)
            for name, ask in strategies.items():
                cost = replay.run(None if name == "all of it" else budget, ask)
                if name in said:
                    cost.compactions, cost.generations = said[name].compactions, said[name].generations
                    cost.segments = said[name].segments
                results.setdefault(name, Cost()).add(cost)
                print(f"\r{budget} tokens, {number}/{len(conversations)}: {name:30}", end="", file=sys.stderr)
        print(file=sys.stderr)
        yardstick = results["newest turns, cut to 50 %"].cost
        seconds.sort()
        rows[str(budget)] = {
            name: {
                **{part.name: getattr(cost, part.name) for part in fields(cost)},
                "to_yardstick": round(cost.cost / yardstick, 3),
            }
            for name, cost in results.items()
        }
        rows[str(budget)]["plan"] = {
            f"p{q}_ms": round(seconds[int(len(seconds) * q / 100)] * 1e3, 3) for q in (50, 95)
        }
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    for budget, row in rows.items():
        timing = row.pop("plan")
        print(f"{budget} tokens; a plan takes {timing['p50_ms']} ms (p50), {timing['p95_ms']} ms (p95)")
        print(
            f"  {'':28}{'sent':>10}{'cost':>10}{'ratio':>8}{'breaks':>8}{'planned':>9}{'over':>6}{'generations':>13}"
        )
        for name, part in row.items():
            ours = name.startswith("headrace")
            least = (
                f"{part['generations']:.0f} of {2 + math.log(max(1, part['segments']), 4):.1f}"
                if ours
                else ""
            )
            print(
                f"  {name:28}{part['sent'] / 1e3:>9.0f}k{part['cost'] / 1e3:>9.0f}k{part['to_yardstick']:>8.2f}{part['breaks']:>8.0f}"
                f"{part['compactions'] if ours else '':>9}{part['over']:>6.0f}{least:>13}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
