"""The benchmark of the bound counts right: what is served, what is wrong, when it was certified, when it gave up."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("numpy")

from headrace.cache.bound import Bound


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "semcache_certify.py"
    spec = importlib.util.spec_from_file_location("semcache_certify", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


certify = _load()
GOOD = [(0.95, True)] * 996 + [(0.95, False)] * 4
BAD = [(0.95, True)] * 80 + [(0.95, False)] * 20


def test_good_traffic_is_certified_and_the_bound_kept_through_a_drift() -> None:
    """20 runs of 40,000 requests, half of them with a candidate; from half on a tenth of the answers changes."""
    runs = [
        certify.run(
            GOOD,
            2000,
            Bound((0.9,), 0.9, 0.02),
            requests=40_000,
            audit=0.1,
            drift=0.1,
            seed=seed,
        )
        for seed in range(20)
    ]
    row = certify.summary("good", 0.02, "prior", runs, 40_000)
    assert row["certified"] >= 18 and row["kept"] >= 18
    assert 2_000 < row["certified_after"] < 20_000
    assert all(one["drifts"] >= 1 and one["ends"] == "infeasible" for one in runs)


def test_bad_traffic_is_infeasible() -> None:
    """A fifth wrong at a promise of one in a hundred: soon nothing is served."""
    run = certify.run(BAD, 1000, Bound((0.9,), 0.9, 0.01), requests=20_000, audit=0.02, drift=0.0)
    assert run["ends"] == "infeasible" and run["served"]["certified"] == 0
    assert 0 < run["infeasible_after"] < 20_000
    assert run["wrong"]["prior"] > 0


def test_in_shadow_nothing_is_served() -> None:
    """Until the given request."""
    run = certify.run(
        GOOD, 1000, Bound((0.9,), 0.9, 0.02), requests=5000, audit=0.02, drift=0.0, shadow_until=5000
    )
    assert run["served"] == {"certified": 0, "prior": 0} and run["certified_after"] is not None
