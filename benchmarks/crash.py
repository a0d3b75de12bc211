"""Kills the gateway with -9 in the middle of its work, again and again: what a client had whole must be in the ledger, once.

    python benchmarks/crash.py [--kills N] [--seed N] [--without commits|journal] [--folder DIR] [--json FILE|-]

Each round starts `headrace serve` on the same store, lets eight callers ask (every other one for a stream) under a budget, stops the process
(SIGSTOP) at a random moment, looks what it was doing, and kills it (SIGKILL), its writing thread with it. A kill counts as *in a
transaction* when the stopped process holds SQLite's write lock, and as *uncommitted* when its journal has records that the database
has not. Where fewer than half of the kills so far were in a transaction, the process is let go on until it is in one.

An answer is acknowledged when its last byte has been read: the end of a body, or `data: [DONE]`. The next start takes in what the
journal has; the exit code is 0 if no acknowledged answer lacks its row, none has two, the ledger is at least the provider's bill, and
every start took less than 5 s. `--without` runs a gateway that is broken on purpose, which must be found out. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from headrace.testing import Answer, FakeProvider

CALLERS: Final = 8
KEY: Final = "hr-crash-0123456789abcdef"
USAGE: Final = (20, 10)
BILL: Final = USAGE[0] * 3_000 + USAGE[1] * 15_000
"""Nano-dollars of one answer, at 3 and 15 dollars a million."""

START_LIMIT_S: Final = 5.0

Without = Literal["commits", "journal"]
SABOTAGE: Final[dict[str, str]] = {
    "commits": "from headrace.store import ledger; ledger.insert = lambda connection, rows: 0",
    "journal": "from headrace.store.journal import Journal; Journal.append = lambda self, entry: 0",
}
RUN: Final = "import runpy; runpy.run_module('headrace', run_name='__main__', alter_sys=True)"


@dataclass
class Report:
    """What the kills did. Money is nano-dollars; `unfinished` are attempts that the kills cut, booked at their bounds."""

    kills: int = 0
    in_transaction: int = 0
    uncommitted: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    unfinished: int = 0
    bill: int = 0
    ledger: int = 0
    budget: int = 0
    slowest_start_s: float = 0.0
    intact: bool = False
    examples: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost, nothing twice, nothing below the bill."""
        return (
            self.lost == self.doubled == 0
            and self.intact
            and self.ledger >= self.bill
            and self.budget == self.ledger
            and self.slowest_start_s < START_LIMIT_S
        )


def settings(provider: FakeProvider, folder: Path) -> Path:
    """The gateway's configuration."""
    path = folder / "headrace.toml"
    path.write_text(
        f"""
[providers.openai]
dialect = "openai-chat"
base_url = "{provider.base_url}"
api_key = "sk-none"
[routes.r]
cascade = ["openai/priced"]
[prices."openai/priced"]
input_usd_per_mtok = "3"
output_usd_per_mtok = "15"
[store]
path = "{folder / "headrace.db"}"
[gateway]
port = 0
[keys.one]
value = "{KEY}"
budget = {{ usd = "900000", window = "month" }}
"""
    )
    return path


def start(path: Path, without: Without | None) -> tuple[subprocess.Popen[bytes], int, float]:
    """The process, its port, and the seconds until it was ready."""
    began = time.perf_counter()
    prelude = f"{SABOTAGE[without]}; " if without else ""
    with (path.parent / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + RUN, "serve", "--config", str(path), "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=path.parent,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit((path.parent / "log").read_text())
    return process, int(json.loads(line)["url"].rpartition(":")[2]), time.perf_counter() - began


async def call(port: int, *, stream: bool) -> str | None:
    """The id of an answer that came whole; None if it did not."""
    body = json.dumps(
        {"model": "r", "max_tokens": 50, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
            + f"authorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                answer += data
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return None
    if stream:
        whole = b"data: [DONE]" in rest
    else:
        length = re.search(rb"content-length: (\d+)", head)
        whole = length is not None and len(rest) == int(length[1])
    found = re.search(rb"x-request-id: (\S+)", head)
    return found[1].decode() if whole and found is not None else None


async def callers(port: int, acknowledged: list[str], over: asyncio.Event) -> None:
    """Ask until it is over; an answer that is under way is read to its end."""

    async def one(number: int) -> None:
        while not over.is_set():
            number += 1
            if (id_ := await call(port, stream=number % 2 == 0)) is not None:
                acknowledged.append(id_)

    await asyncio.gather(*(one(number) for number in range(CALLERS)))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Returns when all of its threads stand still."""
    os.kill(process.pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
        time.sleep(0.0002)


def in_transaction(database: Path) -> bool:
    """Whether somebody holds the write lock."""
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


def uncommitted(database: Path) -> bool:
    """Whether a journal has more than the database."""
    with closing(sqlite3.connect(database, timeout=0)) as connection:
        positions = dict(connection.execute("SELECT name, position FROM journals"))
    return any(
        file.stat().st_size > positions.get(file.name, 0)
        for file in database.parent.glob(f"{database.name}-ledger-*")
    )


async def kill_once(
    process: subprocess.Popen[bytes], port: int, database: Path, chance: random.Random, report: Report
) -> list[str]:
    """One round with a running gateway: the ids of the answers that came whole."""
    acknowledged: list[str] = []
    over = asyncio.Event()
    asking = asyncio.create_task(callers(port, acknowledged, over))
    await asyncio.sleep(chance.uniform(0.05, 0.3))
    for _ in range(200):
        await asyncio.to_thread(stop, process)
        open_ = in_transaction(database)
        if open_ or report.in_transaction * 2 > report.kills:
            break
        os.kill(process.pid, signal.SIGCONT)
        await asyncio.sleep(chance.uniform(0.001, 0.02))
    report.kills += 1
    report.in_transaction += open_
    report.uncommitted += uncommitted(database)
    over.set()
    process.kill()
    await asyncio.to_thread(process.wait)
    await asking
    return acknowledged


def run(
    folder: Path,
    *,
    kills: int,
    seed: int = 1,
    without: Without | None = None,
    told: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Kill `kills` times and look into the ledger."""
    chance, report = random.Random(seed), Report()
    acknowledged: list[str] = []
    answers = 0

    def charge(request: object) -> Answer:
        nonlocal answers
        answers += 1
        return Answer("yes", usage=USAGE)

    with FakeProvider() as provider:
        provider.default = charge
        path = settings(provider, folder)
        database = folder / "headrace.db"
        for number in range(kills + 1):
            process, port, took = start(path, without)
            report.slowest_start_s = max(report.slowest_start_s, took)
            try:
                if number < kills:
                    acknowledged += asyncio.run(kill_once(process, port, database, chance, report))
                    told(report)
                else:  # the last is only to take in what was left, and ends well
                    process.send_signal(signal.SIGTERM)
                    process.wait(30)
            finally:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()
    report.acknowledged, report.bill = len(acknowledged), answers * BILL
    look(database, acknowledged, report)
    return report


def look(database: Path, acknowledged: list[str], report: Report) -> None:
    """Compare the ledger with what clients had."""
    with closing(sqlite3.connect(database)) as connection:
        report.intact = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = dict(
            connection.execute("SELECT request_id, count(*) FROM attempts WHERE outcome = 'ok' GROUP BY 1")
        )
        calls = dict(connection.execute("SELECT request_id, count(*) FROM calls GROUP BY 1"))
        (report.doubled,) = connection.execute(
            "SELECT count(*) - count(DISTINCT request_id || '/' || number) FROM attempts"
        ).fetchone()
        report.unfinished, report.ledger = connection.execute(
            "SELECT coalesce(sum(outcome = 'lost'), 0), coalesce(sum(cost_nano), 0) FROM attempts"
        ).fetchone()
        (report.budget,) = connection.execute("SELECT coalesce(sum(spent), 0) FROM budget_windows").fetchone()
    lost = [id_ for id_ in acknowledged if rows.get(id_) != 1 or calls.get(id_) != 1]
    report.lost, report.examples = len(lost), lost[:5]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", choices=sorted(SABOTAGE))
    parser.add_argument("--folder", type=Path, help="keep the store and the log there")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - for standard output")
    options = parser.parse_args()

    def told(report: Report) -> None:
        if options.json != "-":
            sys.stderr.write(
                f"\r{report.kills} of {options.kills} kills, {report.in_transaction} in a transaction "
            )
            sys.stderr.flush()

    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = run(folder, kills=options.kills, seed=options.seed, without=options.without, told=told)
    values = asdict(report) | {"good": report.good}
    if options.json == "-":
        print(json.dumps(values))
    else:
        sys.stderr.write("\n")
        for name, value in values.items():
            print(f"{name:16} {value:.2f}" if isinstance(value, float) else f"{name:16} {value}")
        if options.json:
            Path(options.json).write_text(json.dumps(values))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
