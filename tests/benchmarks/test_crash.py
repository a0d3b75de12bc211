"""A short run of the kills: nothing that a client had whole is lost, and a gateway that does not write is found out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "crash.py"
    spec = importlib.util.spec_from_file_location("crash", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash"] = module
    spec.loader.exec_module(module)
    return module


crash: Any = _load()


def test_no_acknowledged_answer_is_lost_to_kill_9(tmp_path: Path) -> None:
    """Each has its row and its call once, those cut are booked at their bounds, the counter equals the ledger, the file is whole."""
    report = crash.run(tmp_path, kills=4)
    assert report.good, report
    assert report.kills == 4 and report.in_transaction >= 2 and report.acknowledged > 40
    assert report.unfinished > 0


@pytest.mark.parametrize("without", ["commits", "journal"])
def test_a_gateway_that_does_not_write_is_found_out(tmp_path: Path, without: str) -> None:
    """Without commits, or without the journal, acknowledged answers are missing."""
    report = crash.run(tmp_path, kills=2, without=without)
    assert not report.good and report.lost > 0
