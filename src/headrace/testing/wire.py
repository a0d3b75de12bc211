"""One request as the fake provider received it, and the raw connection that it is to be answered on."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from headrace.clock import Clock
from headrace.testing.answers import Answer
from headrace.testing.dialects import Ask, Piece, Trouble, Voice
from headrace.types import Usage

__all__ = ["Line", "Received", "Wire", "cut"]

REASONS: Mapping[int, str] = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

LINGER_NOTHING = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, zero seconds: closing sends RST instead of FIN."""


@dataclass(slots=True, kw_only=True)
class Received:
    """A request as it arrived. Its repr shows neither headers nor body, which may hold secrets.

    Attributes:
        number: Counts the provider's requests from 1.
        connection: Counts the provider's connections from 1; two requests on one connection share it.
        path: Without the query.
        query: Behind the `?`, undecoded.
        headers: Names in lower case; of a repeated one the last.
        body: The bytes.
        t: When it was complete, on the provider's clock (`now()`, seconds).
        hung_up_at: When the client closed the connection before it had the whole answer; None if it did not.
        answered_at: When the last byte of the answer was written; None until then, and after a fault that has no end.
        billed: What the provider charges for: the whole answer, from when the model began with it, whatever of it arrived. None: nothing.
    """

    number: int
    connection: int
    method: str
    path: str
    query: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    t: float
    hung_up_at: float | None = None
    answered_at: float | None = None
    billed: Usage | None = None
    ask: Ask | None = field(default=None, repr=False)

    @property
    def json(self) -> Any:
        """The body decoded. Raises `ValueError` when it is not JSON."""
        return msgspec.json.decode(self.body)

    @property
    def model(self) -> str:
        """The model that was asked for; empty if none."""
        return "" if self.ask is None else self.ask.model

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        return self.ask is not None and self.ask.stream

    @property
    def text(self) -> str:
        """The text of the last user message."""
        return "" if self.ask is None else self.ask.text


class Line(Protocol):
    """The connection's side of a `Wire`."""

    transport: asyncio.Transport

    async def drained(self) -> None:
        """Until the client has taken enough to write on; at once when it is gone."""

    def answered(self, *, keep: bool) -> None:
        """The answer is whole: the next request of the connection, or its end."""

    def closed(self) -> None:
        """The connection was closed from this side, whatever was missing."""


class Wire:
    """Where one answer is written. A fault does with it what it likes.

    Attributes:
        request: What is being answered.
        voice: Its dialect.
        answer: The fault's answer, or the provider's default.
        request_id: What the answer calls itself.
        sent: Whether a status line is out.
        ended: Whether the answer is whole or the connection closed.
    """

    __slots__ = (
        "_line",
        "_more",
        "answer",
        "clock",
        "ended",
        "request",
        "request_id",
        "sent",
        "voice",
    )

    def __init__(
        self,
        line: Line,
        *,
        request: Received,
        voice: Voice,
        answer: Answer,
        clock: Clock,
        headers: list[tuple[str, str]],
    ) -> None:
        self._line = line
        self._more = headers
        self.request = request
        self.voice = voice
        self.answer = answer
        self.clock = clock
        self.request_id = f"req_fake{request.number:08d}"
        self.sent = False
        self.ended = False

    @property
    def ask(self) -> Ask:
        """What was asked. Only of a request that could be understood; a fault never sees another."""
        assert self.request.ask is not None
        return self.request.ask

    async def sleep(self, seconds: float) -> None:
        """Wait on the provider's clock."""
        if seconds > 0:
            await self.clock.sleep(seconds)

    def head(
        self,
        status: int = 200,
        *,
        content_type: str = "application/json",
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """A status line and headers; without a `length` the body comes in chunks of HTTP."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}", f"content-type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in self.voice.headers(self.request_id)]
        lines += [f"{name}: {value}" for name, value in self._more]
        lines += [f"{name}: {value}" for name, value in {**self.answer.headers, **(headers or {})}.items()]
        lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def write(self, data: bytes) -> None:
        """Raw bytes."""
        self.sent = True
        self._line.transport.write(data)

    async def flush(self) -> None:
        """Until the client takes what was written."""
        await self._line.drained()

    def chunk(self, data: bytes) -> bytes:
        """`data` as one HTTP chunk."""
        return b"%x\r\n%b\r\n" % (len(data), data)

    def finish(self, *, keep: bool = True) -> None:
        """The answer is whole; `keep=False` closes the connection after it."""
        self.ended = True
        self.request.answered_at = self.clock.now()
        self._line.answered(keep=keep)

    def fin(self) -> None:
        """Close in order (FIN), whatever is missing."""
        self.ended = True
        self._line.closed()
        close(self._line.transport, reset=False)

    def rst(self) -> None:
        """Close as a crash does (RST)."""
        self.ended = True
        self._line.closed()
        close(self._line.transport, reset=True)

    # --- whole answers

    def whole(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A complete answer with a length."""
        self.write(self.head(status, content_type=content_type, length=len(body), headers=headers) + body)
        self.finish()

    def error(
        self, trouble: Trouble, *, headers: Mapping[str, str] | None = None, status: int | None = None
    ) -> None:
        """A complete error answer in the dialect."""
        body = self.voice.error(trouble, self.request_id)
        self.whole(body, status=trouble.status if status is None else status, headers=headers)

    def charge(self) -> None:
        """The model has begun with the answer: all of it is on the bill, whether it arrives or not."""
        usage = self.answer.tokens(self.ask.input_tokens)
        self.request.billed = Usage(input_tokens=usage.input_tokens) if self.ask.inputs else usage

    def spell(self) -> bytes:
        """The buffered answer's body."""
        self.charge()
        return self.voice.reply(self.answer, self.ask)

    def pieces(self) -> list[Piece]:
        """The streamed answer's events."""
        self.charge()
        return self.voice.pieces(self.answer, self.ask)

    def at_once(self) -> None:
        """The whole answer in one write."""
        if not self.ask.stream:
            self.whole(self.spell())
            return
        chunks = [self.chunk(piece.data) for piece in self.pieces()]
        self.write(self.stream_head() + b"".join(chunks) + b"0\r\n\r\n")
        self.finish()

    async def play(self) -> None:
        """The whole answer, at its pace."""
        await self.sleep(self.answer.first_delay_s)
        if not self.ask.stream or not self.answer.delay_s:
            self.at_once()
            return
        self.write(self.stream_head())
        await self._send(self.pieces())
        self.write(b"0\r\n\r\n")
        self.finish()

    def plain(self) -> tuple[bytes, Callable[[int, Mapping[str, str]], bytes]]:
        """The body of the answer, its events joined if it is a stream, and what makes a head for it from a length and more headers."""
        stream = self.ask.stream
        body = b"".join(piece.data for piece in self.pieces()) if stream else self.spell()
        kind = "text/event-stream; charset=utf-8" if stream else "application/json"
        return body, lambda length, headers: self.head(content_type=kind, length=length, headers=headers)

    # --- answers in parts

    async def events(self, pieces: list[Piece]) -> None:
        """A whole stream of other events than the answer's, at its pace."""
        self.write(self.stream_head())
        await self._send(pieces)
        self.write(b"0\r\n\r\n")
        self.finish()

    def stream_head(self) -> bytes:
        """The head of a stream."""
        return self.head(content_type="text/event-stream; charset=utf-8")

    async def play_until(self, after: int) -> None:
        """Send the beginning of the answer; the fault goes on from there.

        Of a stream: the head and everything before the content chunk that follows `after` of them. 0: the answer has
        begun and nothing was said; as many as there are, or more: all is said, and the finish is missing. Of a buffered
        answer: the head, with the length of the whole, and the first half of the body.
        """
        await self.sleep(self.answer.first_delay_s)
        if not self.ask.stream:
            body = self.spell()
            self.write(self.head(length=len(body)) + body[: len(body) // 2])
            await self.flush()
            return
        self.write(self.stream_head())
        pieces = self.pieces()
        await self._send(pieces[: cut(pieces, after)])

    async def play_rest(self, after: int) -> None:
        """What `play_until(after)` left out."""
        if not self.ask.stream:
            body = self.spell()
            self.write(body[len(body) // 2 :])
        else:
            pieces = self.pieces()
            await self._send(pieces[cut(pieces, after) :])
            self.write(b"0\r\n\r\n")
        self.finish()

    async def _send(self, pieces: list[Piece]) -> None:
        said = False
        for piece in pieces:
            if piece.content:
                if said:
                    await self.sleep(self.answer.delay_s)
                said = True
            self.write(self.chunk(piece.data))
            await self.flush()


def close(transport: asyncio.Transport, *, reset: bool) -> None:
    """Close a connection with FIN once everything is written, or with RST at once."""
    if not reset:
        transport.close()
        return
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() != -1:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOTHING)
    transport.abort()


def cut(pieces: list[Piece], after: int) -> int:
    """The index of the content piece that follows `after` of them; at most that behind the last one."""
    seen = 0
    end = 0
    for at, piece in enumerate(pieces):
        if piece.content:
            if seen == after:
                return at
            seen += 1
            end = at + 1
    return end
