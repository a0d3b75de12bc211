"""What clients that read slowly cost the gateway and its other callers.

    python benchmarks/slow_readers.py [--readers N] [--rate BYTES] [--seconds N] [--json FILE|-] [--strict]

`headrace serve` as it comes, before a provider that writes as fast as it is read. 500 clients ask for a stream of 1 MB each and read it at
`--rate` bytes a second; meanwhile somebody else asks 50 times a second, as before and after. Figures: how much the gateway's memory grew (RSS at its
highest, less that before), how many bytes wait in its sockets, and the others' p99, beside that of the provider asked directly in turns with the
gateway: what rises there too is the machine's doing. `--strict` exits with 1 if the growth is above 100 MB, the others' p99 more than twice what it was before, or a reader did
not get its whole answer. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import heapq
import json
import math
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway import KEY, QUICK, Cores, Server, start_gateway, start_upstream
from load import chat_request, open_loop
from upstream import FLOOD, STREAM_END

__all__ = ["Figures", "run"]

CHUNK_BYTES: Final = 330
ANSWER_BYTES: Final = 1_000_000
PIECE: Final = 4_096
"""What a slow reader takes at a time."""
WINDOW: Final = 65_536
"""A slow reader's socket buffer: a smaller one cannot hold a segment of the loopback, which then waits for the sender's timer."""

GROWTH_MB, SLOWER = 100.0, 2.0
PER_S: Final = 50.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured. Times are seconds, before, during and after; `whole` counts the readers that got their answer to its end."""

    readers: int
    whole: int
    bytes_each: int
    rss_before_mb: float
    rss_peak_mb: float
    rss_after_mb: float
    kernel_peak_mb: float
    p99_s: tuple[float, float, float]
    direct_p99_s: tuple[float, float, float]

    @property
    def growth_mb(self) -> float:
        """Of the gateway's resident memory."""
        return self.rss_peak_mb - self.rss_before_mb

    @property
    def slower(self) -> float:
        """How much the others' p99 rose."""
        return self.p99_s[1] / self.p99_s[0]

    @property
    def kept(self) -> bool:
        """Whether all was as promised."""
        return self.growth_mb < GROWTH_MB and self.slower <= SLOWER and self.whole == self.readers


def _kernel_mb(port: int, upstream_port: int) -> float:
    """Bytes that wait in the gateway's sockets: unread ones of the provider's, and what its clients have yet to take."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        sending, receiving = (int(queue, 16) for queue in queues.split(":"))
        total += sending if int(local.split(":")[1], 16) == port else 0
        total += receiving if int(remote.split(":")[1], 16) == upstream_port else 0
    return total / 1e6


def _p99(latencies: Sequence[float]) -> float:
    return sorted(latencies)[math.ceil(len(latencies) * 0.99) - 1]


class _Peak:
    """Looks at the gateway's memory and the kernel's, ten times a second."""

    def __init__(self, server: Server, upstream_port: int) -> None:
        self._server = server
        self._upstream_port = upstream_port
        self._over = threading.Event()
        self.rss_mb = self.kernel_mb = 0.0

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.rss_mb = max(self.rss_mb, self._server.memory_mb()[0])
            self.kernel_mb = max(self.kernel_mb, _kernel_mb(self._server.port, self._upstream_port))

    @contextlib.contextmanager
    def watching(self) -> Iterator[_Peak]:
        """While the body runs."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()


def run(*, readers: int, rate: float, seconds: float, over_s: float = 10.0) -> Figures:
    """Measure: `seconds` of others' requests before, during and after; the readers arrive within `over_s` seconds."""
    cores = Cores.shared_out()
    plan = dataclasses.replace(QUICK, chunks=math.ceil(ANSWER_BYTES / CHUNK_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        upstream = start_upstream(cores, plan)
        try:
            gateway = start_gateway(Path(folder) / "gateway", upstream.port, cores.server)
            try:
                return _measured(gateway, upstream.port, readers, rate, seconds, over_s)
            finally:
                gateway.stop()
        finally:
            upstream.stop()


def _measured(
    gateway: Server, upstream_port: int, readers: int, rate: float, seconds: float, over_s: float
) -> Figures:
    whole = chat_request("buffered", stream=False, key=KEY)
    p99: list[float] = []
    direct: list[float] = []

    def others() -> None:
        count = max(1, int(PER_S * seconds))
        turns = open_loop([(gateway.port, whole), (upstream_port, whole)], per_s=PER_S, warm=20, count=count)
        p99.append(_p99(turns[0]))
        direct.append(_p99(turns[1]))

    others()
    rss = gateway.memory_mb()[0]
    command = [sys.executable, __file__, "--read", str(gateway.port), "--over", str(over_s)]
    command += ["--readers", str(readers), "--rate", str(rate)]
    reading = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert reading.stdout is not None
    try:
        with _Peak(gateway, upstream_port).watching() as peak:
            others()
            lengths = json.loads(reading.stdout.readline())
    finally:
        reading.kill()
        reading.wait()
        reading.stdout.close()
    others()
    return Figures(
        readers=readers,
        whole=len(lengths),
        bytes_each=min(lengths, default=0),
        rss_before_mb=round(rss, 1),
        rss_peak_mb=round(peak.rss_mb, 1),
        rss_after_mb=round(gateway.memory_mb()[0], 1),
        kernel_peak_mb=round(peak.kernel_mb, 1),
        p99_s=(p99[0], p99[1], p99[2]),
        direct_p99_s=(direct[0], direct[1], direct[2]),
    )


# --- the readers, in a process of their own -----------------------------------------------------------------------------


def read(port: int, readers: int, rate: float, over_s: float) -> list[int]:
    """Ask `readers` times within `over_s` seconds for a stream and read each at `rate` bytes a second; the lengths of those that came whole."""
    request = chat_request(FLOOD, stream=True, key=KEY)
    socks = []
    step = PIECE / rate
    for _ in range(readers):
        time.sleep(over_s / readers)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        sock.connect(("127.0.0.1", port))
        sock.sendall(request)
        sock.setblocking(False)
        socks.append(sock)
    now = time.monotonic()
    due = [(now + step * n / readers, n) for n in range(readers)]
    lengths, tails, whole = [0] * readers, [b""] * readers, list[int]()
    while due:
        when, n = heapq.heappop(due)
        time.sleep(max(0.0, when - time.monotonic()))
        try:
            data = socks[n].recv(PIECE)
        except BlockingIOError:
            heapq.heappush(due, (when + step, n))
            continue
        lengths[n] += len(data)
        tails[n] = (tails[n] + data)[-len(STREAM_END) :]
        if data and tails[n] != STREAM_END:
            heapq.heappush(due, (when + step, n))
            continue
        socks[n].close()
        if data:
            whole.append(lengths[n])
    return whole


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--rate", type=float, default=32_000.0, help="bytes a second that each reads")
    parser.add_argument("--seconds", type=float, default=20.0, help="of others' requests, three times")
    parser.add_argument("--over", type=float, default=10.0, help="seconds within which the readers arrive")
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures there; - for standard output, alone"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless the limits are kept")
    parser.add_argument("--read", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        sys.stdout.write(json.dumps(read(given.read, given.readers, given.rate, given.over)) + "\n")
        return 0
    figures = run(readers=given.readers, rate=given.rate, seconds=given.seconds, over_s=given.over)
    if given.json:
        text = json.dumps(dataclasses.asdict(figures) | {"kept": figures.kept}, indent=1)
        if given.json == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(given.json).write_text(text)
    if given.json != "-":
        f = figures
        sys.stdout.write(
            f"{f.whole} of {f.readers} slow readers got their {f.bytes_each:,} bytes\n"
            f"  gateway's memory, MB    before {f.rss_before_mb:.1f}, highest {f.rss_peak_mb:.1f}, after {f.rss_after_mb:.1f}:"
            f" + {f.growth_mb:.1f}\n"
            f"  in its sockets, MB      highest {f.kernel_peak_mb:.1f}\n"
            f"  others' p99, ms         {_ms(f.p99_s)}: x {f.slower:.2f}\n"
            f"  the provider's own      {_ms(f.direct_p99_s)}\n"
        )
    return 0 if figures.kept or not given.strict else 1


def _ms(seconds: Sequence[float]) -> str:
    before, during, after = (f"{each * 1e3:.1f}" for each in seconds)
    return f"before {before}, during {during}, after {after}"


if __name__ == "__main__":
    raise SystemExit(main())
