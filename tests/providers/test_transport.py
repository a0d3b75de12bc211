"""The transport against real sockets on both event loops: framing, pooling, cutting, cancelling, TLS and proxies."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from headrace.errors import ConfigError, ConnectFailed, Malformed, ProviderTimeout
from headrace.providers.connection import HEAD_LIMIT, HIGH_WATER, READ, Response
from headrace.providers.inflate import PIECE
from headrace.providers.transport import HTTPTransport, Origin, ProxyRules, Transport, header_block
from headrace.testing.clock import ManualClock

pytestmark = pytest.mark.headrace_network
"""Names of other machines are looked up by stand-ins here."""

PEM = Path(__file__).with_name("localhost.pem")
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
SECRET = "hunter2-canary"

Run: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's coroutine on each event loop that we support, for at most 20 seconds."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    def on_loop(main: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await main()
            assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks were left behind"

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return on_loop


@dataclass
class Peer:
    """The server's end of one connection."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: Server

    async def request(self) -> bytes:
        """The next request, head and body; empty when the client has left."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        request = head + await self.reader.readexactly(length)
        self.server.requests.append((self.number, request))
        return request

    async def send(self, *pieces: bytes) -> None:
        """Write each piece, giving the client time to read it before the next."""
        for piece in pieces:
            self.writer.write(piece)
            with suppress(ConnectionError):
                await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.002)  # noqa: TID251  (two writes in one read would not be two)

    async def gone(self) -> None:
        """Wait until the client has closed."""
        with suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script: TypeAlias = Callable[[Peer], Awaitable[None]]


@dataclass
class Server:
    """What the scripted server saw: requests with the number of their connection, connections, those that ended."""

    origin: Origin
    requests: list[tuple[int, bytes]] = field(default_factory=list)
    accepted: int = 0
    ended: int = 0


@asynccontextmanager
async def serve(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that runs `script` on each connection and then closes it."""
    tasks: set[asyncio.Task[None]] = set()
    seen = Server(Origin("http", "127.0.0.1", 1))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.accepted += 1
        try:
            await script(Peer(seen.accepted, reader, writer, seen))
        except asyncio.CancelledError:
            pass
        finally:
            seen.ended += 1
            tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    seen.origin = Origin("http" if tls is None else "https", "127.0.0.1", port)
    try:
        yield seen
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns()


async def turns(count: int = 5) -> None:
    """Give the other tasks and the sockets a moment."""
    for _ in range(count):
        await asyncio.sleep(0.001)  # noqa: TID251  (sockets need turns of the loop)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the sockets are about to bring; the test's own limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110  (what the sockets bring sets no event)
        await asyncio.sleep(0.001)  # noqa: TID251


def answer(*pieces: bytes, then: Callable[[Peer], Awaitable[None]] = Peer.gone) -> Script:
    """A script: read one request, write `pieces`, then wait for the client to leave (or `then`)."""

    async def script(peer: Peer) -> None:
        if await peer.request():
            await peer.send(*pieces)
            await then(peer)

    return script


def answer_all(*answers: bytes) -> Script:
    """A script: one answer a request on the same connection, the last one again and again."""

    async def script(peer: Peer) -> None:
        left = list(answers)
        while await peer.request():
            await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


async def hang_up(peer: Peer) -> None:
    """Close in good order."""


async def reset(peer: Peer) -> None:
    """Close with RST once the client had time to read."""
    await turns()
    peer.reset()


async def post(
    transport: HTTPTransport, origin: Origin, path: str = "/v1", body: bytes = b"{}", connect_s: float = 5
) -> Response:
    """One request with a key in its headers."""
    headers = header_block((("authorization", f"Bearer {SECRET}"), ("content-type", "application/json")))
    return await transport.send(origin, "POST", path, headers, body, connect_s=connect_s)


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[HTTPTransport]:
    """A transport that must have no socket left once it is closed."""
    transport = HTTPTransport(**options)
    try:
        yield transport
    finally:
        await transport.aclose()
        assert (transport.open_connections, transport.idle_connections) == (0, 0)


async def body_of(transport: HTTPTransport, origin: Origin, limit: int = 1_000_000) -> bytes:
    """Send and read whole."""
    response = await post(transport, origin)
    try:
        return await response.read(limit)
    finally:
        await response.aclose()


async def pieces_of(response: Response) -> list[bytes]:
    """Read piece by piece to the clean end."""
    pieces = []
    while piece := await response.read_some():
        pieces.append(piece)
    return pieces


def server_tls() -> ssl.SSLContext:
    """The throw-away certificate, valid for localhost, 127.0.0.1 and provider.test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


# --- what goes out ------------------------------------------------------------------------------------------------------


def test_header_block_is_the_lines_in_order() -> None:
    """Pairs become lines, repeated names and Latin-1 included."""
    pairs = (("x-a", "1"), ("X-B", "caf\xe9"), ("x-a", ""))
    assert header_block(pairs) == b"x-a: 1\r\nX-B: caf\xe9\r\nx-a: \r\n"
    assert header_block(()) == b""


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\u20ac"])
def test_header_block_refuses_a_value_without_showing_it(bad: str) -> None:
    """A value that could split the request is refused by the header's name alone."""
    with pytest.raises(ValueError, match="x-api-key") as caught:
        header_block((("x-api-key", f"{SECRET}{bad}x: y"),))
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "name", ["", "x y", "x:y", "x\r\ny", "\xe9", "Content-Length", "host", "transfer-encoding"]
)
def test_header_block_refuses_names(name: str) -> None:
    """Names that are no token, or that frame the message, are refused."""
    with pytest.raises(ValueError):
        header_block(((name, "v"),))


@pytest.mark.parametrize(
    ("url", "origin", "prefix", "host"),
    [
        ("https://API.openai.com/v1/", Origin("https", "api.openai.com", 443), "/v1", "api.openai.com"),
        ("http://127.0.0.1:8000", Origin("http", "127.0.0.1", 8000), "", "127.0.0.1:8000"),
        ("http://[::1]:80/a/b", Origin("http", "::1", 80), "/a/b", "[::1]"),
        (
            "https://b\xfccher.example",
            Origin("https", "xn--bcher-kva.example", 443),
            "",
            "xn--bcher-kva.example",
        ),
    ],
)
def test_origin_of_a_base_url(url: str, origin: Origin, prefix: str, host: str) -> None:
    """A base URL splits into its origin and path."""
    assert Origin.of(url) == (origin, prefix)
    assert origin.host_header == host


@pytest.mark.parametrize(
    "url",
    [
        "api.openai.com/v1",
        "ftp://h/",
        "https://",
        "https://h:0/",
        "https://h:99999/",
        f"https://u:{SECRET}@h/",
        "https://h/?a=b",
        "https://h/#f",
        "https://h/a b",
        "https://a b/",
    ],
)
def test_origin_refuses_what_is_no_base_url(url: str) -> None:
    """What cannot be dialled is refused, a password in it never shown."""
    with pytest.raises(ValueError) as caught:
        Origin.of(url)
    assert SECRET not in str(caught.value)


def test_the_request_on_the_wire(run: Run) -> None:
    """Request line, our headers, the caller's, the length, the body: byte for byte."""

    async def main() -> None:
        async with serve(answer_all(HELLO)) as server, opened() as transport:
            checked: Transport = transport
            response = await checked.send(server.origin, "POST", "/v1/x?y=1", b"a: b\r\n", b"{}", connect_s=5)
            assert (response.status, response.headers) == (200, {"content-length": "5"})
            assert await response.read(5) == b"hello"
            again = await transport.send(server.origin, "GET", "/v1/models", b"", b"", connect_s=5)
            await again.aclose()
            host = f"host: 127.0.0.1:{server.origin.port}\r\naccept-encoding: identity\r\n".encode()
            assert server.requests == [
                (1, b"POST /v1/x?y=1 HTTP/1.1\r\n" + host + b"a: b\r\ncontent-length: 2\r\n\r\n{}"),
                (1, b"GET /v1/models HTTP/1.1\r\n" + host + b"\r\n"),
            ]

    run(main)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "v1"), ("POST", "/a b"), ("POST", "/a\r\nx: y"), ("HEAD", "/")]
)
def test_a_request_line_cannot_be_split(method: str, path: str) -> None:
    """Methods and paths that would break the request line are refused before anything is dialled."""

    async def main() -> None:
        async with opened() as transport:
            with pytest.raises(ValueError):
                await transport.send(Origin("http", "127.0.0.1", 1), method, path, b"", b"", connect_s=5)

    asyncio.run(main())


def test_small_writes_are_not_delayed(run: Run) -> None:
    """Nagle's algorithm is off on the sockets that we dial."""

    async def main() -> None:
        async with serve(answer_all(HELLO)) as server, opened() as transport:
            await body_of(transport, server.origin)
            (connection,) = transport._pools[server.origin].open
            assert connection._transport is not None
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    run(main)


def test_a_large_request_body_arrives_whole(run: Run) -> None:
    """Several megabytes are written at once and arrive, though the socket takes less."""
    body = bytes(range(256)) * 16_384

    async def main() -> None:
        async with serve(answer_all(HELLO)) as server, opened() as transport:
            response = await post(transport, server.origin, body=body)
            assert await response.read(5) == b"hello"
            assert server.requests[0][1].endswith(b"\r\n\r\n" + body)

    run(main)


# --- framing ------------------------------------------------------------------------------------------------------------

FRAMINGS: dict[str, tuple[bytes, bytes, bool]] = {
    "content-length": (HELLO, b"hello", True),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", b"hello", True),
    "chunked with a trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nX-T: v\r\n\r\n", b"hello", True),
    "until close": (OK + b"\r\nhello", b"hello", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "empty": (OK + b"content-length: 0\r\n\r\n", b"", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", b"", True),
    "connection: close": (OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "interim heads": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nx: y\r\n\r\n" + HELLO,
        b"hello",
        True,
    ),
    "redirect": (
        b"HTTP/1.1 307 Go\r\nlocation: http://else/\r\ncontent-length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
    "leftover bytes": (HELLO + HELLO, b"hello", False),
    "leftover garbage": (HELLO + b"\x00garbage", b"hello", False),
}


@pytest.mark.parametrize("cut", ["whole", "bytewise"])
@pytest.mark.parametrize("name", FRAMINGS)
def test_framing(run: Run, name: str, cut: str) -> None:
    """Each framing gives its body however the bytes are cut, and the connection is kept exactly when it may be."""
    raw, body, kept = FRAMINGS[name]
    pieces = [raw] if cut == "whole" else [raw[at : at + 1] for at in range(len(raw))]

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            for piece in pieces:
                await peer.send(piece)
                if cut == "bytewise":
                    await asyncio.sleep(0)  # noqa: TID251  (the client's turn)
            if not name.startswith("until"):
                await peer.gone()

        async with serve(script) as server, opened() as transport:
            response = await post(transport, server.origin)
            assert response.headers.get("x") is None, "an interim head's header is not the answer's"
            assert b"".join(await pieces_of(response)) == body
            assert await response.read_some() == b""
            await response.aclose()
            await response.aclose()
            if name.startswith("leftover") and cut == "bytewise":
                await until(lambda: transport.idle_connections == 0)
            assert transport.idle_connections == int(kept)
            if not kept:
                await until(lambda: transport.open_connections == 0)

    run(main)


def test_repeated_headers_are_joined(run: Run) -> None:
    """Names come in lower case, blanks around values go, repeated ones are joined in order."""
    raw = OK + b"X-A:  one \t\r\nx-a: two\r\nX-B: caf\xe9\r\nContent-Length: 0\r\n\r\n"

    async def main() -> None:
        async with serve(answer(raw)) as server, opened() as transport:
            response = await post(transport, server.origin)
            assert response.headers == {"x-a": "one, two", "x-b": "caf\xe9", "content-length": "0"}
            await response.aclose()

    run(main)


BROKEN_HEADS: dict[str, bytes] = {
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "status line": b"HTTP/1.1 abc\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "obs-fold": OK + b"x: y\r\n z\r\n\r\n",
    "header name": OK + b"x y: z\r\n\r\n",
    "two lengths": OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nx",
    "length and chunked": OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    "negative length": OK + b"content-length: -1\r\n\r\n",
    "other transfer-encoding": OK + b"transfer-encoding: gzip\r\n\r\n",
    "unknown content-encoding": OK + b"content-encoding: br\r\ncontent-length: 1\r\n\r\nx",
    "one huge header": OK + b"x: " + b"y" * (HEAD_LIMIT + 1),
    "huge head at once": OK + b"x: " + b"y" * (HEAD_LIMIT + 1) + b"\r\ncontent-length: 0\r\n\r\n",
    "2000 headers": OK + b"a: b\r\n" * 2000 + b"\r\n",
    "201 headers": OK + b"a: b\r\n" * 200 + b"content-length: 0\r\n\r\n",
    "flood of 1xx": b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    "switched protocols": b"HTTP/1.1 101 Up\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "cut within": OK + b"content-le",
}


@pytest.mark.parametrize("name", BROKEN_HEADS)
def test_a_broken_head_is_malformed(run: Run, name: str) -> None:
    """Bytes that are no usable head end in `Malformed`, with the connection closed and no header shown."""
    then = hang_up if name == "cut within" else Peer.gone

    async def main() -> None:
        async with serve(answer(BROKEN_HEADS[name], then=then)) as server, opened() as transport:
            with pytest.raises(Malformed, match=f"127.0.0.1:{server.origin.port}") as caught:
                await post(transport, server.origin)
            assert SECRET not in str(caught.value)
            assert len(str(caught.value)) < 200
            await until(lambda: transport.open_connections == 0)

    run(main)


def test_200_headers_are_taken(run: Run) -> None:
    """The limit on header lines is reached, not passed."""

    async def main() -> None:
        raw = OK + b"a: b\r\n" * 199 + b"content-length: 0\r\n\r\n"
        async with serve(answer(raw)) as server, opened() as transport:
            response = await post(transport, server.origin)
            assert response.headers["a"].count("b") == 199
            await response.aclose()

    run(main)


CUT: dict[str, tuple[bytes, Callable[[Peer], Awaitable[None]], bytes, str]] = {
    "length, FIN": (OK + b"content-length: 9\r\n\r\nhello", hang_up, b"hello", "cut after 5 bytes"),
    "length, RST": (OK + b"content-length: 9\r\n\r\nhello", reset, b"hello", "cut after 5 bytes"),
    "until close, RST": (OK + b"\r\nhello", reset, b"hello", "cut after 5 bytes"),
    "no terminator": (CHUNKED + b"5\r\nhello\r\n", hang_up, b"hello", "cut after 5 bytes"),
    "terminator cut": (CHUNKED + b"5\r\nhello\r\n0\r\n", hang_up, b"hello", "cut after 5 bytes"),
    "within a chunk": (CHUNKED + b"9\r\nhello", hang_up, b"hello", "cut after 5 bytes"),
    "nothing of it": (CHUNKED, hang_up, b"", "cut after 0 bytes"),
    "chunk size": (CHUNKED + b"5\r\nhello\r\nzz\r\nx", Peer.gone, b"hello", "after 5 bytes"),
    "chunk end": (CHUNKED + b"5\r\nhelloXX", Peer.gone, b"hello", "after 5 bytes"),
    "huge chunk size": (CHUNKED + b"fffffffffffffffffff\r\n", Peer.gone, b"", "after 0 bytes"),
    "endless trailer": (CHUNKED + b"0\r\n" + b"a: b\r\n" * 500, Peer.gone, b"", "header lines"),
    "huge trailer": (CHUNKED + b"0\r\na: " + b"b" * 200_000, Peer.gone, b"", "chunk framing"),
}


@pytest.mark.parametrize("how", ["read", "read_some"])
@pytest.mark.parametrize("name", CUT)
def test_a_cut_body_never_ends_cleanly(run: Run, name: str, how: str) -> None:
    """What came before the cut can be read; then comes `Malformed`, again and again, never a clean end."""
    raw, then, before, message = CUT[name]

    async def main() -> None:
        async with serve(answer(raw, then=then)) as server, opened() as transport:
            response = await post(transport, server.origin)
            received = b""

            async def read() -> None:
                nonlocal received
                if how == "read":
                    await response.read(1_000_000)
                while data := await response.read_some():
                    received += data

            with pytest.raises(Malformed, match=message):
                await read()
            assert received == (before if how == "read_some" else b"")
            with pytest.raises(Malformed):
                await response.read_some()
            await response.aclose()
            await until(lambda: transport.open_connections == 0)
            assert transport.idle_connections == 0

    run(main)


def test_every_cut_of_a_chunked_answer_is_noticed() -> None:
    """A chunked answer that ends at any byte but the last is an error, at whichever byte."""
    raw = CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"

    async def main() -> None:
        for size in range(len(raw)):
            async with serve(answer(raw[:size], then=hang_up)) as server, opened() as transport:
                with pytest.raises((Malformed, ConnectFailed)):
                    await body_of(transport, server.origin)
        async with serve(answer(raw, then=hang_up)) as server, opened() as transport:
            assert await body_of(transport, server.origin) == b"hello world"

    asyncio.run(main())


def test_a_body_over_the_limit_is_refused(run: Run) -> None:
    """`read` takes `limit` bytes, not one more, and closes the connection instead of draining it."""

    async def main() -> None:
        raw = OK + b"content-length: 100000000\r\n\r\n" + b"x" * 300_000
        async with serve(answer_all(HELLO)) as server, opened() as transport:
            assert await body_of(transport, server.origin, limit=5) == b"hello"
            with pytest.raises(Malformed, match="over 4 bytes"):
                await body_of(transport, server.origin, limit=4)
        async with serve(answer(raw)) as server, opened() as transport:
            with pytest.raises(Malformed, match="over 200000 bytes"):
                await body_of(transport, server.origin, limit=200_000)
            await until(lambda: server.ended == 1)

    run(main)


# --- compression --------------------------------------------------------------------------------------------------------


def encoded(encoding: bytes, body: bytes) -> bytes:
    """An answer with a content-encoding."""
    return OK + b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (encoding, len(body)) + body


def raw_deflate(data: bytes) -> bytes:
    """Deflate without zlib's wrapping, as some servers send it."""
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compress.compress(data) + compress.flush()


TEXT = b"data: {}\n\n" * 5000


@pytest.mark.parametrize("how", ["read", "read_some"])
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", gzip.compress(TEXT)),
        (b"X-GZip", gzip.compress(TEXT)),
        (b"gzip", gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:])),
        (b"deflate", zlib.compress(TEXT)),
        (b"deflate", raw_deflate(TEXT)),
        (b"identity", TEXT),
    ],
)
def test_compressed_bodies_are_undone(run: Run, encoding: bytes, body: bytes, how: str) -> None:
    """gzip (of several members too) and both kinds of deflate are read as if they had not been there."""
    raw = encoded(encoding, body)
    step = max(17, len(raw) // 10)

    async def main() -> None:
        async with (
            serve(answer(*(raw[at : at + step] for at in range(0, len(raw), step)))) as server,
            opened() as transport,
        ):
            response = await post(transport, server.origin)
            data = await response.read(len(TEXT)) if how == "read" else b"".join(await pieces_of(response))
            assert data == TEXT
            assert await response.read_some() == b""
            await response.aclose()
            assert transport.idle_connections == 1

    run(main)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", gzip.compress(TEXT)[:-9]),
        (b"gzip", b"not gzip at all"),
        (b"gzip", gzip.compress(TEXT) + b"trailing garbage"),
        (b"deflate", zlib.compress(TEXT)[:-5]),
        (b"deflate", zlib.compress(TEXT) + b"x"),
        (b"deflate", b"\xff" * 50),
    ],
)
def test_damaged_compression_is_malformed(run: Run, encoding: bytes, body: bytes) -> None:
    """A compressed body that is cut or damaged is an error, though the framing is in order."""

    async def main() -> None:
        async with serve(answer(encoded(encoding, body))) as server, opened() as transport:
            response = await post(transport, server.origin)
            with pytest.raises(Malformed, match="compressed"):
                await response.read(1_000_000)
            with pytest.raises(Malformed):
                await response.read_some()
            await response.aclose()

    run(main)


def test_a_gzip_bomb_is_bounded(run: Run) -> None:
    """64 MiB in 64 KB: `read` stops at its limit, `read_some` gives bounded pieces."""
    compress = zlib.compressobj(9, wbits=31)
    bomb = b"".join(compress.compress(bytes(1 << 20)) for _ in range(64)) + compress.flush()
    assert len(bomb) < 70_000

    async def main() -> None:
        async with serve(answer_all(encoded(b"gzip", bomb))) as server, opened() as transport:
            response = await post(transport, server.origin)
            with pytest.raises(Malformed, match="over 1000000 bytes"):
                await response.read(1_000_000)
            response = await post(transport, server.origin)
            total = 0
            while data := await response.read_some():
                assert len(data) <= PIECE
                total += len(data)
            assert total == 64 << 20

    run(main)


# --- streams ------------------------------------------------------------------------------------------------------------


def test_pieces_arrive_as_they_are_sent(run: Run) -> None:
    """A piece is there before the next one is sent; what piled up is given at once."""

    async def main() -> None:
        step = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            for text in (b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n1\r\nd\r\n0\r\n\r\n"):
                await step.wait()
                step.clear()
                await peer.send(text)
            await peer.gone()

        async with serve(script) as server, opened() as transport:
            response = await post(transport, server.origin)
            for expected in (b"a", b"b", b"cd"):
                step.set()
                assert await response.read_some() == expected
            assert await response.read_some() == b""
            assert transport.idle_connections == 1

    run(main)


def test_a_slow_reader_stops_the_server(run: Run) -> None:
    """Unread bytes stay near the high-water mark: the socket is not read until they are taken, then the rest comes."""
    size = 32 << 20

    async def main() -> None:
        sent = 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            peer.writer.write(OK + b"content-length: %d\r\n\r\n" % size)
            while sent < size:
                peer.writer.write(bytes(65_536))
                await peer.writer.drain()
                sent += 65_536
            await peer.gone()

        async with serve(script) as server, opened() as transport:
            response = await post(transport, server.origin)
            before = -1
            while sent != before:
                before = sent
                await turns(20)
            assert sent < size // 2, "the server was never held"
            first = await response.read_some()
            assert HIGH_WATER < len(first) <= HIGH_WATER + 2 * READ  # the first read and the last uncounted
            total = len(first)
            while data := await response.read_some():
                total += len(data)
            assert total == size
            assert transport.idle_connections == 1

    run(main)


def test_closing_a_complete_but_unread_answer_keeps_the_connection(run: Run) -> None:
    """An answer that is in but not read, even one that paused the socket, leaves a connection that works."""
    big = OK + b"content-length: 200000\r\n\r\n" + b"x" * 200_000

    async def main() -> None:
        async with serve(answer_all(HELLO, HELLO, big, HELLO)) as server, opened() as transport:
            for _ in range(2):
                response = await post(transport, server.origin)
                await response.aclose()
                assert transport.idle_connections == 1
                with pytest.raises(Malformed, match="closed before it was read"):
                    await response.read_some()
            response = await post(transport, server.origin)
            await turns()
            await response.aclose()
            assert await body_of(transport, server.origin) == b"hello"

    run(main)


def test_aclose_of_an_unfinished_answer_hangs_up(run: Run) -> None:
    """The provider sees at once that nobody reads any more, and a late reader gets no clean end."""

    async def main() -> None:
        async with serve(answer(CHUNKED + b"1\r\na\r\n")) as server, opened() as transport:
            response = await post(transport, server.origin)
            assert await response.read_some() == b"a"
            await response.aclose()
            await response.aclose()
            await until(lambda: server.ended == 1)
            assert (transport.open_connections, transport.idle_connections) == (0, 0)
            with pytest.raises(Malformed, match="closed after 1 bytes"):
                await response.read_some()

    run(main)


@pytest.mark.parametrize("how", ["abort", "aclose"])
def test_a_waiting_reader_is_woken(run: Run, how: str) -> None:
    """`abort` gives its error to the reader in another task, `aclose` an error of its own; buffered bytes are dropped."""

    async def main() -> None:
        async with serve(answer(CHUNKED)) as server, opened() as transport:
            response = await post(transport, server.origin)
            reader = asyncio.create_task(response.read_some())
            await turns()
            assert not reader.done()
            late = TimeoutError("too late")
            if how == "abort":
                response.abort(late)
                response.abort(ValueError("only the first counts"))
            else:
                await response.aclose()
            with pytest.raises(TimeoutError if how == "abort" else Malformed) as caught:
                await reader
            assert how == "aclose" or caught.value is late
            with pytest.raises(type(caught.value)):
                await response.read_some()
            await until(lambda: server.ended == 1)

    run(main)


def test_abort_after_the_end_does_nothing(run: Run) -> None:
    """Once the answer was read, the connection is not the response's any more."""

    async def main() -> None:
        async with serve(answer_all(HELLO)) as server, opened() as transport:
            response = await post(transport, server.origin)
            assert await response.read(5) == b"hello"
            response.abort(ValueError("late"))
            assert transport.idle_connections == 1
            assert await response.read_some() == b""
            assert await body_of(transport, server.origin) == b"hello"
            assert server.accepted == 1

    run(main)


# --- the pool -----------------------------------------------------------------------------------------------------------


def test_connections_are_reused_last_in_first_out(run: Run) -> None:
    """Requests in turn share a connection; those at once have one each; the last one given back is taken first."""

    async def main() -> None:
        async with serve(answer_all(HELLO)) as server, opened() as transport:
            for _ in range(3):
                assert await body_of(transport, server.origin) == b"hello"
            assert [number for number, _ in server.requests] == [1, 1, 1]
            first, second = await post(transport, server.origin), await post(transport, server.origin)
            assert transport.open_connections == 2
            await second.aclose()
            await first.aclose()
            assert transport.idle_connections == 2
            await body_of(transport, server.origin)
            assert server.requests[-1][0] == 1

    run(main)


def test_idle_connections_expire(run: Run) -> None:
    """What was unused for `idle_s` is closed, on the transport's clock, and what was used meanwhile is not."""

    async def main() -> None:
        clock = ManualClock()
        async with serve(answer_all(HELLO)) as server, opened(clock=clock, idle_s=10) as transport:
            first, second = await post(transport, server.origin), await post(transport, server.origin)
            await first.aclose()
            await second.aclose()
            clock.advance(6)
            await body_of(transport, server.origin)
            clock.advance(4)
            assert transport.idle_connections == 1
            assert await body_of(transport, server.origin) == b"hello"
            assert server.requests[-1][0] == 2
            clock.advance(9.9)
            assert transport.idle_connections == 1
            clock.advance(0.1)
            assert transport.idle_connections == 0
            await until(lambda: transport.open_connections == 0 and server.ended == 2)

    run(main)


@pytest.mark.parametrize("kept", [0, 2])
def test_no_more_connections_are_kept_than_allowed(run: Run, kept: int) -> None:
    """Over `max_idle_per_origin` the one unused for longest is closed."""

    async def main() -> None:
        async with serve(answer_all(HELLO)) as server, opened(max_idle_per_origin=kept) as transport:
            responses = [await post(transport, server.origin) for _ in range(4)]
            for response in responses:
                await response.aclose()
            assert transport.idle_connections == kept
            await until(lambda: transport.open_connections == kept)

    run(main)


@pytest.mark.parametrize("how", ["FIN", "RST", "408"])
def test_a_connection_that_dies_idle_leaves_the_pool(run: Run, how: str) -> None:
    """A close, a reset or an answer that nobody asked for is noticed while idle; the next request dials."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            if peer.number == 1:
                await turns()
                if how == "RST":
                    peer.reset()
                elif how == "408":
                    await peer.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
                    await peer.gone()
            else:
                await peer.gone()

        async with serve(script) as server, opened() as transport:
            await body_of(transport, server.origin)
            await until(lambda: transport.open_connections == 0)
            assert transport.idle_connections == 0
            assert await body_of(transport, server.origin) == b"hello"
            assert server.accepted == 2

    run(main)


@pytest.mark.parametrize("how", [hang_up, reset])
def test_stale_pooled_connection_is_re_dialled_without_using_up_an_attempt(
    run: Run, how: Callable[[Peer], Awaitable[None]]
) -> None:
    """A kept connection that breaks on the next request before any byte is replaced by a fresh one, unseen."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            await peer.request()
            if peer.number <= 2:
                await how(peer)
            else:
                await peer.send(HELLO)
                await peer.gone()

        async with serve(script) as server, opened() as transport:
            first, second = await post(transport, server.origin), await post(transport, server.origin)
            await first.aclose()
            await second.aclose()
            assert await body_of(transport, server.origin) == b"hello"
            assert [number for number, _ in server.requests] == [1, 2, 2, 3], (
                "a fresh one, not the next kept one"
            )

    run(main)


def test_a_kept_connection_that_breaks_within_the_head_is_not_asked_again(run: Run) -> None:
    """After the first byte of an answer nothing is sent twice."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            await peer.request()
            await peer.send(b"HTTP/1.1 2")

        async with serve(script) as server, opened() as transport:
            await body_of(transport, server.origin)
            with pytest.raises(Malformed, match="cut within its head"):
                await post(transport, server.origin)
            assert server.accepted == 1

    run(main)


@pytest.mark.parametrize("how", [hang_up, reset])
def test_a_fresh_connection_that_breaks_is_connect_failed(
    run: Run, how: Callable[[Peer], Awaitable[None]]
) -> None:
    """A fresh connection is not tried twice: the retry layer decides."""

    async def main() -> None:
        async with serve(answer(then=how)) as server, opened() as transport:
            with pytest.raises(ConnectFailed, match="before it answered") as caught:
                await post(transport, server.origin)
            assert f"127.0.0.1:{server.origin.port}" in str(caught.value)
            assert SECRET not in str(caught.value)
            assert server.accepted == 1
            await until(lambda: transport.open_connections == 0)

    run(main)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["FIN", "RST", "banner"])
def test_a_server_that_does_not_wait_for_the_request(run: Run, how: str, tls: bool) -> None:
    """Accept then close, accept then reset, accept then talk: one typed error each time, wherever the race stands."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            if how == "RST":
                peer.reset()
            elif how == "banner":
                await peer.send(b"SSH-2.0-OpenSSH_9.2\r\n")
                await peer.gone()

        async with (
            serve(script, server_tls() if tls else None) as server,
            opened(ca_file=str(PEM)) as transport,
        ):
            for _ in range(20):
                with pytest.raises((ConnectFailed, Malformed), match=str(server.origin.port)):
                    await post(transport, server.origin)
            await until(lambda: transport.open_connections == 0 and server.ended == server.accepted)

    run(main)


def test_an_answer_before_the_request_was_read_is_read_and_not_kept(run: Run) -> None:
    """An early 413 is returned; the connection, with half a request still to write, is not used again."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
            await until(lambda: transport.open_connections == 0)

        async with serve(script) as server, opened() as transport:
            response = await post(transport, server.origin, body=bytes(32 << 20))
            assert (response.status, await response.read(10)) == (413, b"no")
            await response.aclose()
            assert transport.idle_connections == 0

    run(main)


# --- failing to connect -------------------------------------------------------------------------------------------------


def test_a_refused_connection_says_who_and_why(run: Run) -> None:
    """Nobody listens: `ConnectFailed` with host, port and the system's reason."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with opened() as transport:
            with pytest.raises(
                ConnectFailed, match=rf"127\.0\.0\.1:{port}.*(refused|Connect call failed)"
            ) as caught:
                await post(transport, Origin("http", "127.0.0.1", port))
            assert SECRET not in str(caught.value)

    run(main)


def test_an_unknown_host_says_so() -> None:
    """The resolver's refusal is `ConnectFailed`, not a leaked `gaierror`."""

    async def main() -> None:
        async with (
            resolving(socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
            opened() as transport,
        ):
            with pytest.raises(ConnectFailed, match=r"no-such-host\.invalid:443: Name or service not known"):
                await post(transport, Origin("https", "no-such-host.invalid", 443))

    asyncio.run(main())


@asynccontextmanager
async def resolving(
    *answers: tuple[socket.AddressFamily, tuple[Any, ...]] | Exception,
) -> AsyncIterator[None]:
    """Every name resolves to these addresses. (On asyncio's loop; uvloop's cannot be patched.)"""

    async def resolve(host: str, port: int, **_: object) -> list[Any]:
        found = []
        for given in answers:
            if isinstance(given, Exception):
                raise given
            found.append((given[0], socket.SOCK_STREAM, 6, "", given[1]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        yield


def test_the_next_address_is_tried_when_one_is_refused() -> None:
    """A host with several addresses is reached at the one that answers; if none does, the first one's reason is given."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            closed = (socket.AF_INET, free.getsockname())
        async with serve(answer_all(HELLO)) as server, opened() as transport:
            listening = (socket.AF_INET, ("127.0.0.1", server.origin.port))
            async with resolving(closed, closed, listening):
                assert await body_of(transport, Origin("http", "provider.test", 80)) == b"hello"
            async with resolving(closed, closed):
                with pytest.raises(ConnectFailed, match=r"other\.test:80: .*Connect call failed"):
                    await post(transport, Origin("http", "other.test", 80))

    asyncio.run(main())


def test_a_silent_address_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the head start the next address is tried, and the loser's socket is closed; so it is when all are cancelled."""
    monkeypatch.setattr("headrace.providers.dial.HEAD_START_S", 0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        connect, silent = loop.sock_connect, []

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            if address[0] == "192.0.2.1":
                silent.append(sock)
                await asyncio.get_running_loop().create_future()
            await connect(sock, address)

        monkeypatch.setattr(loop, "sock_connect", sock_connect)
        dead = (socket.AF_INET, ("192.0.2.1", 80))
        async with serve(answer_all(HELLO)) as server, opened() as transport:
            async with resolving(dead, (socket.AF_INET, ("127.0.0.1", server.origin.port))):
                assert await body_of(transport, Origin("http", "provider.test", 80)) == b"hello"
            await until(lambda: silent[0].fileno() == -1)
            async with resolving(dead, dead):
                task = asyncio.create_task(post(transport, Origin("http", "other.test", 80)))
                await until(lambda: len(silent) == 3)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await until(lambda: all(sock.fileno() == -1 for sock in silent))

    asyncio.run(main())


def test_the_time_to_connect_covers_the_tls_handshake(run: Run) -> None:
    """A server that accepts and says nothing: `ProviderTimeout` in the phase `connect`, on the transport's clock."""

    async def main() -> None:
        clock = ManualClock()
        async with serve(Peer.gone) as server, opened(clock=clock) as transport:
            origin = Origin("https", "127.0.0.1", server.origin.port)
            task = asyncio.create_task(post(transport, origin, connect_s=3))
            await until(lambda: server.accepted == 1)
            clock.advance(2.9)
            await turns()
            assert not task.done()
            clock.advance(0.2)
            with pytest.raises(ProviderTimeout, match="within 3 s") as caught:
                await task
            assert caught.value.phase == "connect"
            await until(lambda: server.ended == 1)

    run(main)


def test_the_time_to_connect_does_not_limit_the_answer(run: Run) -> None:
    """Once connected, `connect_s` is over: a slow answer is somebody else's timeout."""

    async def main() -> None:
        clock = ManualClock()
        go = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await go.wait()
            await peer.send(HELLO)
            await peer.gone()

        async with serve(script) as server, opened(clock=clock) as transport:
            task = asyncio.create_task(body_of(transport, server.origin))
            await until(lambda: len(server.requests) == 1)
            clock.advance(1000)
            go.set()
            assert await task == b"hello"

    run(main)


# --- cancelling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_cancelling_at_any_turn_holds_nothing(run: Run, tls: bool) -> None:
    """Cancelled after 0, 1, 2, ... turns of the loop, from dialling to the last byte: every socket closed or in the pool."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            while await peer.request():
                for piece in (CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"):
                    await peer.send(piece)
                    await asyncio.sleep(0)  # noqa: TID251  (turns are counted here, not time)

        async def call(transport: HTTPTransport, origin: Origin) -> None:
            response = await post(transport, origin)
            try:
                await pieces_of(response)
            finally:
                await response.aclose()

        async with serve(script, server_tls() if tls else None) as server:
            for kept in (False, True):
                cancelled = finished = 0
                for count in range(2000):
                    async with opened(ca_file=str(PEM)) as transport:
                        if kept:
                            await call(transport, server.origin)
                        task = asyncio.create_task(call(transport, server.origin))
                        for _ in range(count):
                            if task.done():
                                break
                            await asyncio.sleep(0)  # noqa: TID251  (one turn)
                        if task.done():
                            finished += 1
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)
                        cancelled += task.cancelled()
                        await until(lambda: transport.open_connections == transport.idle_connections)
                        assert transport.open_connections <= 1
                    await until(lambda: server.ended == server.accepted)
                    if finished == 3:
                        break
                assert finished == 3 and cancelled >= 5

    run(main)


def test_cancelling_while_the_head_is_awaited_hangs_up(run: Run) -> None:
    """A silent provider sees the hang-up as soon as the caller is cancelled, on a fresh and on a kept connection."""

    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            if peer.number == 2:
                await peer.send(HELLO)
                await peer.request()
            await peer.gone()

        async with serve(script) as server, opened() as transport:
            for requests in (1, 3):
                if requests == 3:
                    await body_of(transport, server.origin)
                task = asyncio.create_task(post(transport, server.origin))
                await until(lambda requests=requests: len(server.requests) == requests)  # type: ignore[misc]
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: transport.open_connections == 0 and server.ended == server.accepted)
            assert server.ended == 2

    run(main)


def test_a_cancelled_reader_leaves_the_answer_readable(run: Run) -> None:
    """A reader that gave up waiting can ask again and loses nothing."""

    async def main() -> None:
        go = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK + b"content-length: 5\r\n\r\n")
            await go.wait()
            await peer.send(b"hello")
            await peer.gone()

        async with serve(script) as server, opened() as transport:
            response = await post(transport, server.origin)
            reader = asyncio.create_task(response.read_some())
            await turns()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            go.set()
            assert await response.read(5) == b"hello"
            assert transport.idle_connections == 1

    run(main)


def test_closing_the_transport_ends_everything(run: Run) -> None:
    """Idle and busy connections close, readers get an error, nothing is dialled afterwards."""

    async def main() -> None:
        async with serve(answer(CHUNKED)) as server:
            transport = HTTPTransport()
            response = await post(transport, server.origin)
            reader = asyncio.create_task(response.read_some())
            waiting = asyncio.create_task(post(transport, server.origin))
            await turns()
            await (await waiting).aclose()
            await transport.aclose()
            await transport.aclose()
            assert transport.open_connections == 0
            with pytest.raises(ConnectFailed, match="the transport was closed"):
                await reader
            with pytest.raises(RuntimeError, match="closed"):
                await post(transport, server.origin)

    run(main)


# --- TLS ----------------------------------------------------------------------------------------------------------------


def test_tls_with_a_trusted_authority(run: Run) -> None:
    """With `ca_file` the certificate is checked and the body comes; SNI names the host."""

    async def main() -> None:
        names: list[str | None] = []
        context = server_tls()
        context.sni_callback = lambda _socket, name, _context: names.append(name)
        async with serve(answer_all(HELLO), context) as server, opened(ca_file=str(PEM)) as transport:
            origin = Origin("https", "localhost", server.origin.port)
            for _ in range(2):
                assert await body_of(transport, origin) == b"hello"
            assert server.accepted == 1
            assert names == ["localhost"]
            assert server.requests[0][1].startswith(b"POST /v1 HTTP/1.1\r\nhost: localhost:")

    run(main)


def test_an_untrusted_certificate_is_refused(run: Run) -> None:
    """Without the authority, nothing of the request leaves."""

    async def main() -> None:
        async with serve(answer_all(HELLO), server_tls()) as server, opened() as transport:
            with pytest.raises(ConnectFailed, match=r"certificate is not trusted: self.signed"):
                await post(transport, server.origin)
            assert server.requests == []

    run(main)


def test_a_bad_ca_file_is_a_config_error() -> None:
    """A file that holds no authorities is named; it is not a failure of the provider."""

    async def main() -> None:
        async with opened(ca_file="/no/such/file.pem") as transport:
            with pytest.raises(ConfigError, match=r"/no/such/file\.pem"):
                await post(transport, Origin("https", "127.0.0.1", 1))

    asyncio.run(main())


def test_a_tls_stream_is_cut_like_any_other(run: Run) -> None:
    """Over TLS too, the end of the socket is not the end of the answer."""

    async def main() -> None:
        script = answer(CHUNKED + b"5\r\nhello\r\n", then=hang_up)
        async with serve(script, server_tls()) as server, opened(ca_file=str(PEM)) as transport:
            response = await post(transport, server.origin)
            assert await response.read_some() == b"hello"
            with pytest.raises(Malformed, match="cut after 5 bytes"):
                await response.read_some()

    run(main)


# --- proxies ------------------------------------------------------------------------------------------------------------

CREDENTIAL = b"proxy-authorization: Basic " + b64encode(f"me:{SECRET}".encode())


def tunnelling(port: int) -> Script:
    """A CONNECT proxy that sends everything to 127.0.0.1:`port`, whatever was asked for."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def script(peer: Peer) -> None:
        await peer.request()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await peer.send(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
            await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    return script


def proxied(proxy: Server, tls: bool = False) -> ProxyRules:
    """Rules that send everything through `proxy`, with a credential."""
    url = f"http{'s' if tls else ''}://me:{SECRET}@127.0.0.1:{proxy.origin.port}"
    return ProxyRules(https=url, http=url)


@pytest.mark.parametrize("tls_to_proxy", [False, True])
def test_https_goes_through_a_tunnel(run: Run, tls_to_proxy: bool) -> None:
    """CONNECT with the credential, then TLS with the origin inside; the origin never sees the credential."""

    async def main() -> None:
        async with (
            serve(answer_all(HELLO), server_tls()) as server,
            serve(tunnelling(server.origin.port), server_tls() if tls_to_proxy else None) as proxy,
            opened(proxies=proxied(proxy, tls_to_proxy), ca_file=str(PEM)) as transport,
        ):
            for _ in range(2):
                assert await body_of(transport, Origin("https", "provider.test", 443)) == b"hello"
            assert (proxy.accepted, server.accepted, transport.idle_connections) == (1, 1, 1)
            (_, asked), (_, got), _ = *proxy.requests, *server.requests
            assert asked.startswith(b"CONNECT provider.test:443 HTTP/1.1\r\nhost: provider.test:443\r\n")
            assert CREDENTIAL in asked and SECRET.encode() not in asked
            assert b"Bearer" not in asked and b"proxy-" not in got
            assert got.startswith(b"POST /v1 HTTP/1.1\r\nhost: provider.test\r\n")

    run(main)


def test_a_certificate_for_another_name_is_refused(run: Run) -> None:
    """The name is checked, not only the chain; nothing of the request leaves."""

    async def main() -> None:
        async with (
            serve(answer_all(HELLO), server_tls()) as server,
            serve(tunnelling(server.origin.port)) as proxy,
            opened(proxies=proxied(proxy), ca_file=str(PEM)) as transport,
        ):
            with pytest.raises(ConnectFailed, match=r"not trusted: .*other\.test") as caught:
                await post(transport, Origin("https", "other.test", 443))
            assert f"through the proxy 127.0.0.1:{proxy.origin.port}" in str(caught.value)
            assert SECRET not in str(caught.value)
            assert server.requests == []
            await until(lambda: proxy.ended == 1 and transport.open_connections == 0)

    run(main)


def test_plain_http_goes_through_in_absolute_form(run: Run) -> None:
    """A plain origin is named in the request line, and the credential is for the proxy."""

    async def main() -> None:
        async with serve(answer_all(HELLO)) as proxy, opened(proxies=proxied(proxy)) as transport:
            for _ in range(2):
                assert await body_of(transport, Origin("http", "provider.test", 8080)) == b"hello"
            request = proxy.requests[0][1]
            assert request.startswith(
                b"POST http://provider.test:8080/v1 HTTP/1.1\r\nhost: provider.test:8080\r\n"
            )
            assert CREDENTIAL in request
            assert proxy.accepted == 1

    run(main)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nx: y\r\n\r\n", "answered 407"),
        (b"HTTP/1.1 502 Bad\r\n\r\n", "answered 502"),
        (b"nonsense\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nsurplus", "before the tunnel was used"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 20_000, "over 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection before"),
    ],
)
def test_a_proxy_that_opens_no_tunnel(run: Run, raw: bytes, why: str) -> None:
    """Each way to refuse is `ConnectFailed` with the proxy's name and the reason, without the credential."""

    async def main() -> None:
        then = hang_up if "closed" in why else Peer.gone
        async with serve(answer(raw, then=then)) as proxy, opened(proxies=proxied(proxy)) as transport:
            with pytest.raises(ConnectFailed, match=why) as caught:
                await post(transport, Origin("https", "provider.test", 443))
            assert f"provider.test:443 through the proxy 127.0.0.1:{proxy.origin.port}" in str(caught.value)
            assert SECRET not in repr(caught.value)
            await until(lambda: proxy.ended == 1)

    run(main)


def test_a_silent_proxy_is_a_connect_timeout(run: Run) -> None:
    """The tunnel is part of the time to connect, and its socket is closed at the timeout."""

    async def main() -> None:
        clock = ManualClock()
        async with serve(answer()) as proxy, opened(proxies=proxied(proxy), clock=clock) as transport:
            task = asyncio.create_task(post(transport, Origin("https", "provider.test", 443), connect_s=1))
            await until(lambda: len(proxy.requests) == 1)
            clock.advance(1.1)
            with pytest.raises(ProviderTimeout, match="through the proxy"):
                await task
            await until(lambda: proxy.ended == 1)

    run(main)


def test_cancelling_at_any_turn_of_a_tunnel_holds_nothing(run: Run) -> None:
    """As without a proxy: from the first dial to the last byte, no socket stays open."""

    async def main() -> None:
        async with (
            serve(answer_all(HELLO), server_tls()) as server,
            serve(tunnelling(server.origin.port)) as proxy,
        ):
            for count in range(2000):
                async with opened(proxies=proxied(proxy), ca_file=str(PEM)) as transport:
                    task = asyncio.create_task(body_of(transport, Origin("https", "provider.test", 443)))
                    for _ in range(count):
                        if task.done():
                            break
                        await asyncio.sleep(0)  # noqa: TID251  (one turn)
                    done = task.done()
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    await until(lambda: transport.open_connections == transport.idle_connections)
                await until(lambda: proxy.ended == proxy.accepted and server.ended == server.accepted)
                if done:
                    break
            assert done and count > 5

    run(main)


def origin(url: str) -> Origin:
    """The origin alone."""
    return Origin.of(url)[0]


@pytest.mark.parametrize(
    ("entry", "url", "direct"),
    [
        ("*", "https://api.openai.com", True),
        ("openai.com", "https://openai.com", True),
        ("openai.com", "https://api.openai.com", True),
        ("OpenAI.com", "https://api.openai.com", True),
        ("openai.com", "https://notopenai.com", False),
        (".openai.com", "https://api.openai.com", True),
        (".openai.com", "https://openai.com", False),
        ("*.openai.com", "https://api.openai.com", True),
        ("openai.com:443", "https://openai.com", True),
        ("openai.com:8443", "https://openai.com", False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", "https://ten.example", False),
        ("10.1.2.3", "https://10.1.2.3:8000", True),
        ("10.1.2.3:9", "https://10.1.2.3:8000", False),
        ("fd00::/8", "https://[fd00::1]", True),
        ("[fd00::1]:443", "https://[fd00::1]", True),
        ("[fd00::1]:444", "https://[fd00::1]", False),
        ("fd00:0::1", "https://[fd00::1]", True),
        ("nonsense/99", "https://api.openai.com", False),
        ("other", "http://localhost:8000", True),
        ("other", "http://127.8.0.1:8000", True),
        ("other", "http://[::1]:8000", True),
        ("<-loopback>", "http://localhost:8000", False),
        ("<-loopback>", "http://127.0.0.1:8000", False),
        ("other", "http://[::2]:8000", False),
    ],
)
def test_no_proxy(entry: str, url: str, direct: bool) -> None:
    """Hosts, suffixes, ports, networks and `*`; loopback goes direct unless the rules ask for it."""
    rules = ProxyRules(https="http://p:3128", http="http://p:3128", no_proxy=("unrelated", entry))
    assert (rules.proxy_for(origin(url)) is None) is direct


@pytest.mark.parametrize(
    ("environ", "https", "http", "no_proxy"),
    [
        ({}, None, None, ()),
        ({"HTTPS_PROXY": "a:1", "HTTP_PROXY": "b:2"}, "a:1", "b:2", ()),
        ({"https_proxy": "a:1", "HTTPS_PROXY": "b:2"}, "a:1", None, ()),
        ({"https_proxy": "", "HTTPS_PROXY": "b:2"}, None, None, ()),
        ({"ALL_PROXY": "a:1", "http_proxy": "b:2"}, "a:1", "b:2", ()),
        ({"HTTP_PROXY": "a:1", "REQUEST_METHOD": "GET"}, None, None, ()),
        ({"http_proxy": "a:1", "REQUEST_METHOD": "GET"}, None, "a:1", ()),
        ({"NO_PROXY": "a, .b  c,,*"}, None, None, ("a", ".b", "c", "*")),
    ],
)
def test_rules_from_the_environment(
    environ: dict[str, str], https: str | None, http: str | None, no_proxy: tuple[str, ...]
) -> None:
    """Both spellings, the lower-case one first; `ALL_PROXY` where nothing else is said."""
    assert ProxyRules.from_environ(environ) == ProxyRules(https, http, no_proxy)


@pytest.mark.parametrize(
    "url", [f"socks5://me:{SECRET}@p:1", f"http://me:{SECRET}@:1", f"http://me:{SECRET}@p:99999"]
)
def test_an_unusable_proxy_is_a_config_error(url: str) -> None:
    """A proxy that cannot be spoken to is refused when the environment is read, without its credential."""
    with pytest.raises(ConfigError) as caught:
        ProxyRules.from_environ({"HTTPS_PROXY": url})
    assert SECRET not in str(caught.value)


def test_a_credential_is_never_shown() -> None:
    """No `repr` of the rules or of the proxy has the credential; what is sent has it, percent-decoded."""
    rules = ProxyRules(https=f"http://m%40e:{SECRET}%2F@p:1", http=f"me:{SECRET}@p:2")
    proxy = rules.proxy_for(origin("https://h"))
    assert proxy is not None
    assert proxy.authorization == b"Basic " + b64encode(f"m@e:{SECRET}/".encode())
    for shown in (
        repr(rules),
        str(rules),
        repr(proxy),
        repr(proxy.__rich_repr__()),
        repr(rules.__rich_repr__()),
    ):
        assert "***" in shown and SECRET not in shown and "Basic" not in shown
