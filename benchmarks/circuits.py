"""How soon every worker of a gateway knows what one of them found out about a target.

    python benchmarks/circuits.py [--workers N] [--trials N] [--json FILE|-] [--strict]

`headrace serve --workers N` runs as it comes, before a fake provider. In each trial one worker meets a target that is dead until its circuit
opens; the time from there until every other worker's `/admin` calls it open is a figure. After the cooldown (20 s) all workers are asked at
once while the target is slow: exactly one request, the probe, may reach it. The time from the probe's answer until every worker calls the circuit
closed is the second figure. `--strict` exits with 1 if one is above 0.5 s, or a probe was not the only one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.testing import Answer, FakeProvider, ServerError
from workers import ADMIN, Worker, each_worker, serving

__all__ = ["LIMIT_S", "SERVE", "Figures", "Trial", "run"]

KEY = "hr-benchmark-circuits-01234567"
SERVE = (sys.executable, "-m", "headrace", "serve")
LIMIT_S = 0.5
FAILURES = 6
"""Requests after which a dead target's circuit is open, whatever their pace."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One target. Seconds until all the other workers called its circuit open, and closed; and what reached it while it was probed."""

    opened_s: float
    closed_s: float
    probes: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured."""

    workers: int
    trials: tuple[Trial, ...]

    @property
    def kept(self) -> bool:
        """Whether all was as promised."""
        return all(
            max(trial.opened_s, trial.closed_s) <= LIMIT_S and trial.probes == 1 for trial in self.trials
        )


def _state(worker: Worker, target: str) -> str:
    """Of the target's circuit, as this worker sees it."""
    circuits = worker.ask("GET", "/admin", ADMIN)[1]["circuits"]
    return next((row["state"] for row in circuits if row["circuit"] == target), "closed")


def _chat(worker: Worker, route: str) -> Any:
    """One request."""
    body = {"model": route, "messages": [{"role": "user", "content": "hi"}]}
    return worker.ask("POST", "/v1/chat/completions", KEY, body)[1]


def _config(provider: FakeProvider, trials: int) -> str:
    routes = "".join(f'[routes.r{n}]\ncascade = ["openai/dead{n}", "openai/alive"]\n' for n in range(trials))
    return (
        f'[providers.openai]\nbase_url = "{provider.base_url}"\napi_key = "sk-bench"\n{routes}'
        f'[keys.bench]\nvalue = "{KEY}"\n[store]\npath = "headrace.db"\n[gateway]\nadmin_key = "{ADMIN}"\n'
    )


def _until(workers: Sequence[Worker], target: str, state: str) -> float:
    """Seconds until all of them call `target` that."""
    began = time.monotonic()
    waiting = list(workers)
    while waiting:
        waiting = [worker for worker in waiting if _state(worker, target) != state]
        if time.monotonic() - began > 30:
            raise RuntimeError(f"{len(waiting)} workers never called {target} {state}")
    return time.monotonic() - began


def run(
    *,
    workers: int,
    trials: int,
    cooldown_s: float = 20.0,
    slow_s: float = 1.0,
    command: Sequence[str] = SERVE,
) -> Figures:
    """Measure.

    Args:
        cooldown_s: What the breaker's first cooldown is under `command`.
        slow_s: How long a probe takes.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        FakeProvider() as provider,
    ):
        (Path(folder) / "headrace.toml").write_text(_config(provider, trials))
        with serving(command, workers, Path(folder)) as url, each_worker(url, workers) as each:
            opened, when = [], []
            for n in range(trials):
                provider.on(f"dead{n}", always=ServerError())
                finder, *others = each[n % workers :] + each[: n % workers]
                for _ in range(FAILURES):
                    _chat(finder, f"r{n}")
                opened.append(_until(others, f"openai/dead{n}", "open"))
                when.append(time.monotonic())
            return Figures(
                workers=workers,
                trials=tuple(
                    Trial(opened_s=opened[n], closed_s=closed, probes=probes)
                    for n in range(trials)
                    for closed, probes in [_probe(provider, each, n, when[n] + cooldown_s, slow_s)]
                ),
            )


def _probe(
    provider: FakeProvider, each: Sequence[Worker], n: int, due: float, slow_s: float
) -> tuple[float, int]:
    """All workers ask at once when the cooldown is over. Seconds from the probe's answer until all say closed; requests that arrived."""
    provider.on(f"dead{n}", always=Answer("back", first_delay_s=slow_s))
    before = sum(seen.model == f"dead{n}" for seen in provider.requests)
    time.sleep(max(0.0, due - time.monotonic()) + 0.1)
    ready = threading.Barrier(len(each))

    def ask(worker: Worker) -> tuple[str, float]:
        ready.wait()
        said = _chat(worker, f"r{n}")["choices"][0]["message"]["content"]
        return said, time.monotonic()

    with ThreadPoolExecutor(len(each)) as pool:
        said = list(pool.map(ask, each))
    probes = sum(seen.model == f"dead{n}" for seen in provider.requests) - before
    answered = max((at for text, at in said if text == "back"), default=time.monotonic())
    _until(each, f"openai/dead{n}", "closed")
    return time.monotonic() - answered, probes


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures there; - for standard output, alone"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless all is within 0.5 s")
    given = parser.parse_args()
    figures = run(workers=given.workers, trials=given.trials)
    if given.json:
        text = json.dumps(dataclasses.asdict(figures) | {"kept": figures.kept}, indent=1)
        if given.json == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(given.json).write_text(text)
    if given.json != "-":
        sys.stdout.write(f"{given.workers} workers, {given.trials} targets: median, longest\n")
        for what, values in (
            ("open, until all others know", [trial.opened_s for trial in figures.trials]),
            ("closed, until all know", [trial.closed_s for trial in figures.trials]),
        ):
            sys.stdout.write(f"  {what:<30}{statistics.median(values):8.3f} s {max(values):8.3f} s\n")
        probes = [trial.probes for trial in figures.trials]
        sys.stdout.write(f"  requests while it was probed   {min(probes)} to {max(probes)}\n")
    return 0 if figures.kept or not given.strict else 1


if __name__ == "__main__":
    raise SystemExit(main())
