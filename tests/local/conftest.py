from __future__ import annotations

from pathlib import Path

import pytest

from headrace import local
from headrace.clock import SystemClock
from headrace.local import LocalModel

CACHE = Path(__file__).parents[2] / ".cache" / "headrace"
"""Kept between runs and shared with everything else in this checkout that runs the model."""


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """A cache folder that has the default weights, fetched for real the first time."""
    local.pull(local.DEFAULT, cache_dir=CACHE)
    return CACHE


@pytest.fixture
def local_model(model_cache: Path) -> LocalModel:
    """The default model, not started; the test closes it in the loop that used it."""
    return LocalModel(cache_dir=model_cache, clock=SystemClock())
