"""What the transport costs: CPU per buffered request and per streamed chunk, beside a bare parser.

    python benchmarks/transport.py [--json] [--loop uvloop|asyncio]

The server is another process that answers each request with fixed bytes; only the CPU of the client's process is counted.
`bare` is the least that could be done on the same parts: a write, a parser, a future; no pool, no limits, no errors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httptools

from headrace.providers.transport import HTTPTransport, Origin, header_block

_BODY = b'{"messages":[{"role":"user","content":"' + b"x" * 550 + b'"}]}'
_EVENT = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"' + b"y" * 120 + b'"}}]}\n\n'
_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Tue, 24 Nov 2026 10:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"x-request-id: req_0123456789\r\nx-ratelimit-remaining-requests: 99\r\nserver: mock\r\n"
)
_BUFFERED = _HEAD + b"content-length: 1024\r\n\r\n" + b"z" * 1024
_CHUNK = b"%x\r\n" % len(_EVENT) + _EVENT + b"\r\n"
_CHUNKS = {"/paced": 400, "/flood": 2000}
_PACE_S = 0.002  # slow enough that each chunk is a read of its own


class _Server(asyncio.Protocol):
    """`/paced` is paced (a chunk every 2 ms), `/flood` is written at once; all else is the buffered answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST /paced"):
            self.transport.write(_HEAD + b"transfer-encoding: chunked\r\n\r\n")
            self._next(_CHUNKS["/paced"])
        elif data.startswith(b"POST /flood"):
            self.transport.write(_HEAD + b"transfer-encoding: chunked\r\n\r\n")
            for _ in range(_CHUNKS["/flood"] // 20):
                self.transport.write(_CHUNK * 20)
            self.transport.write(b"0\r\n\r\n")
        else:
            self.transport.write(_BUFFERED)

    def _next(self, left: int) -> None:
        if left == 0:
            self.transport.write(b"0\r\n\r\n")
        else:
            self.transport.write(_CHUNK)
            asyncio.get_running_loop().call_later(_PACE_S, self._next, left - 1)


def _serve(sock: socket.socket) -> None:
    import uvloop

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Server, sock=sock)
        await server.serve_forever()

    uvloop.run(main())


class _Bare(asyncio.Protocol):
    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.pieces: list[bytes] = []
        self.waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        assert self.waiter is not None
        self.waiter.set_result(None)

    async def request(self, data: bytes) -> bytes:
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        await self.waiter
        body = b"".join(self.pieces)
        self.pieces.clear()
        return body


async def _cpu(work: Callable[[], Awaitable[Any]]) -> float:
    start = time.process_time()
    await work()
    return time.process_time() - start


async def _measure(port: int, requests: int) -> dict[str, float]:
    origin = Origin("http", "127.0.0.1", port)
    transport = HTTPTransport()
    headers = header_block((("content-type", "application/json"), ("authorization", "Bearer sk-0123456789")))
    results: dict[str, float] = {}

    async def ours(count: int) -> None:
        for _ in range(count):
            response = await transport.send(origin, "POST", "/v1/chat", headers, _BODY, connect_s=5)
            body = await response.read(1_000_000)
            assert len(body) == 1024
            await response.aclose()

    async def bare(count: int) -> None:
        _, protocol = await asyncio.get_running_loop().create_connection(_Bare, "127.0.0.1", port)
        request = b"POST / HTTP/1.1\r\n" + headers + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY
        for _ in range(count):
            assert len(await protocol.request(request)) == 1024
        protocol.transport.close()

    reads = 0

    async def stream(path: str, streams: int) -> None:
        async def one() -> None:
            nonlocal reads
            response = await transport.send(origin, "POST", path, headers, _BODY, connect_s=5)
            size = 0
            while data := await response.read_some():
                size += len(data)
                reads += 1
            assert size == _CHUNKS[path] * len(_EVENT)
            await response.aclose()

        await asyncio.gather(*(one() for _ in range(streams)))

    for name, one in (("ours", ours), ("bare", bare)):
        for concurrency in (1, 16, 64):
            each = requests // concurrency

            async def work(
                one: Callable[[int], Awaitable[None]] = one, concurrency: int = concurrency, each: int = each
            ) -> None:
                await asyncio.gather(*(one(each) for _ in range(concurrency)))

            await work() if requests < 2000 else await one(200)
            results[f"{name} c={concurrency} us/request"] = await _cpu(work) / (each * concurrency) * 1e6
    for path, streams in (("/paced", 1), ("/paced", 16), ("/paced", 64), ("/flood", 16)):
        cpu = await _cpu(lambda path=path, streams=streams: stream(path, streams))  # type: ignore[misc]
        results[f"{path[1:]} x{streams} us/chunk"] = cpu / (streams * _CHUNKS[path]) * 1e6
        results[f"{path[1:]} x{streams} us/read"] = cpu / reads * 1e6
        reads = 0
    await transport.aclose()
    return results


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    arguments.add_argument("--requests", type=int, default=20_000)
    options = arguments.parse_args()
    sock = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.get_context("fork").Process(target=_serve, args=(sock,), daemon=True)
    server.start()
    if options.loop == "uvloop":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    else:
        factory = asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            results = runner.run(_measure(sock.getsockname()[1], options.requests))
    finally:
        server.terminate()
        server.join()
    if options.json:
        print(json.dumps({name: round(value, 2) for name, value in results.items()}))
    else:
        for name, value in results.items():
            print(f"{name:24} {value:8.1f}")


if __name__ == "__main__":
    main()
