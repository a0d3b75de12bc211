"""How soon every worker of a gateway refuses a key that was revoked.

    python benchmarks/revocation.py [--workers N] [--trials N] [--json FILE|-] [--strict]

`headrace serve --workers N` runs as it comes, before a fake provider. In each trial a new key asks all workers, each over a connection of its own,
one request after the other without a pause. It is revoked, in turn over the admin API and by `headrace keys revoke`; the time from that answer (that
exit) until a worker has refused the key is the figure, one for each worker. `--strict` exits with 1 if one is above 1 s, or if a worker that had
refused the key took it again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.testing import FakeProvider
from workers import ADMIN, Worker, each_worker, serving

__all__ = ["LIMIT_S", "Figures", "Trial", "run"]

HEADRACE = (sys.executable, "-m", "headrace")
LIMIT_S = 1.0
ASKED_S = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)
"""How long a key asks before it is revoked, in turn: every worker has seen it by then, some just now and some a while ago."""

WATCHED_S = 0.3
"""How long it goes on asking when all have refused it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One key. `how` it was revoked; seconds until each worker refused it; requests that were answered, and how many of them after a
    refusal by the same worker."""

    how: str
    refused_s: tuple[float, ...]
    answered: int
    relapses: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured."""

    workers: int
    trials: tuple[Trial, ...]

    @property
    def kept(self) -> bool:
        """Whether all was as promised."""
        return all(
            max(trial.refused_s) < LIMIT_S and trial.relapses == 0 and trial.answered for trial in self.trials
        )


class _Caller(threading.Thread):
    """Asks one worker with one key until told to stop."""

    def __init__(self, worker: Worker, key: str) -> None:
        super().__init__(daemon=True)
        self._worker = worker
        self._key = key
        self.stopped = False
        self.refused: float | None = None
        self.answered = self.relapses = 0

    def run(self) -> None:
        body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
        while not self.stopped:
            status, _ = self._worker.ask("POST", "/v1/chat/completions", self._key, body)
            if status == 401 and self.refused is None:
                self.refused = time.monotonic()
            self.answered += status == 200
            self.relapses += status == 200 and self.refused is not None


def run(*, workers: int, trials: int) -> Figures:
    """Measure."""
    with tempfile.TemporaryDirectory() as name, FakeProvider() as provider:
        folder = Path(name)
        (folder / "headrace.toml").write_text(
            f'[providers.openai]\nbase_url = "{provider.base_url}"\napi_key = "sk-bench"\n'
            '[routes.r]\ncascade = ["openai/m"]\n[store]\npath = "headrace.db"\n'
            f'[gateway]\nadmin_key = "{ADMIN}"\n'
        )
        with (
            serving([*HEADRACE, "serve"], workers, folder) as url,
            each_worker(url, workers) as each,
            each_worker(url, 1) as (boss,),
        ):
            done = [
                _trial(
                    each,
                    boss,
                    folder,
                    how="api" if n % 2 == 0 else "cli",
                    asked_s=ASKED_S[n // 2 % len(ASKED_S)],
                )
                for n in range(trials)
            ]
    return Figures(workers=workers, trials=tuple(done))


def _trial(each: Sequence[Worker], boss: Worker, folder: Path, *, how: str, asked_s: float) -> Trial:
    _, made = boss.ask("POST", "/admin/keys", ADMIN, {})
    callers = [_Caller(worker, made["key"]) for worker in each]
    for caller in callers:
        caller.start()
    time.sleep(asked_s)
    if how == "api":
        status, _ = boss.ask("POST", f"/admin/keys/{made['id']}/revoke", ADMIN, {})
        assert status == 200
    else:
        subprocess.run([*HEADRACE, "keys", "revoke", made["id"]], cwd=folder, check=True, capture_output=True)
    revoked = time.monotonic()
    while any(caller.refused is None for caller in callers):
        if time.monotonic() - revoked > 30:
            raise RuntimeError("a worker never refused the key")
        time.sleep(0.005)
    time.sleep(WATCHED_S)
    for caller in callers:
        caller.stopped = True
    for caller in callers:
        caller.join()
    return Trial(
        how=how,
        refused_s=tuple(max(0.0, (caller.refused or 0.0) - revoked) for caller in callers),
        answered=min(caller.answered for caller in callers),
        relapses=sum(caller.relapses for caller in callers),
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures there; - for standard output, alone"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless all is within 1 s")
    given = parser.parse_args()
    figures = run(workers=given.workers, trials=given.trials)
    if given.json:
        text = json.dumps(dataclasses.asdict(figures) | {"kept": figures.kept}, indent=1)
        if given.json == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(given.json).write_text(text)
    if given.json != "-":
        sys.stdout.write(
            f"{given.workers} workers, {given.trials} keys: median, longest until a worker refused\n"
        )
        for how in ("api", "cli"):
            values = [each for trial in figures.trials if trial.how == how for each in trial.refused_s]
            if values:
                sys.stdout.write(f"  {how}  {statistics.median(values):8.3f} s {max(values):8.3f} s\n")
    return 0 if figures.kept or not given.strict else 1


if __name__ == "__main__":
    raise SystemExit(main())
