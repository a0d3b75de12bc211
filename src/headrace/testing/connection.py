"""One client connection of the fake provider: HTTP/1.1 over a socket that faults may do anything to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import httptools

from headrace.clock import Clock
from headrace.testing.wire import Received, close

__all__ = ["Connection"]


class Connection(asyncio.Protocol):
    """Requests in, one answer at a time out: asyncio's protocol, the parser's callbacks, and the `Line` of a `Wire`.

    Args:
        number: Counts connections from 1.
        clock: Stamps what arrives.
        opened: Told when the connection is accepted; True or False closes it at once, with RST or FIN.
        serve: Told of each request, one at a time; the next comes when that one is `answered`.
        lost: Told when the connection is gone, with the request that the client gave up, if there was one.
        count: The next request's number.
    """

    def __init__(
        self,
        *,
        number: int,
        clock: Clock,
        opened: Callable[[Connection], bool | None],
        serve: Callable[[Connection, Received], None],
        lost: Callable[[Connection, Received | None], None],
        count: Callable[[], int],
    ) -> None:
        self.number = number
        self.task: asyncio.Task[None] | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._opened = opened
        self._serve = serve
        self._lost = lost
        self._count = count
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Received, bool]] = deque()
        self._busy: Received | None = None
        self._keep = True
        self._drain: asyncio.Future[None] | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        refuse = self._opened(self)
        if refuse is not None:
            close(transport, reset=refuse)

    def connection_lost(self, exc: Exception | None) -> None:
        request, self._busy = self._busy, None
        self._lost(self, request)
        if self.task is not None:
            self.task.cancel()
        self.resume_writing()
        self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()

    def pause_writing(self) -> None:
        self._drain = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        self._drain = None

    # --- httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        request = Received(
            number=self._count(),
            connection=self.number,
            method=self._parser.get_method().decode("latin-1"),
            path=path,
            query=query,
            headers=self._headers,
            body=b"".join(self._body),
            t=self._clock.now(),
        )
        self._waiting.append((request, self._parser.should_keep_alive()))
        if self._busy is None:
            self._next()

    def _next(self) -> None:
        if self._waiting and not self.transport.is_closing():
            self._busy, self._keep = self._waiting.popleft()
            self._serve(self, self._busy)

    # --- what a `Wire` needs

    async def drained(self) -> None:
        if self._drain is not None:
            await self._drain

    def answered(self, *, keep: bool) -> None:
        self._busy = None
        self.task = None
        if keep and self._keep:
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next)
        else:
            self.transport.close()

    def closed(self) -> None:
        """It was we who closed: the client did not hang up."""
        self._busy = None
