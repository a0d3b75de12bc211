"""Keys of a real gateway with four worker processes are revoked, by the benchmark that measures it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "revocation.py"
    sys.path.insert(0, str(path.parent))  # for what it shares with its neighbours
    spec = importlib.util.spec_from_file_location("revocation_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["revocation_benchmark"] = module
    spec.loader.exec_module(module)
    return module


revocation: Any = _load()


def test_four_workers_refuse_within_a_second() -> None:
    """A key that was good in each of them is good in none, whoever revoked it: the admin API through one worker, or the command line
    through none."""
    figures = revocation.run(workers=4, trials=2)
    assert [trial.how for trial in figures.trials] == ["api", "cli"]
    assert figures.kept, figures


def test_what_is_not_kept_is_said() -> None:
    """A worker that is late, one that takes the key again, and one that never took it."""
    good = revocation.Trial(how="api", refused_s=(0.3, 0.9), answered=5, relapses=0)
    late = revocation.Trial(how="api", refused_s=(0.3, 1.1), answered=5, relapses=0)
    again = revocation.Trial(how="cli", refused_s=(0.3, 0.3), answered=5, relapses=1)
    never = revocation.Trial(how="cli", refused_s=(0.0, 0.3), answered=0, relapses=0)
    assert revocation.Figures(workers=2, trials=(good,)).kept
    for bad in (late, again, never):
        assert not revocation.Figures(workers=2, trials=(good, bad)).kept
