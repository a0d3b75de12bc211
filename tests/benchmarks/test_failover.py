"""The failover bench: its verdicts, and a short run of some of its faults."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "failover.py"
    spec = importlib.util.spec_from_file_location("failover", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["failover"] = module
    spec.loader.exec_module(module)
    return module


failover: Any = _load()
BY_NAME = {scenario.name: scenario for scenario in failover.SCENARIOS}


def good(name: str) -> Any:
    """Facts that pass."""
    if BY_NAME[name].error:
        return failover.Facts(outcome="error", error="BadRequestError: blocked", primary_at=(0.0,))
    return failover.Facts(
        outcome="answer",
        whole=True,
        served=1,
        text_sha="x",
        elapsed_s=3.0,
        primary_at=(0.0,),
        back_s=10.0,
    )


def test_there_are_sixteen() -> None:
    """All of the published faults, once each, in their order."""
    assert [scenario.name for scenario in failover.SCENARIOS] == [f"S{n:02}" for n in range(1, 17)]


@pytest.mark.parametrize("name", BY_NAME)
def test_verdicts_that_must_not_be_given(name: str) -> None:
    """What passes, passes; a truncated answer, a hang, an untyped error and one attempt too many fail, whatever the fault."""
    scenario, facts = BY_NAME[name], good(name)
    assert failover.judge(scenario, facts) == "pass"

    def fails(**changes: Any) -> bool:
        return bool(failover.judge(scenario, dataclasses.replace(facts, **changes)) == "fail")

    assert fails(outcome="answer", whole=False, served=0)
    assert fails(outcome="hang")
    assert fails(elapsed_s=130.0)
    assert fails(outcome="untyped", whole=False, served=0)
    assert fails(primary_at=tuple(range(0, 3 * scenario.attempts + 3, 3)))
    assert fails(fallback_at=tuple(range(scenario.fallbacks + 1)))
    assert fails(booked="1 requests, 0 USD", billed="2 requests, 0.1 USD")


def test_the_other_verdicts() -> None:
    """Late is partial, a typed error safe, a wait that was not obeyed a failure, a late return partial."""
    judge, replace = failover.judge, dataclasses.replace
    assert judge(BY_NAME["S07"], replace(good("S07"), elapsed_s=21.0)) == "partial"
    assert judge(BY_NAME["S08"], replace(good("S08"), outcome="error", whole=False, served=0)) == "safe"
    assert judge(BY_NAME["S01"], replace(good("S01"), primary_at=(0.0, 1.9))) == "fail"
    assert judge(BY_NAME["S01"], replace(good("S01"), primary_at=(0.0, 2.1))) == "pass"
    assert judge(BY_NAME["S15"], replace(good("S15"), back_s=31.0)) == "partial"
    assert judge(BY_NAME["S15"], replace(good("S15"), back_s=None)) == "partial"
    assert judge(BY_NAME["S15"], replace(good("S15"), requests=15, served=14)) == "fail"


def test_a_short_run() -> None:
    """Some of the faults, ten times as fast: the careful route passes all, the default has no failure and its cuts are safe.

    One fault after the other: all at once are more than a busy machine answers within the deadlines.
    """
    only = ("S01", "S06", "S08", "S11", "S13", "S14", "S16")
    rows = [row for name in only for row in asyncio.run(failover.run(failover.cases((name,)), faster=10.0))]
    assert len(rows) == (len(only) * 2 + len(failover.CUTS & set(only))) * 8
    assert [row for row in rows if row.route != "default" and row.verdict != "pass"] == []
    assert [row for row in rows if row.verdict == "fail"] == []
    cuts = {
        row.verdict for row in rows if (row.scenario, row.route, row.streamed) == ("S08", "default", True)
    }
    assert cuts == {"safe"}
