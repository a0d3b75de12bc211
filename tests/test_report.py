"""Reports over a ledger of known attempts: groups, days, forecast, savings."""

from __future__ import annotations

import asyncio
import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.budget.test_layers import budgeted, request
from tests.gateway.gate import ADMIN, KEY

from headrace import report
from headrace.call import Attempt, Cached, Call, format_usd
from headrace.config import Settings, load
from headrace.errors import InvalidRequest
from headrace.prices import Catalog
from headrace.store import MemoryStore, Store
from headrace.store.sqlite import SQLiteStore
from headrace.testing import Answer
from headrace.types import Target, Usage

NOW = datetime(2026, 11, 21, 0, 0, tzinfo=UTC).timestamp()
DAY = 86_400.0
CENT = 10_000_000

SETTINGS = """
[routes.r]
cascade = ["openai/cheap", "openai/dear"]
[prices."openai/cheap"]
input_usd_per_mtok = "1"
output_usd_per_mtok = "1"
[prices."openai/dear"]
input_usd_per_mtok = "10"
output_usd_per_mtok = "10"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "headrace.toml").write_text(SETTINGS)
    return load(tmp_path / "headrace.toml", environ={})


def spent(store: Store, number: int, days_ago: float, model: str = "cheap", **more: Any) -> Call:
    """One request of one attempt: 900 tokens in, 100 out, one cent where nothing else is said."""
    wall = NOW - days_ago * DAY
    attempt = {"usage": Usage(input_tokens=900, output_tokens=100), "cost": CENT} | more.pop("attempt", {})
    call = Call(id=f"req_{number}", started_at=0.0, started_wall=wall, **{"route": "r"} | more)
    made = Attempt(number=1, target=Target("openai", model), started_at=0.0, started_wall=wall, **attempt)
    made.end("ok", 1.0)
    call.attempts.append(made)
    store.record_attempt(call, made)
    call.end(200, 1.0)
    store.record_call(call)
    return call


def made(store: Store, settings: Settings, since: str = "7d", by: str = "model", now: float = NOW) -> Any:
    """The report, and the store is closed."""

    async def main() -> Any:
        try:
            return await report.cost_report(
                store,
                settings,
                Catalog.from_settings(settings.prices).cost,
                since_s=report.period(since),
                by=report.dimensions(by),
                now=now,
            )
        finally:
            await store.aclose()

    return asyncio.run(main())


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "h.db")


def test_groups_add_up(store: Store, settings: Settings) -> None:
    """By model, key and tag, the dearest first; what is older is left out; an unknown cost is counted, not taken for nothing."""
    spent(store, 1, 1, key_id="a", tags={"project": "x", "n": "1"})
    spent(store, 2, 1, key_id="a", tags={"project": "x"})
    spent(store, 3, 2, "dear", key_id="b", attempt={"cost": 5 * CENT, "estimated": True})
    spent(store, 4, 2, "dear", key_id="b", attempt={"cost": None})
    spent(store, 5, 8, "old")
    found = made(store, settings, by="model,key,tag")
    assert [(row["model"], row["key"], row["tag"], row["cost_usd"]) for row in found["rows"]] == [
        ("openai/dear", "b", "", "0.05"),
        ("openai/cheap", "a", "project=x", "0.02"),
        ("openai/cheap", "a", "n=1", "0.01"),
    ]
    assert found["rows"][0] | {"model": ""} == {
        "model": "",
        "key": "b",
        "tag": "",
        "requests": 2,
        "attempts": 2,
        "input_tokens": 1800,
        "output_tokens": 200,
        "cache_read_tokens": 0,
        "cost_usd": "0.05",
        "wasted_usd": "0",
        "estimated_usd": "0.05",
        "unpriced_attempts": 1,
    }
    assert found["total"]["cost_usd"] == "0.07"
    assert found["total"]["requests"] == 4


def test_the_values_of_one_tag(store: Store, settings: Settings) -> None:
    """A request without it is in a row of its own; any name will do."""
    spent(store, 1, 1, tags={"a.b \"'": "x"})
    spent(store, 2, 1)
    found = made(store, settings, by="tag:a.b \"'")
    assert sorted((row["tag:a.b \"'"], row["cost_usd"]) for row in found["rows"]) == [
        ("", "0.01"),
        ("x", "0.01"),
    ]


def test_an_empty_ledger(store: Store, settings: Settings) -> None:
    """Nothing, and no error."""
    found = made(store, settings)
    assert found["rows"] == [] and found["total"]["cost_usd"] == "0"
    assert found["forecast"]["forecast_usd"] == "0"
    assert [day["cost_usd"] for day in found["days"]] == ["0"] * 7


def test_days_and_forecast(store: Store, settings: Settings) -> None:
    """Ten cents a day in the last week, a dollar at the month's beginning: after 20 of 30 days 1.70, by its end one dollar more."""
    spent(store, 0, 19.5, attempt={"cost": 100 * CENT})
    for day in range(7):
        spent(store, day + 1, day + 0.5, attempt={"cost": 10 * CENT})
    spent(store, 9, 7 - 1e-9 / DAY, attempt={"cost": 0})
    found = made(store, settings)
    assert [day["day"] for day in found["days"]] == [f"2026-11-{day}" for day in range(14, 21)]
    assert {day["cost_usd"] for day in found["days"]} == {"0.1"}
    assert found["forecast"]["month"] == "2026-11"
    assert found["forecast"]["spent_usd"] == "1.7"
    assert float(found["forecast"]["forecast_usd"]) == pytest.approx(2.7, rel=1e-6)


def test_a_young_ledger_is_not_taken_for_a_week(store: Store, settings: Settings) -> None:
    """The average is over the time since its first attempt."""
    spent(store, 1, 1)
    assert float(made(store, settings)["forecast"]["forecast_usd"]) == pytest.approx(0.11, rel=1e-6)


def test_days_are_those_of_the_zone(store: Store, tmp_path: Path) -> None:
    """Half past midnight in Kolkata is still yesterday in UTC."""
    (tmp_path / "headrace.toml").write_text(f'{SETTINGS}[budgets]\ntimezone = "Asia/Kolkata"\n')
    spent(store, 1, 5 / 24)  # 19:00 UTC, 00:30 there
    found = made(store, load(tmp_path / "headrace.toml", environ={}), since="24h")
    assert found["days"] == [
        {"day": "2026-11-20", "cost_usd": "0"},
        {"day": "2026-11-21", "cost_usd": "0.01"},
    ]


def test_savings(store: Store, settings: Settings) -> None:
    """Hits at what their answers had cost, packing less its summaries, and cheap targets against the dearest of the route."""
    for number, saved in enumerate((3 * CENT, None)):
        hit = Call(id=f"hit{number}", started_at=0.0, started_wall=NOW - DAY, route="r", cache="hit-exact")
        hit.cached = Cached(tier="exact", saved=saved)
        hit.end(200, 1.0)
        store.record_call(hit)
    spent(
        store, 1, 1, attempt={"cost": 1_000_000}
    )  # 1,000 tokens at 1 a million; the dear one takes ten times that
    packed = spent(store, 2, 1, "dear", attempt={"cost": CENT})
    packed.packed, packed.id = 4 * CENT, "again"
    store.record_call(packed)
    spent(store, 3, 1, "dear", purpose="summary", attempt={"purpose": "summary", "cost": CENT})
    savings = made(store, settings)["savings"]
    assert savings["cache"] | {"method": ""} == {
        "saved_usd": "0.03",
        "hits": 2,
        "unpriced_hits": 1,
        "method": "",
    }
    assert savings["context"]["saved_usd"] == "0.03"
    assert savings["context"]["packed_requests"] == 1
    assert savings["targets"]["saved_usd"] == format_usd(CENT - 1_000_000)
    assert all(one["method"] == report.METHODS[name] for name, one in savings.items())


def test_csv_and_chart(store: Store, settings: Settings) -> None:
    """A sheet takes no text for a formula; a bar is as long as its day's part of the dearest."""
    spent(store, 1, 1, key_id="=1+1")
    spent(store, 2, 1, key_id="b", attempt={"cost": 3 * CENT})
    spent(store, 3, 3, attempt={"cost": 2 * CENT})
    found = made(store, settings, by="key")
    rows = list(csv.DictReader(report.to_csv(found).splitlines()))
    assert [(row["key"], row["cost_usd"]) for row in rows] == [("b", "0.03"), ("", "0.02"), ("'=1+1", "0.01")]
    bars = report.chart(found["days"], width=10)
    assert bars[4] == "2026-11-18  █████ $0.02"
    assert bars[6] == "2026-11-20  ██████████ $0.04"
    assert bars[0].endswith("· $0")


@pytest.mark.parametrize("text", ["", "7", "0d", "-1d", "4000d", "x" * 99])
def test_times_that_are_none(text: str) -> None:
    """A typed error that says what there is."""
    with pytest.raises(InvalidRequest, match="such as 7d"):
        report.period(text)


@pytest.mark.parametrize(
    "text", ["cost", "model,model", "tag:", "when", "key;drop table", "user,team,key,tag,model,route"]
)
def test_names_that_are_none(text: str) -> None:
    """Likewise."""
    with pytest.raises(InvalidRequest):
        report.dimensions(text)


def test_over_the_admin_api(tmp_path: Path) -> None:
    """What the gateway's own requests cost, with its keys' names, in JSON and CSV; a caller may not look, and mistakes are named."""
    with budgeted(tmp_path, route="[routes.r.cache]") as gate:
        key = gate.http("POST", "/admin/keys", b'{"name": "made"}', key=ADMIN).json["key"]
        for presented in (KEY, key, key):
            assert gate.http("POST", "/v1/chat/completions", request(), key=presented).status == 200
        found = gate.http("GET", "/admin/cost?since=1h&by=key,model", key=ADMIN).json
        assert {row["key"] for row in found["rows"]} == {"one", "made"}
        assert found["savings"]["cache"]["hits"] == 1
        assert found["savings"]["cache"]["saved_usd"] == found["rows"][0]["cost_usd"]
        sheet = gate.http("GET", "/admin/cost?format=csv", key=ADMIN)
        assert sheet.headers["content-type"].startswith("text/csv")
        assert sheet.body.startswith(b"model,requests,")
        assert gate.http("GET", "/admin/cost").status == 403
        for wrong in ("since=x", "by=cost", "format=xml", "sinec=7d"):
            refused = gate.http("GET", f"/admin/cost?{wrong}", key=ADMIN)
            assert refused.status == 400 and "error" in json.loads(refused.body)


def test_what_packing_left_out_is_counted(tmp_path: Path) -> None:
    """A long conversation of a route that packs: the tokens of what is not sent, at the target's price."""
    talk = [
        {"role": role, "content": f"{number} " + "the river runs to the sea and back again " * 40}
        for number in range(6)
        for role in ("user", "assistant")
    ]
    asked = request(messages=[*talk, {"role": "user", "content": "And then?"}])
    with budgeted(tmp_path, route="[routes.r.context]\nbudget = 3000") as gate:
        gate.provider.script(Answer("so", usage=(233, 2)))
        got = gate.post("openai", asked)
        assert gate.post("openai", request()).status == 200
        found = gate.http("GET", "/admin/cost", key=ADMIN).json["savings"]["context"]
    assert got.status == 200 and "context" in got.headers["x-headrace-warnings"]
    assert found["packed_requests"] == 1
    assert 1_500 * 3e-6 < float(found["saved_usd"]) < 4_000 * 3e-6
