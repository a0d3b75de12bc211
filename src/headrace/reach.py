"""Whether other machines may be reached at all. Tests say no (`headrace.testing.pytest_plugin`); nothing else does."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["NetworkBlocked", "blocked", "check", "is_here"]


class NetworkBlocked(AssertionError):
    """A test that must not reach the network tried to."""


_why: list[str] = []


@contextmanager
def blocked(why: str) -> Iterator[None]:
    """Inside, only this machine is reached; `why` is what the error says."""
    _why.append(why)
    try:
        yield
    finally:
        _why.remove(why)


def check(host: str) -> None:
    """Raises `NetworkBlocked` when `host` is another machine, and those may not be reached."""
    if _why and not is_here(host):
        raise NetworkBlocked(f"this test may not reach {host!r}: {_why[-1]}")


def is_here(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine by what it says; nothing is looked up."""
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
