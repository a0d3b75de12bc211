"""A lean HTTP/1.1 server: one `asyncio.Protocol` over the llhttp parser, one task a request.

What it decides: framing, limits, keep-alive, backpressure, and that a client that hangs up cancels its request. What an answer
says is the application's. Requests of one connection are answered in order, one at a time; while one is being answered the
connection is not read beyond the bytes already here, so that a pipelining client cannot make us hold more.

Why not an ASGI server: `docs/adr/0004-http-stack.md`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import httptools
import msgspec

from headrace.clock import Clock, Timer

__all__ = ["Exchange", "HTTPServer", "Limits", "TooLarge"]

logger = logging.getLogger("headrace.gateway")

REASONS = {status.value: status.phrase for status in HTTPStatus}
WRITE_HIGH_WATER = 32_768
"""Bytes that may wait for a slow reader before the answer's writer waits too."""

SWEEP_S = 1.0
LINGER_S = 2.0
"""How long a refused client may go on sending before the connection is cut."""

SLOWEST_BODY = 16_384
"""Bytes a second: a long body may take longer than `Limits.body_s`, but not by dripping."""

PIPELINE_LIMIT = 16

OFFERS = ("upgrade", "http2-settings", "connection", "expect")
"""Headers of a request that offers an upgrade, which are left out when it is read again."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may be. Sizes in bytes, times in seconds; `body_s` beside a second for every `SLOWEST_BODY` bytes. `stall_s`: how
    long a client may read nothing at all of an answer that waits for it."""

    max_body: int = 50 * 1024 * 1024
    max_headers: int = 65_536
    max_header_count: int = 200
    head_s: float = 10.0
    body_s: float = 120.0
    idle_s: float = 75.0
    stall_s: float = 60.0


class TooLarge(Exception):
    """A limit was passed; `status` is 413 or 431."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Exchange:
    """One request and its answer.

    `path` is the raw path as sent, without the query. `headers` has lower-case names; of repeated ones the values are joined by
    ", ". Exactly one of `respond` and `start` is called; after `start` come `write`s and one `finish`. A method raises
    `ConnectionResetError` once the client is gone. `pieces` counts the writes of a streamed answer.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_keep_alive",
        "body",
        "headers",
        "method",
        "path",
        "pieces",
        "query",
        "started",
    )

    def __init__(
        self,
        connection: _Connection,
        method: str,
        path: str,
        query: str,
        headers: dict[str, str],
        body: bytes,
        keep_alive: bool,
        chunked: bool,
    ) -> None:
        self._connection = connection
        self._keep_alive = keep_alive
        self._chunked = chunked
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.started = False
        self.pieces = 0

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._connection.peer

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer. `headers` are ready lines, each ending in CR LF; length and connection are added. To HEAD the
        body is not sent."""
        self.started = True
        length = b"content-length: %d\r\n\r\n" % len(body)
        if self.method == "HEAD":
            body = b""
        self._connection.write(b"".join((self._head(status), headers, length, body)))
        self._connection.done(self._keep_alive)

    def start(self, status: int, headers: bytes) -> None:
        """Begin a streamed answer."""
        self.started = True
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
        self._connection.write(b"".join((self._head(status), headers, framing)))

    async def write(self, data: bytes) -> None:
        """Send a piece; waits while the client reads too slowly."""
        if not data:
            return
        self.pieces += 1
        connection = self._connection
        connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if connection.paused is not None:
            del data  # the connection has its own
            await connection.paused

    def interject(self, data: bytes) -> None:
        """Send a piece at once, unless the client has yet to read what was sent before."""
        if self._connection.paused is None:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self, last: bytes = b"") -> None:
        """The streamed answer is complete; `last` goes out in the same write."""
        if self._chunked:
            piece = b"%x\r\n%b\r\n" % (len(last), last) if last else b""
            self._connection.write(piece + b"0\r\n\r\n")
        elif last:
            self._connection.write(last)
        self._connection.done(self._keep_alive)

    def _head(self, status: int) -> bytes:
        if self._keep_alive and self._connection.server.draining:
            self._keep_alive = False
        head = _status_line(status)
        return head if self._keep_alive else head + b"connection: close\r\n"


Application = Callable[[Exchange], Awaitable[None]]

_status_lines: dict[int, bytes] = {}


def _status_line(status: int) -> bytes:
    line = _status_lines.get(status)
    if line is None:
        line = _status_lines[status] = f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\n".encode()
    return line


class _Connection(asyncio.Protocol):
    """One client's connection; also the parser's callbacks."""

    __slots__ = (
        "_bad",
        "_body",
        "_body_size",
        "_deaf",
        "_expect",
        "_head_done",
        "_header_bytes",
        "_headers",
        "_parser",
        "_queue",
        "_refusal",
        "_stuck",
        "_target",
        "_task",
        "_transport",
        "paused",
        "peer",
        "server",
        "since",
    )

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._queue: deque[Exchange] = deque()
        self._bad: tuple[int, str] | None = None
        self._deaf = False
        self._refusal: tuple[int, str] | None = None
        self._stuck: tuple[int, float] | None = None
        self.paused: asyncio.Future[None] | None = None
        self.peer = ""
        self.since: tuple[str, float] = ("head", server.clock.now())
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._head_done = False
        self._body: list[bytes] = []
        self._body_size = 0
        self._expect = False

    # --- transport ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # a stream server makes stream transports
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)  # type: ignore[attr-defined]
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else ""
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.server.connections.discard(self)
        self._queue.clear()
        if self.paused is not None and not self.paused.done():
            self.paused.set_exception(ConnectionResetError("the client is gone"))
            self.paused.exception()
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError as error:
            if self._bad is not None:
                self._refuse(*self._bad)
            else:
                self._refuse(400, f"not a valid HTTP/1.1 request: {error}")

    def _decline(self, rest: bytes) -> None:
        """Go on without the upgrade that the client offers, as it must expect (RFC 9110, 7.8).

        Java's HTTP client offers HTTP/2 with every request in plain text. The parser stops after the head of such a request
        and would never give its body: another one gets the head without the offer.
        """
        parser, self._parser = self._parser, httptools.HttpRequestParser(self)
        if parser.get_method() == b"CONNECT":
            self._refuse(400, "this is no proxy: CONNECT is not supported")
            return
        lines = [f"{name}: {value}" for name, value in self._headers.items() if name not in OFFERS]
        if not parser.should_keep_alive():
            lines.append("connection: close")
        start = b"%b %b HTTP/%b" % (parser.get_method(), self._target, parser.get_http_version().encode())
        head = "\r\n".join(["", *lines, "", ""]).encode("latin-1")
        self.data_received(start + head + rest)

    def pause_writing(self) -> None:
        if self.paused is None:
            self.paused = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        paused, self.paused, self._stuck = self.paused, None, None
        if paused is not None and not paused.done():
            paused.set_result(None)

    # --- parser -------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reset()
        if self._task is None:
            self.since = ("head", self.server.clock.now())

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if self._head_done:
            return  # a trailer: never merged into the headers (RFC 9110, 6.5.1)
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers = self._headers
        if key in headers:
            if key in ("content-length", "host", "authorization", "x-api-key"):
                self._fail(400, f"the header {key!r} was sent twice")
            text = f"{headers[key]}, {text}"
        elif len(headers) >= self.server.limits.max_header_count:
            self._fail(431, f"more than {self.server.limits.max_header_count} headers")
        headers[key] = text
        if key == "expect" and text.lower() == "100-continue":
            self._expect = True

    def on_headers_complete(self) -> None:
        headers = self._headers
        self._head_done = True
        if "host" not in headers and self._parser.get_http_version() == "1.1":
            self._fail(400, "the header 'host' is missing")
        length = headers.get("content-length")
        if length is not None and "transfer-encoding" in headers:
            self._fail(400, "both content-length and transfer-encoding were sent")
        if length is not None and length.isdecimal() and int(length[:19]) > self.server.limits.max_body:
            self._fail(413, self._too_long())
        if self._task is None:
            self.since = ("body", self.server.clock.now())
        if self._expect and self._transport is not None and self._task is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > self.server.limits.max_body:
            self._fail(413, self._too_long())
        self._body.append(body)

    def on_message_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            return  # `_decline` reads it again
        target, _, query = self._target.decode("latin-1").partition("?")
        version = parser.get_http_version()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        exchange = Exchange(
            self,
            parser.get_method().decode("latin-1"),
            target,
            query,
            self._headers,
            body,
            parser.should_keep_alive() and version == "1.1",
            version == "1.1",
        )
        if self._task is not None:
            if len(self._queue) >= PIPELINE_LIMIT:
                self._fail(400, "too many pipelined requests")
            self._queue.append(exchange)
            if self._transport is not None:
                self._transport.pause_reading()
        else:
            self._begin(exchange)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.server.limits.max_headers:
            self._fail(431, f"the request's head is over {self.server.limits.max_headers} bytes")

    def _too_long(self) -> str:
        return f"the body is over the limit of {self.server.limits.max_body} bytes"

    def _fail(self, status: int, message: str) -> None:
        self._bad = (status, message)
        raise TooLarge(message, status)

    # --- answering ----------------------------------------------------------------------------------------------------

    def _begin(self, exchange: Exchange) -> None:
        self.since = ("answer", 0.0)
        self._task = asyncio.get_running_loop().create_task(self._answer(exchange))

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self.server.application(exchange)
        except ConnectionResetError:
            pass
        except asyncio.CancelledError:
            if self._transport is not None:
                raise
        except Exception:
            logger.exception("unhandled error")
            self.abort()

    def write(self, data: bytes) -> None:
        """Hand `data` to the socket's buffer."""
        if self._transport is None:
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)

    def done(self, keep_alive: bool) -> None:
        """The answer is written; take the next request of this connection, or close."""
        self._task = None
        if self._transport is None:
            return
        if not keep_alive:
            self._transport.close()
            return
        self.since = ("idle", self.server.clock.now())
        if self._queue:
            exchange = self._queue.popleft()
            if not self._queue:
                self._transport.resume_reading()
            self._begin(exchange)
        elif self._refusal is not None:
            self._refuse(*self._refusal)

    def _refuse(self, status: int, message: str) -> None:
        """Answer a request that cannot be read, once those before it have their answers, and close."""
        self._deaf = True
        if self._transport is None:
            return
        if self.busy:
            self._refusal = (status, message)
            return
        path = self._target.partition(b"?")[0].decode("latin-1")
        body = self.server.refusal(path, status, message)
        self._transport.write(
            _status_line(status)
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        # The client may still be sending: closing now would reset the connection under the answer it has yet to read.
        self.since = ("linger", self.server.clock.now())
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def abort(self) -> None:
        """Cut the connection: the client must not take what it got for a whole answer."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now: float, limits: Limits) -> None:
        """Close what has been slow or idle for too long."""
        phase, since = self.since
        if self._stalls(now, limits.stall_s):
            self.abort()
        elif phase == "head" and now - since > limits.head_s:
            self._refuse(408, f"the request's head did not arrive within {limits.head_s:g} s")
        elif phase == "body" and now - since > limits.body_s + self._body_size / SLOWEST_BODY:
            self._refuse(408, f"the request's body did not arrive within {limits.body_s:g} s")
        elif phase == "linger" and now - since > LINGER_S:
            self.abort()
        elif (
            phase == "idle"
            and (now - since > limits.idle_s or self.server.draining)
            and self._transport is not None
        ):
            self._transport.close()

    def _stalls(self, now: float, seconds: float) -> bool:
        """Whether the client has read nothing for `seconds` although something waits for it."""
        if self.paused is None or self._transport is None:
            self._stuck = None
            return False
        waiting = self._transport.get_write_buffer_size()
        if self._stuck is None or waiting < self._stuck[0]:
            self._stuck = waiting, now
        return now - self._stuck[1] > seconds

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return self._task is not None or bool(self._queue)


class HTTPServer:
    """Serves `application` on sockets given to it.

    Args:
        application: Answers one exchange.
        refusal: The body for a request that could not be read: path, status, message.
    """

    def __init__(
        self,
        application: Application,
        *,
        clock: Clock,
        limits: Limits,
        refusal: Callable[[str, int, str], bytes],
    ) -> None:
        self.application = application
        self.clock = clock
        self.limits = limits
        self.refusal = refusal
        self.connections: set[_Connection] = set()
        self.draining = False
        self._servers: list[asyncio.Server] = []
        self._timer: Timer | None = None

    async def listen(self, sock: object) -> None:
        """Accept connections on a bound, listening socket."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(lambda: _Connection(self), sock=sock))  # type: ignore[call-overload]
        if self._timer is None:
            self._timer = self.clock.call_at(self.clock.now() + SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        now = self.clock.now()
        for connection in list(self.connections):
            connection.expire(now, self.limits)
        self._timer = self.clock.call_at(now + SWEEP_S, self._sweep)

    @property
    def busy(self) -> int:
        """Answers under way."""
        return sum(connection.busy for connection in self.connections)

    async def drain(self, seconds: float) -> int:
        """Stop accepting, let answers finish for at most `seconds`, then cut the rest. Returns how many were cut."""
        self.draining = True
        for server in self._servers:
            server.close()
        until = self.clock.now() + seconds
        for connection in list(self.connections):
            connection.expire(self.clock.now(), self.limits)
        while self.busy and self.clock.now() < until:
            await self.clock.sleep(0.05)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        cut = self.busy
        for connection in list(self.connections):
            connection.abort()
        await self.clock.sleep(0)
        return cut
