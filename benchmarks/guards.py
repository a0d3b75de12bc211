"""How often the guards are right, by kind, and what they cost: `guards.py [--corpora FOLDER] [--errors SET] [--json]`.

`guards.py --splits` cuts a streamed answer at every two places and sends it through a gateway, in every pair of dialects: it counts the answers that
are not what they should be, and the requests that left with a value.

The labelled texts are in `guard_texts/`: those that the finders were tuned on, and those that were held out. A value counts as found when exactly
its characters were; what was found beside a value, or only in part, counts as wrong. All kinds are looked for at once, as on a route.
Values of cards and accounts are public test numbers; secrets are made up anew in each run from a fixed seed.

FOLDER has `locomo/*.json` and `tau-bench/*.json` (see docs/guards.md): real texts without cards, accounts, phones, addresses of machines or secrets,
where whatever is found of these is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headrace.clock import SystemClock
from headrace.dialects import by_name
from headrace.guards import KINDS, Judgement, Redactor, find_injections
from headrace.guards.personal import is_iban, is_luhn
from headrace.handler import Body, GuardPolicy, Request
from headrace.layers.guard import Guard
from headrace.layers.guard.restored import Restored
from headrace.testing import Answer, FakeProvider, Received
from headrace.types import Delta, Frame

TEXTS = Path(__file__).parent / "guard_texts"
SETS = ("tuned", "held_out")

_LABEL = re.compile(r"«(\w+)\|(.*?)»", re.DOTALL)
_MADE_UP = re.compile(r"\{([wabhud])(\d+)\}")
_ALPHABETS = {
    "w": string.ascii_letters + string.digits + "_-",
    "a": string.ascii_letters + string.digits,
    "b": string.ascii_letters + string.digits + "+/",
    "h": string.digits + "abcdef",
    "u": string.ascii_uppercase + "234567",
    "d": string.digits,
}


@dataclass
class Score:
    """Found and right, not found, found and wrong; the last two with their texts."""

    right: int = 0
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float | int | None]:
        """Precision and recall, None where there is nothing to divide by."""
        found, real = self.right + len(self.wrong), self.right + len(self.missed)
        return {
            "values": real,
            "found": found,
            "precision": None if not found else round(self.right / found, 4),
            "recall": None if not real else round(self.right / real, 4),
        }


def labelled(name: str, seed: int = 7) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """The texts of a set, each with its values as kind, start and end."""
    chance = random.Random(seed)

    def made_up(match: re.Match[str]) -> str:
        letters = _ALPHABETS[match[1]]
        text = "".join(chance.choices(letters, k=int(match[2])))
        return text[:-2] + "a7" if letters[-1] in "_-/" else text  # no service ends a key in punctuation

    for line in (TEXTS / f"{name}.txt").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        text, values, at = "", [], 0
        line = line.replace("\\n", "\n")
        for match in _LABEL.finditer(line):
            text += line[at : match.start()]
            value = _MADE_UP.sub(made_up, match[2])
            assert match[1] != "card" or is_luhn("".join(filter(str.isdigit, value))), value
            assert match[1] != "iban" or is_iban(value), value
            values.append((match[1], len(text), len(text) + len(value)))
            text += value
            at = match.end()
        yield text + line[at:], values


def judge(name: str) -> dict[str, Score]:
    """The finders on a labelled set, by kind."""
    scores = {kind: Score() for kind in KINDS}
    redactor = Redactor()
    for text, values in labelled(name):
        found = [(finding.kind, finding.start, finding.end) for finding in redactor.find(text)]
        for value in values:
            if value in found:
                scores[value[0]].right += 1
            else:
                scores[value[0]].missed.append(f"{text[value[1] : value[2]]!r} in {text!r}")
        for finding in found:
            if finding not in values:
                scores[finding[0]].wrong.append(f"{text[finding[1] : finding[2]]!r} in {text!r}")
    return scores


def judge_injections() -> dict[str, Score]:
    """The same for texts that speak to the model."""
    scores = {name: Score() for name in SETS}
    name = "tuned"
    for line in (TEXTS / "injections.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            name = "held_out" if line == "# held out" else name
            continue
        sign, _, text = line.partition("\t")
        found = find_injections(text.replace("\\n", "\n"))
        score = scores[name]
        if sign == "+" and found:
            score.right += 1
        elif sign == "+":
            score.missed.append(text)
        elif found:
            score.wrong.append(f"{found} {text}")
    return scores


# --- real texts -------------------------------------------------------------------------------------------------------


def locomo(folder: Path) -> Iterator[str]:
    """Every turn of the dialogues."""
    for path in sorted(folder.glob("locomo/*.json")):
        for dialogue in json.loads(path.read_text("utf-8")):
            for turns in dialogue["conversation"].values():
                if isinstance(turns, list):
                    yield from (turn["text"] for turn in turns)


def tau_bench(folder: Path, *roles: str) -> Iterator[str]:
    """Every text of the transcripts, arguments and results of tools among them."""
    for path in sorted(folder.glob("tau-bench/*.json")):
        for transcript in json.loads(path.read_text("utf-8")):
            for message in transcript["traj"]:
                if not roles or message["role"] in roles:
                    if message.get("content"):
                        yield message["content"]
                    for call in message.get("tool_calls") or ():
                        yield call["function"]["arguments"]


@dataclass
class Corpus:
    """What is found in real texts: by kind the number of times, and the different values with their number."""

    texts: int = 0
    characters: int = 0
    found: Counter[str] = field(default_factory=Counter)
    values: dict[str, Counter[str]] = field(default_factory=dict)


def look(texts: Iterable[str], find: Callable[[str], Iterable[tuple[str, str]]]) -> Corpus:
    """`find` gives kind and value."""
    corpus = Corpus()
    for text in texts:
        corpus.texts += 1
        corpus.characters += len(text)
        for kind, value in find(text):
            corpus.found[kind] += 1
            corpus.values.setdefault(kind, Counter())[value] += 1
    return corpus


def _values(text: str) -> Iterator[tuple[str, str]]:
    return ((f.kind, text[f.start : f.end]) for f in _ALL.find(text))


def _injections(text: str) -> Iterator[tuple[str, str]]:
    return ((reason, text[:160]) for reason in find_injections(text))


_ALL = Redactor()


# --- what it costs ----------------------------------------------------------------------------------------------------


def _best(run: Callable[[], object], rounds: int = 7) -> float:
    """Milliseconds of the fastest of some rounds: what the work takes when nothing else runs."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best * 1000


async def _nobody(name: str, side: str, text: str, request: Request) -> Judgement:
    raise AssertionError("no route of this benchmark has a judge")


def costs(prose: str, results: str) -> dict[str, float]:
    """Milliseconds for 10 kB of conversation, and of tool results, without values and with 30; microseconds a frame of a stream."""
    figures: dict[str, float] = {}
    dialect, guard = by_name("openai-chat"), Guard(SystemClock(), {}, _nobody)
    policy = GuardPolicy(redact=KINDS)
    mails = [f"person{number}@example.com" for number in range(30)]
    for name, text in (("conversation", prose[:10_000]), ("tool results", results[:10_000])):
        pieces = [text[at : at + 500] for at in range(0, len(text), 500)]
        for what, said in (
            ("nothing found", pieces),
            ("30 values", [f"{piece} {mails[n]} {mails[-n]}" for n, piece in enumerate(pieces)]),
        ):
            messages = [{"role": "user", "content": piece} for piece in said]
            wire = json.dumps({"model": "m", "messages": messages}).encode()

            def first(wire: bytes = wire) -> None:
                Guard(SystemClock(), {}, _nobody).redacted(Body(wire=wire, dialect=dialect), policy)

            def again(wire: bytes = wire) -> None:
                guard.redacted(Body(wire=wire, dialect=dialect), policy)

            figures[f"redact 10 kB of {name}, {what}, ms"] = _best(first)
            figures[f"the same sent again ({name}, {what}), ms"] = _best(again)
        figures[f"look for injections in 10 kB of {name}, ms"] = _best(
            lambda text=text: find_injections(text)
        )  # type: ignore[misc]
    values = {f"[EMAIL_{n + 1}]": mail for n, mail in enumerate(mails)}
    for what, word in (("without a placeholder", "word "), ("with one", "[EMAIL_7] ")):
        raw = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % word.encode()
        batch = [Frame((Delta(0, "text", word),), raw, "openai-chat")]

        def stream(batch: list[Frame] = batch) -> None:
            restored = Restored(values)
            for _ in range(1000):
                restored.feed(batch)

        figures[f"restore a frame {what}, µs"] = _best(stream)
    return {name: round(value, 3) for name, value in figures.items()}


# --- the report -------------------------------------------------------------------------------------------------------


SPLIT = "To [EMAIL_1], card [CARD_1] [EMAIL_2]."
PUT_BACK = "To ann@example.com, card 4111 1111 1111 1111 [EMAIL_2]."


def splits(step: int = 1) -> list[dict[str, Any]]:
    """By client and provider: streams, wrong answers, requests in which a value left. `step` takes only so many of the second places."""
    cuts = [(a, b) for a in range(len(SPLIT) + 1) for b in range(a, len(SPLIT) + 1, step)]
    left = 0

    def say(request: Received) -> Answer:
        nonlocal left
        left += any(value in request.body for value in (b"ann@", b"4111"))
        first, second = map(int, request.text.split()[-2:])
        return Answer(chunks=[part for part in (SPLIT[:first], SPLIT[first:second], SPLIT[second:]) if part])

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, FakeProvider(keep_requests=False) as provider:
        provider.default = say
        Path(folder, "headrace.toml").write_text(
            f'[providers.openai]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n'
            f'[providers.anthropic]\ndialect = "anthropic"\nbase_url = "{provider.anthropic_url}"\n'
            '[keys.one]\nvalue = "hr-splits-0123456789abcdef"\n[store]\npath = ":memory:"\n'
            '[guard]\nredact = ["email", "card"]\n'
        )
        command = [sys.executable, "-m", "headrace", "serve", "--port", "0", "--json"]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as served:
            assert served.stdout is not None
            where = urlsplit(json.loads(served.stdout.readline())["url"])
            try:
                for client, path in (("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages")):
                    for target in ("openai", "anthropic"):
                        left, connection = 0, HTTPConnection(where.hostname or "", where.port)
                        wrong = sum(_split(connection, path, target, cut) != PUT_BACK for cut in cuts)
                        rows.append(
                            {
                                "client": client,
                                "provider": target,
                                "streams": len(cuts),
                                "wrong": wrong,
                                "left": left,
                            }
                        )
                        connection.close()
            finally:
                served.kill()
    return rows


def _split(connection: HTTPConnection, path: str, target: str, cut: tuple[int, int]) -> str:
    """The text of one stream."""
    asked = f"I am ann@example.com, card 4111 1111 1111 1111. {cut[0]} {cut[1]}"
    body = {
        "model": f"{target}/m",
        "max_tokens": 99,
        "stream": True,
        "messages": [{"role": "user", "content": asked}],
    }
    connection.request("POST", path, json.dumps(body), {"authorization": "Bearer hr-splits-0123456789abcdef"})
    text = ""
    for line in connection.getresponse().read().decode().splitlines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            text += "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
            text += event["delta"].get("text", "") if event.get("type") == "content_block_delta" else ""
    return text


def table(head: list[str], rows: list[list[object]]) -> None:
    """Columns as wide as they need."""
    cells = [head, *([("-" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--corpora", type=Path, metavar="FOLDER", help="real texts to count false positives on"
    )
    parser.add_argument(
        "--errors", choices=(*SETS, "corpora"), help="print what was missed and what was wrong"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument(
        "--splits", action="store_true", help="cut streams at every two places, and nothing else"
    )
    options = parser.parse_args()
    if options.splits:
        rows = splits()
        if options.json:
            print(json.dumps(rows, indent=1))
        else:
            table([*rows[0]], [[*row.values()] for row in rows])
        return int(any(row["wrong"] or row["left"] for row in rows))
    report: dict[str, Any] = {"kinds": {}, "injections": {}, "corpora": {}}
    scores = {name: judge(name) for name in SETS}
    injections = judge_injections()
    for name in SETS:
        report["kinds"][name] = {kind: score.figures() for kind, score in scores[name].items()}
        report["injections"][name] = injections[name].figures()
    prose, results = "word " * 2000, json.dumps([{"id": n, "name": "none"} for n in range(400)])
    if options.corpora is not None:
        corpora = {
            "LoCoMo": look(locomo(options.corpora), _values),
            "tau-bench": look(tau_bench(options.corpora), _values),
            "LoCoMo, injections": look(locomo(options.corpora), _injections),
            "tau-bench tool results, injections": look(tau_bench(options.corpora, "tool"), _injections),
        }
        prose, results = " ".join(locomo(options.corpora)), " ".join(tau_bench(options.corpora, "tool"))
        for name, corpus in corpora.items():
            report["corpora"][name] = {
                "texts": corpus.texts,
                "characters": corpus.characters,
                "found": dict(corpus.found),
                "different": {kind: len(values) for kind, values in corpus.values.items()},
            }
            if options.errors == "corpora":
                for kind, values in corpus.values.items():
                    for value, times in values.most_common(12):
                        print(f"{name}: {kind}: {times} x {value!r}", file=sys.stderr)
    report["costs"] = costs(prose, results)
    if options.errors in SETS:
        for kind, score in {**scores[options.errors], "injection": injections[options.errors]}.items():
            for what, errors in (("missed", score.missed), ("wrong", score.wrong)):
                for error in errors:
                    print(f"{what} {kind}: {error}", file=sys.stderr)
    if options.json:
        print(json.dumps(report, indent=1))
        return 0
    for name in SETS:
        print(f"Values by kind, {name.replace('_', ' ')} texts")
        lines: list[list[object]] = [
            [kind, *figures.values()]
            for kind, figures in (*report["kinds"][name].items(), ("injection", report["injections"][name]))
        ]
        table(["kind", "values", "found", "precision", "recall"], lines)
    if report["corpora"]:
        print("Real texts")
        table(
            ["texts", "number", "characters", "found (different)"],
            [
                [
                    name,
                    row["texts"],
                    row["characters"],
                    ", ".join(f"{n} {kind} ({row['different'][kind]})" for kind, n in row["found"].items())
                    or "nothing",
                ]
                for name, row in report["corpora"].items()
            ],
        )
    print("Costs")
    table(["what", "value"], [[name, value] for name, value in report["costs"].items()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
