"""The load: requests over kept connections, counted and timed with as little work in between as can be.

One thread over a bare epoll, requests made beforehand, answers told apart by their length (buffered) or by their last bytes
(streamed): two system calls and a few microseconds for an answer. All addresses are ports of 127.0.0.1; all times are
seconds of `time.perf_counter`.
"""

from __future__ import annotations

import heapq
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from upstream import CHUNK_MARK, STAMP_DIGITS, STAMP_MARK, STREAM_END

__all__ = [
    "Buffered",
    "LoadError",
    "Streamed",
    "ask",
    "chat_request",
    "closed_loop",
    "closed_streams",
    "open_loop",
    "paced_streams",
]

TIMEOUT_S: Final = 20.0
"""How long nothing may come before the run is given up."""

_QUESTION: Final = (
    "It was one of those March days when the sun shines hot and the wind blows cold: when it is summer in the light, and "
    "winter in the shade. Who wrote that, in which book, and what happens in the chapter that it opens? Answer in one line."
)
_CARRY: Final = max(len(CHUNK_MARK), len(STREAM_END)) - 1
"""Bytes of the last read that the next one is looked at with: too few for a whole mark, so none is counted twice."""


class LoadError(Exception):
    """The server did not answer as it should; the message has the beginning of what it said."""


@dataclass(slots=True)
class Buffered:
    """Whole answers: how many in how long, and how long each took."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.latencies_s)


@dataclass(slots=True)
class Streamed:
    """Streamed answers. `delays_s`: from the upstream's writing of a chunk to its arrival here."""

    seconds: float = 0.0
    streams: int = 0
    chunks: int = 0
    first_s: list[float] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)


def chat_request(model: str, *, stream: bool, key: str) -> bytes:
    """A chat completion of about 0.6 kB over the wire, as an SDK sends it."""
    streamed = ',"stream":true' if stream else ""
    body = (
        f'{{"model":"{model}","messages":[{{"role":"system","content":"You are a terse librarian."}},'
        f'{{"role":"user","content":"{_QUESTION}"}}],"temperature":0.2{streamed}}}'
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nUser-Agent: headrace-benchmark\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
    )


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _checked(data: bytes) -> bytes:
    if not data.startswith(b"HTTP/1.1 200 "):
        raise LoadError(
            f"not answered with 200: {data[:500]!r}" if data else "the server closed the connection"
        )
    return data


def _rest(sock: socket.socket, data: bytes) -> bytes:
    """The whole of a buffered answer that begins with `data`."""
    _checked(data)
    while (head_end := data.find(b"\r\n\r\n")) < 0:
        data += sock.recv(65_536) or _closed()
    mark = b"\r\ncontent-length:"
    at = data[:head_end].lower().find(mark)
    if at < 0:
        raise LoadError(f"an answer without a length: {data[:500]!r}")
    total = head_end + 4 + int(data[at + len(mark) :].split(b"\r\n", 1)[0])
    while len(data) < total:
        data += sock.recv(65_536) or _closed()
    if len(data) > total:
        raise LoadError("more bytes than the answer's length")
    return data


def _closed() -> bytes:
    raise LoadError("the server closed the connection")


def ask(port: int, request: bytes) -> bytes:
    """One request on a connection of its own: the buffered answer, head and body. Raises `LoadError`, `OSError`."""
    with _connect(port) as sock:
        sock.sendall(request)
        return _rest(sock, sock.recv(65_536))


class _Pool:
    """Connections to one port, registered with one epoll."""

    def __init__(self, port: int, connections: int) -> None:
        self.epoll = select.epoll()
        self.socks = [_connect(port) for _ in range(connections)]
        self.by_descriptor = {sock.fileno(): sock for sock in self.socks}
        for sock in self.socks:
            self.epoll.register(sock.fileno(), select.EPOLLIN)

    def wait(self) -> list[tuple[int, int]]:
        events = self.epoll.poll(TIMEOUT_S)
        if not events:
            raise LoadError(f"no answer in {TIMEOUT_S:g} s")
        return events

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        self.epoll.close()


def closed_loop(
    port: int,
    request: bytes,
    *,
    connections: int,
    warm_s: float,
    seconds: float,
    at_edge: Callable[[], None] = lambda: None,
) -> Buffered:
    """`connections` callers that ask again as soon as they are answered.

    `at_edge` is called when the measured time begins and when it ends: the place to read the CPU clocks. Raises `LoadError`.
    """
    pool = _Pool(port, connections)
    recv = {descriptor: sock.recv for descriptor, sock in pool.by_descriptor.items()}
    send = {descriptor: sock.send for descriptor, sock in pool.by_descriptor.items()}
    asked: dict[int, float] = {}
    size = 0
    clock = time.perf_counter
    wait = pool.wait

    def run(until: float, latencies: list[float]) -> None:
        nonlocal size
        now = clock()
        while now < until:
            for descriptor, _ in wait():
                data = recv[descriptor](65_536)
                if len(data) != size or data[:13] != b"HTTP/1.1 200 ":
                    size = len(_rest(pool.by_descriptor[descriptor], data))
                now = clock()
                latencies.append(now - asked[descriptor])
                send[descriptor](request)
                asked[descriptor] = now

    try:
        for descriptor in recv:
            asked[descriptor] = clock()
            send[descriptor](request)
        run(clock() + warm_s, [])
        result = Buffered()
        at_edge()
        start = clock()
        run(start + seconds, result.latencies_s)
        result.seconds = clock() - start
        at_edge()
        for descriptor, sock in pool.by_descriptor.items():
            _rest(sock, recv[descriptor](65_536))
        return result
    finally:
        pool.close()


class _Streams:
    """Reads streams to their end on the connections of a pool."""

    def __init__(self, pool: _Pool, request: bytes, result: Streamed) -> None:
        self.pool = pool
        self.request = request
        self.result = result
        self.carry: dict[int, bytes] = {}
        self.asked: dict[int, float] = {}
        self.waiting_first: set[int] = set()

    def begin(self, descriptor: int) -> None:
        """Ask for a stream."""
        self.carry[descriptor] = b""
        self.waiting_first.add(descriptor)
        self.asked[descriptor] = time.perf_counter()
        self.pool.by_descriptor[descriptor].send(self.request)

    def read(self, descriptor: int, *, stamps: bool) -> bool:
        """Take what has come; whether that was the end of the stream."""
        data = self.pool.by_descriptor[descriptor].recv(65_536)
        now_ns = time.perf_counter_ns()
        result = self.result
        if descriptor in self.waiting_first:
            if not self.carry[descriptor]:
                _checked(data)
            if CHUNK_MARK in data:
                self.waiting_first.discard(descriptor)
                result.first_s.append(now_ns / 1e9 - self.asked[descriptor])
        elif not data:
            _closed()
        if stamps:
            at = data.find(STAMP_MARK)
            while at >= 0:
                at += len(STAMP_MARK)
                stamp = data[at : at + STAMP_DIGITS]
                if len(stamp) == STAMP_DIGITS and stamp.isdigit():
                    result.delays_s.append((now_ns - int(stamp)) / 1e9)
                at = data.find(STAMP_MARK, at)
        data = self.carry[descriptor] + data
        result.chunks += data.count(CHUNK_MARK)
        if data.endswith(STREAM_END):
            result.streams += 1
            return True
        self.carry[descriptor] = data[-_CARRY:]
        return False


def paced_streams(
    port: int, request: bytes, *, streams: int, stagger_s: float, at_edge: Callable[[], None] = lambda: None
) -> Streamed:
    """`streams` streams at once, opened one after the other over `stagger_s`, each read to its end. Raises `LoadError`.

    Opened over the upstream's pace, their chunks are spread evenly over it, as those of callers who know nothing of each
    other are: none shares a turn of the server's loop by design. `at_edge` as for `closed_loop`.
    """
    pool = _Pool(port, streams)
    result = Streamed()
    reader = _Streams(pool, request, result)
    try:
        at_edge()
        start = time.perf_counter()
        to_begin = [(start + i * stagger_s / streams, fd) for i, fd in enumerate(pool.by_descriptor)]
        heapq.heapify(to_begin)
        while result.streams < streams:
            if to_begin:
                left = to_begin[0][0] - time.perf_counter()
                if left <= 0:
                    reader.begin(heapq.heappop(to_begin)[1])
                    continue
                if not select.select([pool.epoll], [], [], left)[0]:
                    continue
            for descriptor, _ in pool.wait():
                reader.read(descriptor, stamps=True)
        result.seconds = time.perf_counter() - start
        at_edge()
        return result
    finally:
        pool.close()


def closed_streams(
    port: int,
    request: bytes,
    *,
    connections: int,
    warm_s: float,
    seconds: float,
    at_edge: Callable[[], None] = lambda: None,
) -> Streamed:
    """As `closed_loop`, for streams."""
    pool = _Pool(port, connections)
    result = Streamed()
    reader = _Streams(pool, request, result)

    def run(until: float) -> None:
        while time.perf_counter() < until:
            for descriptor, _ in pool.wait():
                if reader.read(descriptor, stamps=False):
                    reader.begin(descriptor)

    try:
        for descriptor in pool.by_descriptor:
            reader.begin(descriptor)
        run(time.perf_counter() + warm_s)
        reader.result = result = Streamed()
        at_edge()
        start = time.perf_counter()
        run(start + seconds)
        result.seconds = time.perf_counter() - start
        at_edge()
        return result
    finally:
        pool.close()


def open_loop(
    targets: Sequence[tuple[int, bytes]], *, per_s: float, warm: int, count: int
) -> list[list[float]]:
    """`count` requests to each of the targets (port, request), `per_s` a second each, in turns; their latencies in seconds.

    In turns, so that what the machine does meanwhile falls on all of them. A request has its time whether or not the one
    before is answered: one that had to wait is timed from when it should have been sent. `warm` more come first and are not
    counted. Raises `LoadError`.
    """
    socks = [_connect(port) for port, _ in targets]
    latencies: list[list[float]] = [[] for _ in targets]
    try:
        step = 1 / per_s / len(targets)
        start = time.perf_counter() + step
        for turn in range((warm + count) * len(targets)):
            which = turn % len(targets)
            should = start + turn * step
            now = time.perf_counter()
            if now < should:
                select.select([], [], [], should - now)
                now = should = time.perf_counter()
            socks[which].sendall(targets[which][1])
            _rest(socks[which], socks[which].recv(65_536))
            if turn >= warm * len(targets):
                latencies[which].append(time.perf_counter() - should)
        return latencies
    finally:
        for sock in socks:
            sock.close()
