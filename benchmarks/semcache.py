"""How many answers the semantic cache serves, and how many of them are wrong, beside the baselines.

    benchmarks/semcache.py STREAM... [--pairs FILE...] [--json] [--seeds N] [--rows N] [--served FILE]

A stream is a file of `class_id<TAB>text` lines with a header, plain or gzipped: two rows of one class want the same answer. Its rows are asked in
the order of a seed, the cache empty at first: a hit is right when the entry that it serves is of the question's class, a miss adds an entry. The
tiers are those of `headrace.cache`; eligibility (personal asks, length) is the production rule, and lifetimes do not end.

What `own` learns on the way is what production would see: the fresh answer of a miss is compared with those of its neighbours, the class standing
for the answer, and `AUDITED` of the would-be hits are asked anyway and count as misses. `--misjudged` lets that comparison err.

A stream whose name is in the table of folds (`benchmarks/semcache_folds`) is scored by the verifier and thresholds of the fold that has not seen
it; any other by what ships. `own` rows take the threshold that was known before; the `oracle` rows say what the best threshold, chosen
after the fact on this very stream, would have given: a frontier, not a result. Labels have errors: `benchmarks/semcache_adjudicated` has pairs that were
served against their labels and read by someone who did not see by which rule, with the verdict. Figures are given by raw labels, and by those verdicts for rules
all of whose wrong pairs were read. Pairs are files of
`family, same_answer, a, b`; `b` is asked of a cache that holds `a` alone.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import random
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headrace.cache.guards import Signature, veto
from headrace.cache.key import Key, is_personal
from headrace.cache.match import FLOOR, NEIGHBOURS, Matcher
from headrace.cache.neighbourhood import side, standing
from headrace.cache.shift import Shift
from headrace.cache.text import canonical
from headrace.cache.verifier import FEATURES, Verifier, features, probability
from headrace.encoder import Encoder

HERE = Path(__file__).parent
FOLDS = HERE / "semcache_folds"
ADJUDICATED = HERE / "semcache_adjudicated"
COSINES = (0.6, 0.8, 0.9, 0.95)
TARGETS = (0.01, 0.02, 0.05)
AUDITED = 0.02
BLOCK = 256
TO_READ = frozenset({"canonical", "cosine 0.95 + guards", "own, max_wrong 0.01", "own, max_wrong 0.02"})
"""Rules whose wrong pairs are few enough to be read."""


def rows(path: Path) -> list[list[str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    undo = {"n": "\n", "t": "\t", "r": "\r"}
    return [
        [re.sub(r"\\(.)", lambda m: undo.get(m[1], m[1]), cell) for cell in line.split("\t")]
        for line in text.split("\n")[1:]
        if line
    ]


def upper(wrong: int, served: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson bound of the wrong share (C. J. Clopper and E. S. Pearson, Biometrika 26, 1934), by bisection."""
    if served == 0 or wrong >= served:
        return 1.0
    logs = [
        math.lgamma(served + 1) - math.lgamma(k + 1) - math.lgamma(served - k + 1) for k in range(wrong + 1)
    ]
    low, high = wrong / served, 1.0
    for _ in range(40):
        p = (low + high) / 2
        tail = sum(math.exp(c + k * math.log(p) + (served - k) * math.log1p(-p)) for k, c in enumerate(logs))
        low, high = (p, high) if tail > 1 - confidence else (low, p)
    return high


def pair_id(a: str, b: str) -> str:
    """How the list of adjudicated pairs names a pair: some texts may not be published."""
    return hashlib.sha256("\x1f".join(sorted((a, b))).encode()).hexdigest()[:16]


class Asked:
    """All questions of a stream, with what the tiers need of each computed once."""

    def __init__(self, found: list[list[str]], encoder: Encoder) -> None:
        matcher = Matcher(encoder, Verifier([0.0] * len(FEATURES), 0.0, {}, ""))  # its verifier is not asked
        self.encoder = encoder
        self.labels = [row[0] for row in found]
        self.texts = [row[1] for row in found]
        self.canonical = [canonical(text) for text in self.texts]
        self.vectors = np.array([encoder.encode(text) for text in self.texts])
        self.signs: list[Signature] = [matcher.signature(text) for text in self.texts]
        keys = [Key(scope=b"", exact=b"", tenant="", text=text) for text in self.texts]
        self.personal = [is_personal(text) for text in self.texts]
        self.alike = [matcher.may(key) for key in keys]
        self._vetoes: dict[tuple[int, int], bool] = {}

    def vetoed(self, a: int, b: int) -> bool:
        found = self._vetoes.get((a, b))
        if found is None:
            found = self._vetoes[(a, b)] = veto(self.signs[a], self.signs[b]) is not None
        return found

    def order(self, seed: int, most: int) -> list[int]:
        """All rows in the order of `seed`; of a longer stream whole classes, drawn by lot, so that what is asked again stays so."""
        lot = random.Random(seed)
        order = list(range(len(self.texts)))
        if len(order) > most:
            classes = sorted(set(self.labels))
            lot.shuffle(classes)
            size: dict[str, int] = defaultdict(int)
            for label in self.labels:
                size[label] += 1
            taken, count = set(), 0
            for label in classes:
                if count + size[label] <= most:
                    taken.add(label)
                    count += size[label]
            order = [row for row in order if self.labels[row] in taken]
        lot.shuffle(order)
        return order


@dataclass
class Served:
    """One hit, or would-be hit. `score` is None for one by words."""

    question: int
    entry: int
    score: float | None


@dataclass
class Rule:
    """One way to decide, with its own cache.

    Attributes:
        kind: `exact`, `canonical`, `cosine`, `guarded`, `verifier`.
        limit: From which cosine or log-odds on is served; None never.
        log: Each question's best candidate with its score, served or not: `verifier` only.
        taught: What training wants to see of each candidate: question, entry, features.
    """

    title: str
    kind: str
    limit: float | None = None
    verifier: Verifier | None = None
    shifting: bool = True
    misjudged: float = 0.0
    hits: list[Served] = field(default_factory=list)
    log: list[Served] = field(default_factory=list)
    taught: list[tuple[int, int, tuple[float, ...]]] | None = None
    asked: int = 0

    def begin(self, count: int, seed: int) -> None:
        self._exact: dict[str, int] = {}
        self._same: dict[str, int] = {}
        self._kept = np.zeros(count, dtype=bool)
        self._agrees: dict[int, int] = {}
        self._shift = Shift()
        self._lot = random.Random(seed)

    def ask(self, asked: Asked, order: list[int], at: int, cosines: np.ndarray) -> None:
        """Question `at` of `order`; `cosines` with all that were asked before."""
        question = order[at]
        self.asked += 1
        if asked.personal[question]:
            return
        text = asked.texts[question]
        entry = self._exact.get(text)
        if entry is None and self.kind != "exact":
            entry = self._same.get(asked.canonical[question])
        if entry is not None:
            self.hits.append(Served(question, entry, None))
            return
        if asked.alike[question] and self.kind not in ("exact", "canonical"):
            if self._by_likeness(asked, order, at, cosines):
                return
            self._kept[at] = True
        self._exact[text] = question
        self._same.setdefault(asked.canonical[question], question)

    def _by_likeness(self, asked: Asked, order: list[int], at: int, cosines: np.ndarray) -> bool:
        question = order[at]
        kept = np.flatnonzero(self._kept[:at])
        near = cosines[kept]
        if len(kept) > NEIGHBOURS:
            top = np.argpartition(-near, NEIGHBOURS)[:NEIGHBOURS]
            kept, near = kept[top], near[top]
        ranked = np.argsort(-near, kind="stable")
        kept, near = kept[ranked], near[ranked]
        if self.kind != "verifier":
            for place, cosine in zip(kept, near, strict=True):
                if self.limit is None or cosine < self.limit:
                    return False
                if self.kind == "cosine" or not asked.vetoed(question, order[place]):
                    self.hits.append(Served(question, order[place], float(cosine)))
                    return True
            return False
        neighbours = [order[place] for place, cosine in zip(kept, near, strict=True) if cosine >= FLOOR]
        score, served, entry = self._verified(asked, question, neighbours, near[: len(neighbours)].tolist())
        if not served:
            self._learn(asked, question, neighbours, entry, score)
        return served

    def _verified(
        self, asked: Asked, question: int, neighbours: list[int], cosines: list[float]
    ) -> tuple[float, bool, int]:
        for place, entry in enumerate(neighbours):
            if asked.vetoed(question, entry):
                continue
            around = standing(cosines, [str(self._agrees[n]) for n in neighbours], place)
            row = features(asked.signs[question], asked.signs[entry], around, asked.encoder)
            if self.taught is not None:
                self.taught.append((question, entry, row))
            if self.verifier is None:  # what is first taught from: a rule of thumb
                score, shifted = 0.0, 99.0 if around.share >= 0.8 and around.cosine >= 0.7 else -99.0
            else:
                score = self.verifier.score(row)
                shifted = score + (self._shift.value if self.shifting else 0.0)
            self.log.append(Served(question, entry, shifted))
            if self.limit is None or shifted < self.limit or self._lot.random() < AUDITED:
                return score, False, entry
            self.hits.append(self.log[-1])
            return score, True, entry
        return 0.0, False, -1

    def _learn(self, asked: Asked, question: int, neighbours: list[int], entry: int, score: float) -> None:
        label = asked.labels[question]
        agreeing = [
            n
            for n in neighbours
            if (asked.labels[n] == label) != (self.misjudged > 0 and self._lot.random() < self.misjudged)
        ]
        mine = side([self._agrees[n] for n in neighbours], [n in agreeing for n in neighbours])
        self._agrees[question] = question if mine is None else mine
        if entry >= 0 and self.verifier is not None:
            self._shift.learn(score, entry in agreeing)


def replay(asked: Asked, order: list[int], rules: list[Rule], seed: int, say: Callable[[str], None]) -> None:
    """Ask all questions of `order` under each rule, each with its own cache."""
    vectors = asked.vectors[order]
    for rule in rules:
        rule.begin(len(order), seed)
    for start in range(0, len(order), BLOCK):
        say(f"{start}/{len(order)} questions")
        block = vectors[start : start + BLOCK] @ vectors[: start + BLOCK].T
        for row in range(len(block)):
            at = start + row
            for rule in rules:
                rule.ask(asked, order, at, block[row, :at])


def frontier(log: list[Served], asked: int, right: Callable[[int, int], bool], target: float) -> float:
    """The largest share of questions that one threshold, known afterwards, serves with at most `target` of them wrong."""
    wrong = best = 0
    ranked = sorted(log, key=lambda s: -(s.score if s.score is not None else math.inf))
    for count, served in enumerate(ranked, 1):
        wrong += not right(served.question, served.entry)
        if wrong <= target * count:
            best = count
    return best / asked


def figures(rule: Rule, rates: list[float], right: Callable[[int, int], bool]) -> dict[str, Any]:
    """Hits, and the wrong among them over distinct pairs of question and entry."""
    pairs = {(hit.question, hit.entry): right(hit.question, hit.entry) for hit in rule.hits}
    wrong = sum(not ok for ok in pairs.values())
    return {
        "hit_rate": statistics.mean(rates),
        "hit_rate_95": 2.776 * statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) == 5 else None,
        "wrong_of_served": sum(not right(hit.question, hit.entry) for hit in rule.hits) / len(rule.hits)
        if rule.hits
        else None,
        "distinct_pairs": len(pairs),
        "distinct_wrong": wrong,
        "bound": upper(wrong, len(pairs)) if len(pairs) >= 299 else None,
    }


def adjudicated(name: str) -> dict[str, bool]:
    """The pairs of a stream that were read, and whether they want the same answer."""
    path = ADJUDICATED / f"{name}.tsv"
    if not path.exists():
        return {}
    lines = [line.split("\t") for line in path.read_text("utf-8").split("\n")[1:] if line]
    return {line[0]: line[1] == "same" for line in lines}


def rules_of(verifier: Verifier, misjudged: float) -> list[Rule]:
    rules = [Rule("exact", "exact"), Rule("canonical", "canonical")]
    rules += [Rule(f"cosine {c:g}", "cosine", c) for c in COSINES]
    rules += [Rule(f"cosine {c:g} + guards", "guarded", c) for c in COSINES]
    for target in TARGETS:
        tau = verifier.tau(target)
        limit = None if tau is None else math.log(tau / (1 - tau))
        rules.append(Rule(f"own, max_wrong {target:g}", "verifier", limit, verifier, misjudged=misjudged))
    rules.append(Rule("oracle", "verifier", None, verifier, misjudged=misjudged))
    return rules


def stream(
    path: Path, seeds: int, most: int, misjudged: float, say: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """First (`result`, the table), then (`served`, one row for each distinct pair that a rule served against the labels)."""
    name = path.name.split(".")[0]
    fold = FOLDS / f"{name}.json"
    verifier = Verifier.load(fold) if fold.exists() else Verifier.load()
    asked = Asked(rows(path), Encoder.load())
    rules = rules_of(verifier, misjudged)
    counts: list[int] = []
    rates: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        order = asked.order(seed, most)
        counts.append(len(order))
        before = {rule.title: len(rule.hits) for rule in rules}
        replay(asked, order, rules, seed, lambda text: say(f"{name}: seed {seed + 1}/{seeds}, {text}"))  # noqa: B023
        for rule in rules:
            rates[rule.title].append((len(rule.hits) - before[rule.title]) / len(order))
    read = adjudicated(name)

    def raw(a: int, b: int) -> bool:
        return asked.labels[a] == asked.labels[b]

    def pair(a: int, b: int) -> str:
        return pair_id(asked.texts[a], asked.texts[b])

    def found(a: int, b: int) -> bool:
        return raw(a, b) or read.get(pair(a, b), False)

    oracle = rules.pop()
    table = []
    for rule in rules:
        row: dict[str, Any] = {"rule": rule.title, **figures(rule, rates[rule.title], raw)}
        against = [hit for hit in rule.hits if not raw(hit.question, hit.entry)]
        if rule.hits and all(pair(hit.question, hit.entry) in read for hit in against):
            row["adjudicated"] = figures(rule, rates[rule.title], found)
            row["changed"] = sum(read[pair(hit.question, hit.entry)] for hit in against) / len(rule.hits)
        if rule.kind == "verifier":
            row["state"] = "infeasible" if rule.limit is None else "prior"
        table.append(row)
    yield (
        "result",
        {
            "stream": name,
            "rows": len(asked.texts),
            "asked": counts,
            "scored_by": f"the fold without {name}" if fold.exists() else "what ships",
            "rules": table,
            "oracle": {f"{t:g}": frontier(oracle.log + oracle.hits, sum(counts), raw, t) for t in TARGETS},
        },
    )
    against = {
        (hit.question, hit.entry)
        for rule in rules
        if rule.title in TO_READ
        for hit in rule.hits
        if not raw(hit.question, hit.entry)
    }
    for key, (a, b) in sorted((pair(*both), both) for both in against):
        yield "served", f"{key}\t{name}\t{'read' if key in read else ''}\t{asked.texts[a]}\t{asked.texts[b]}"


def pairs(path: Path) -> dict[str, Any]:
    """Each family: the share that is accepted by the guards alone, and by what ships at each of its thresholds."""
    matcher = Matcher.load()
    families: dict[tuple[str, str], list[float]] = defaultdict(list)
    for family, same, a, b in rows(path):
        if canonical(a) == canonical(b):
            families[family, same].append(2.0)
            continue
        sa, sb = matcher.signature(a), matcher.signature(b)
        if veto(sa, sb) is not None:
            families[family, same].append(-1.0)
            continue
        cosine = float(matcher.encoder.encode(a) @ matcher.encoder.encode(b))
        row = features(sa, sb, standing([cosine], ["a"], 0), matcher.encoder)
        families[family, same].append(probability(matcher.verifier.score(row)))
    found = []
    for (family, same), values in sorted(families.items()):
        row_: dict[str, Any] = {"family": family, "same_answer": same == "1", "pairs": len(values)}
        row_["guards"] = sum(value >= 0 for value in values) / len(values)
        for target in TARGETS:
            tau = matcher.verifier.tau(target)
            served = sum(value >= (2.0 if tau is None else tau) for value in values)
            row_[f"own {target:g}"] = served / len(values)
        found.append(row_)
    return {"pairs": path.name, "families": found}


def share(value: float | None, empty: str = "-") -> str:
    return empty if value is None else f"{value:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("streams", nargs="*", type=Path, metavar="STREAM")
    parser.add_argument("--pairs", nargs="*", type=Path, default=[], metavar="FILE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=25_000, help="questions of a stream a seed, at most")
    parser.add_argument(
        "--misjudged", type=float, default=0.0, help="share of compared answers judged wrongly"
    )
    parser.add_argument(
        "--served", type=Path, help="write what was served against the labels here, for reading"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"\r\033[K{time.perf_counter() - started:5.0f} s  {text}", end="", file=sys.stderr, flush=True)

    result: dict[str, list[Any]] = {"streams": [], "pairs": [pairs(path) for path in arguments.pairs]}
    against: list[str] = []
    for path in arguments.streams:
        for kind, found in stream(path, arguments.seeds, arguments.rows, arguments.misjudged, say):
            if kind == "result":
                result["streams"].append(found)
            else:
                against.append(found)
    print("\r\033[K", end="", file=sys.stderr)
    if arguments.served is not None:
        arguments.served.write_text("".join(f"{line}\n" for line in against), "utf-8")
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for found in result["streams"]:
        print(
            f"\n{found['stream']}: {found['asked'][0]} questions a seed, {len(found['asked'])} seeds, scored by {found['scored_by']}\n"
        )
        print(
            f"{'rule':26} {'hits':>7} {'±95%':>6} {'wrong/served':>13} {'pairs':>7} {'wrong':>6} {'bound':>7}   "
            f"{'adjudicated':>11} {'wrong':>6} {'bound':>7} {'changed':>8}"
        )
        for row in found["rules"]:
            read = row.get("adjudicated")
            verdict = ""
            if read is not None:
                verdict = (
                    f"{share(read['wrong_of_served']):>11} {read['distinct_wrong']:6} {share(read['bound'], 'n<299'):>7} "
                    f"{row['changed']:8.2%}"
                )
            print(
                f"{row['rule']:26} {row['hit_rate']:7.2%} {share(row['hit_rate_95'], ''):>6} {share(row['wrong_of_served']):>13} "
                f"{row['distinct_pairs']:7} {row['distinct_wrong']:6} {share(row['bound'], 'n<299'):>7}   {verdict:35} {row.get('state', '')}"
            )
        print("oracle frontier: " + ", ".join(f"{v:.2%} at {t}" for t, v in found["oracle"].items()))
    for table in result["pairs"]:
        print(f"\n{table['pairs']}\n")
        for row in table["families"]:
            kind = "accept" if row["same_answer"] else "WRONG accept"
            shares = "  ".join(
                f"{name} {row[name]:6.1%}" for name in ("guards", *(f"own {t:g}" for t in TARGETS))
            )
            print(f"{row['family'][:60]:60} {row['pairs']:6} {kind:13} {shares}")


if __name__ == "__main__":
    main()
