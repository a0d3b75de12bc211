"""Trains the verifier of the semantic cache, and finds the probabilities from which on it is served (state `prior`).

    .venv/bin/python scripts/train_verifier.py DATA

DATA holds the benchmark's `streams` folder. Only sets whose licence lets trained weights be shipped are used: BANKING77 and HWU (CC BY
4.0), CLINC150 (CC BY 3.0); attribution is in NOTICE.

Streams are replayed as the cache would see them (`benchmarks/semcache.py`): in a random order, each question against the nearest kept one
that no guard turns down. No set scores what it has trained: for each stream a *fold* is trained without it, and given its thresholds by
streams that are scored by models which have seen neither them nor the fold's stream. What ships is trained on all, with thresholds from
all streams, each scored by the model without it. The table of folds is written beside the weights. The same data give the same file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from headrace.cache.verifier import FEATURES, Verifier, probability
from headrace.encoder import Encoder
from semcache import Asked, Rule, replay, rows, upper

STREAMS = ("banking77", "clinc150", "hwu_slots")
TARGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TAUGHT_SEED, SCORED_SEEDS = 11, (12, 13, 14, 15, 16)
RIDGE = 1.0
SERVING = 3.5
"""Log-odds from which on a replay for thresholds serves; what is served adds no neighbour."""
GRID = np.arange(7.0, 0.0, -0.05)
FEWEST = 300
"""Distinct pairs at which the walk begins: a bound of 1 % can be shown from 299 on."""
ENOUGH = 299
"""Distinct pairs from which on a single stream may forbid a threshold."""


def same(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Whether two rows want the same answer. Classes with slots (`intent|slot=value`) differ by what annotators marked too: rows of
    one intent in which each text has all the words of the other's values are the same."""
    if a[0] == b[0]:
        return True
    if "=" not in a[0] + b[0] or a[0].partition("|")[0] != b[0].partition("|")[0]:
        return False
    return _has(a[1], b[0]) and _has(b[1], a[0])


def _has(text: str, label: str) -> bool:
    there = {word.rstrip("s") for word in re.findall(r"[\w.]+", text.lower().replace("'s", ""))}
    values = " ".join(part.partition("=")[2] for part in label.split("|")[1:])
    return all(word.rstrip("s") in there for word in re.findall(r"[\w.]+", values))


@dataclass
class Taught:
    """Features of candidates, and whether each wanted the same answer."""

    x: np.ndarray
    y: np.ndarray


@dataclass
class Scored:
    """The candidates of a stream under one model: log-odds, whether the answer was wanted, and which pair it is."""

    score: np.ndarray
    right: np.ndarray
    pair: np.ndarray

    def at(self, limit: float) -> tuple[int, int]:
        """Distinct pairs from `limit` on, and how many of them are wrong."""
        served = self.score >= limit
        _, first = np.unique(self.pair[served], axis=0, return_index=True)
        return len(first), int((~self.right[served][first]).sum())


def fit(sets: list[Taught], version: str) -> Verifier:
    """By Newton's method, with a weak ridge on standardised features; every set weighs the same."""
    x = np.concatenate([s.x for s in sets])
    y = np.concatenate([s.y for s in sets]).astype(float)
    weight = np.concatenate([np.full(len(s.y), 1.0 / len(s.y)) for s in sets])
    weight *= len(weight) / weight.sum()
    mean, scale = x.mean(axis=0), x.std(axis=0)
    z = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    ridge = np.full(z.shape[1], RIDGE)
    ridge[-1] = 0.0
    beta = np.zeros(z.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(z @ beta)))
        step = np.linalg.solve(
            (z * (weight * p * (1 - p))[:, None]).T @ z + np.diag(ridge),
            z.T @ (weight * (p - y)) + ridge * beta,
        )
        beta -= step
        if np.abs(step).max() < 1e-10:
            break
    weights = (beta[:-1] / scale).round(6)
    return Verifier(weights.tolist(), round(float(beta[-1] - (beta[:-1] / scale) @ mean), 6), {}, version)


def threshold(streams: list[Scored], target: float) -> dict[str, float] | None:
    """The lowest log-odds from which on the pooled bound holds and no stream's own share is above `target`: fixed-sequence testing, down from where
    `FEWEST` pairs are served to the first failure after a success."""
    found = None
    for limit in GRID:
        counts = [scored.at(float(limit)) for scored in streams]
        served, wrong = sum(n for n, _ in counts), sum(w for _, w in counts)
        if served < FEWEST:
            continue
        holds = upper(wrong, served) <= target and all(w <= target * n for n, w in counts if n >= ENOUGH)
        if holds:
            found = {
                "tau": round(probability(float(limit)), 6),
                "served": served,
                "wrong": wrong,
                "bound": round(upper(wrong, served), 5),
            }
        elif found is not None:
            break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("src/headrace/cache/data/verifier.json"))
    parser.add_argument("--folds", type=Path, default=Path("benchmarks/semcache_folds"))
    arguments = parser.parse_args()
    started = time.perf_counter()

    def say(text: str, end: str = "\n") -> None:
        print(f"\r\033[K{time.perf_counter() - started:6.0f} s  {text}", end=end, flush=True)

    encoder = Encoder.load()
    asked = {name: Asked(rows(arguments.data / "streams" / f"{name}.tsv.gz"), encoder) for name in STREAMS}

    def right(name: str, a: int, b: int) -> bool:
        found = asked[name]
        return same((found.labels[a], found.texts[a]), (found.labels[b], found.texts[b]))

    taught: dict[str, Taught] = {}
    for name in STREAMS:
        rule = Rule("taught", "verifier", 0.0, taught=[])
        order = asked[name].order(TAUGHT_SEED, len(asked[name].texts))
        replay(asked[name], order, [rule], TAUGHT_SEED, lambda text: say(f"{name}: {text}", end=""))  # noqa: B023
        assert rule.taught is not None
        taught[name] = Taught(
            np.array([row for _, _, row in rule.taught]),
            np.array([right(name, question, entry) for question, entry, _ in rule.taught]),
        )
        say(f"{name}: {len(taught[name].y)} candidates, {taught[name].y.mean():.0%} right")

    def without(*names: str) -> Verifier:
        used = [name for name in STREAMS if name not in names]
        return fit([taught[name] for name in used], " ".join(used))

    scored: dict[tuple[str, str | None], Scored] = {}
    for name in STREAMS:
        held: list[str | None] = [None, *(other for other in STREAMS if other != name)]
        rules = [
            Rule(str(other), "verifier", SERVING, without(*filter(None, (name, other)))) for other in held
        ]
        for seed in SCORED_SEEDS:
            order = asked[name].order(seed, len(asked[name].texts))
            replay(asked[name], order, rules, seed, lambda text: say(f"{name}: {text}", end=""))  # noqa: B023
        for other, rule in zip(held, rules, strict=True):
            log = [served for served in rule.log if served.score is not None]
            scored[name, other] = Scored(
                np.array([served.score for served in log]),
                np.array([right(name, served.question, served.entry) for served in log]),
                np.array([(served.question, served.entry) for served in log]),
            )
        say(f"{name}: scored without it")
    arguments.folds.mkdir(parents=True, exist_ok=True)
    table = []
    for held_out in (*STREAMS, None):
        verifier = without(*filter(None, (held_out,)))
        calibrated = [name for name in STREAMS if name != held_out]
        found = {
            f"{target:g}": threshold([scored[name, held_out] for name in calibrated], target)
            for target in TARGETS
        }
        facts = {"scores": held_out or "what ships", "trained_on": calibrated, "thresholds": found}
        kept = {"weights": dict(zip(FEATURES, verifier.weights, strict=True)), "bias": verifier.bias, **facts}
        path = arguments.out if held_out is None else arguments.folds / f"{held_out}.json"
        path.write_text(json.dumps(kept, indent=1) + "\n")
        table.append(facts)
        say(
            f"{facts['scores']}: "
            + ", ".join(f"{t} {'-' if r is None else r['tau']}" for t, r in found.items())
        )
    (arguments.folds / "folds.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
