"""The batch bench: a few rows of it, killed for real."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def _load() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "batch.py"
    spec = importlib.util.spec_from_file_location("batch", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["batch"] = module
    spec.loader.exec_module(module)
    return module


def test_killed_three_times(tmp_path: Path) -> None:
    """Every row is answered once or failed for a reason, and only what was under way at a kill was paid again."""
    report = _load().measure(tmp_path, 300, 3, 8)
    assert report.good, report
    assert (report.ok, report.failed, report.exit_code) == (299, 1, 1)
    assert report.requests > report.rows  # it did fail on the way
