"""The pytest plugin: `headrace_fake` and `headrace_replay`, `--headrace-record`, and no network in tests that use them.

pytest loads it by its entry point; nothing of Headrace is imported until a test asks for a fixture.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from headrace.clock import Clock
    from headrace.config import Settings
    from headrace.providers.transport import Transport
    from headrace.testing.cassette import Cassette
    from headrace.testing.simulated import FakeClient

__all__ = ["NetworkBlocked", "headrace_fake", "headrace_replay", "headrace_scrub", "pytest_addoption"]


class NetworkBlocked(AssertionError):
    """A test that must not reach the network tried to."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--headrace-record`."""
    parser.getgroup("headrace").addoption(
        "--headrace-record",
        action="store_true",
        help="Ask the real providers in tests that use headrace_replay, and write their cassettes anew.",
    )


def _is_here(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a path of this machine
    host = str(address[0])
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to other machines, and looking their names up, raise `NetworkBlocked`."""

    def guarded(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            address = args[1] if name.startswith("connect") else (args[0] or "", 0)
            if not _is_here(address):
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
