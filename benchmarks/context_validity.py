"""Whether what is sent would be taken, is within its budget and still has the request: `context_validity.py FILE [--json]`.

FILE has the schema of tau-bench (recorded conversations of an agent with its tools). Every prefix that ends in a request is packed,
as one process that goes on and as one that knows nothing, and judged by `invariants.py`, which shares no code with the packer. The
budget leaves the system prompt out. Counts are exact (o200k_base).

Beside ours stand the figures recorded for other libraries on the same data and rules (40 conversations, at every model call over budget).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from headrace.context import Log, Period, Profile, pack, plan
from headrace.dialects import by_name
from headrace.errors import ContextTooLong
from headrace.handler import ContextPolicy
from headrace.tokens import estimate_message, exact_counter
from headrace.types import Message
from invariants import lost_request, prefix_of, violations

BUDGETS = (2000, 4000)
RECORDED: dict[str, tuple[str, str, str]] = {
    "langchain trim_messages 1.5.0, defaults": ("24.5 %", "15.7 %", "27 %, 1.13x"),
    "langchain trim_messages, start_on=human": ("10.4 %", "0 %", "8 %, 1.06x"),
    "langchain SummarizationMiddleware, keep 20": ("0 %", "0 %", "94 %, 2.39x"),
    "langmem summarize_messages 0.0.30": ("7.8 %", "7.8 %", "72 %, 1.61x"),
    "litellm trim_messages 1.106.2": ("76.0 %", "86.3 %", "34 %, 1.58x"),
    "autogen TokenLimited 0.7.5": ("57.8 %", "52.9 %", "0 %, 1.00x"),
    "autogen Buffered(12)": ("12.0 %", "15.7 %", "15 %, 2.12x"),
    "autogen HeadAndTail(2, 10)": ("0 %", "0 %", "12 %, 2.04x"),
}
"""Invalid at 2,000 and at 4,000 tokens, and over budget at 2,000 with the worst; measured 2026-11-24."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="conversations in tau-bench's schema")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth conversation")
    options = parser.parse_args()
    exact = exact_counter("o200k_base")
    if exact is None:
        print("exact counts need the extra tokenizers", file=sys.stderr)
        return 3
    dialect = by_name("openai-chat")
    rows: list[Any] = json.loads(options.file.read_text("utf-8"))[:: options.every]
    results: dict[str, dict[str, float]] = {}
    seconds: list[float] = []
    for budget in BUDGETS:
        found = dict.fromkeys(
            (
                "requests",
                "packed",
                "invalid",
                "over_budget",
                "lost",
                "refused",
                "breaks",
                "compactions",
                "differ",
            ),
            0.0,
        )
        found["worst"] = 0.0
        for number, row in enumerate(rows):
            asked = msgspec.json.encode({"model": "m", "messages": row["traj"]})
            messages = dialect.decode_request(asked).messages
            _judge(messages, budget, exact, found, seconds)
            if sys.stderr.isatty() or number % 20 == 0:
                filled = round(40 * (number + 1) / len(rows))
                print(
                    f"\r[{'#' * filled:40}] {budget} tokens, {number + 1}/{len(rows)}",
                    end="",
                    file=sys.stderr,
                )
        print(file=sys.stderr)
        results[str(budget)] = found
    seconds.sort()
    timing = {f"p{q}_ms": round(seconds[int(len(seconds) * q / 100)] * 1e3, 3) for q in (50, 95)}
    if options.json:
        recorded = {
            name: dict(zip(("2000", "4000", "over_2000"), row, strict=True)) for name, row in RECORDED.items()
        }
        print(
            json.dumps(
                {"conversations": len(rows), "headrace": results, "plan": timing, "recorded": recorded},
                indent=1,
            )
        )
        return 0
    print(f"{'':54}{'invalid 2k':>12}{'invalid 4k':>12}{'over budget 2k':>18}")
    shares = [f"{found['invalid'] / found['requests']:.1%}" for found in results.values()]
    over = results["2000"]
    print(
        f"{'headrace':54}{shares[0]:>12}{shares[1]:>12}{over['over_budget'] / over['requests']:>10.1%}, {over['worst']:.2f}x"
    )
    for name, (two, four, more) in RECORDED.items():
        print(f"{name + ' (recorded)':54}{two:>12}{four:>12}{more:>18}")
    for name, found in results.items():
        print(f"{name} tokens: " + ", ".join(f"{key} {value:g}" for key, value in found.items()))
    print(f"plan: p50 {timing['p50_ms']} ms, p95 {timing['p95_ms']} ms")
    return 0


def _judge(
    messages: tuple[Message, ...], budget: int, exact: Any, found: dict[str, float], seconds: list[float]
) -> None:
    policy = ContextPolicy()
    log, period, before = Log(count=exact), None, None
    system = 0
    for end, message in enumerate(messages, 1):
        turn = log.append((message,))
        system += turn.tokens.likely if turn.role == "system" else 0
        follows = messages[end].role if end < len(messages) else "assistant"
        if message.role == "assistant" or follows != "assistant":
            continue
        found["requests"] += 1
        profile = Profile(limit=budget + system, factor=1.0)
        try:
            began = time.thread_time()
            made = plan(log, policy, profile, period=period or Period())
            seconds.append(time.thread_time() - began)
        except ContextTooLong:
            found["refused"] += 1
            period, before = None, None
            continue
        sent = [m for part in pack(log, made) for m in part.messages]
        tokens = sum(estimate_message(m, exact).likely for m in sent) - system
        found["packed"] += made.changed
        found["invalid"] += bool(violations(sent, cut=made.period.cut > 0))
        found["over_budget"] += tokens > budget
        found["worst"] = max(found["worst"], round(tokens / budget, 4))
        found["lost"] += lost_request(messages[:end], sent)
        found["compactions"] += made.compacted
        found["breaks"] += before is not None and not prefix_of(before, sent)
        whole = plan(log, policy, profile)
        again = [m for part in pack(log, whole) for m in part.messages]
        found["differ"] += again != sent
        period, before = made.period, sent


if __name__ == "__main__":
    sys.exit(main())
