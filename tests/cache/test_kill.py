"""The file of kept answers after SIGKILL: what was acknowledged is there, whatever was being written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from headrace.cache.stores.sqlite import SQLiteEntries

WRITER = """
import sys
from pathlib import Path
from headrace.cache.entry import Entry
from headrace.cache.stores.sqlite import SQLiteEntries

kept = SQLiteEntries(Path(sys.argv[1]))
kept.load(0.0)
number = int(sys.argv[2])
while True:
    for _ in range(20):
        number += 1
        kept.put(Entry(
            id=f"e{number}", scope=b"s", exact=f"{number}".encode(), text="x", canonical="x", tenant="t", route="r", target="a/b",
            created=0.0, expires=1e12, body=b"y" * 4000, cost=None,
        ))
    if kept.flush():
        print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """Five times, with writes under way each time; the file is opened as it was left, none is put aside."""
    path = tmp_path / "x.cache.db"
    number = 0
    for kill in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(3 + kill):
                number = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
        if rest:
            number = int(rest[-1])
        kept = SQLiteEntries(path)
        there = {entry.id for entry in kept.load(0.0)}
        kept.close()
        missing = {f"e{one}" for one in range(1, number + 1)} - there
        assert not missing, (kill, len(missing))
        number = max(int(name[1:]) for name in there)
    assert not list(tmp_path.glob("*.damaged"))


def test_how_often_an_entry_was_given_out_outlives_the_process(tmp_path: Path) -> None:
    """What saves most stays when room is short, after a restart as before it."""
    from tests.cache.test_parts import entry

    path = tmp_path / "x.cache.db"
    kept = SQLiteEntries(path)
    kept.load(0.0)
    one = entry("one")
    kept.put(one)
    one.hits = 7
    kept.hit(one)
    kept.close()
    again = SQLiteEntries(path)
    assert [found.hits for found in again.load(0.0)] == [7]
    again.close()
