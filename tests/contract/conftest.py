"""Fixtures of the contract tests: a running gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.contract.running import Served, serving


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[[str], Served]]:
    """`gateway(config_toml_text) -> (base_url, key)`: a gateway in a thread, stopped when the test ends.

    May be called more than once; each call starts another gateway, with a folder of its own.
    """
    with ExitStack() as stack:
        count = iter(range(1000))

        def start(config: str) -> Served:
            folder = tmp_path / f"gateway{next(count)}"
            folder.mkdir()
            return stack.enter_context(serving(config, folder))

        yield start
