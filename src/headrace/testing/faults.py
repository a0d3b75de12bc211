"""Everything that a provider can do wrong, one frozen dataclass each.

Where a fault has `after`, it strikes after that many content chunks of a stream: 0 means that the answer has begun and
nothing was said, and a number above all of them that everything was said but the finish is missing. In a buffered answer
the same faults strike in the middle of the body. `answer` is what is being said when it strikes; the provider's default
answer if None.

A fault of your own is a subclass of `Fault` with an `act` that writes to a `Wire`.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, Literal

import msgspec

from headrace.testing.answers import Answer
from headrace.testing.dialects import Trouble
from headrace.testing.wire import Wire, cut

__all__ = [
    "BadChunk",
    "BadKey",
    "Bomb",
    "CleanCut",
    "CutJson",
    "CutStream",
    "Doubled",
    "Empty",
    "ErrorEvent",
    "ErrorIn200",
    "Fault",
    "Filtered",
    "Garbage",
    "Headless",
    "Html",
    "Huge",
    "HugeHeader",
    "Interim",
    "LengthAndChunks",
    "ManyHeaders",
    "NoSuchModel",
    "Overloaded",
    "QuotaGone",
    "RateLimited",
    "Raw",
    "Redirect",
    "Refuse",
    "Reordered",
    "Reset",
    "ServerError",
    "Silence",
    "SlowDrip",
    "Stall",
    "Status",
    "TooLong",
    "TwoLengths",
    "Unfinished",
    "Unterminated",
    "UntilClose",
    "WrongCharset",
    "WrongLength",
]

HTML = """<!DOCTYPE html>
<html>
<head><title>{title}</title></head>
<body>
<center><h1>{title}</h1></center>
<hr><center>cloudflare</center>
</body>
</html>
"""


class Fault:
    """What a provider does instead of answering well."""

    __slots__ = ()

    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        """Do it. Whatever is open when this returns is closed (FIN)."""
        raise NotImplementedError


# --- before an answer -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """The connection is closed as soon as it is accepted.

    A kept connection, and one whose fault was set by `on`, is closed when the request has been read. `reset`: with RST.
    """

    reset: bool = True

    async def act(self, wire: Wire) -> None:
        wire.rst() if self.reset else wire.fin()


@dataclass(frozen=True, slots=True)
class Silence(Fault):
    """No status line for `seconds`; then the answer. The default outlasts every timeout."""

    seconds: float = 86_400.0
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        wire.charge()
        await wire.sleep(self.seconds)
        await wire.play()


@dataclass(frozen=True, slots=True)
class HugeHeader(Fault):
    """A response header of `size` bytes (1 MiB) before the answer."""

    size: int = 1 << 20

    async def act(self, wire: Wire) -> None:
        body = wire.spell()
        wire.whole(body, headers={"x-huge": "h" * self.size})


@dataclass(frozen=True, slots=True)
class ManyHeaders(Fault):
    """`count` response headers (2,000) before the answer."""

    count: int = 2000

    async def act(self, wire: Wire) -> None:
        wire.whole(wire.spell(), headers={f"x-many-{number}": "h" for number in range(self.count)})


@dataclass(frozen=True, slots=True)
class TwoLengths(Fault):
    """Two `content-length` headers that contradict each other, the first of them right."""

    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        data, head = wire.plain()
        wire.write(head(len(data), {"Content-Length": str(len(data) // 2)}) + data)
        wire.fin()


@dataclass(frozen=True, slots=True)
class LengthAndChunks(Fault):
    """Both `content-length` and `transfer-encoding: chunked`, as in request smuggling; the body comes in chunks."""

    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        data, head = wire.plain()
        wire.write(head(len(data), {"transfer-encoding": "chunked"}) + wire.chunk(data) + b"0\r\n\r\n")
        wire.fin()


@dataclass(frozen=True, slots=True)
class UntilClose(Fault):
    """The answer of an HTTP/1.0 server: no length, no chunks, its end is that of the connection.

    It is a right answer; with `after` that of a server that died there (half of a buffered body), which HTTP cannot tell from a whole one.
    """

    after: int | None = None
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        stream = wire.ask.stream
        kind = "text/event-stream; charset=utf-8" if stream else "application/json"
        head = f"HTTP/1.0 200 OK\r\ncontent-type: {kind}\r\nx-request-id: {wire.request_id}\r\n"
        wire.write(f"{head}request-id: {wire.request_id}\r\n\r\n".encode())
        if stream:
            pieces = wire.pieces()
            wire.write(
                b"".join(
                    piece.data
                    for piece in (pieces if self.after is None else pieces[: cut(pieces, self.after)])
                )
            )
        else:
            body = wire.spell()
            wire.write(body if self.after is None else body[: len(body) // 2])
        wire.fin()


@dataclass(frozen=True, slots=True)
class Interim(Fault):
    """`count` interim answers, 100 and 103 in turn, before the answer."""

    count: int = 1000
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        pair = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"
        wire.write(pair * (self.count // 2))
        wire.at_once()


@dataclass(frozen=True, slots=True)
class Redirect(Fault):
    """Asks for the same request `to` another address, with the key and all; empty: where it was sent to, for ever."""

    to: str = ""
    status: int = 307

    async def act(self, wire: Wire) -> None:
        wire.whole(b"", status=self.status, headers={"location": self.to or wire.request.path})


@dataclass(frozen=True, slots=True)
class Raw(Fault):
    """`data` as it is instead of an answer, then `then`: for malformed status lines, two lengths, gzip bombs and the like."""

    data: bytes
    then: Literal["fin", "rst", "hang"] = "fin"

    async def act(self, wire: Wire) -> None:
        wire.write(self.data)
        await wire.flush()
        match self.then:
            case "fin":
                wire.fin()
            case "rst":
                wire.rst()
            case "hang":
                await wire.sleep(86_400.0)


# --- errors with a status ---------------------------------------------------------------------------------------------


def _hints(retry_after: float | str | None, should_retry: bool | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    if retry_after is not None:
        headers["retry-after"] = f"{retry_after:g}" if isinstance(retry_after, int | float) else retry_after
    if should_retry is not None:
        headers["x-should-retry"] = "true" if should_retry else "false"
    return headers


@dataclass(frozen=True, slots=True)
class Status(Fault):
    """An error answer with the HTTP status `code`.

    Attributes:
        body: Bytes or text as it is, a mapping as JSON; default the dialect's own error envelope.
        message: Of the default body, instead of the service's usual words.
        error_code: Of the default body: `error.code` for OpenAI, `error.details.error_code` for Anthropic.
        headers: More headers.
        retry_after: `retry-after`: seconds, or text as it is (an HTTP date, nonsense).
        should_retry: `x-should-retry`.
    """

    code: int
    body: bytes | str | Mapping[str, object] | None = None
    message: str | None = None
    error_code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | str | None = None
    should_retry: bool | None = None

    async def act(self, wire: Wire) -> None:
        headers = {**_hints(self.retry_after, self.should_retry), **self.headers}
        match self.body:
            case None:
                trouble = wire.voice.status(self.code)
                trouble = replace(
                    trouble,
                    message=trouble.message if self.message is None else self.message,
                    code=trouble.code if self.error_code is None else self.error_code,
                )
                wire.error(trouble, headers=headers)
            case bytes():
                wire.whole(self.body, status=self.code, headers=headers)
            case str():
                wire.whole(self.body.encode(), status=self.code, headers=headers)
            case _:
                wire.whole(msgspec.json.encode(self.body), status=self.code, headers=headers)


@dataclass(frozen=True, slots=True)
class _Named(Fault):
    """An error that the dialects say in different words and with different statuses."""

    word: ClassVar[str]
    message: str | None = None
    retry_after: float | str | None = None
    should_retry: bool | None = None

    async def act(self, wire: Wire) -> None:
        trouble = _trouble(wire, self.word, self.message)
        wire.error(trouble, headers=_hints(self.retry_after, self.should_retry))


def _trouble(wire: Wire, word: str, message: str | None) -> Trouble:
    trouble = wire.voice.troubles[word]
    return trouble if message is None else replace(trouble, message=message)


class RateLimited(_Named):
    """429: too many requests a minute."""

    __slots__ = ()
    word = "rate_limited"


class Overloaded(_Named):
    """No capacity: 529 `overloaded_error` of Anthropic, 503 `server_is_overloaded` of OpenAI."""

    __slots__ = ()
    word = "overloaded"


class ServerError(_Named):
    """500."""

    __slots__ = ()
    word = "server_error"


class QuotaGone(_Named):
    """429, but the account's money is spent: waiting does not help."""

    __slots__ = ()
    word = "quota_gone"


class BadKey(_Named):
    """401."""

    __slots__ = ()
    word = "bad_key"


class NoSuchModel(_Named):
    """404."""

    __slots__ = ()
    word = "no_such_model"


class TooLong(_Named):
    """400: the prompt is longer than the model's window."""

    __slots__ = ()
    word = "too_long"


class Filtered(_Named):
    """400: the prompt was blocked by the provider's filter."""

    __slots__ = ()
    word = "filtered"


# --- a body that is wrong ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Html(Fault):
    """A page of HTML instead of JSON: a proxy's, with 502, or with 200 as a captive portal sends it."""

    status: int = 502

    async def act(self, wire: Wire) -> None:
        title = "Welcome" if self.status == 200 else f"{self.status} Bad Gateway"
        page = HTML.format(title=title).encode()
        wire.whole(page, status=self.status, content_type="text/html; charset=UTF-8")


@dataclass(frozen=True, slots=True)
class Empty(Fault):
    """A body of no bytes."""

    status: int = 200

    async def act(self, wire: Wire) -> None:
        kind = "text/event-stream; charset=utf-8" if wire.ask.stream else "application/json"
        wire.whole(b"", status=self.status, content_type=kind)


@dataclass(frozen=True, slots=True)
class CutJson(Fault):
    """HTTP is in order and the JSON is cut: half the body; in a stream, half of the first content event."""

    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            body = wire.spell()
            wire.whole(body[: len(body) // 2])
            return
        pieces = wire.pieces()
        at = next((at for at, piece in enumerate(pieces) if piece.content), len(pieces) - 1)
        whole, cut = pieces[:at], pieces[at].data
        data = b"".join(piece.data for piece in whole) + cut[: len(cut) // 2] + b"\n\n"
        wire.write(wire.stream_head() + wire.chunk(data) + b"0\r\n\r\n")
        wire.finish()


@dataclass(frozen=True, slots=True)
class WrongLength(Fault):
    """A content-length that is `by` bytes more than the body (less, if negative); then FIN."""

    by: int = 10
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        stream = wire.ask.stream
        body = b"".join(piece.data for piece in wire.pieces()) if stream else wire.spell()
        kind = "text/event-stream; charset=utf-8" if stream else "application/json"
        wire.write(wire.head(content_type=kind, length=max(0, len(body) + self.by)) + body)
        wire.fin()


@dataclass(frozen=True, slots=True)
class Bomb(Fault):
    """A body of `size` zero bytes (64 MiB), gzipped to a thousandth of that."""

    size: int = 1 << 26

    async def act(self, wire: Wire) -> None:
        wire.charge()
        kind = "text/event-stream; charset=utf-8" if wire.ask.stream else "application/json"
        packed = _zeros(self.size)
        wire.whole(packed, content_type=kind, headers={"content-encoding": "gzip"})


@lru_cache(maxsize=4)
def _zeros(size: int) -> bytes:
    return gzip.compress(bytes(size))


@dataclass(frozen=True, slots=True)
class Huge(Fault):
    """A text that does not end: `size` bytes (100 MB) in one string of JSON, in a stream in one event."""

    size: int = 100_000_000
    after: int = 0
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        piece = b"a" * (1 << 20)
        if wire.ask.stream:
            await wire.play_until(self.after)
            pieces = wire.pieces()
            event = next(piece.data for piece in pieces if piece.content)
            wire.write(wire.chunk(event[:-4]))
        else:
            wire.write(wire.stream_head().replace(b"text/event-stream; charset=utf-8", b"application/json"))
            wire.write(wire.chunk(wire.spell()[:-4]))
        for _ in range(self.size // len(piece)):
            wire.write(wire.chunk(piece))
            await wire.flush()
        wire.write(b"0\r\n\r\n")
        wire.finish()


@dataclass(frozen=True, slots=True)
class WrongCharset(Fault):
    """Text that is not UTF-8: a byte of Latin-1 in front of the text, in a stream in that of the content chunk behind `after`; all
    else is right."""

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            body = _in_latin_1(wire.spell(), wire.answer.text)
            wire.whole(body, content_type="application/json; charset=iso-8859-1")
            return
        pieces, words = wire.pieces(), wire.answer.pieces
        at = cut(pieces, self.after)
        bad = replace(pieces[at], data=_in_latin_1(pieces[at].data, words[min(self.after, len(words) - 1)]))
        await wire.events([*pieces[:at], bad, *pieces[at + 1 :]])


def _in_latin_1(data: bytes, text: str) -> bytes:
    word = msgspec.json.encode(text)[:-1]
    return data.replace(word, b'"\xe9' + word[1:], 1)


@dataclass(frozen=True, slots=True)
class ErrorIn200(Fault):
    """Status 200 and a JSON body that is an error, whether a stream was asked for or not. `error`: as for `ErrorEvent`."""

    error: str = "server_error"
    message: str | None = None

    async def act(self, wire: Wire) -> None:
        wire.error(_trouble(wire, self.error, self.message), status=200)


# --- in the middle of an answer ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reset(Fault):
    """RST."""

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        await wire.play_until(self.after)
        wire.rst()


@dataclass(frozen=True, slots=True)
class CutStream(Fault):
    """FIN without the end of the HTTP body."""

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        await wire.play_until(self.after)
        wire.fin()


@dataclass(frozen=True, slots=True)
class CleanCut(Fault):
    """HTTP ends in order, but the answer has no finish and no `[DONE]` or `message_stop`. A buffered body is cut."""

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            await CutJson(answer=self.answer).act(wire)
            return
        await wire.play_until(self.after)
        wire.write(b"0\r\n\r\n")
        wire.finish()


@dataclass(frozen=True, slots=True)
class Unterminated(Fault):
    """Everything is said, the finish too, and HTTP ends in order; `[DONE]` or `message_stop` is missing. It is a whole answer."""

    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if wire.ask.stream:
            await wire.events(wire.pieces()[:-1])
        else:
            wire.at_once()


@dataclass(frozen=True, slots=True)
class Unfinished(Fault):
    """A terminator without a finish: nothing stands between the last word and `[DONE]` or `message_stop`.

    A buffered answer is cut JSON. `after`: the words end there.
    """

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            await CutJson(answer=self.answer).act(wire)
            return
        pieces = wire.pieces()
        await wire.events([*pieces[: cut(pieces, self.after)], pieces[-1]])


@dataclass(frozen=True, slots=True)
class Doubled(Fault):
    """The first event of a stream comes twice, again behind `after` content chunks. A buffered answer comes twice in one body."""

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            wire.whole(wire.spell() * 2)
            return
        pieces = wire.pieces()
        at = cut(pieces, self.after)
        await wire.events([*pieces[:at], pieces[0], *pieces[at:]])


@dataclass(frozen=True, slots=True)
class Reordered(Fault):
    """The finish comes behind `after` content chunks, and the rest of the words only behind it; buffered answers are right."""

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            wire.at_once()
            return
        pieces = wire.pieces()
        at, end = cut(pieces, self.after), cut(pieces, len(pieces))
        await wire.events([*pieces[:at], *pieces[end:-1], *pieces[at:end], pieces[-1]])


@dataclass(frozen=True, slots=True)
class Headless(Fault):
    """A stream that begins with its first content: the events before it are missing. Buffered answers are right."""

    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            wire.at_once()
            return
        pieces = wire.pieces()
        await wire.events(pieces[cut(pieces, 0) :])


@dataclass(frozen=True, slots=True)
class Stall(Fault):
    """Nothing for `seconds`, then the rest. The default outlasts every timeout."""

    after: int = 1
    seconds: float = 86_400.0
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        await wire.play_until(self.after)
        await wire.sleep(self.seconds)
        await wire.play_rest(self.after)


@dataclass(frozen=True, slots=True)
class SlowDrip(Fault):
    """The right answer, status line included, `size` bytes at a time with `seconds` between them.

    With no seconds it is fast, and every event and every character is split across packets.
    """

    seconds: float = 0.0
    size: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if wire.ask.stream:
            chunks = b"".join(wire.chunk(piece.data) for piece in wire.pieces())
            data = wire.stream_head() + chunks + b"0\r\n\r\n"
        else:
            body = wire.spell()
            data = wire.head(length=len(body)) + body
        for at in range(0, len(data), self.size):
            if at:
                # Sleeping for no time still gives the socket a turn, so that pieces are packets.
                await wire.clock.sleep(self.seconds)
            wire.write(data[at : at + self.size])
            await wire.flush()
        wire.finish()


@dataclass(frozen=True, slots=True)
class Garbage(Fault):
    """Bytes that are not the protocol, then the rest of the answer as if nothing had happened.

    In a stream a whole event whose data is neither JSON nor UTF-8; in a buffered body the garbage replaces its middle.
    """

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            body = wire.spell()
            third = len(body) // 3
            wire.whole(body[:third] + b"\x00\xff\xfe{[" + body[2 * third :])
            return
        await wire.play_until(self.after)
        wire.write(wire.chunk(wire.voice.garbage()))
        await wire.play_rest(self.after)


@dataclass(frozen=True, slots=True)
class BadChunk(Fault):
    """A chunk of HTTP whose size is no number; then FIN."""

    after: int = 1
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if wire.ask.stream:
            await wire.play_until(self.after)
        else:
            body = wire.spell()
            wire.write(wire.head() + wire.chunk(body[: len(body) // 2]))
        wire.write(b"ZZ\r\nnot a size\r\n")
        wire.fin()


@dataclass(frozen=True, slots=True)
class ErrorEvent(Fault):
    """An error event of the dialect inside the stream, after which it ends without a terminator.

    `error` is one of `overloaded`, `rate_limited`, `server_error`, `quota_gone`, `too_long`, `filtered`, `bad_key`,
    `no_such_model`. `done`: OpenAI's dialect sends `[DONE]` all the same, as some servers do. A buffered answer is
    `ErrorIn200`.
    """

    after: int = 1
    error: str = "overloaded"
    message: str | None = None
    done: bool = False
    answer: Answer | None = None

    async def act(self, wire: Wire) -> None:
        if not wire.ask.stream:
            await ErrorIn200(self.error, self.message).act(wire)
            return
        await wire.play_until(self.after)
        event = wire.voice.error_event(_trouble(wire, self.error, self.message), wire.request_id)
        if self.done and wire.voice.name == "openai-chat":
            event += b"data: [DONE]\n\n"
        wire.write(wire.chunk(event) + b"0\r\n\r\n")
        wire.finish()
