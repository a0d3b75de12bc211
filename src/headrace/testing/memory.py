"""Connections in memory: the real HTTP protocols of both sides without a socket, so that time may be virtual."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from headrace.clock import Clock
from headrace.providers.connection import Connection, Response
from headrace.providers.origin import Origin
from headrace.providers.proxy import Tunnel
from headrace.providers.transport import HTTPTransport
from headrace.testing.provider import FakeProvider

__all__ = ["MemoryTransport"]


class MemoryTransport(HTTPTransport):
    """Every origin is `provider`, whatever its host, port and scheme; nothing leaves the process."""

    def __init__(self, provider: FakeProvider, clock: Clock) -> None:
        super().__init__(clock=clock)
        self._provider = provider

    async def send(
        self, origin: Origin, method: str, path: str, headers: bytes, body: bytes, *, connect_s: float
    ) -> Response:
        return await super().send(origin, method, _usual(path), headers, body, connect_s=connect_s)

    async def _open_socket(
        self, loop: asyncio.AbstractEventLoop, protocol: Connection | Tunnel, host: str, port: int, tls: bool
    ) -> None:
        if not self._provider.reachable:
            raise ConnectionRefusedError("the fake provider is not reachable")
        near, far = _End(loop, protocol), _End(loop, self._provider.accept())
        near.peer, far.peer = far, near
        near.begin()
        far.begin()


def _usual(path: str) -> str:
    """The path at the fake provider: providers have their endpoints below paths of their own."""
    for ending in ("/messages/count_tokens", "/messages", "/chat/completions", "/embeddings"):
        if path.endswith(ending):
            return f"/v1{ending}"
    return path


class _End(asyncio.Transport):
    """One end of a connection. What is written arrives on the loop's next turn, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol | Connection) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._closing = False
        self._gone = False
        self._paused = False
        self.arrived: deque[bytes | None] = deque()
        self.peer: _End | None = None

    def begin(self) -> None:
        """The connection is made."""
        self._protocol.connection_made(self)

    # --- what a protocol asks of its transport

    def write(self, data: Any) -> None:
        if not self._closing and self.peer is not None:
            self._loop.call_soon(self.peer.arrive, bytes(data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self.peer is not None:
                self._loop.call_soon(self.peer.arrive, None)
            self._loop.call_soon(self.lost, None)

    def abort(self) -> None:
        if not self._gone:
            self._closing = True
            if self.peer is not None:
                self._loop.call_soon(self.peer.lost, ConnectionResetError("Connection reset by peer"))
            self._loop.call_soon(self.lost, None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # --- what arrives

    def arrive(self, data: bytes | None) -> None:
        """The other end has written, or (None) will write no more."""
        self.arrived.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self.arrived and not self._paused and not self._gone and not self._closing:
            data = self.arrived.popleft()
            if data is not None:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()

    def lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if not self._gone:
            self._gone = self._closing = True
            self._protocol.connection_lost(error)
