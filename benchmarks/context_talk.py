"""A real talk of 60 turns with the embedded model at 1,000 tokens, whose first fact is asked for at the end: `context_talk.py [--json]`.

The model is one of `headrace models local`, fetched before (`headrace models pull NAME`). Asserted is that the fact is in what is sent with the last
question; the answer is shown as it came, since a model this small may get it wrong all the same. `--svg FILE` draws the last plan.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from headrace import AsyncClient, load
from headrace.content import assistant, user
from headrace.context import Plan
from headrace.types import Message

FACT = "My locker at the gym is number 312, and its code is 7719. Please keep that in mind."
QUESTION = "One last thing: what is the code of my locker at the gym?"
TOPICS = (
    "the weather in autumn", "how bread is baked", "a good book for a long train ride", "growing tomatoes on a balcony", "why the sky is blue",
    "learning to swim", "the history of the bicycle", "cooking rice", "a walk in the mountains", "how a violin is made", "cleaning a coffee machine",
    "the planets", "a birthday present for a friend", "painting a wall", "how bees make honey", "sleeping well", "packing a suitcase", "the sea at night",
    "repairing a tyre", "a quiet evening at home", "old maps", "learning a language", "making soup", "the moon", "taking photographs", "a garden pond",
    "writing letters", "playing chess",
)  # fmt: skip


async def talk(model: str, turns: int, budget: int) -> tuple[list[Message], list[Plan], float]:
    """What was said, the plan of each request, and how long it took, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "headrace.toml"
        path.write_text(
            f'[local]\nmodel = "{model}"\ncontext = 2048\n[routes.talk]\ncascade = ["local/default"]\n'
            f"[routes.talk.context]\nbudget = {budget}\n"
        )
        said: list[Message] = []
        plans: list[Plan] = []
        began = time.monotonic()
        async with AsyncClient(load(path)) as llm:
            for number in range(turns // 2):
                last = number == turns // 2 - 1
                topic = TOPICS[number % len(TOPICS)]
                text = (
                    FACT
                    if number == 0
                    else QUESTION
                    if last
                    else f"Tell me something about {topic}, in two sentences."
                )
                said.append(user(text))
                answer = await llm.chat("talk", said, max_tokens=64, temperature=0.0)
                assert isinstance(answer.plan, Plan)
                said.append(assistant(answer.text))
                plans.append(answer.plan)
                print(
                    f"\r[{'#' * round(40 * (number + 1) / (turns // 2)):40}] turn {2 * number + 2}",
                    end="",
                    file=sys.stderr,
                )
        print(file=sys.stderr)
        return said, plans, time.monotonic() - began


COLOURS = {
    "kept": "#4c78a8",
    "changed": "#72b7b2",
    "recalled": "#e45756",
    "summarised": "#f2a93b",
    "dropped": "#d0d0d0",
}


def drawn(plan: Plan) -> str:
    """The plan as a picture: a bar a turn, as wide as its tokens, in the colour of what became of it."""
    scale = 760 / max(1, sum(turn.tokens for turn in plan.turns))
    at, parts = 20.0, []
    for turn in plan.turns:
        width = turn.tokens * scale
        parts.append(
            f'<rect x="{at:.1f}" y="34" width="{max(width - 1, 1):.1f}" height="46" fill="{COLOURS[turn.what]}">'
            f"<title>turn {turn.turn}, {turn.role}, {turn.tokens} tokens: {turn.what}, {turn.why}</title></rect>"
        )
        at += width
    x = 20
    for what, colour in COLOURS.items():
        count = sum(turn.what == what for turn in plan.turns)
        parts.append(
            f'<rect x="{x}" y="98" width="12" height="12" fill="{colour}"/><text x="{x + 17}" y="109">{what}: {count}</text>'
        )
        x += 150
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 124" font-family="sans-serif" font-size="13">'
        '<rect width="800" height="124" fill="#ffffff"/>'
        f'<text x="20" y="22">{len(plan.turns)} turns, {sum(turn.tokens for turn in plan.turns)} tokens said; {plan.tokens} sent, '
        f"at most {plan.limit}</text>" + "".join(parts) + "</svg>\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--model", default="qwen2.5-coder-0.5b", help="of `headrace models local`, or a GGUF file"
    )
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--budget", type=int, default=1000, help="tokens")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the last plan")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    options = parser.parse_args()
    said, plans, seconds = asyncio.run(talk(options.model, options.turns, options.budget))
    last = plans[-1]
    if options.svg is not None:
        options.svg.write_text(drawn(last))
    sent = [turn.turn for turn in last.turns if turn.what in ("kept", "changed", "recalled", "summarised")]
    inserted = "".join(insert.text for insert in last.period.inserts) + last.period.summary
    there = "7719" in inserted or (0 in sent and last.period.cut == 0)
    result: dict[str, Any] = {
        "model": options.model,
        "turns": len(said),
        "seconds": round(seconds, 1),
        "compactions": last.period.compactions,
        "limit": last.limit,
        "tokens": last.tokens,
        "over": sum(plan.tokens > options.budget for plan in plans),
        "fact_sent": there,
        "fact_turn": {"what": last.turns[0].what, "why": last.turns[0].why, "score": last.turns[0].score},
        "question": QUESTION,
        "answer": said[-1].content[0].text,  # type: ignore[union-attr]
    }
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result.items():
            print(f"{name:12} {value}")
    return 0 if there else 1


if __name__ == "__main__":
    sys.exit(main())
