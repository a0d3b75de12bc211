"""The fault matrix: its verdicts, and a short run of some of its faults."""

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
    path = Path(__file__).parents[2] / "benchmarks" / "fault_matrix.py"
    spec = importlib.util.spec_from_file_location("fault_matrix", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fault_matrix"] = module
    spec.loader.exec_module(module)
    return module


matrix: Any = _load()
STREAMED = next(case for case in matrix.cases((46,)) if case.form == "before")
AFTER = next(case for case in matrix.cases((46,)) if case.form == "after")
TOLD = next(case for case in matrix.cases((17,)) if case.form == "before")
BILL = matrix.Booked(target="b", request_id="req_1", cost_nano=300, tokens=(10, 35))
PAID = dataclasses.replace(BILL, outcome="ok")
LOST = matrix.Booked(
    target="a", request_id="", cost_nano=900, wasted_nano=900, estimated=True, outcome="error"
)
ANSWER = matrix.Facts(
    ending="whole",
    status=200,
    elapsed_s=1.1,
    text_sha="x",
    whole="fallback",
    finishes=1,
    terminators=1,
    booked=(LOST, PAID),
    billed=(BILL, matrix.Booked(target="a", request_id="req_0", cost_nano=800)),
)
ERROR = dataclasses.replace(
    ANSWER,
    text_sha="",
    whole="",
    finishes=0,
    terminators=0,
    errors=1,
    error="api_error: it broke",
    booked=(LOST,),
    billed=(),
)


def test_all_52_are_there() -> None:
    """Every number of the matrix, in both dialects, with every case's name once."""
    cases = matrix.cases()
    assert {(case.fault.number, case.dialect) for case in cases} == {
        (number, dialect) for number in range(1, 53) for dialect in ("openai", "anthropic")
    }
    assert len({case.name for case in cases}) == len(cases)


def test_what_is_well() -> None:
    """A whole answer, and behind some text one typed error."""
    assert matrix.judge(STREAMED, ANSWER) == []
    assert matrix.judge(AFTER, ERROR) == []
    assert matrix.judge(TOLD, dataclasses.replace(ERROR, status=400)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"ending": "hang"},
        {"ending": "cut"},
        {"elapsed_s": 2.26},
        {"whole": ""},
        {"terminators": 0},
        {"terminators": 2},
        {"finishes": 2},
        {"noise": 1},
        {"strayed": 1},
        {"ended": False},
        {"status": 502},
        {"booked": (LOST,)},
        {"booked": (PAID,)},
        {"booked": (LOST, dataclasses.replace(PAID, cost_nano=299))},
        {"booked": (LOST, dataclasses.replace(PAID, cost_nano=301))},
        {"booked": (LOST, dataclasses.replace(PAID, tokens=(9, 35)))},
        {"booked": (LOST, dataclasses.replace(PAID, wasted_nano=300))},
        {"booked": (LOST, dataclasses.replace(PAID, cost_nano=None))},
        {"booked": (dataclasses.replace(LOST, cost_nano=799, wasted_nano=799), PAID)},
        {"booked": (dataclasses.replace(LOST, wasted_nano=0), PAID)},
        {"booked": (dataclasses.replace(LOST, estimated=False), PAID)},
    ],
    ids=str,
)
def test_answers_that_are_not_well(changes: dict[str, Any]) -> None:
    """A hang, a truncated or late answer, a wrong end and wrong books each fail."""
    assert matrix.judge(STREAMED, dataclasses.replace(ANSWER, **changes)) != []


@pytest.mark.parametrize(
    "changes",
    [{"terminators": 1}, {"errors": 2}, {"error": ""}, {"elapsed_s": 2.3}, {"booked": (LOST, PAID)}],
)
def test_errors_that_are_not_well(changes: dict[str, Any]) -> None:
    """A false terminator, two errors, one without a type, and a broken answer that is booked as good each fail."""
    assert matrix.judge(AFTER, dataclasses.replace(ERROR, **changes)) != []


def test_what_must_be_served_or_told() -> None:
    """Before any text a good target answers; a request that is itself at fault gets the error."""
    assert "not served" in matrix.judge(STREAMED, dataclasses.replace(ERROR, status=503))
    assert matrix.judge(TOLD, ANSWER) == ["served, where the error should be told"]


def test_leaks() -> None:
    """One more of anything is a leak; fewer is none."""
    before = matrix.Leaks(tasks=1, descriptors=20, provider=0, upstream=0, gateway=0)
    assert matrix.leaked(before, dataclasses.replace(before, descriptors=19)) == []
    for field in dataclasses.fields(before):
        more = dataclasses.replace(before, **{field.name: getattr(before, field.name) + 1})
        assert matrix.leaked(before, more) == [f"1 {field.name} leaked"]


def test_a_short_run() -> None:
    """Faults of every part of the matrix, against the gateway: nothing is wrong."""
    only = (1, 4, 6, 9, 13, 16, 17, 28, 32, 38, 41, 43, 48, 49, 51, 52)
    rows = asyncio.run(matrix.run(matrix.cases(only)))
    assert [(row.number, row.fault, row.dialect, row.form, row.wrong) for row in rows if row.wrong] == []
    assert "16 of 16 faults" in matrix.table(rows, 1.0)
