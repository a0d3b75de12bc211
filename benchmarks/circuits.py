"""How soon every worker of a gateway knows what one of them found out about a target.

    python benchmarks/circuits.py [--workers N] [--trials N] [--json FILE|-] [--strict]

`headrace serve --workers N` runs as it comes, before a fake provider. In each trial one worker meets a target that is dead until its circuit
opens; the time from there until every other worker's `/admin` calls it open is a figure. After the cooldown (20 s) all workers are asked at
once while the target is slow: exactly one request, the probe, may reach it. The time from the probe's answer until every worker calls the circuit
closed is the second figure. `--strict` exits with 1 if one is above 0.5 s, or a probe was not the only one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headrace.testing import Answer, FakeProvider, ServerError

__all__ = ["LIMIT_S", "SERVE", "Figures", "Trial", "run"]

KEY, ADMIN = "hr-benchmark-circuits-01234567", "hr-benchmark-circuits-admin-01"
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


class _Worker:
    """A kept connection to one worker process; used by one thread at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=30)
        self.pid: int = self.admin()["worker"]

    def _ask(self, method: str, path: str, key: str, body: bytes | None = None) -> Any:
        self._connection.request(
            method, path, body, {"authorization": f"Bearer {key}", "content-type": "application/json"}
        )
        return json.loads(self._connection.getresponse().read())

    def admin(self) -> Any:
        """`/admin`, as this worker sees it."""
        return self._ask("GET", "/admin", ADMIN)

    def state(self, target: str) -> str:
        """Of the target's circuit."""
        return next((row["state"] for row in self.admin()["circuits"] if row["circuit"] == target), "closed")

    def chat(self, route: str) -> Any:
        """One request."""
        body = {"model": route, "messages": [{"role": "user", "content": "hi"}]}
        return self._ask("POST", "/v1/chat/completions", KEY, json.dumps(body).encode())

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _config(provider: FakeProvider, trials: int) -> str:
    routes = "".join(f'[routes.r{n}]\ncascade = ["openai/dead{n}", "openai/alive"]\n' for n in range(trials))
    return (
        f'[providers.openai]\nbase_url = "{provider.base_url}"\napi_key = "sk-bench"\n{routes}'
        f'[keys.bench]\nvalue = "{KEY}"\n[store]\npath = "headrace.db"\n[gateway]\nadmin_key = "{ADMIN}"\n'
    )


@contextlib.contextmanager
def _serving(command: Sequence[str], workers: int, folder: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextlib.contextmanager
def _each_worker(url: str, workers: int) -> Iterator[list[_Worker]]:
    """A connection to each: the system hands them out as it likes, so there are many until all have one."""
    place = urlsplit(url)
    assert place.hostname is not None and place.port is not None
    opened: list[_Worker] = []
    found: dict[int, _Worker] = {}
    until = time.monotonic() + 30
    try:
        while len(found) < workers:
            if time.monotonic() > until:
                raise RuntimeError(f"only {len(found)} of {workers} workers answer")
            opened.append(_Worker(place.hostname, place.port))
            found.setdefault(opened[-1].pid, opened[-1])
        yield list(found.values())
    finally:
        for worker in opened:
            worker.close()


def _until(workers: Sequence[_Worker], target: str, state: str) -> float:
    """Seconds until all of them call `target` that."""
    began = time.monotonic()
    waiting = list(workers)
    while waiting:
        waiting = [worker for worker in waiting if worker.state(target) != state]
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
        with _serving(command, workers, Path(folder)) as url, _each_worker(url, workers) as each:
            opened, when = [], []
            for n in range(trials):
                provider.on(f"dead{n}", always=ServerError())
                finder, *others = each[n % workers :] + each[: n % workers]
                for _ in range(FAILURES):
                    finder.chat(f"r{n}")
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
    provider: FakeProvider, each: Sequence[_Worker], n: int, due: float, slow_s: float
) -> tuple[float, int]:
    """All workers ask at once when the cooldown is over. Seconds from the probe's answer until all say closed; requests that arrived."""
    provider.on(f"dead{n}", always=Answer("back", first_delay_s=slow_s))
    before = sum(seen.model == f"dead{n}" for seen in provider.requests)
    time.sleep(max(0.0, due - time.monotonic()) + 0.1)
    ready = threading.Barrier(len(each))

    def ask(worker: _Worker) -> tuple[str, float]:
        ready.wait()
        said = worker.chat(f"r{n}")["choices"][0]["message"]["content"]
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
