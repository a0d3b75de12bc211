"""The checker of what is sent."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

settings.register_profile("long", deadline=None)
"""`pytest tests/context --hypothesis-profile=long --timeout 3600`: an hour, not a minute."""


@pytest.fixture(scope="session")
def invariants() -> ModuleType:
    """The checker that the benchmark uses; it shares no code with what it checks."""
    path = Path(__file__).parents[2] / "benchmarks" / "invariants.py"
    spec = importlib.util.spec_from_file_location("invariants", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
