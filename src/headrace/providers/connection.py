"""One HTTP/1.1 connection to a provider: a socket, a kept parser, one exchange at a time.

Written for the hot path. The parser (`httptools`, C) lives as long as the connection and appends the pieces of a body to
a list without a Python frame; a read takes all that is there. A connection is in one of four phases:

    IDLE  in its keeper's pool; any byte or the end of input makes it useless
    HEAD  a request is sent, the head of its answer is awaited (interim 1xx heads are skipped)
    BODY  the head was read, the body is coming in
    DONE  the body is complete; what has not been read of it waits here
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from headrace.errors import ConnectFailed, Malformed
from headrace.providers.inflate import ENCODINGS, Inflater

__all__ = ["Connection", "Keeper", "Response"]

READ = 16_384
"""Bytes taken from a socket at a time. The event loops' own 256 KiB are, decoded, a megabyte of events for one stream, and hold up
all others meanwhile."""
HIGH_WATER = 16_384
"""Bytes buffered unread above which we stop reading the socket: what a stream holds whose caller reads slowly, beside one `READ`."""
HEAD_LIMIT = 65_536
"""Bytes of a response head; Chromium allows 256 KiB, nginx 32 KiB, LLM providers send 1 to 4 KiB."""
HEADERS_LIMIT = 200
"""Header lines of a response; twice the 100 of Python's http.client."""
INTERIM_LIMIT = 16
"""1xx heads before the answer; one or two are normal."""
_NAMES_KEPT = 1024
"""Distinct spellings of header names whose lower-case form is kept."""

_names: dict[bytes, str] = {}


class Keeper(Protocol):
    """Who owns connections."""

    def closed(self, connection: Connection) -> None:
        """The socket is closed."""

    def spoiled(self, connection: Connection) -> None:
        """An idle connection can no longer be used."""

    def returned(self, connection: Connection) -> None:
        """An exchange is over and the connection can carry another."""


class _Phase(IntEnum):
    IDLE = 0
    HEAD = 1
    BODY = 2
    DONE = 3


# Plain module names: looking up a member of an enum costs a call on the hot path of Python 3.11.
_IDLE, _HEAD, _BODY, _DONE = _Phase


class _Stop(Exception):
    """Ends the parsing from inside a callback; says what is wrong."""


class Connection(asyncio.BufferedProtocol):
    """A connection; used through `exchange` and the `Response` that it returns.

    Args:
        room: Where the event loop puts what it reads; looked at before the loop reads on, so that all connections of a loop share it.

    Attributes:
        peer: `host:port` of the origin, for messages.
        idle_since: When the keeper took it back; the keeper's to write and to read.
    """

    __slots__ = (
        "_answered",
        "_error",
        "_feed",
        "_fields",
        "_headers",
        "_inflater",
        "_interim",
        "_keeper",
        "_loop",
        "_parser",
        "_paused",
        "_phase",
        "_pieces",
        "_received",
        "_reusable",
        "_room",
        "_running_out",
        "_status",
        "_transport",
        "_unread",
        "_until_close",
        "_used",
        "_waiter",
        "idle_since",
        "on_body",
        "peer",
    )

    def __init__(self, peer: str, keeper: Keeper, loop: asyncio.AbstractEventLoop, room: memoryview) -> None:
        self.peer = peer
        self._room = room
        self.idle_since = 0.0
        self._keeper = keeper
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self.on_body: Callable[[bytes], None] = self._pieces.append  # no frame of ours per piece
        self._parser = HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._phase = _IDLE
        self._used = False  # it has carried an exchange before
        self._reusable = True
        self._paused = False
        self._begin()

    def _begin(self) -> None:
        self._error: BaseException | None = None
        self._running_out: asyncio.TimerHandle | None = None
        self._status = 0
        self._headers: dict[str, str] = {}
        self._inflater: Inflater | None = None
        self._fields = 0
        self._interim = 0
        self._answered = False
        self._until_close = False
        self._received = 0  # bytes of the body that were taken
        self._unread = 0  # bytes read from the socket since something was last taken, framing included

    # --- one exchange ---------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether a request can be sent: idle, and the socket is not closing."""
        return (
            self._reusable
            and self._phase is _IDLE
            and self._transport is not None
            and not self._transport.is_closing()
        )

    async def exchange(self, request: bytes) -> Response | None:
        """Send the bytes of a request; returns once the head of the answer is in.

        Returns None when the connection had been used before and broke before any byte of an answer: the server closed it
        while it was idle, and the request is safe to send again on another one.

        Raises:
            ConnectFailed: A fresh connection broke before any byte of an answer.
            Malformed: What came is not HTTP, breaks a limit, or ended within the head.
        """
        assert self._transport is not None and self.usable
        self._begin()
        self._phase = _HEAD
        waiter = self._waiter = self._loop.create_future()
        self._transport.write(request)
        try:
            await waiter
        except BaseException:
            self.discard()
            raise
        if self._phase is _HEAD:
            error = self._error
            assert error is not None
            if self._used and not self._answered:
                return None
            raise error
        self._used = True
        return Response(self, self._status, self._headers, self._inflater)

    @property
    def has_pieces(self) -> bool:
        """Whether `take` would return bytes."""
        return bool(self._pieces)

    @property
    def done(self) -> bool:
        """Whether the body is complete (and perhaps not yet taken)."""
        return self._phase is _DONE

    @property
    def error(self) -> BaseException | None:
        """Why no more will come, when the body is not complete."""
        return self._error

    @property
    def received(self) -> int:
        """Bytes of the body so far, as they came from the socket, taken or not."""
        return self._received + sum(map(len, self._pieces))

    def more(self) -> asyncio.Future[None]:
        """Is done when there are pieces, or an error, or the body is complete."""
        assert self._waiter is None or self._waiter.done(), "one reader at a time"
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def take(self) -> bytes:
        """All of the body that is buffered."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._received += len(data)
        self._unread = 0
        if self._paused:
            self._resume()
        return data

    def release(self) -> None:
        """The exchange is over: back to the keeper if another can follow, else closed."""
        transport = self._transport
        if (
            self._phase is _DONE
            and self._reusable
            and transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size() == 0  # else it answered before it had read the request
        ):
            self._pieces.clear()
            if self._paused:
                self._resume()
            self._phase = _IDLE
            self._keeper.returned(self)
        else:
            self.discard()

    def run_out(self, seconds: float) -> None:
        """Nobody reads on, but the message is all but complete: keep the connection if it ends within `seconds`, else close."""
        if self._phase is _DONE or self._phase is _IDLE:
            self.release()
        else:
            self._running_out = self._loop.call_later(seconds, self.discard)

    def fail(self, error: BaseException) -> None:
        """Close the socket now; whoever waits gets `error`, bytes not yet taken are dropped."""
        if self._error is None and (self._phase is _HEAD or self._phase is _BODY):
            self._error = error
        self._pieces.clear()
        self.discard()
        self._wake()

    def discard(self) -> None:
        """Close the socket now, without ceremony: the provider is to see that we left."""
        self._reusable = False
        if self._running_out is not None:
            self._running_out.cancel()
            self._running_out = None
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._room[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """Something has come; the pieces of the body in it are copied."""
        phase = self._phase
        if phase is _IDLE or phase is _DONE:  # nobody asked: it must not pass for the next answer
            self._spoil()
            self.discard()
            return
        self._answered = True
        self._unread += len(data)
        try:
            self._feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._refuse(error)
            return
        if self._pieces:
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                self._waiter = None
                waiter.set_result(None)
            elif self._unread > HIGH_WATER and self._phase is _BODY and not self._paused:
                self._paused = True
                assert self._transport is not None
                self._transport.pause_reading()
        elif self._unread > HEAD_LIMIT and self._phase is not _DONE:
            what = "head" if self._phase is _HEAD else "chunk framing"
            self._break(Malformed(f"{self.peer} sent over {HEAD_LIMIT} bytes of {what}"))

    def eof_received(self) -> None:
        self._input_ended(None)
        self.discard()  # returning alone would wait until all of the request is written

    def connection_lost(self, exc: Exception | None) -> None:
        self._input_ended(exc)
        self._keeper.closed(self)

    # --- httptools -------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._phase is not _HEAD:
            raise _Stop("bytes after the end of the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > HEADERS_LIMIT:
            raise _Stop(f"over {HEADERS_LIMIT} header lines")
        if self._phase is not _HEAD:
            return  # a trailer
        key = _names.get(name) or _lower(name)
        text = value.decode("latin-1").rstrip(" \t")
        headers = self._headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        if self._unread > HEAD_LIMIT:
            size = sum(len(name) + len(value) for name, value in self._headers.items())
            if size > HEAD_LIMIT:
                raise _Stop(f"over {HEAD_LIMIT} bytes of head")
        status = self._parser.get_status_code()
        headers = self._headers
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > INTERIM_LIMIT:
                raise _Stop(f"status {status}, {self._interim} interim answers")
            headers.clear()
            return
        coding = headers.get("transfer-encoding")
        if coding is None:
            self._until_close = "content-length" not in headers and status != 204 and status != 304
        elif coding.lower() != "chunked":
            raise _Stop("a transfer-encoding other than chunked")
        encoding = headers.get("content-encoding")
        if encoding is not None and (encoding := encoding.lower()) not in ("identity", ""):
            if encoding not in ENCODINGS:
                raise _Stop("a content-encoding that was not asked for")
            self._inflater = Inflater(encoding)
        self._status = status
        self._unread = 0
        self._phase = _BODY
        self._wake()

    def on_message_complete(self) -> None:
        if self._phase is _BODY:  # else an interim head
            self._phase = _DONE
            if not self._parser.should_keep_alive():
                self._reusable = False
            if self._running_out is not None:
                self._running_out.cancel()
                self._running_out = None
                self._loop.call_soon(self.release)
            self._wake()

    # --- endings ---------------------------------------------------------------------------------------------------

    def _refuse(self, error: Exception) -> None:
        """The parser stopped."""
        if self._phase is _DONE:  # after a complete answer: that one stands, the connection does not
            self.discard()
            return
        if isinstance(error.__context__, _Stop):
            error = error.__context__
        reason = "it switched protocols" if isinstance(error, HttpParserUpgrade) else str(error)
        where = f" after {self.received} bytes of its body" if self._phase is _BODY else ""
        self._break(Malformed(f"the answer of {self.peer} is not usable HTTP{where}: {reason}"))

    def _break(self, error: BaseException) -> None:
        """Ended by their doing: what had come before can still be taken, then comes `error`."""
        self._error = error
        self.discard()
        self._wake()

    def _input_ended(self, exc: Exception | None) -> None:
        self._reusable = False
        phase = self._phase
        if phase is _IDLE:
            self._spoil()
        elif phase is _BODY and self._until_close and exc is None and self._error is None:
            self._phase = _DONE
        elif self._error is None and phase is not _DONE:
            reason = (
                ""
                if exc is None
                else f": {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}"
            )
            if phase is _BODY:
                self._error = Malformed(
                    f"the answer of {self.peer} was cut after {self.received} bytes of its body{reason}"
                )
            elif self._answered:
                self._error = Malformed(f"the answer of {self.peer} was cut within its head{reason}")
            else:
                self._error = ConnectFailed(f"{self.peer} closed the connection before it answered{reason}")
        self._wake()

    def _spoil(self) -> None:
        self._reusable = False
        if self._phase is _IDLE:
            self._keeper.spoiled(self)

    def _resume(self) -> None:
        self._paused = False
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


class Response:
    """The answer to one request: its head, and its body to be read once, by one reader.

    Attributes:
        status: 200 to 999.
        headers: Names in lower case; the values of repeated ones joined by `, `.
    """

    __slots__ = ("_connection", "_error", "_inflater", "headers", "status")

    def __init__(
        self, connection: Connection, status: int, headers: dict[str, str], inflater: Inflater | None
    ) -> None:
        self._connection: Connection | None = connection
        self._error: BaseException | None = None
        self._inflater = inflater
        self.status = status
        self.headers = headers

    async def read(self, limit: int) -> bytes:
        """The whole body, decompressed. Raises `Malformed` when it is over `limit` bytes, cut short or badly framed."""
        pieces: list[bytes] = []
        size = 0
        while data := await self.read_some():
            pieces.append(data)
            size += len(data)
            if size > limit:
                error = Malformed(f"the body of the answer is over {limit} bytes")
                self.abort(error)
                raise error
            if self._connection is None and self._inflater is None and self._error is None:
                break  # the rule: a short answer is read whole at once
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_some(self) -> Coroutine[Any, Any, bytes]:
        """The next bytes, decompressed: all that is buffered, else what the next read of the socket brings.

        Returns `b""` at the clean end only. Raises `Malformed` when the body was cut short or is badly framed, and what
        `abort` was given.
        """
        return self._raw() if self._inflater is None else self._inflated(self._inflater)

    async def _raw(self) -> bytes:
        connection = self._connection
        while connection is not None:
            if connection.has_pieces:
                data = connection.take()
                if connection.done:
                    self._connection = None
                    connection.release()
                return data
            if connection.done:
                self._connection = None
                connection.release()
                break
            if connection.error is not None:
                self._error = connection.error
                self._connection = None
                connection.discard()
                break
            await connection.more()
            connection = self._connection  # None if it was closed meanwhile
        if self._error is not None:
            raise self._error
        return b""

    async def _inflated(self, inflater: Inflater) -> bytes:
        while True:
            data = b"" if inflater.pending else await self._raw()
            if not data and not inflater.pending:
                if self._error is None and not inflater.whole:
                    self._error = Malformed("the compressed body of the answer was cut short")
                if self._error is not None:
                    raise self._error
                return b""
            try:
                data = inflater.inflate(data)
            except zlib.error as error:
                wrong = Malformed(f"the compressed body of the answer is damaged: {error}")
                self.abort(wrong)
                self._error = wrong
                raise wrong from error
            if data:
                return data

    def abort(self, error: BaseException) -> None:
        """Close the socket now; a waiting reader and every later read get `error`. Does nothing after the end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._error = error
            connection.fail(error)

    def finish(self, seconds: float) -> None:
        """What matters was read: keep the connection if the message ends within `seconds`, else close it; returns at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._error = Malformed("the answer was closed before it was read")
            connection.run_out(seconds)

    async def aclose(self) -> None:
        """Give the connection back; idempotent.

        After a complete answer it returns to the pool, else it is closed at once, so that the provider sees that nobody
        listens any more. A reader waiting in another task gets `Malformed`, never a clean end.
        """
        connection = self._connection
        if connection is not None:
            if connection.done:
                self._connection = None
                self._error = Malformed("the answer was closed before it was read")
                connection.release()
            else:
                self.abort(Malformed(f"the answer was closed after {connection.received} bytes of its body"))


def _lower(name: bytes) -> str:
    text = name.decode("latin-1").lower()
    if len(_names) < _NAMES_KEPT:
        _names[name] = text
    return text
