#!/usr/bin/env python3
"""`headrace batch` over a provider that fails, killed with SIGKILL again and again: is every row done once, and what was paid twice?

    python benchmarks/batch.py [--rows 10000] [--kills 5] [--at-once 16] [--json]

The provider is a real server on 127.0.0.1: 5 % rate limits, 5 % overloads and resets, every 1,000th row a bad request. Memory is the resident set
of the last process, early and at its end.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.testing import Answer, FakeProvider, Fault, Overloaded, Received, Reset, Status

SETTINGS = """
[providers.p]
dialect = "openai-chat"
base_url = "{url}"
[routes.r]
cascade = [{{ target = "p/m", attempts = 3 }}]
breaker = false
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the rows. `twice` counts answers beyond the first of a row; at most `kills` times `at_once` are in order."""

    rows: int
    kills: int
    at_once: int
    ok: int
    failed: int
    wrong: int
    missing: int
    lines: int
    twice: int
    requests: int
    seconds: float
    early_mb: float
    late_mb: float
    exit_code: int

    @property
    def good(self) -> bool:
        """Whether every row is done once, as it should be."""
        done = self.ok + self.failed == self.rows == self.lines
        return done and not self.wrong and not self.missing and self.twice <= self.kills * self.at_once


def measure(folder: Path, rows: int, kills: int, at_once: int) -> Report:
    """Run it in `folder`."""
    answered = Counter[str]()
    requests = 0
    pick = random.Random(5)

    def say(request: Received) -> Answer | Fault:
        nonlocal requests
        requests += 1
        chance = pick.random()
        if chance < 0.05:
            return Status(429, retry_after=0.05)
        if chance < 0.1:
            return pick.choice([Overloaded(retry_after=0.02), Reset(0)])
        if int(request.text.split()[-1]) % 1000 == 7:
            return Status(400, message="not this one")
        answered[request.text] += 1
        return Answer(f"answer to {request.text}", first_delay_s=0.004)

    (folder / "rows.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(rows)))
    out = folder / "out.jsonl"
    began = time.perf_counter()
    with FakeProvider(keep_requests=False) as provider:
        provider.default = say
        (folder / "headrace.toml").write_text(SETTINGS.format(url=provider.base_url))
        command = [sys.executable, "-m", "headrace", "batch", "rows.jsonl", "-o", "out.jsonl"]
        command += ["-m", "r", "-p", "Row {n}", "--concurrency", str(at_once), "-q"]
        for kill in range(kills):
            process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE)
            _wait(lambda at=(kill + 1) * rows // (kills + 2): _lines(out) >= at, process)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.communicate()
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE)
        first = _lines(out)
        _wait(lambda: _lines(out) >= first + (rows - first) // 10, process)
        early = late = _resident_mb(process.pid)
        while process.poll() is None:
            late = _resident_mb(process.pid) or late
            time.sleep(0.02)
        process.communicate()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    good = [line for line in lines if line["ok"]]
    return Report(
        rows=rows,
        kills=kills,
        at_once=at_once,
        ok=len(good),
        failed=len(lines) - len(good),
        wrong=sum(line["text"] != f"answer to Row {line['row']}" for line in good)
        + sum(line["row"] % 1000 != 7 for line in lines if not line["ok"]),
        missing=rows - len({line["row"] for line in lines}),
        lines=len(lines),
        twice=sum(answered.values()) - len(answered),
        requests=requests,
        seconds=round(time.perf_counter() - began, 1),
        early_mb=early,
        late_mb=late,
        exit_code=process.returncode,
    )


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.002)


def _resident_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return round(int(found[0]) / 1024, 1) if found else 0.0


def main() -> int:
    """Print the report; exit code 1 when a row was lost, wrong, or paid twice without need."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options.rows, options.kills, options.at_once)
    if options.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        for name, value in asdict(report).items():
            print(f"{name:<10} {value}")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
