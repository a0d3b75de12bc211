"""How near our counts are once a provider has counted one request: `context_counts.py --prose FILE --json-text FILE [--json]`.

A conversation of one kind of text is asked at some length; the provider, played by the exact tokenizer, says how many tokens the whole request
had (system, tools, framing). Then turns of up to a quarter of that are added, and the product's plan says how many the longer request
has: probably (`likely`) and at most (`tokens`, what is held against the limit). Nothing is known of the tokenizer but that one count.

prose is dialogue (LoCoMo's schema), JSON what tools said (tau-bench's schema), code Python's standard library as it is installed, CJK the Chinese,
Japanese and Korean of `count_texts/cjk.txt` or of `--cjk FILE`, plain text. "prose, then JSON" and "prose, then code" add what the count says nothing
about. Every second piece is asked with, the others are added. The estimator's rates were set before, on other text, and are not fitted here.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.context import Log, Plan, Profile, plan
from headrace.handler import ContextPolicy
from headrace.tokens import Anchor, TextCounter, estimate_chat, estimate_text, exact_counter
from headrace.types import Chat, Message, Text, Tool

CASES = 400
PREFIX = (800, 12_000)
"""Tokens of the request that the provider counts."""

SUFFIX = 0.25
TOOLS = Chat(
    model="",
    messages=(),
    tools=tuple(
        Tool(
            name=name,
            description=f"Looks up the {name} of a customer by the number that is printed on the invoice.",
            parameters=b'{"type":"object","properties":{"number":{"type":"string"}},"required":["number"]}',  # type: ignore[arg-type]
        )
        for name in ("order", "address", "refund")
    ),
)
CODE = (
    "argparse.py",
    "asyncio/base_events.py",
    "ast.py",
    "decimal.py",
    "email/message.py",
    "inspect.py",
    "tarfile.py",
    "typing.py",
)


def prose(path: Path) -> list[str]:
    """The turns of all dialogues of a file in LoCoMo's schema."""
    said: list[str] = []
    for row in json.loads(path.read_text("utf-8")):
        talk = row["conversation"]
        for number in range(1, 100):
            said += [turn["text"] for turn in talk.get(f"session_{number}", [])]
    return said


def json_text(path: Path) -> list[str]:
    """What tools answered in a file of tau-bench's schema, where it is JSON."""
    found: list[str] = []
    for row in json.loads(path.read_text("utf-8")):
        for message in row["traj"]:
            text = message.get("content")
            if message["role"] == "tool" and isinstance(text, str) and text.startswith(("{", "[")):
                found.append(text)
    return list(dict.fromkeys(found))


def code() -> list[str]:
    """Pieces of forty lines."""
    root = Path(sysconfig.get_path("stdlib"))
    pieces: list[str] = []
    for name in _present(root):
        lines = (root / name).read_text("utf-8").splitlines(keepends=True)
        pieces += ["".join(lines[at : at + 40]) for at in range(0, len(lines), 40)]
    return pieces


def _present(root: Path) -> list[str]:
    return [name for name in CODE if (root / name).exists()]


def cjk(path: Path) -> list[str]:
    """The paragraphs of a text, those with Chinese, Japanese or Korean in them."""
    wide = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]")
    return [line.strip() for line in path.read_text("utf-8").splitlines() if wide.search(line)]


class Case:
    """One conversation of `count` as the provider's tokenizer."""

    def __init__(self, count: TextCounter) -> None:
        self.count = count
        self.log = Log()
        self.told = estimate_chat(TOOLS, count).likely
        self.ours = estimate_chat(TOOLS, estimate_text)

    def say(self, text: str) -> int:
        """Add a turn; its tokens as the provider counts."""
        role: Any = "assistant" if len(self.log) % 2 else "user"
        message = Message(role=role, content=(Text(text=text),))
        tokens = Log.of([message], count=self.count).turns[0].tokens.likely
        self.log.append((message,))
        self.told += tokens
        return tokens

    def plan(self, before: Plan | None = None, anchor: Anchor | None = None) -> Plan:
        """As the layer plans, without a limit."""
        profile = Profile(fixed=self.ours.bound)
        period = None if before is None else before.period
        return plan(self.log, ContextPolicy(), profile, period=period, anchor=anchor)

    def likely(self) -> int:
        """Our likely count of all of it."""
        return sum((turn.tokens for turn in self.log.turns), self.ours).likely


def run(
    count: TextCounter, prefix: Sequence[str], suffix: Sequence[str], *, cases: int, seed: int
) -> dict[str, float]:
    """The errors of `cases` conversations, as shares of what the provider counts."""
    choose = random.Random(seed)
    errors: list[float] = []
    over: list[float] = []
    cold: list[float] = []
    while len(errors) < cases:
        case, length = Case(count), choose.randint(*PREFIX)
        at = choose.randrange(len(prefix))
        while case.told < length:
            case.say(prefix[at % len(prefix)])
            at += 1
        before = case.plan()
        anchor = Anchor(case.told, case.likely())
        cold.append((before.tokens - case.told) / case.told)
        room = int(case.told * SUFFIX * choose.uniform(0.2, 1.0))
        here = choose.randrange(len(suffix))
        added = 0
        while True:
            text = suffix[here % len(suffix)]
            if added + count(text).likely + 4 > room:
                break
            added += case.say(text)
            here += 1
        if not added:
            continue
        made = case.plan(before, anchor)
        assert made.likely is not None and made.anchored == anchor.reported
        errors.append((made.likely - case.told) / case.told)
        over.append((made.tokens - case.told) / case.told)
    errors.sort()
    over.sort()
    return {
        "cases": cases,
        "within": sum(abs(error) <= 0.05 for error in errors) / cases,
        "p5": errors[cases * 5 // 100],
        "p95": errors[cases * 95 // 100],
        "worst": max(errors, key=abs),
        "under": sum(part < 0 for part in over),
        "bound_p50": over[cases // 2],
        "bound_p95": over[cases * 95 // 100],
        "cold_under": sum(part < 0 for part in cold),
        "cold_p50": sorted(cold)[cases // 2],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prose", type=Path, help="dialogues in LoCoMo's schema")
    parser.add_argument("--json-text", type=Path, help="transcripts in tau-bench's schema")
    parser.add_argument(
        "--cjk", type=Path, default=Path(__file__).with_name("count_texts") / "cjk.txt", help="a plain text"
    )
    parser.add_argument(
        "--encoding",
        default="o200k_base",
        choices=("o200k_base", "cl100k_base"),
        help="of the provider that is played",
    )
    parser.add_argument("--cases", type=int, default=CASES, help="conversations of each kind")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args()
    count = exact_counter(options.encoding)
    if count is None:
        print("exact counts need the extra tokenizers", file=sys.stderr)
        return 3
    texts = {"code": code(), "CJK": cjk(options.cjk)}
    if options.json_text is not None:
        texts["JSON"] = json_text(options.json_text)
    if options.prose is not None:
        texts["prose"] = prose(options.prose)
    kinds = {name: (text[0::2], text[1::2]) for name, text in sorted(texts.items())}
    kinds |= {
        f"prose, then {name}": (texts["prose"][0::2], texts[name][1::2])
        for name in ("JSON", "code", "CJK")
        if {name, "prose"} <= texts.keys()
    }
    rows = {}
    for number, (name, (prefix, suffix)) in enumerate(kinds.items()):
        print(f"\r{name:24}", end="", file=sys.stderr)
        rows[name] = run(count, prefix, suffix, cases=options.cases, seed=number)
    print(file=sys.stderr)
    if options.json:
        print(
            json.dumps(
                {name: {part: round(value, 4) for part, value in row.items()} for name, row in rows.items()},
                indent=1,
            )
        )
        return 0
    print(f"{options.encoding}; shares of the true count; {options.cases} conversations each")
    print(
        f"  {'':20}{'within 5 %':>11}{'p5':>8}{'p95':>8}{'worst':>8}{'under':>7}{'bound p50':>11}{'p95':>8}{'| cold: under':>15}{'p50':>8}"
    )
    for name, row in rows.items():
        print(
            f"  {name:20}{row['within']:>11.3f}{row['p5']:>+8.3f}{row['p95']:>+8.3f}{row['worst']:>+8.3f}{row['under']:>7.0f}"
            f"{row['bound_p50']:>+11.3f}{row['bound_p95']:>+8.3f}{row['cold_under']:>15.0f}{row['cold_p50']:>+8.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
