"""What the gateway costs: CPU, latency, memory and start, beside a plain nginx `proxy_pass` in the same run.

    python benchmarks/gateway.py [--quick] [--json FILE|-] [--strict]

The gateway is `headrace serve` as it comes: a key, a route, a price, the ledger in a file. A provider of our own
(`upstream.py`) and the load (`load.py`) share a core that neither the gateway nor nginx runs on. The gateway and nginx take
turns, round after round; a figure is the median of the rounds with the lowest and the highest, and `x nginx` the median of
the rounds' own ratios, which is what to compare between machines. CPU is what the process and its children used, threads
included, by the kernel's own clock. Linux only. How to read it, and the last figures: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import psutil
from rich.console import Console
from rich.table import Table

from load import (
    LoadError,
    ask,
    chat_request,
    closed_loop,
    closed_streams,
    open_loop,
    paced_streams,
)
from upstream import FLOOD

KEY: Final = "hr-benchmark-0123456789abcdef"
ADMIN_KEY: Final = "hr-benchmark-admin-0123456789abcdef"
PACE_S: Final = 0.010
CONNECTIONS: Final = (1, 16, 64)
NGINX_PLACES: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
NGINX_HELP: Final = "nginx is not here, so the gateway is measured alone: apt-get install nginx-light"
START_LIMIT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. Durations in seconds; `latency_count` is requests to each server and round."""

    rounds: int
    buffered_s: float
    warm_s: float
    chunks: int
    streams: int
    flood_streams: int
    flood_s: float
    latency_count: int
    starts: int
    settle_s: float = 2.0
    latency_per_s: float = 50.0


FULL: Final = Plan(
    rounds=3,
    buffered_s=2.0,
    warm_s=0.5,
    chunks=200,
    streams=64,
    flood_streams=16,
    flood_s=1.5,
    latency_count=300,
    starts=5,
)
QUICK: Final = Plan(
    rounds=2,
    buffered_s=0.4,
    warm_s=0.2,
    chunks=80,
    streams=64,
    flood_streams=16,
    flood_s=0.4,
    latency_count=60,
    starts=2,
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One row. `limit` is what `of` (the gateway's figure, or its ratio to nginx's) may be at most; `goals` come next."""

    key: str
    title: str
    unit: str
    of: Literal["ratio", "gateway"] = "ratio"
    limit: float | None = None
    goals: tuple[float, ...] = ()


MEASURES: Final = (
    *(
        Measure(
            f"buffered_c{n}_cpu_us",
            f"CPU a buffered request, {n} at once",
            "µs",
            limit=None if n == 1 else 15,
            goals=() if n == 1 else (6, 3),
        )
        for n in CONNECTIONS
    ),
    Measure("paced_cpu_us", "CPU a chunk, 64 streams at 10 ms", "µs", limit=5, goals=(3, 2)),
    Measure("flood_cpu_us", "CPU a chunk, 16 unpaced streams", "µs"),
    *(Measure(f"buffered_c{n}_per_s", f"requests a second, {n} at once", "/s") for n in CONNECTIONS),
    Measure("flood_per_s", "chunks a second, unpaced", "/s"),
    Measure("added_p50_us", "added at 50 a second, p50", "µs"),
    Measure("added_p99_us", "added at 50 a second, p99", "µs"),
    Measure("buffered_c64_p50_us", "latency, 64 at once, p50", "µs"),
    Measure("buffered_c64_p99_us", "latency, 64 at once, p99", "µs"),
    Measure("paced_first_p50_us", "time to the first chunk, p50", "µs"),
    Measure("paced_delay_p50_us", "delay of a paced chunk, p50", "µs"),
    Measure("paced_delay_p99_us", "delay of a paced chunk, p99", "µs"),
    Measure("start_s", "from exec to ready", "s", of="gateway", limit=0.8),
    Measure("start_cpu_s", "CPU until ready", "s"),
    Measure("idle_rss_mb", "memory idle (RSS)", "MB", of="gateway", limit=45),
    Measure("idle_pss_mb", "memory idle (PSS)", "MB"),
    Measure("loaded_rss_mb", "memory after load (RSS)", "MB"),
    Measure("import_cpu_ms", "CPU of `import headrace`", "ms"),
)

Samples = dict[str, dict[str, list[float]]]
"""Measure, then server, then one figure a round."""


# --- processes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run; None: anywhere, for want of cores."""

    server: int | None
    load: int | None
    upstream: int | None

    @classmethod
    def shared_out(cls) -> Cores:
        """The server has a core to itself; load and upstream share the next one or have one each."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) == 1:
            return cls(None, None, None)
        return cls(cores[0], cores[1], cores[2] if len(cores) > 2 else cores[1])

    def __str__(self) -> str:
        if self.server is None:
            return "one core for everything: rates and latencies mean little, CPU figures hold"
        return f"server on core {self.server}, load on {self.load}, upstream on {self.upstream}"


@contextlib.contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """What is started in the body inherits its core."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _cpu_of(pid: int) -> float:
    """CPU seconds that the process has used, ended threads included, in nanoseconds' resolution.

    The id of another process's CPU clock, as `clock_getcpuclockid(3)` makes it.
    """
    return time.clock_gettime((~pid << 3) | 2)


@dataclass(slots=True)
class Server:
    """A process that requests can be sent to, with what belongs to it."""

    name: str
    port: int
    process: subprocess.Popen[str]
    folder: Path | None = None
    start_s: float = 0.0
    start_cpu_s: float = 0.0

    def pids(self) -> list[int]:
        """It and its children, without the embedded model's process."""
        root = psutil.Process(self.process.pid)
        children = root.children(recursive=True)
        return [
            root.pid,
            *(child.pid for child in children if "headrace.local.server" not in child.cmdline()),
        ]

    def memory_mb(self) -> tuple[float, float]:
        """RSS and PSS."""
        infos = [psutil.Process(pid).memory_full_info() for pid in self.pids()]
        return sum(i.rss for i in infos) / 1e6, sum(i.pss for i in infos) / 1e6

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def start_upstream(cores: Cores, plan: Plan) -> Server:
    """The provider."""
    command = [sys.executable, str(Path(__file__).with_name("upstream.py"))]
    command += ["--chunks", str(plan.chunks), "--pace", str(PACE_S * 1000)]
    command += [] if cores.upstream is None else ["--core", str(cores.upstream)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return Server("direct", int(process.stdout.readline()), process)


def _free_port() -> int:
    """One that nobody is given by chance before the server takes it: below the ports that systems hand out (Linux: from 32768)."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _started(
    name: str, command: Sequence[str], folder: Path, port: int, core: int | None, probe: bytes
) -> Server:
    """Start it and wait for its first good answer. Raises `LoadError` with its output when none comes."""
    log = folder / "output.log"
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with log.open("w") as output, _on_core(core):
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, env=environment, text=True
        )
    while True:
        try:
            ask(port, probe)
        except (LoadError, OSError):
            if process.poll() is not None or time.perf_counter() - begun > START_LIMIT_S:
                process.kill()
                process.wait()
                raise LoadError(f"{name} did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.001)
        else:
            break
    server = Server(name, port, process, folder, time.perf_counter() - begun)
    server.start_cpu_s = sum(map(_cpu_of, server.pids()))
    return server


BOOKS: Final = ("without", "gateway", "budget")
"""What the books cost: a gateway whose ledger is in memory only, the usual one, and one whose key has a budget in dollars and one in tokens."""

BUDGET: Final = 'budget = [{ usd = "900000", window = "month" }, { tokens = 900000000000, window = "day" }]'


def start_gateway(folder: Path, upstream_port: int, core: int | None, *, name: str = "gateway") -> Server:
    """`headrace serve` with one provider, a route and a price for each kind of request, one key, and a ledger; see `BOOKS`."""
    port = _free_port()
    folder.mkdir()
    lines = [
        f'[gateway]\nhost = "127.0.0.1"\nport = {port}\nadmin_key = "{ADMIN_KEY}"',
        f'[providers.mock]\ndialect = "openai-chat"\nbase_url = "http://127.0.0.1:{upstream_port}/v1"',
        'api_key = "sk-mock-0123456789"',
        f'[keys.bench]\nvalue = "{KEY}"',
        BUDGET if name == "budget" else "",
        f'[store]\npath = "{":memory:" if name == "without" else "headrace.db"}"',
    ]
    for model in ("buffered", "paced", FLOOD):
        lines.append(f'[routes.{model}]\ncascade = [{{ target = "mock/{model}", attempts = 2 }}]')
        lines.append(f'[prices."mock/{model}"]\ninput_usd_per_mtok = "0.15"\noutput_usd_per_mtok = "0.60"')
    settings = folder / "headrace.toml"
    settings.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "headrace", "serve", "--config", str(settings)]
    probe = b"GET /health/readiness HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    return _started(name, command, folder, port, core, probe)


def find_nginx() -> str | None:
    """Its path; it is often installed where only root's PATH leads."""
    return shutil.which("nginx") or shutil.which("nginx", path=os.pathsep.join(NGINX_PLACES))


def start_nginx(nginx: str, folder: Path, upstream_port: int, core: int | None) -> Server:
    """One worker that passes on, unbuffered, over kept connections, and logs nothing."""
    port = _free_port()
    folder.mkdir()
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings = folder / "nginx.conf"
    settings.write_text(f"""daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
{temporary}
  keepalive_requests 1000000000;
  upstream provider {{
    server 127.0.0.1:{upstream_port};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
""")
    command = [nginx, "-p", str(folder), "-c", str(settings)]
    return _started("nginx", command, folder, port, core, chat_request("buffered", stream=False, key=KEY))


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Watch:
    """Reads the CPU clocks at both edges of what is measured, so that it can say who was busy."""

    server: Server
    upstream: Server
    edges: list[tuple[float, float, float, float, float]] = field(default_factory=list)

    def edge(self) -> None:
        """Read the clocks."""
        pids = self.server.pids()
        times = psutil.cpu_times()
        idle = times.idle + times.iowait + getattr(times, "steal", 0.0)
        self.edges.append(
            (
                time.perf_counter(),
                sum(map(_cpu_of, pids)),
                _cpu_of(self.upstream.process.pid),
                time.process_time(),
                idle,
            )
        )

    @property
    def cpu_s(self) -> float:
        """What the server used."""
        return self.edges[1][1] - self.edges[0][1]

    def shares(self) -> dict[str, float]:
        """Cores used by the server, the upstream, the load, and everything else on the machine."""
        seconds, server, upstream, load, idle = (b - a for a, b in zip(*self.edges, strict=True))
        busy = (os.cpu_count() or 1) - idle / seconds
        shares = {"target": server / seconds, "upstream": upstream / seconds, "load": load / seconds}
        return shares | {"others": max(0.0, busy - sum(shares.values()))}


def _quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; nan of none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Bench:
    """The servers, and what was measured on them."""

    def __init__(
        self, plan: Plan, upstream: Server, servers: Sequence[Server], say: Callable[[str], None]
    ) -> None:
        self.plan = plan
        self.upstream = upstream
        self.servers = list(servers)
        self.samples: Samples = {}
        self.busy: dict[str, dict[str, dict[str, list[float]]]] = {}
        self._say = say

    def note(self, key: str, name: str, value: float) -> None:
        """One figure of one round; nan is none."""
        if not math.isnan(value):
            self.samples.setdefault(key, {}).setdefault(name, []).append(value)

    def _note_busy(self, case: str, name: str, watch: Watch) -> None:
        for who, share in watch.shares().items():
            self.busy.setdefault(case, {}).setdefault(name, {}).setdefault(who, []).append(share)

    def run(self) -> None:
        """All rounds. Raises `LoadError`."""
        for number in range(self.plan.rounds):
            turns = self.servers if number % 2 == 0 else self.servers[::-1]
            self._say(f"round {number + 1} of {self.plan.rounds}")
            for connections in CONNECTIONS:
                for server in turns:
                    self._buffered(server, connections)
            for server in turns:
                self._paced(server)
            for server in turns:
                self._flood(server)
            self._latency(turns)

    def books(self, servers: Sequence[Server]) -> None:
        """CPU a buffered request, 16 at once, of the gateways of `BOOKS`, which take turns. Raises `LoadError`."""
        for number in range(self.plan.rounds):
            self._say(f"books, round {number + 1} of {self.plan.rounds}")
            for server in servers if number % 2 == 0 else servers[::-1]:
                watch = Watch(server, self.upstream)
                result = closed_loop(
                    server.port,
                    chat_request("buffered", stream=False, key=KEY),
                    connections=16,
                    warm_s=self.plan.warm_s,
                    seconds=self.plan.buffered_s,
                    at_edge=watch.edge,
                )
                self.note("books_cpu_us", server.name, watch.cpu_s / result.count * 1e6)
                self.note("books_p50_us", server.name, _quantile(result.latencies_s, 0.5) * 1e6)
                self.note("books_p99_us", server.name, _quantile(result.latencies_s, 0.99) * 1e6)
                self._note_busy("books", server.name, watch)

    def ceiling(self) -> None:
        """The load on the upstream itself: what the two could do for a server that costs nothing."""
        plan = self.plan
        for connections in CONNECTIONS:
            seconds = min(plan.buffered_s, 0.7)
            request = chat_request("buffered", stream=False, key=KEY)
            result = closed_loop(
                self.upstream.port, request, connections=connections, warm_s=0.1, seconds=seconds
            )
            self.note(f"buffered_c{connections}_per_s", "direct", result.count / result.seconds)
        request = chat_request("paced", stream=True, key=KEY)
        paced = paced_streams(self.upstream.port, request, streams=plan.streams, stagger_s=PACE_S)
        self.note("paced_first_p50_us", "direct", _quantile(paced.first_s, 0.5) * 1e6)
        self.note("paced_delay_p50_us", "direct", _quantile(paced.delays_s, 0.5) * 1e6)
        self.note("paced_delay_p99_us", "direct", _quantile(paced.delays_s, 0.99) * 1e6)
        request = chat_request(FLOOD, stream=True, key=KEY)
        flood = closed_streams(
            self.upstream.port,
            request,
            connections=plan.flood_streams,
            warm_s=0.1,
            seconds=min(plan.flood_s, 0.7),
        )
        self.note("flood_per_s", "direct", flood.chunks / flood.seconds)

    def _buffered(self, server: Server, connections: int) -> None:
        watch = Watch(server, self.upstream)
        result = closed_loop(
            server.port,
            chat_request("buffered", stream=False, key=KEY),
            connections=connections,
            warm_s=self.plan.warm_s,
            seconds=self.plan.buffered_s,
            at_edge=watch.edge,
        )
        case = f"buffered_c{connections}"
        self.note(f"{case}_cpu_us", server.name, watch.cpu_s / result.count * 1e6)
        self.note(f"{case}_per_s", server.name, result.count / result.seconds)
        self.note(f"{case}_p50_us", server.name, _quantile(result.latencies_s, 0.5) * 1e6)
        self.note(f"{case}_p99_us", server.name, _quantile(result.latencies_s, 0.99) * 1e6)
        self._note_busy(case, server.name, watch)

    def _paced(self, server: Server) -> None:
        watch = Watch(server, self.upstream)
        request = chat_request("paced", stream=True, key=KEY)
        result = paced_streams(
            server.port, request, streams=self.plan.streams, stagger_s=PACE_S, at_edge=watch.edge
        )
        if result.chunks < self.plan.streams * self.plan.chunks:
            raise LoadError(
                f"{server.name} lost chunks: {result.chunks} of {self.plan.streams * self.plan.chunks}"
            )
        self.note("paced_cpu_us", server.name, watch.cpu_s / result.chunks * 1e6)
        self.note("paced_first_p50_us", server.name, _quantile(result.first_s, 0.5) * 1e6)
        self.note("paced_delay_p50_us", server.name, _quantile(result.delays_s, 0.5) * 1e6)
        self.note("paced_delay_p99_us", server.name, _quantile(result.delays_s, 0.99) * 1e6)
        self._note_busy("paced", server.name, watch)

    def _flood(self, server: Server) -> None:
        watch = Watch(server, self.upstream)
        result = closed_streams(
            server.port,
            chat_request(FLOOD, stream=True, key=KEY),
            connections=self.plan.flood_streams,
            warm_s=self.plan.warm_s,
            seconds=self.plan.flood_s,
            at_edge=watch.edge,
        )
        self.note("flood_cpu_us", server.name, watch.cpu_s / result.chunks * 1e6)
        self.note("flood_per_s", server.name, result.chunks / result.seconds)
        self._note_busy("flood", server.name, watch)

    def _latency(self, turns: Sequence[Server]) -> None:
        request = chat_request("buffered", stream=False, key=KEY)
        servers = [self.upstream, *turns]
        latencies = open_loop(
            [(server.port, request) for server in servers],
            per_s=self.plan.latency_per_s,
            warm=10,
            count=self.plan.latency_count,
        )
        for share, key in ((0.5, "added_p50_us"), (0.99, "added_p99_us")):
            direct = _quantile(latencies[0], share) * 1e6
            self.note(key, "direct", direct)
            for server, values in zip(turns, latencies[1:], strict=True):
                self.note(key, server.name, _quantile(values, share) * 1e6 - direct)


def check_ledger(gateway: Server) -> dict[str, Any]:
    """That the gateway did its whole work: a request that was just answered is in its ledger, with its cost, and nothing
    that the load asked for was dropped. Raises `LoadError`."""
    head = ask(gateway.port, chat_request("buffered", stream=False, key=KEY)).partition(b"\r\n\r\n")[0]
    found = re.search(rb"\r\nx-request-id: *([^\r]+)", head, re.IGNORECASE)
    if found is None:
        raise LoadError("the gateway's answer has no x-request-id")
    row = _get(gateway, f"/v1/requests/{found[1].decode()}", KEY)
    dropped = _get(gateway, "/admin", ADMIN_KEY)["store"]["dropped"]
    return {"cost_usd": row["cost_usd"], "attempts": len(row["attempts"]), "dropped": dropped}


def _get(server: Server, path: str, key: str) -> dict[str, Any]:
    """A page of the gateway, once it is there: the ledger is written a moment after the answer."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    for attempt in range(50):
        try:
            value: dict[str, Any] = json.loads(ask(server.port, request).partition(b"\r\n\r\n")[2])
        except LoadError:
            if attempt == 49:
                raise
            time.sleep(0.1)
    return value


def import_cpu_ms() -> float:
    """CPU of `import headrace` in a fresh interpreter."""
    code = "import time; a = time.process_time(); import headrace; print((time.process_time() - a) * 1000)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


# --- the report -------------------------------------------------------------------------------------------------------


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def rows(samples: Samples) -> list[dict[str, Any]]:
    """The measures in order, with the medians, the ratio to nginx, and whether the limit holds (None: not judged)."""
    result = []
    for measure in MEASURES:
        servers = samples.get(measure.key, {})
        pairs = zip(servers.get("gateway", ()), servers.get("nginx", ()), strict=False)
        ratio = _spread([ours / theirs for ours, theirs in pairs if theirs > 0])
        gateway = _spread(servers.get("gateway", ()))
        judged = ratio if measure.of == "ratio" else gateway
        passed = None if measure.limit is None or judged is None else judged["median"] <= measure.limit
        result.append(
            {
                "key": measure.key,
                "title": measure.title,
                "unit": measure.unit,
                "gateway": gateway,
                "nginx": _spread(servers.get("nginx", ())),
                "direct": _spread(servers.get("direct", ())),
                "x_nginx": ratio,
                "limit": measure.limit,
                "limit_of": measure.of,
                "goals": list(measure.goals),
                "passed": passed,
            }
        )
    return result


def busy_rows(busy: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> list[dict[str, Any]]:
    """Medians of the cores that each side used."""
    return [
        {"case": case, "server": name, **{who: statistics.median(values) for who, values in shares.items()}}
        for case, servers in busy.items()
        for name, shares in servers.items()
    ]


def machine(nginx: str | None) -> dict[str, Any]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    version = None
    if nginx is not None:
        said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False)
        version = (said.stderr + said.stdout).strip().rpartition("/")[2]
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "nginx": version,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _cell(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return ""
    middle, low, high = (_number(spread[which]) for which in ("median", "min", "max"))
    return middle if low == high else f"{middle} [dim]\\[{low}-{high}][/dim]"


def show(report: Mapping[str, Any], console: Console) -> None:
    """The tables."""
    about = report["machine"]
    console.print(
        f"{about['date']}  {about['cpu']}, {about['cores']} cores, {about['system']}, {about['python']}, "
        f"nginx {about['nginx'] or 'none'}"
    )
    console.print(f"{report['placement']}; {report['plan']['rounds']} rounds, median \\[lowest-highest]\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for title in ("gateway", "nginx", "direct", "x nginx", "limit", "goals"):
        table.add_column(title, justify="right", no_wrap=True)
    marks = {None: "", True: " [green]pass[/green]", False: " [red]FAIL[/red]"}
    for row in report["rows"]:
        unit = "x" if row["limit_of"] == "ratio" else f" {row['unit']}"
        table.add_row(
            row["title"] if row["unit"] == "/s" else f"{row['title']}, {row['unit']}",
            _cell(row["gateway"]),
            _cell(row["nginx"]),
            _cell(row["direct"]),
            _cell(row["x_nginx"]),
            "" if row["limit"] is None else f"{row['limit']:g}{unit}{marks[row['passed']]}",
            ", ".join(f"{goal:g}x" for goal in row["goals"]),
        )
    console.print(table)
    titles = {
        "books_cpu_us": "CPU a buffered request, 16 at once, µs",
        "books_p50_us": "latency, p50, µs",
        "books_p99_us": "latency, p99, µs",
    }
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title="\nThe books")
    for title in ("", "in memory", "ledger in a file", "and two budgets"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for key, servers in report["books"].items():
        table.add_row(titles[key], *(_cell(servers[name]) for name in BOOKS))
    console.print(table)
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title="\nCores in use")
    for title in ("case", "server", "the server", "upstream", "load", "others"):
        table.add_column(title, justify="left" if title in ("case", "server") else "right")
    for row in report["busy"]:
        table.add_row(
            row["case"],
            row["server"],
            *(f"{row[who]:.2f}" for who in ("target", "upstream", "load", "others")),
        )
    console.print(table)
    if report["ledger"] is not None:
        ledger = report["ledger"]
        console.print(
            f"\nthe ledger has the last request with its cost ({ledger['cost_usd']} USD); rows dropped: {ledger['dropped']}"
        )


def measure(plan: Plan, *, harness_only: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Start everything, measure, stop everything: the report. Raises `LoadError`."""
    cores = Cores.shared_out()
    nginx = None if harness_only else find_nginx()
    if nginx is None and not harness_only:
        say(NGINX_HELP)
    with (
        contextlib.ExitStack() as running,
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as temporary,
    ):
        folder = Path(temporary)
        folder.chmod(0o755)  # nginx's worker is another user when it is started by root
        upstream = start_upstream(cores, plan)
        running.callback(upstream.stop)
        servers: list[Server] = []
        bench = Bench(plan, upstream, servers, say)
        if not harness_only:
            say("starting")
            for number in range(plan.starts):
                gateway = start_gateway(folder / f"gateway-{number}", upstream.port, cores.server)
                bench.note("start_s", "gateway", gateway.start_s)
                bench.note("start_cpu_s", "gateway", gateway.start_cpu_s)
                if number < plan.starts - 1:
                    gateway.stop()
                bench.note("import_cpu_ms", "gateway", import_cpu_ms())
            running.callback(gateway.stop)
            bench.servers.append(gateway)
            if nginx is not None:
                server = start_nginx(nginx, folder / "nginx", upstream.port, cores.server)
                running.callback(server.stop)
                bench.servers.append(server)
                bench.note("start_s", "nginx", server.start_s)
                bench.note("start_cpu_s", "nginx", server.start_cpu_s)
            time.sleep(plan.settle_s)
            _note_memory(bench, ("idle_rss_mb", "idle_pss_mb"))
        gc.disable()  # nothing here makes cycles, and a collection of a million latencies would be a hole in the load
        with _on_core(cores.load):
            say("load on the upstream itself")
            bench.ceiling()
            ledger = None
            if bench.servers:
                check_ledger(gateway)
                bench.run()
                _note_memory(bench, ("loaded_rss_mb",))
                ledger = check_ledger(gateway)
                others = {
                    name: start_gateway(folder / name, upstream.port, cores.server, name=name)
                    for name in BOOKS
                    if name != "gateway"
                }
                for server in others.values():
                    running.callback(server.stop)
                bench.books([others.get(name, gateway) for name in BOOKS])
        return {
            "machine": machine(nginx),
            "placement": str(cores),
            "plan": {name: getattr(plan, name) for name in Plan.__dataclass_fields__},
            "rows": rows(bench.samples),
            "books": {
                key: {name: _spread(bench.samples.get(key, {}).get(name, ())) for name in BOOKS}
                for key in ("books_cpu_us", "books_p50_us", "books_p99_us")
            },
            "busy": busy_rows(bench.busy),
            "ledger": ledger,
            "samples": bench.samples,
        }


def _note_memory(bench: Bench, keys: Sequence[str]) -> None:
    for server in bench.servers:
        for key, value in zip(keys, server.memory_mb(), strict=False):
            bench.note(key, server.name, value)


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument(
        "--quick", action="store_true", help="some 20 s instead of some 2 minutes; rougher figures"
    )
    arguments.add_argument(
        "--json", metavar="FILE", help="write the report there as JSON; - for standard output, alone"
    )
    arguments.add_argument("--strict", action="store_true", help="exit with 1 when a limit is not kept")
    arguments.add_argument(
        "--harness-only", action="store_true", help="only the load on the upstream: no gateway, no nginx"
    )
    arguments.add_argument("--rounds", type=int, help="rounds, 1 or more")
    options = arguments.parse_args()
    if not sys.platform.startswith("linux"):
        arguments.error("needs Linux: epoll, /proc, CPU clocks of other processes")
    plan = QUICK if options.quick else FULL
    if options.rounds is not None:
        plan = Plan(
            **{**{name: getattr(plan, name) for name in Plan.__dataclass_fields__}, "rounds": options.rounds}
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    progress = Console(stderr=True)
    try:
        report = measure(
            plan, harness_only=options.harness_only, say=lambda text: progress.print(f"[dim]{text}[/dim]")
        )
    except LoadError as error:
        progress.print(f"[red]{error}[/red]", markup=True, highlight=False)
        return 2
    if options.json:
        text = json.dumps(report, indent=1, allow_nan=False)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n")
    if options.json != "-":
        show(report, Console(width=None if sys.stdout.isatty() else 160))
    failed = [row["key"] for row in report["rows"] if row["passed"] is False]
    return 1 if options.strict and failed else 0


if __name__ == "__main__":
    sys.exit(main())
