"""Whether the bound is kept on traffic of one's own: certified thresholds, audits by lot, and answers that change on the way.

    benchmarks/semcache_certify.py STREAM... [--scores FILE] [--requests N] [--runs N] [--drift SHARE] [--audit SHARE] [--max-wrong SHARE...] [--json]

Streams are those of `benchmarks/semcache.py`. Each is asked once, as there, and the probability of every candidate is recorded with whether its class was the
question's; `--scores` keeps these records in a file, and reads them from there when it exists. Then requests are drawn from the records with
replacement, as many as wanted, and go through `headrace.cache.bound` as production does: a share of the candidates, drawn by lot, is
asked anyway and teaches; where nothing is served, or in doubt, all are. From half of the requests on, a share of the right answers has become wrong.

A run keeps the bound when of all answers served in state `certified` at most `max_wrong` were wrong. Evicting after a wrong audit is not simulated: each draw is
independent, which is harder than production.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
import semcache  # beside this file
from headrace.cache.bound import Bound
from headrace.cache.verifier import Verifier, probability
from headrace.encoder import Encoder

TARGETS = (0.01, 0.02, 0.05)


def record(path: Path, seed: int = 0, most: int = 25_000) -> dict[str, Any]:
    """The candidates of the stream at `path`, with the thresholds of the verifier that scored them."""
    name = path.name.split(".")[0]
    fold = semcache.FOLDS / f"{name}.json"
    verifier = Verifier.load(fold) if fold.exists() else Verifier.load()
    asked = semcache.Asked(semcache.rows(path), Encoder.load())
    tau = verifier.tau(0.01)
    limit = None if tau is None else math.log(tau / (1 - tau))
    rule = semcache.Rule("own", "verifier", limit, verifier)
    order = asked.order(seed, most)
    semcache.replay(
        asked, order, [rule], seed, lambda text: print(f"\r\033[K{name}: {text}", end="", file=sys.stderr)
    )
    return {
        "stream": name,
        "asked": len(order),
        "thresholds": {f"{share:g}": tau for share, tau in verifier.thresholds.items()},
        "candidates": [
            [round(probability(one.score or 0.0), 6), asked.labels[one.question] == asked.labels[one.entry]]
            for one in rule.log
        ],
    }


def run(
    scores: Sequence[tuple[float, bool]],
    asked: int,
    bound: Bound,
    *,
    requests: int,
    audit: float,
    drift: float,
    shadow_until: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """One run: what was served, and how many of it wrong, by state; when a threshold was first certified, when it last was not.

    `asked` is how many requests the `scores` came from; nothing is served before request `shadow_until`."""
    lot = np.random.default_rng(seed)
    p_of = np.array([p for p, _ in scores])
    right_of = np.array([right for _, right in scores])
    drawn = lot.integers(0, asked, requests)
    at = np.flatnonzero(drawn < len(scores))
    p, right = p_of[drawn[at]], right_of[drawn[at]].copy()
    right &= ~((at >= requests // 2) & (lot.random(len(at)) < drift))
    worth = p >= bound.floor
    at, p, right = at[worth], p[worth], right[worth]
    lots: NDArray[np.intp] = np.flatnonzero(lot.random(len(at)) < audit)
    served: dict[str, list[int]] = {"certified": [0, 0], "prior": [0, 0]}
    first = infeasible = None
    i = 0
    while i < len(at):
        ruling = bound.ruling()
        if ruling.state == "infeasible" and infeasible is None:
            infeasible = int(at[i])
        if ruling.state == "certified" and first is None:
            first = int(at[i])
        serves = ruling.serves and not ruling.doubt and at[i] >= shadow_until
        if serves:
            place = int(np.searchsorted(lots, i))
            until = int(lots[place]) if place < len(lots) else len(at)
            hit = p[i:until] >= ruling.tau
            served[ruling.state][0] += int(hit.sum())
            served[ruling.state][1] += int((hit & ~right[i:until]).sum())
            i = until
            if i == len(at):
                break
        bound.learn(float(p[i]), bool(right[i]))
        i += 1
    return {
        "served": {state: n for state, (n, _) in served.items()},
        "wrong": {state: k for state, (_, k) in served.items()},
        "certified_after": first,
        "infeasible_after": infeasible,
        "ends": bound.ruling().state,
        "drifts": bound.drifts,
    }


def table(recorded: dict[str, Any], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    thresholds = {float(share): tau for share, tau in recorded["thresholds"].items()}
    verifier = Verifier([0.0] * len(semcache.FEATURES), 0.0, thresholds, "")
    scores = [(p, right) for p, right in recorded["candidates"]]
    found = []
    for target in arguments.max_wrong:
        for begins in ("prior", "shadow"):
            until = arguments.requests // 4 if begins == "shadow" else 0
            runs = [
                run(
                    scores,
                    recorded["asked"],
                    Bound(thresholds.values(), verifier.tau(target), target),
                    requests=arguments.requests,
                    audit=arguments.audit,
                    drift=arguments.drift,
                    shadow_until=until,
                    seed=seed,
                )
                for seed in range(arguments.runs)
            ]
            found.append(summary(recorded["stream"], target, begins, runs, arguments.requests))
    return found


def summary(
    stream: str, target: float, begins: str, runs: list[dict[str, Any]], requests: int
) -> dict[str, Any]:
    def shares(state: str) -> list[float]:
        return [r["wrong"][state] / r["served"][state] for r in runs if r["served"][state]]

    def middle(values: list[Any]) -> float | None:
        return statistics.median(values) if values else None

    certified = shares("certified")
    return {
        "stream": stream,
        "max_wrong": target,
        "begins": begins,
        "runs": len(runs),
        "certified": sum(r["certified_after"] is not None for r in runs),
        "served_certified": len(certified),
        "kept": sum(share <= target for share in certified) + len(runs) - len(certified),
        "worst": max(certified, default=None),
        "certified_after": middle([r["certified_after"] for r in runs if r["certified_after"] is not None]),
        "hits": statistics.mean(sum(r["served"].values()) for r in runs) / requests,
        "prior_wrong": middle(shares("prior")),
        "infeasible": sum(r["infeasible_after"] is not None for r in runs),
        "infeasible_after": middle(
            [r["infeasible_after"] for r in runs if r["infeasible_after"] is not None]
        ),
        "alarms": statistics.mean(r["drifts"] for r in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("streams", nargs="*", type=Path, metavar="STREAM")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="keep the records here, or read them")
    parser.add_argument("--requests", type=int, default=200_000, help="in each run")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--drift", type=float, default=0.05, help="right answers that become wrong half-way")
    parser.add_argument("--audit", type=float, default=0.02)
    parser.add_argument("--max-wrong", type=float, nargs="+", default=TARGETS, metavar="SHARE")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.scores is not None and arguments.scores.exists():
        recorded = json.loads(arguments.scores.read_text("utf-8"))
    else:
        recorded = [record(path) for path in arguments.streams]
        if arguments.scores is not None:
            arguments.scores.write_text(json.dumps(recorded), "utf-8")
    started = time.perf_counter()
    found = []
    for one in recorded:
        print(
            f"\r\033[K{time.perf_counter() - started:5.0f} s  {one['stream']}",
            end="",
            file=sys.stderr,
            flush=True,
        )
        found += table(one, arguments)
    print("\r\033[K", end="", file=sys.stderr)
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("requests", "runs", "drift", "audit")}
        print(json.dumps({**settings, "rows": found}, indent=1))
        return
    print(
        f"{arguments.runs} runs of {arguments.requests:,} requests; {arguments.audit:.1%} audited; from half on {arguments.drift:.1%} of right answers wrong\n"
    )
    print(
        f"{'stream':11} {'max_wrong':>9} {'begins':>7} {'hits':>7} {'certified':>9} {'after':>8} {'kept':>5} {'worst':>7} {'prior wrong':>11} {'infeasible':>10} {'after':>8} {'alarms':>6}"
    )
    for row in found:
        after, never = (
            "" if row[name] is None else f"{row[name]:,.0f}"
            for name in ("certified_after", "infeasible_after")
        )
        print(
            f"{row['stream']:11} {row['max_wrong']:9g} {row['begins']:>7} {row['hits']:7.2%} {row['certified']:9} {after:>8} {row['kept']:5} "
            f"{semcache.share(row['worst']):>7} {semcache.share(row['prior_wrong']):>11} {row['infeasible']:10} {never:>8} {row['alarms']:6.1f}"
        )


if __name__ == "__main__":
    main()
