"""The pytest plugin: `headrace_fake` and `headrace_replay`, `--headrace-record`, and no network unless it is asked for.

pytest loads it by its entry point; nothing of Headrace but this is imported until a test asks for a fixture.

In every test Headrace reaches this machine only, so that no test spends money by accident; a test marked `headrace_network`, or the
setting `headrace_network = true`, lifts that. The two fixtures block everything else's network too.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from headrace import reach
from headrace.reach import NetworkBlocked

if TYPE_CHECKING:
    from headrace.clock import Clock
    from headrace.config import Settings
    from headrace.providers.transport import Transport
    from headrace.testing.cassette import Cassette
    from headrace.testing.simulated import FakeClient

__all__ = ["NetworkBlocked", "headrace_fake", "headrace_replay", "headrace_scrub"]

MARK = "headrace_network"

WHY = (
    "Headrace reaches no other machine in tests; use headrace_fake or headrace_replay, or allow it with "
    f"@pytest.mark.{MARK}, or for all tests with {MARK} = true in pytest's settings"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--headrace-record`, and the setting `headrace_network`."""
    parser.addini(MARK, "Let Headrace reach providers in all tests.", type="bool", default=False)
    parser.getgroup("headrace").addoption(
        "--headrace-record",
        action="store_true",
        help="Ask the real providers in tests that use headrace_replay, and write their cassettes anew.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tells pytest of the mark."""
    config.addinivalue_line("markers", f"{MARK}: lets Headrace reach providers in this test")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Around each test with its fixtures: Headrace reaches this machine only."""
    recording = bool(item.config.getoption("--headrace-record")) and "headrace_replay" in getattr(
        item, "fixturenames", ()
    )
    with ExitStack() as stack:
        if not (recording or item.config.getini(MARK) or item.get_closest_marker(MARK)):
            stack.enter_context(reach.blocked(WHY))
        return (yield)


def _block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to other machines, and looking their names up, raise `NetworkBlocked`."""

    def guarded(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            address = args[1] if name.startswith("connect") else (args[0] or "", 0)
            # What is no pair is a path of this machine.
            if isinstance(address, tuple) and not reach.is_here(str(address[0])):
                raise NetworkBlocked(
                    f"this test may not reach {address[0]!r}: it uses a fixture of Headrace's"
                )
            return real(*args, **kwargs)

        return call

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name), name))
    monkeypatch.setattr(socket, "getaddrinfo", guarded(socket.getaddrinfo, "getaddrinfo"))


@pytest.fixture
def headrace_fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClient]:
    """A `Client` over a provider in memory, in virtual time: script it by `headrace_fake.provider`."""
    from headrace.testing.simulated import fake

    _block(monkeypatch)
    with fake() as client:
        yield client


@pytest.fixture
def headrace_scrub() -> Callable[[str], str]:
    """Override it to take more out of what is recorded: text in, text out."""
    return lambda text: text


@pytest.fixture
def headrace_replay(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    headrace_scrub: Callable[[str], str],
) -> Iterator[Cassette]:
    """Every client that the test makes answers from `cassettes/MODULE.TEST.json` beside the test's file; with `--headrace-record` from
    the providers, and the file is written. Replaying needs no keys: known providers without one have a made-up one."""
    from headrace import config
    from headrace.testing.cassette import Cassette

    record = bool(request.config.getoption("--headrace-record"))
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{request.path.stem}.{request.node.name}").strip("-")
    cassette = Cassette(
        request.path.parent / "cassettes" / f"{name}.json", record=record, scrub=headrace_scrub
    )

    def opened(real: Callable[[Settings, Clock], Transport]) -> Callable[[Settings, Clock], Transport]:
        def open_transport(settings: Settings, clock: Clock) -> Transport:
            keys = [provider.api_key.reveal() for provider in settings.providers.values() if provider.api_key]
            return cassette.transport(lambda: real(settings, clock), keys)

        return open_transport

    from headrace import engine

    monkeypatch.setattr(engine, "_open_transport", opened(engine._open_transport))  # noqa: SLF001  (its one seam)
    if not record:
        _block(monkeypatch)
        for provider in config.known_providers().values():
            for variable, _ in provider.keys[:1]:
                monkeypatch.setenv(variable, "replayed")
    yield cassette
    cassette.save()
    cassette.check()
