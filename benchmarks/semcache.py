"""How many answers the semantic cache serves, and how many of them are wrong, beside the baselines.

    benchmarks/semcache.py STREAM... [--pairs FILE...] [--json] [--seeds N] [--rows N]

A stream is a file of `class_id<TAB>text` lines with a header, plain or gzipped: two rows of one class want the same answer. Its rows are asked in
the order of a seed, the cache empty at first: a hit is right when the entry that it serves is of the question's class, a miss adds an entry. The
tiers are those of `headrace.cache`; eligibility (personal asks, length) is the production rule, and lifetimes do not end.

A stream whose name is in the table of folds (`benchmarks/semcache_folds`) is scored by the verifier and thresholds of the fold that has not seen
it; any other by what ships. `own` rows take the threshold that was known before; the `oracle` rows say what the best threshold, chosen
after the fact on this very stream, would have given: a frontier, not a result. Pairs are files of `family, same_answer, a, b`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import re
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from headrace.cache.encoder import Encoder
from headrace.cache.guards import Signature, veto
from headrace.cache.key import Key, is_personal
from headrace.cache.match import CANDIDATES, FLOOR, Matcher
from headrace.cache.text import canonical
from headrace.cache.verifier import Verifier, features

FOLDS = Path(__file__).parent / "semcache_folds"
COSINES = (0.6, 0.8, 0.9, 0.95)
TARGETS = (0.01, 0.02, 0.05)


def rows(path: Path) -> list[list[str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    undo = {"n": "\n", "t": "\t", "r": "\r"}
    return [
        [re.sub(r"\\(.)", lambda m: undo.get(m[1], m[1]), cell) for cell in line.split("\t")]
        for line in text.split("\n")[1:]
        if line
    ]


def upper(wrong: int, served: int) -> float:
    """One-sided 95 % Clopper-Pearson bound of the wrong share, by bisection."""
    if served == 0 or wrong >= served:
        return 1.0
    logs = [
        math.lgamma(served + 1) - math.lgamma(k + 1) - math.lgamma(served - k + 1) for k in range(wrong + 1)
    ]
    low, high = wrong / served, 1.0
    for _ in range(40):
        p = (low + high) / 2
        tail = sum(math.exp(c + k * math.log(p) + (served - k) * math.log1p(-p)) for k, c in enumerate(logs))
        low, high = (p, high) if tail > 0.05 else (low, p)
    return high


class Asked:
    """All questions of a stream, with what the tiers need of each computed once."""

    def __init__(self, found: list[list[str]], matcher: Matcher) -> None:
        self.labels = [row[0] for row in found]
        self.texts = [row[1] for row in found]
        self.canonical = [canonical(text) for text in self.texts]
        self.vectors = np.array([matcher.encoder.encode(text) for text in self.texts])
        self.signs: list[Signature] = [matcher.signature(text) for text in self.texts]
        keys = [Key(scope=b"", exact=b"", tenant="", text=text) for text in self.texts]
        self.personal = [is_personal(text) for text in self.texts]
        self.alike = [matcher.may(key) for key in keys]


class Tally:
    """What one rule served, over all seeds."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.hits: list[int] = []
        self.wrong: list[int] = []
        self.pairs: dict[tuple[int, int], bool] = {}

    def begin(self, asked: int) -> None:
        self.asked.append(asked)
        self.hits.append(0)
        self.wrong.append(0)

    def served(self, question: int, entry: int, right: bool) -> None:
        self.hits[-1] += 1
        self.wrong[-1] += not right
        self.pairs[(question, entry)] = right

    def row(self, rule: str) -> dict[str, Any]:
        rates = [hit / asked for hit, asked in zip(self.hits, self.asked, strict=True)]
        wrong, distinct = sum(not right for right in self.pairs.values()), len(self.pairs)
        spread = 2.776 * statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) == 5 else None
        return {
            "rule": rule,
            "hit_rate": statistics.mean(rates),
            "hit_rate_95": spread,
            "wrong_of_served": sum(self.wrong) / sum(self.hits) if sum(self.hits) else None,
            "distinct_pairs": distinct,
            "distinct_wrong": wrong,
            "bound": upper(wrong, distinct) if distinct >= 299 else None,
        }


def run(
    asked: Asked, order: list[int], rule: str, tally: Tally, matcher: Matcher, limit: float | None
) -> list[tuple[float, bool]]:
    """One pass; with `limit` None for `verifier`, the best scores of an endless cache for the frontier (nothing is served)."""
    tally.begin(len(order))
    exact: dict[str, int] = {}
    same: dict[str, int] = {}
    entries = np.zeros((len(order), asked.vectors.shape[1]), dtype=np.float32)
    ids: list[int] = []
    scores: list[tuple[float, bool]] = []
    for question in order:
        text, label = asked.texts[question], asked.labels[question]
        if asked.personal[question]:
            continue
        entry = exact.get(text)
        if entry is None and rule != "exact":
            entry = same.get(asked.canonical[question])
        if entry is None and rule not in ("exact", "canonical") and ids and asked.alike[question]:
            cosines = entries[: len(ids)] @ asked.vectors[question]
            count = min(CANDIDATES, len(ids))
            best, score = -1, -1.0
            for near in np.argpartition(-cosines, count - 1)[:count]:
                cosine, other = float(cosines[near]), ids[near]
                if cosine < FLOOR:
                    continue
                if rule != "cosine" and veto(asked.signs[question], asked.signs[other]) is not None:
                    continue
                value = (
                    cosine
                    if rule != "verifier"
                    else matcher.verifier.probability(
                        features(asked.signs[question], asked.signs[other], cosine, matcher.encoder)
                    )
                )
                if value > score:
                    best, score = other, value
            if best >= 0:
                scores.append((score, asked.labels[best] == label))
                if limit is not None and score >= limit:
                    entry = best
        if entry is not None:
            tally.served(question, entry, asked.labels[entry] == label)
            continue
        exact[text] = question
        same.setdefault(asked.canonical[question], question)
        if asked.alike[question]:
            entries[len(ids)] = asked.vectors[question]
            ids.append(question)
    return scores


def frontier(scores: list[list[tuple[float, bool]]], asked: list[int], target: float) -> float:
    """The largest hit rate, mean over seeds, at which the wrong share of one common threshold is at most `target`."""
    pooled = sorted((pair for seed in scores for pair in seed), key=lambda pair: -pair[0])
    wrong, best = 0, 0
    for count, (_, right) in enumerate(pooled, 1):
        wrong += not right
        if wrong / count <= target:
            best = count
    return best / sum(asked)


def stream(path: Path, seeds: int, most: int, say: Any) -> dict[str, Any]:
    name = path.name.split(".")[0]
    fold = FOLDS / f"{name}.json"
    verifier = Verifier.load(fold) if fold.exists() else Verifier.load()
    matcher = Matcher(Encoder.load(), verifier)
    asked = Asked(rows(path), matcher)
    rules: list[tuple[str, str, float | None]] = [("exact", "exact", None), ("canonical", "canonical", None)]
    rules += [(f"cosine {c:g}", "cosine", c) for c in COSINES]
    rules += [(f"cosine {c:g} + guards", "guarded", c) for c in COSINES]
    rules += [
        (f"own, max_wrong {t:g}", "verifier", tau) for t in TARGETS if (tau := verifier.tau(t)) is not None
    ]
    tallies = {title: Tally() for title, _, _ in rules}
    scores: list[list[tuple[float, bool]]] = []
    counts = []
    for seed in range(seeds):
        order = list(range(len(asked.texts)))
        random.Random(seed).shuffle(order)
        order = order[:most]
        counts.append(len(order))
        for title, rule, limit in rules:
            say(f"{name}: seed {seed + 1}/{seeds}, {title}")
            run(asked, order, rule, tallies[title], matcher, limit)
        say(f"{name}: seed {seed + 1}/{seeds}, frontier")
        scores.append(run(asked, order, "verifier", Tally(), matcher, None))
    known = {row["rule"]: row for row in (tallies[title].row(title) for title, _, _ in rules)}
    for target in TARGETS:
        if verifier.tau(target) is None:
            known[f"own, max_wrong {target:g}"] = {
                **tallies["canonical"].row(f"own, max_wrong {target:g}"),
                "state": "infeasible",
            }
    return {
        "stream": name,
        "rows": len(asked.texts),
        "asked": counts,
        "scored_by": f"the fold without {name}" if fold.exists() else "what ships",
        "rules": list(known.values()),
        "oracle": {f"{t:g}": frontier(scores, counts, t) for t in TARGETS},
    }


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
        families[family, same].append(matcher.verifier.probability(features(sa, sb, cosine, matcher.encoder)))
    found = []
    for (family, same), values in sorted(families.items()):
        row: dict[str, Any] = {"family": family, "same_answer": same == "1", "pairs": len(values)}
        row["guards"] = sum(value >= 0 for value in values) / len(values)
        for target in TARGETS:
            tau = matcher.verifier.tau(target)
            served = sum(value >= (2.0 if tau is None else tau) for value in values)
            row[f"own {target:g}"] = served / len(values)
        found.append(row)
    return {"pairs": path.name, "families": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("streams", nargs="*", type=Path, metavar="STREAM")
    parser.add_argument("--pairs", nargs="*", type=Path, default=[], metavar="FILE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=5_000, help="questions of a stream a seed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"\r\033[K{time.perf_counter() - started:5.0f} s  {text}", end="", file=sys.stderr, flush=True)

    result = {
        "streams": [stream(path, arguments.seeds, arguments.rows, say) for path in arguments.streams],
        "pairs": [pairs(path) for path in arguments.pairs],
    }
    print("\r\033[K", end="", file=sys.stderr)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for found in result["streams"]:
        print(
            f"\n{found['stream']}: {found['asked'][0]} questions a seed, {len(found['asked'])} seeds, scored by {found['scored_by']}\n"
        )
        print(
            f"{'rule':26} {'hits':>7} {'±95%':>6} {'wrong/served':>13} {'pairs':>7} {'wrong':>6} {'bound':>7}"
        )
        for row in found["rules"]:
            wrong = "-" if row["wrong_of_served"] is None else f"{row['wrong_of_served']:.2%}"
            bound = "n<299" if row["bound"] is None else f"{row['bound']:.2%}"
            spread = "" if row["hit_rate_95"] is None else f"{row['hit_rate_95']:.2%}"
            print(
                f"{row['rule']:26} {row['hit_rate']:7.2%} {spread:>6} {wrong:>13} {row['distinct_pairs']:7} {row['distinct_wrong']:6} "
                f"{bound:>7} {row.get('state', '')}"
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
