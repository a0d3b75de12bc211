"""`headrace cost`: table, chart, CSV and JSON from the store's own file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.call import Attempt, Call
from headrace.clock import SystemClock
from headrace.store.sqlite import SQLiteStore
from headrace.types import Target, Usage

SETTINGS = '[routes.r]\ncascade = ["openai/m"]\n[store]\npath = "headrace.db"\n'


@pytest.fixture(autouse=True)
def settings(write: Callable[[str], Path]) -> Path:
    return write(SETTINGS)


def spend(folder: Path) -> None:
    """One request at two cents, now."""

    async def main() -> None:
        store, wall = SQLiteStore(folder / "headrace.db"), SystemClock.wall()
        call = Call(id="r1", started_at=0.0, started_wall=wall, route="r", tags={"job": "night"})
        attempt = Attempt(number=1, target=Target("openai", "m"), started_at=0.0, started_wall=wall)
        attempt.usage, attempt.cost = Usage(input_tokens=10, output_tokens=5), 20_000_000
        attempt.end("ok", 1.0)
        store.record_attempt(call, attempt)
        await store.aclose()

    asyncio.run(main())


def test_table_chart_forecast(headrace: Any, folder: Path) -> None:
    """Rows with a total, a bar for today, the month, and the savings."""
    spend(folder)
    ran = headrace("cost", "--since", "24h", "--by", "model,tag")
    assert ran.code == 0
    words = " ".join(ran.out.split())
    assert "openai/m job=night 1 1 10 5 0.02" in words
    assert "█ $0.02" in words and "$0.02 so far" in words and "saved by the cache: $0" in words


def test_csv_and_json(headrace: Any, folder: Path) -> None:
    """The same figures."""
    spend(folder)
    found = headrace("cost", "--by", "tag:job", "--json").json
    assert found["rows"][0]["tag:job"] == "night" and found["total"]["cost_usd"] == "0.02"
    assert (
        headrace("cost", "--by", "tag:job", "--csv").out.splitlines()[1].startswith("night,1,1,10,5,0,0.02")
    )


def test_mistakes(headrace: Any, folder: Path) -> None:
    """No file, a name or a time that is none, two forms at once: each is named, and no file is made."""
    ran = headrace("cost")
    assert ran.code == 2 and "nothing has been spent" in ran.err
    assert not (folder / "headrace.db").exists()
    assert headrace("cost", "--by", "cost").code == 2
    assert headrace("cost", "--since", "7").code == 2
    assert headrace("cost", "--json", "--csv").code == 2
