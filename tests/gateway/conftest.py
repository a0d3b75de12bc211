"""Fixtures of the gateway's tests: a fake provider and a gateway in front of it, started once a module."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop
from hypothesis import settings
from tests.gateway.gate import Gate, gated

from headrace.testing import FakeProvider

settings.register_profile("long", max_examples=20_000)


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gateway for the whole module; on uvloop, which is what `headrace serve` runs on."""
    make = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[
        getattr(request, "param", "uvloop")
    ]
    with (
        FakeProvider() as provider,
        gated(provider, tmp_path_factory.mktemp("gateway"), make_loop=make) as gate,
    ):
        yield gate


@pytest.fixture
def gate(running: Gate) -> Iterator[Gate]:
    """The module's gateway; its provider has no script yet, and afterwards nothing may be left of the test."""
    running.fresh()
    yield running
    running.settled()
