"""Circuits of a real gateway with three worker processes, by the benchmark that measures them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "circuits.py"
    sys.path.insert(0, str(path.parent))  # for what it shares with its neighbours
    spec = importlib.util.spec_from_file_location("circuits_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["circuits_benchmark"] = module
    spec.loader.exec_module(module)
    return module


circuits: Any = _load()

IMPATIENT = """
import functools
from headrace import cli, engine
from headrace.layers.breaker import Breaker, Rules
engine.Breaker = functools.partial(Breaker, rules=Rules(first_s=1.0, longest_s=1.0))
cli.main()
"""
"""`headrace` with a cooldown of one second in place of twenty."""


def test_three_workers_know_within_half_a_second() -> None:
    """What one finds out the others do not find out again, only one of them probes, and its success is everybody's."""
    figures = circuits.run(
        workers=3, trials=1, cooldown_s=1.0, slow_s=0.3, command=[sys.executable, "-c", IMPATIENT, "serve"]
    )
    assert figures.kept, figures


def test_what_is_not_kept_is_said() -> None:
    """A figure above the limit, and a second probe."""
    good = circuits.Trial(opened_s=0.3, closed_s=0.2, probes=1)
    late = circuits.Trial(opened_s=0.6, closed_s=0.2, probes=1)
    twice = circuits.Trial(opened_s=0.3, closed_s=0.2, probes=2)
    assert circuits.Figures(workers=3, trials=(good,)).kept
    assert not circuits.Figures(workers=3, trials=(good, late)).kept
    assert not circuits.Figures(workers=3, trials=(good, twice)).kept
