"""Making a TCP connection: whichever address of a host answers first (Happy Eyeballs, RFC 8305).

The event loops have this of their own, but uvloop tries the addresses one after the other, and asyncio's
`happy_eyeballs_delay` loses the socket when it is cancelled just as an address answers (seen on Python 3.11): nobody closes
it, and the provider waits. Here each attempt owns its socket until the caller has it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any, TypeAlias

from headrace import reach

__all__ = ["dial"]

RECEIVE_BUFFER = 65_536
"""Bytes that the kernel keeps of an answer that nobody reads (it takes the double for its own account). Left to itself it grows to megabytes,
as many as a whole answer. Enough for 0.6 MB/s over a way of 100 ms; an answer's tokens are a hundredth of that."""

HEAD_START_S = 0.25
"""Seconds that an address has before the next one is tried too; the value RFC 8305 recommends."""

_Address: TypeAlias = tuple[int, Any]
"""Address family and the address as `connect` takes it."""


async def dial(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket. Raises `OSError`, of all addresses' errors the first; in a test that may not,
    `NetworkBlocked`."""
    reach.check(host)
    loop = asyncio.get_running_loop()
    addresses = await _resolve(loop, host, port)
    if len(addresses) == 1:
        return await _attempt(loop, addresses[0])
    attempts: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    try:
        while addresses or attempts:
            if addresses:
                attempts.add(loop.create_task(_attempt(loop, addresses.pop(0))))
            done, _ = await asyncio.wait(
                attempts,
                timeout=HEAD_START_S if addresses else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    attempts.discard(attempt)
                    return attempt.result()
                attempts.discard(attempt)
                errors.append(error)
    finally:
        for attempt in attempts:  # the losers, or all of them when we are cancelled
            attempt.cancel()
            attempt.add_done_callback(_close)
    raise errors[0]


async def _attempt(loop: asyncio.AbstractEventLoop, address: _Address) -> socket.socket:
    # With the protocol named, or asyncio does not see that it is TCP and leaves Nagle's delay on.
    sock = socket.socket(address[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER
        )  # before connecting: it fixes the window
        await loop.sock_connect(sock, address[1])
    except BaseException:
        sock.close()
        raise
    return sock


def _close(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _resolve(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[_Address]:
    """The addresses, families taking turns, the resolver's first one first. An address resolves to itself, without a thread."""
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        if address.version == 4:
            return [(socket.AF_INET, (host, port))]
        if "%" not in host:  # a zone is the resolver's to read
            return [(socket.AF_INET6, (host, port, 0, 0))]
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise OSError("the name has no address")
    return _interleaved([(int(family), address) for family, _, _, _, address in found])


def _interleaved(addresses: Sequence[_Address]) -> list[_Address]:
    first = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for address in chain(*zip_longest(first, other)) if address is not None]
