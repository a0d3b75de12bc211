"""Fixtures for every test: the recorded traffic of providers, where the data is at hand."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""The folder beside the repository with the data that may not be packaged."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """`../shared/data`; the test is skipped where it is absent."""
    path = SHARED / "data"
    if not path.is_dir():
        pytest.skip("the shared data folder is not beside the repository")
    return path


@pytest.fixture(scope="session")
def recordings(shared_data: Path) -> list[Any]:
    """Every recorded exchange, as the replay server's loader gives it: `source provider method path status headers (pairs)
    body (bytes) req_headers req_body stream model`."""
    path = SHARED / "tools" / "replay_server.py"
    if not path.is_file():
        pytest.skip("the replay server is not beside the data")
    spec = importlib.util.spec_from_file_location("replay_server", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the loader leaves its files to the collector
        exchanges, unreadable = module.load([str(shared_data / "providers")], warn=False)
    assert not unreadable, unreadable[:3]
    return list(exchanges)
