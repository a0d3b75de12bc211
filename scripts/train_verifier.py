"""Trains the verifier of the semantic cache, and finds the probabilities from which on it is served (state `prior`).

    .venv/bin/python scripts/train_verifier.py ../shared/data/semcache

Only sets whose licence lets trained weights be shipped are used: BANKING77 and HWU (CC BY 4.0), CLINC150 (CC BY 3.0), the template
families of CheckList (MIT), kmemo and Arena-Hard (Apache-2.0); attribution is in NOTICE.

Streams are simulated as the cache would see them: in a random order, each question against the nearest that came before it and
that no guard turns down. No set scores what it has trained: for each stream a *fold* is trained without it, calibrated and given its
thresholds by folds within that fold. What ships is trained on all, with thresholds from all streams, each scored by its own fold. The
table of folds is written beside the weights.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace.cache.encoder import Encoder
from headrace.cache.guards import Signature, signature, veto
from headrace.cache.match import CANDIDATES, FLOOR
from headrace.cache.verifier import FEATURES, features

STREAMS = ("banking77", "clinc150", "hwu_slots")
NOT_SHIPPED = frozenset({"number_swap", "location_swap", "template_paraphrase", "typo"})
"""CheckList families made from Quora questions."""
TARGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
CONFIDENCE = 0.95
ROWS = 14_000
SEED = 11
RIDGE = 1.0
FIRST, STEP = 600, 50
"""Where the walk down begins, and how far each step goes: a bound of 1 % can be shown from 299 on, with one mistake among them from 473."""
FULL = 5_000
"""Pairs from which on a set has its full weight."""


def table(path: Path) -> list[list[str]]:
    undo = {"n": "\n", "t": "\t", "r": "\r"}

    def cell(text: str) -> str:
        return re.sub(r"\\(.)", lambda m: undo.get(m[1], m[1]), text)

    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1:-1]
    return [[cell(text) for text in line.split("\t")] for line in lines]


@dataclass
class Pairs:
    """Features, labels, and which query each row belongs to (-1: a pair by itself)."""

    x: np.ndarray
    y: np.ndarray
    query: np.ndarray
    asked: int


def stream_pairs(rows: list[list[str]], encoder: Encoder, seed: int) -> Pairs:
    """What the verifier would be asked while `rows` are asked in the order of `seed`."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    rows = rows[:ROWS]
    vectors = np.array([encoder.encode(text) for _, text in rows])
    signs: list[Signature] = [signature(text, encoder.knows) for _, text in rows]
    x, y, query = [], [], []
    for at in range(1, len(rows)):
        cosines = vectors[:at] @ vectors[at]
        nearest = np.arange(at) if at <= CANDIDATES else np.argpartition(-cosines, CANDIDATES)[:CANDIDATES]
        for near in nearest:
            if cosines[near] < FLOOR or veto(signs[at], signs[near]) is not None:
                continue
            x.append(features(signs[at], signs[near], float(cosines[near]), encoder))
            y.append(same(rows[at], rows[near]))
            query.append(at)
    return Pairs(np.array(x), np.array(y), np.array(query), len(rows))


def same(a: list[str], b: list[str]) -> bool:
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


def pair_pairs(rows: list[list[str]], encoder: Encoder) -> Pairs:
    """The pairs that no guard turns down."""
    x, y = [], []
    for _, same, a, b in rows:
        sa, sb = signature(a, encoder.knows), signature(b, encoder.knows)
        if veto(sa, sb) is None:
            x.append(features(sa, sb, float(encoder.encode(a) @ encoder.encode(b)), encoder))
            y.append(same == "1")
    return Pairs(np.array(x), np.array(y), np.full(len(y), -1), len(rows))


@dataclass(frozen=True)
class Model:
    """A logistic regression on the features as they are."""

    weights: np.ndarray
    bias: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights + self.bias


def fit(sets: list[Pairs]) -> Model:
    """By Newton's method, with a weak ridge; every set weighs the same but small ones, whose few pairs
    must not outweigh thousands. A feature whose weight would be below 0 is left out."""
    x = np.concatenate([s.x for s in sets])
    y = np.concatenate([s.y for s in sets]).astype(float)
    weight = np.concatenate([np.full(len(s.y), 1.0 / max(len(s.y), FULL)) for s in sets])
    weight *= len(weight) / weight.sum()
    mean, scale = x.mean(axis=0), x.std(axis=0)
    z = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    used = np.ones(z.shape[1], dtype=bool)
    while True:
        beta = _newton(z[:, used], y, weight)
        if (beta[:-1] >= 0).all():
            break
        used[np.flatnonzero(used)[:-1][beta[:-1] < 0]] = False
    full = np.zeros(z.shape[1])
    full[used] = beta
    weights = full[:-1] / scale
    return Model(weights, float(full[-1] - weights @ mean))


def _newton(z: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    beta = np.zeros(z.shape[1])
    ridge = np.full(z.shape[1], RIDGE)
    ridge[-1] = 0.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-(z @ beta)))
        step = np.linalg.solve(
            (z * (weight * p * (1 - p))[:, None]).T @ z + np.diag(ridge),
            z.T @ (weight * (p - y)) + ridge * beta,
        )
        beta -= step
        if np.abs(step).max() < 1e-10:
            break
    return beta


def best(scores: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Each query's best score, and whether that one is right."""
    order = np.lexsort((-scores, pairs.query))
    first = np.ones(len(order), dtype=bool)
    first[1:] = pairs.query[order][1:] != pairs.query[order][:-1]
    chosen = order[first]
    return scores[chosen], pairs.y[chosen]


def upper(wrong: int, served: int, confidence: float = CONFIDENCE) -> float:
    """One-sided Clopper-Pearson bound (C. J. Clopper and E. S. Pearson, Biometrika 26, 1934), by bisection of the binomial tail."""
    if served == 0 or wrong >= served:
        return 1.0
    logs = [
        math.lgamma(served + 1) - math.lgamma(k + 1) - math.lgamma(served - k + 1) for k in range(wrong + 1)
    ]
    low, high = wrong / served, 1.0
    for _ in range(60):
        p = (low + high) / 2
        tail = sum(math.exp(c + k * math.log(p) + (served - k) * math.log1p(-p)) for k, c in enumerate(logs))
        low, high = (p, high) if tail > 1 - confidence else (low, p)
    return high


def threshold(scores: np.ndarray, right: np.ndarray, target: float) -> tuple[float, int, int] | None:
    """The lowest score above which the bound holds: fixed-sequence testing, down from the score that serves `FIRST` questions to the first
    failure after a success; with what it serves and how many of those are wrong."""
    order = np.argsort(-scores, kind="stable")
    wrong = np.cumsum(~right[order])
    found = None
    for served in range(FIRST, len(order) + 1, STEP):
        rate = wrong[served - 1] / served
        holds = rate <= target and upper(int(wrong[served - 1]), served) <= target
        if holds:
            found = (float(scores[order[served - 1]]), served, int(wrong[served - 1]))
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

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {text}", flush=True)

    encoder = Encoder.load()
    streams: dict[str, list[Pairs]] = {}
    for name in STREAMS:
        rows = table(arguments.data / "streams" / f"{name}.tsv.gz")
        streams[name] = [stream_pairs(rows, encoder, SEED)]
        say(f"{name}: {[len(p.y) for p in streams[name]]} pairs, {np.mean(streams[name][0].y):.0%} right")
    checklist = [r for r in table(arguments.data / "pairs" / "checklist.tsv.gz") if r[0] not in NOT_SHIPPED]
    random.Random(0).shuffle(checklist)
    always = [
        pair_pairs(checklist[:8_000], encoder),
        pair_pairs(table(arguments.data / "pairs" / "kmemo.tsv.gz"), encoder),
    ]
    say(f"pairs: {[(len(p.y), float(np.mean(p.y).round(2))) for p in always]}")
    models: dict[tuple[str, ...], Model] = {}

    def model(without: tuple[str, ...]) -> Model:
        if without not in models:
            used = [p for name in STREAMS if name not in without for p in streams[name][:1]]
            models[without] = fit(used + always)
        return models[without]

    def calibrated(
        held: tuple[str, ...],
    ) -> tuple[tuple[float, float], dict[float, tuple[float, int, int] | None]]:
        """Scale and thresholds from the streams that are not `held`, each scored by a model that has seen neither it nor `held`."""
        scores, right, flat, labels = [], [], [], []
        for name in STREAMS:
            if name in held:
                continue
            inner = model(tuple(sorted((*held, name))))
            for pairs in streams[name]:
                values = inner(pairs.x)
                flat.append(values)
                labels.append(pairs.y)
                top, ok = best(values, pairs)
                scores.append(top)
                right.append(ok)
        score = np.concatenate(flat)
        platt = _newton(
            np.column_stack([score, np.ones(len(score))]),
            np.concatenate(labels).astype(float),
            np.ones(len(score)),
        )
        scale = float(platt[0]), float(platt[1])
        all_scores, all_right = np.concatenate(scores), np.concatenate(right)
        thresholds: dict[float, tuple[float, int, int] | None] = {}
        strictest: tuple[float, int, int] | None = None
        for target in TARGETS:
            found = threshold(all_scores, all_right, target)
            # What holds for a smaller share holds for this one too.
            strictest = min(filter(None, (found, strictest)), default=None)
            thresholds[target] = strictest
        return scale, thresholds

    arguments.folds.mkdir(parents=True, exist_ok=True)
    report = []
    for held in (*STREAMS, ""):
        without = (held,) if held else ()
        scale, found = calibrated(without)
        row: dict[str, object] = {
            "scores": held or "what ships",
            "trained_on": [n for n in STREAMS if n != held] + ["checklist templates", "kmemo"],
            "thresholds": {
                f"{t:g}": None
                if f is None
                else {
                    "tau": round(1 / (1 + math.exp(-(scale[0] * f[0] + scale[1]))), 6),
                    "served": f[1],
                    "wrong": f[2],
                    "bound": round(upper(f[2], f[1]), 5),
                }
                for t, f in found.items()
            },
        }
        report.append(row)
        path = arguments.folds / f"{held}.json" if held else arguments.out
        path.write_text(json.dumps({**written(model(without), scale), **row}, indent=1) + "\n")
        say(f"{held or 'ships':10} {json.dumps(row['thresholds'])}")
        if held:
            for pairs in streams[held]:
                top, ok = best(model(without)(pairs.x), pairs)
                line = []
                for t in TARGETS:
                    f = found[t]
                    if f is not None:
                        chosen = top >= f[0]
                        line.append(
                            f"{t:g}: hits {chosen.sum() / pairs.asked:.2%} wrong {(~ok[chosen]).sum()}/{chosen.sum()}"
                        )
                order = np.argsort(-top)
                rate = np.cumsum(~ok[order]) / np.arange(1, len(order) + 1)
                for t in (0.01, 0.02, 0.05):
                    good = np.where(rate <= t)[0]
                    line.append(f"oracle {t:g}: {(good.max() + 1 if len(good) else 0) / pairs.asked:.2%}")
                say(f"           own tau  {' | '.join(line)}")
    (arguments.folds / "folds.json").write_text(json.dumps(report, indent=1) + "\n")


def written(model: Model, scale: tuple[float, float]) -> dict[str, object]:
    """The calibrated regression as the cache reads it."""
    return {
        "weights": {
            name: round(float(scale[0] * weight), 6)
            for name, weight in zip(FEATURES, model.weights, strict=True)
        },
        "bias": round(scale[0] * model.bias + scale[1], 6),
    }


if __name__ == "__main__":
    main()
