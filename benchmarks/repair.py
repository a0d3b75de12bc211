#!/usr/bin/env python3
"""Broken structured outputs: how many are valid after the local repair, how many after the whole ladder, and whether a value ever changes.

The corpus: objects made by hypothesis (the same in every run), and those that models gave in the recorded exchanges, each broken
in eight ways. Locally an answer is judged once. The ladder is the whole stack over a provider in memory: repair, one re-ask,
then a second target with the same; a model that is asked once more breaks its answer again with the chance `--again` (0.2: an
assumption, not a measurement; what is measured is that the ladder makes of it what it should).

    python benchmarks/repair.py [--each 60] [--again 0.2] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

import headrace
from headrace import dialects
from headrace.errors import HeadraceError
from headrace.handler import assemble
from headrace.output import Mismatch, judge, shape_of
from headrace.testing import Answer
from headrace.types import Reply

RECORDED = Path(__file__).resolve().parents[1] / "tests" / "recordings" / "exchanges.jsonl"

LOCAL = ("fence", "extra text", "trailing comma", "single quotes", "comments")
"""Classes that nothing has to be guessed in."""

GUESS = ("truncated", "wrong type", "nested quotes")
"""Classes in which a value would have to be guessed: nothing of them is repaired."""


# --- the corpus -------------------------------------------------------------------------------------------------------


def schema_of(value: Any) -> dict[str, Any]:
    """The narrowest plain schema that `value` is valid against: every member required, none other allowed."""
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case None:
            return {"type": "null"}
        case list():
            kinds = [schema_of(item) for item in value]
            return {"type": "array", "items": {"anyOf": kinds} if kinds else {}}
        case _:
            return {
                "type": "object",
                "properties": {name: schema_of(member) for name, member in value.items()},
                "required": list(value),
                "additionalProperties": False,
            }


def made(count: int) -> list[dict[str, Any]]:
    """Objects by hypothesis, the same ones in every run."""
    leaf = (
        st.none()
        | st.booleans()
        | st.integers(-(10**12), 10**12)
        | st.floats(allow_nan=False, allow_infinity=False, width=32)
        | st.text(max_size=24)
        | st.sampled_from(
            [
                "it's",
                'say "hi"',
                "http://x.y/z // no",
                "# not a comment",
                "a, b}",
                "```",
                "C:\\dir",
                "naïve ✓",
            ]
        )
    )
    tree = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
    found: list[dict[str, Any]] = []

    @hypothesis.settings(max_examples=count, derandomize=True, database=None, deadline=None)
    @hypothesis.given(st.dictionaries(st.text(min_size=1, max_size=8), tree, min_size=1, max_size=4))
    def collect(value: dict[str, Any]) -> None:
        found.append(value)

    collect()
    return found


def recorded(path: Path = RECORDED) -> list[dict[str, Any]]:
    """The objects that models gave in the committed recordings, as arguments of tools or as text."""
    found: list[dict[str, Any]] = []
    for line in path.read_text("utf-8").splitlines():
        exchange = json.loads(line)
        if exchange["kind"] not in ("openai-chat", "anthropic") or exchange["status"] != 200:
            continue
        reply = _reply(exchange)
        for text in () if reply is None else (*(call.arguments for call in reply.tool_calls), reply.text):
            try:
                value = json.loads(text)
            except ValueError:
                continue
            if isinstance(value, dict) and value:
                found.append(value)
    return found


def _reply(exchange: dict[str, Any]) -> Reply | None:
    dialect, body = dialects.by_name(exchange["kind"]), exchange["body"]
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    try:
        if not exchange["answered_stream"]:
            return dialect.decode_reply(data)
        decoder = dialect.decoder(hide_usage=False)
        return assemble(
            [event for frame in (*decoder.feed(data), *decoder.close()) for event in frame.events]
        )
    except HeadraceError:
        return None


def _written(value: Any, pick: random.Random, kind: str) -> str:
    """`value` as a sloppy model writes it."""

    def string(text: str) -> str:
        plain = json.dumps(text, ensure_ascii=False)
        if kind != "single quotes":
            return plain
        return "'" + plain[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"

    def note() -> str:
        return (
            pick.choice(["", " // it's so, }\n", ' /* a " b */ ', " # note\n"]) if kind == "comments" else ""
        )

    def go(inner: Any) -> str:
        tail = "," if kind == "trailing comma" and inner else ""
        if isinstance(inner, dict):
            return (
                "{"
                + note()
                + ", ".join(f"{string(k)}: {go(v)}{note()}" for k, v in inner.items())
                + tail
                + "}"
            )
        if isinstance(inner, list):
            return "[" + ", ".join(go(v) + note() for v in inner) + tail + "]"
        return string(inner) if isinstance(inner, str) else json.dumps(inner)

    return go(value)


def _fence(value: Any, pick: random.Random) -> str:
    form = pick.choice(
        ["```json\n{}\n```", "```\n{}```", "Here it is:\n```JSON\n{}\n```", "```json\n{}\n```\nDone."]
    )
    return form.replace("{}", json.dumps(value, indent=pick.choice([None, 2])))


def _extra(value: Any, pick: random.Random) -> str:
    form = pick.choice(
        [
            "Sure! {} Hope it helps.",
            "The answer is:\n\n{}",
            "{}\n\nLet me know if you need more.",
            "<think>maybe {b}</think>{}",
        ]
    )
    return form.replace("{}", json.dumps(value))


def _truncated(value: Any, pick: random.Random) -> str:
    text = json.dumps(value)
    return text[: pick.randrange(1, len(text))]


def _wrong_type(value: Any, pick: random.Random) -> str:
    """One member of the top of another type."""
    name = pick.choice(list(value))
    old = value[name]
    wrong: Any
    match old:
        case list():
            wrong = {"items": old}
        case str() | dict():
            wrong = [old]
        case _:
            wrong = str(old)
    return json.dumps({**value, name: wrong})


def _nested_quotes(value: Any, pick: random.Random) -> str:
    """A text of the value with quotes that nobody escaped."""
    return json.dumps({**value, "note": 'He said "hello, you" to me'}).replace('\\"', '"')


def broken(value: Any, kind: str, pick: random.Random) -> tuple[Any, str]:
    """What was meant, and how it came out."""
    match kind:
        case "fence":
            return value, _fence(value, pick)
        case "extra text":
            return value, _extra(value, pick)
        case "truncated":
            return value, _truncated(value, pick)
        case "wrong type":
            return value, _wrong_type(value, pick)
        case "nested quotes":
            return {**value, "note": 'He said "hello, you" to me'}, _nested_quotes(value, pick)
        case _:
            return value, _written(value, pick, kind)


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """What became of the answers of one class; all but `kind` are counts. `changed` must be 0."""

    kind: str
    answers: int = 0
    local: int = 0
    ladder: int = 0
    changed: int = 0
    requests: int = 0


def same(one: Any, other: Any) -> bool:
    """Equal to the letter: `1` is neither `true` nor `1.0`."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def measure(each: int, again: float) -> Iterator[Row]:
    """A row for each class, over `each` answers."""
    pick = random.Random(7)
    found = recorded()
    values = [*found, *made(max(1, each))][:each] if len(found) < each else found[:each]
    for kind in (*LOCAL, *GUESS):
        row = Row(kind)
        for value in values:
            meant, text = broken(value, kind, pick)
            _local(row, meant, text, kind)
            _ladder(row, meant, text, kind, again, pick)
        yield row


def _local(row: Row, meant: Any, text: str, kind: str) -> None:
    row.answers += 1
    try:
        got = judge(text, shape_of(schema_of(meant)), cut=kind == "truncated").value
    except Mismatch:
        return
    row.local += same(got, meant)
    row.changed += not same(got, meant)


def _ladder(row: Row, meant: Any, text: str, kind: str, again: float, pick: random.Random) -> None:
    asked = Counter[str]()

    def say(_: object) -> Answer:
        asked["requests"] += 1
        first = asked["requests"] == 1
        wrong = text if first else broken_again() if pick.random() < again else json.dumps(meant)
        return Answer(wrong, finish="length" if kind == "truncated" and wrong != json.dumps(meant) else None)

    def broken_again() -> str:
        return _nested_quotes(meant, pick) if kind == "nested quotes" else broken(meant, kind, pick)[1]

    with headrace.fake(say) as llm:
        try:
            answer = llm.chat(
                [("openai/one", 1), ("anthropic/two", 1)], "Give me the object.", output=schema_of(meant)
            )
        except headrace.InvalidOutput:
            pass
        else:
            row.ladder += same(answer.value, meant)
            row.changed += not same(answer.value, meant)
    row.requests += asked["requests"]


def main(print_: Callable[[str], None] = print) -> int:
    """Print the table; exit code 1 when a demand does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--each", type=int, default=60, help="answers of each class")
    parser.add_argument("--again", type=float, default=0.2, help="chance that another answer is broken again")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = list(measure(options.each, options.again))
    if options.json:
        print_(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_(
            f"{'class':<16}{'answers':>8}{'valid locally':>15}{'after the ladder':>18}{'changed':>9}{'requests':>10}"
        )
        for row in rows:
            print_(
                f"{row.kind:<16}{row.answers:>8}{row.local / row.answers:>15.1%}{row.ladder / row.answers:>18.1%}"
                f"{row.changed:>9}{row.requests:>10}"
            )
        print_(f"{sum(row.answers for row in rows)} answers, {len(recorded())} objects from recordings")
    good = all(
        row.changed == 0
        and row.ladder >= 0.95 * row.answers
        and (
            row.local >= 0.9 * row.answers if row.kind in LOCAL else row.kind != "truncated" or row.local == 0
        )
        for row in rows
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
