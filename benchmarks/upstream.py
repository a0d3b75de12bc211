"""A provider that answers at once: OpenAI chat completions over kept HTTP/1.1 connections, for the benchmarks.

    python benchmarks/upstream.py [--core N] [--chunks N] [--pace MS]

Prints its port and runs until its standard input closes, so it never outlives whoever started it. The request's text says
what is wanted: one that asks for no stream gets a completion of about 1 kB; a stream has `--chunks` chunks, each in a write
of its own, `--pace` milliseconds apart, or as fast as they are taken when the model is called `flood`. Paced chunks carry
the time at which they were written (`STAMP_MARK`).

One thread over a bare epoll: two system calls and a few microseconds for an answer, which no event loop reaches, so that
what is measured is what stands in front of it.
"""

from __future__ import annotations

import argparse
import heapq
import os
import re
import select
import socket
import sys
import time
from typing import Final

__all__ = ["CHUNK_MARK", "FLOOD", "STAMP_DIGITS", "STAMP_MARK", "STREAM_END"]

FLOOD: Final = "flood"
"""The model that streams without a pause."""

CHUNK_MARK: Final = b"data: {"
"""Begins every chunk and nothing else."""

STREAM_END: Final = b"0\r\n\r\n"

STAMP_MARK: Final = b'"obfuscation":"'
STAMP_DIGITS: Final = 20
"""After the mark comes the time of writing, in nanoseconds of the monotonic clock, in this many digits. It stands in the
member that OpenAI fills with random letters, so a chunk looks and weighs like a real one."""

_ANSWER_HEADERS: Final = (
    b"HTTP/1.1 200 OK\r\ndate: Tue, 24 Nov 2026 10:00:00 GMT\r\ncontent-type: %b\r\n"
    b"openai-organization: org-bench\r\nopenai-processing-ms: 4\r\nopenai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 30000\r\nx-ratelimit-remaining-requests: 29999\r\n"
    b"x-ratelimit-reset-requests: 2ms\r\nx-request-id: req_4f0e5a7d9b1c4d7e8a2b3c4d5e6f7081\r\n"
)
_WORDS: Final = (" Nothing", " is", " so", " firmly", " believed", " as", " what", " we")
_TEXT: Final = "".join(_WORDS) * 12

_COMPLETION: Final = (
    '{"id":"chatcmpl-Cf2b8NQ0aY5rT1mVxW3kZ7uHsLdPe","object":"chat.completion","created":1795514400,'
    '"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":"'
    + _TEXT
    + '","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":118,'
    '"completion_tokens":96,"total_tokens":214,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,'
    '"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_b8bc95a0ac"}'
).encode()
_BUFFERED: Final = (
    _ANSWER_HEADERS % b"application/json" + b"content-length: %d\r\n\r\n" % len(_COMPLETION) + _COMPLETION
)
_STREAM_HEAD: Final = (
    _ANSWER_HEADERS % b"text/event-stream; charset=utf-8" + b"transfer-encoding: chunked\r\n\r\n"
)
_ENVELOPE: Final = (
    'data: {"id":"chatcmpl-Cf2b8NQ0aY5rT1mVxW3kZ7uHsLdPe","object":"chat.completion.chunk","created":1795514400,'
    '"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_b8bc95a0ac",'
)


def _framed(event: str) -> bytes:
    data = event.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _split_at_stamp(event: bytes) -> tuple[bytes, bytes]:
    before, mark, rest = event.partition(STAMP_MARK)
    return before + mark, rest[STAMP_DIGITS:]


_CHUNKS: Final = tuple(
    _split_at_stamp(
        _framed(
            _ENVELOPE
            + '"choices":[{"index":0,"delta":{"content":"'
            + word
            + '"},"logprobs":null,"finish_reason":null}],"obfuscation":"'
            + "0" * STAMP_DIGITS
            + '"}\n\n'
        )
    )
    for word in _WORDS
)
_FINISH: Final = _framed(
    _ENVELOPE + '"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
)
_USAGE: Final = _framed(
    _ENVELOPE + '"choices":[],"usage":{"prompt_tokens":118,"completion_tokens":200,"total_tokens":318,'
    '"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}\n\n'
)
_DONE: Final = _framed("data: [DONE]\n\n") + STREAM_END

_LENGTH: Final = re.compile(rb"[Cc]ontent-[Ll]ength: *(\d+)")
_STREAM: Final = re.compile(rb'"stream": *true')
_WANTS_USAGE: Final = re.compile(rb'"include_usage": *true')

_FLOOD: Final = FLOOD.encode()
_UNSTAMPED: Final = tuple(before + b"0" * STAMP_DIGITS + after for before, after in _CHUNKS)

FLOOD_TURN: Final = 8
"""Chunks that a flooding stream writes before the next one has its turn."""


class _Connection:
    """One client of the upstream: what it has sent so far, and the stream that it is being sent."""

    __slots__ = ("backlog", "descriptor", "ending", "flood", "left", "received", "sock", "start_s", "written")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.descriptor = sock.fileno()
        self.received = b""
        self.backlog = b""
        self.flood = False
        self.left = 0
        self.written = 0
        self.start_s = 0.0
        self.ending = b""


class Upstream:
    """Serves `listener` in the calling thread.

    Args:
        chunks: Content chunks in a stream, 1 or more.
        pace_s: Seconds between two of them.
    """

    def __init__(self, listener: socket.socket, *, chunks: int, pace_s: float) -> None:
        self._listener = listener
        self._chunks = chunks
        self._pace_s = pace_s
        self._connections: dict[int, _Connection] = {}
        self._due: list[tuple[float, int, _Connection]] = []
        self._flooding: dict[int, _Connection] = {}
        self._epoll = select.epoll()

    def run(self, until_closed: int) -> None:
        """Serve until the file `until_closed` (a descriptor) has reached its end."""
        epoll, connections = self._epoll, self._connections
        listener = self._listener.fileno()
        self._listener.setblocking(False)
        epoll.register(listener, select.EPOLLIN)
        epoll.register(until_closed, select.EPOLLIN)
        while True:
            for descriptor, event in self._wait():
                connection = connections.get(descriptor)
                if connection is not None:
                    if event & select.EPOLLOUT:
                        self._flush(connection)
                    else:
                        self._read(connection)
                elif descriptor == listener:
                    self._accept()
                elif descriptor == until_closed and not os.read(until_closed, 65_536):
                    return
            if self._due:
                self._pace()
            if self._flooding:
                for connection in list(self._flooding.values()):
                    self._flood(connection)

    def _wait(self) -> list[tuple[int, int]]:
        """The descriptors that are ready, by the time that the next chunk is due."""
        if self._flooding:
            return self._epoll.poll(0)
        if self._due:
            # epoll counts in milliseconds, a tenth of the pace; select in microseconds.
            left = self._due[0][0] - time.perf_counter()
            if left > 0 and not select.select([self._epoll], [], [], left)[0]:
                return []
            return self._epoll.poll(0)
        return self._epoll.poll()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[sock.fileno()] = _Connection(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _close(self, connection: _Connection) -> None:
        if self._connections.pop(connection.descriptor, None) is not None:
            self._flooding.pop(connection.descriptor, None)
            connection.left = 0
            connection.sock.close()

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(65_536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._close(connection)
            return
        if connection.received:
            data = connection.received + data
        length = _LENGTH.search(data)
        head_end = data.find(b"\r\n\r\n") + 4
        if head_end < 4 or length is None or len(data) < head_end + int(length[1]):
            connection.received = data
            return
        connection.received = b""
        if _STREAM.search(data, head_end) is None:
            self._write(connection, _BUFFERED)
            return
        connection.left = self._chunks
        connection.ending = _FINISH + (_USAGE if _WANTS_USAGE.search(data, head_end) else b"") + _DONE
        connection.flood = data.find(_FLOOD, head_end) >= 0
        if connection.flood:
            self._flooding[connection.descriptor] = connection
        else:
            connection.start_s = time.perf_counter()
            connection.written = 0
            heapq.heappush(self._due, (connection.start_s, connection.descriptor, connection))
        self._write(connection, _STREAM_HEAD)

    def _pace(self) -> None:
        due = self._due
        while due and due[0][0] <= time.perf_counter():
            connection = heapq.heappop(due)[2]
            if connection.left == 0:  # closed
                continue
            before, after = _CHUNKS[connection.left % len(_CHUNKS)]
            connection.left -= 1
            connection.written += 1
            if connection.left:
                next_s = connection.start_s + connection.written * self._pace_s
                heapq.heappush(due, (next_s, connection.descriptor, connection))
            else:
                after += connection.ending
            self._write(connection, b"%b%0*d%b" % (before, STAMP_DIGITS, time.perf_counter_ns(), after))

    def _flood(self, connection: _Connection) -> None:
        for _ in range(min(FLOOD_TURN, connection.left)):
            connection.left -= 1
            if not self._write(connection, _UNSTAMPED[connection.left % len(_UNSTAMPED)]):
                return
        if connection.left == 0:
            del self._flooding[connection.descriptor]
            connection.flood = False
            self._write(connection, connection.ending)

    def _write(self, connection: _Connection, data: bytes) -> bool:
        """Send `data`; what the socket does not take is kept and the stream held. Whether all was sent."""
        if connection.backlog:
            connection.backlog += data
            return False
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            self._close(connection)
            return False
        if sent == len(data):
            return True
        connection.backlog = data[sent:]
        self._flooding.pop(connection.descriptor, None)
        self._epoll.modify(connection.descriptor, select.EPOLLOUT)
        return False

    def _flush(self, connection: _Connection) -> None:
        data, connection.backlog = connection.backlog, b""
        if self._write(connection, data):
            self._epoll.modify(connection.descriptor, select.EPOLLIN)
            if connection.flood:
                self._flooding[connection.descriptor] = connection


def main() -> None:
    arguments = argparse.ArgumentParser(description="A provider that answers at once, for the benchmarks.")
    arguments.add_argument("--core", type=int, help="run on this core only")
    arguments.add_argument("--chunks", type=int, default=200, help="content chunks in a stream")
    arguments.add_argument("--pace", type=float, default=10.0, help="milliseconds between two of them")
    options = arguments.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    Upstream(listener, chunks=options.chunks, pace_s=options.pace / 1000).run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
