"""What the admin API and the metrics say of money."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.budget.test_layers import BILL, budgeted, request, worst
from tests.gateway.gate import ADMIN

from headrace.call import format_usd
from headrace.testing import CutStream


def test_balances_are_shown(tmp_path: Path) -> None:
    """Each budget with its window in its own time zone, its limit, what is spent, and the sums add up; a key may not look."""
    parts: Any = {
        "key": 'budget = [{ usd = "5", window = "day" }, { tokens = 9000, window = "month", soft = true }]',
        "budgets": '[budgets]\ntimezone = "Asia/Kolkata"\nusers = { "a|b" = { usd = "1", window = "hour" } }',
    }
    with budgeted(tmp_path, **parts) as gate:
        assert gate.http("GET", "/admin/budgets", key=ADMIN).json == {"budgets": []}
        for _ in range(2):
            assert gate.post("openai", request(), {"x-headrace-user": "a|b"}).status == 200
        assert gate.http("GET", "/admin/budgets").status == 403
        shown = gate.http("GET", "/admin/budgets", key=ADMIN).json["budgets"]
    by = {(one["budget"], one["unit"]): one for one in shown}
    assert set(by) == {("key one", "usd"), ("key one", "tokens"), ("user a|b", "usd")}
    day = by["key one", "usd"]
    assert (day["window"], day["limit"], day["soft"], day["unsettled"]) == ("day", "5", False, "0")
    assert day["from"].endswith("T00:00:00+05:30") and day["until"].endswith("T00:00:00+05:30")
    assert day["spent"] == format_usd(2 * BILL)
    tokens = by["key one", "tokens"]
    assert (tokens["limit"], tokens["spent"], tokens["soft"]) == (9_000, 40, True)
    assert tokens["left"] == 9_000 - 40 - tokens["held"]


def test_what_nobody_billed_is_marked_and_counted(tmp_path: Path) -> None:
    """A stream that was cut before its usage costs what it had reserved: in the report, in the metrics and in the balance."""
    _, cost = worst(stream=True)
    with budgeted(tmp_path, key='budget = { usd = "5", window = "day" }') as gate:
        gate.provider.script(CutStream())
        got = gate.post("openai", request(stream=True))
        assert b"stream_broken" in got.body
        found = gate.report(got.headers["x-request-id"])
        (attempt,) = found["attempts"]
        assert (attempt["outcome"], attempt["estimated"], attempt["purpose"]) == ("broken", True, "answer")
        assert attempt["cost_usd"] == attempt["wasted_usd"] == found["cost_usd"] == format_usd(cost)
        metrics = gate.http("GET", "/metrics", key=ADMIN).body.decode()
        for name in ("estimated", "wasted", "cost"):
            assert f'headrace_{name}_usd_total{{target="openai/priced"}} {cost / 1e9}' in metrics
        (balance,) = gate.http("GET", "/admin/budgets", key=ADMIN).json["budgets"]
        assert balance["spent"] == format_usd(cost)
