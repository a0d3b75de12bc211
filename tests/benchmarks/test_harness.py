"""The harness of the gateway's benchmark: that it runs, counts right and says everything; never how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmark needs Linux", allow_module_level=True)

FOLDER = Path(__file__).parents[2] / "benchmarks"
DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from load import LoadError, ask, chat_request, closed_loop, closed_streams, open_loop, paced_streams

port = int(sys.argv[2])
edges = []
whole = chat_request("buffered", stream=False, key="k")
paced = paced_streams(port, chat_request("paced", stream=True, key="k"), streams=3, stagger_s=0.002,
                      at_edge=lambda: edges.append(1))
buffered = closed_loop(port, whole, connections=4, warm_s=0.0, seconds=0.05)
flood = closed_streams(port, chat_request("flood", stream=True, key="k"), connections=2, warm_s=0.0, seconds=0.05)
latencies = open_loop([(port, whole), (port, whole)], per_s=500, warm=1, count=5)
print(json.dumps({
    "answer": ask(port, whole).decode(),
    "edges": len(edges),
    "paced": [paced.streams, paced.chunks, len(paced.delays_s), len(paced.first_s), min(paced.delays_s)],
    "buffered": buffered.count,
    "flood": [flood.streams, flood.chunks],
    "latencies": [len(each) for each in latencies],
}))
"""


@pytest.fixture
def upstream() -> Iterator[str]:
    """The port of a provider whose streams have 5 chunks, 1 ms apart."""
    command = [sys.executable, str(FOLDER / "upstream.py"), "--chunks", "5", "--pace", "1"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stdin, stdout = _pipes(process)
    yield stdout.readline().strip()
    stdin.close()
    assert process.wait(5) == 0
    stdout.close()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


def test_load_counts_what_the_upstream_sends(upstream: str) -> None:
    """Every kind of load counts exactly the answers and chunks that were sent, and times each of them."""
    driver = [sys.executable, "-c", DRIVER, str(FOLDER), upstream]
    said = json.loads(subprocess.run(driver, capture_output=True, text=True, check=True, timeout=30).stdout)
    head, _, body = said["answer"].partition("\r\n\r\n")
    assert f"content-length: {len(body)}" in head
    assert json.loads(body)["usage"]["total_tokens"] == 214
    streams, chunks, delays, firsts, least = said["paced"]
    assert (streams, chunks, delays, firsts) == (3, 3 * (5 + 1), 3 * 5, 3)
    assert least > 0
    assert said["edges"] == 2
    assert said["buffered"] > 4
    streams, chunks = said["flood"]
    assert streams > 2
    assert abs(chunks - streams * 6) <= 2 * 6
    assert said["latencies"] == [5, 5]


def test_a_refusal_ends_the_load(tmp_path: Path) -> None:
    """An answer that is not 200 is reported with its beginning, not counted."""
    server = tmp_path / "server.py"
    server.write_text(
        "import socket\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "sock, _ = listener.accept()\n"
        "sock.recv(65536)\n"
        "sock.sendall(b'HTTP/1.1 429 Too Many Requests\\r\\ncontent-length: 0\\r\\n\\r\\n')\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stdin, stdout = _pipes(process)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from load import LoadError, closed_loop\n"
        "try:\n"
        "    closed_loop(int(sys.argv[2]), b'GET / HTTP/1.1\\r\\n\\r\\n', connections=1, warm_s=0.0, seconds=0.1)\n"
        "except LoadError as error:\n"
        "    print(error)\n"
    )
    driver = [sys.executable, "-c", code, str(FOLDER), stdout.readline().strip()]
    said = subprocess.run(driver, capture_output=True, text=True, check=True, timeout=30).stdout
    assert "429 Too Many Requests" in said
    process.wait(5)
    stdin.close()
    stdout.close()


def test_report_has_every_field() -> None:
    """`--quick --json -` prints one JSON value with every measure; what was not run is null, not missing or zero."""
    command = [sys.executable, str(FOLDER / "gateway.py"), "--quick", "--harness-only", "--json", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    report = json.loads(said.stdout)
    assert set(report) == {"machine", "placement", "plan", "rows", "books", "busy", "ledger", "samples"}
    assert set(report["machine"]) == {"cpu", "cores", "python", "system", "nginx", "date"}
    rows = {row["key"]: row for row in report["rows"]}
    assert {key: row["limit"] for key, row in rows.items() if row["limit"] is not None} == {
        "buffered_c16_cpu_us": 15,
        "buffered_c64_cpu_us": 15,
        "paced_cpu_us": 5,
        "start_s": 0.8,
        "idle_rss_mb": 45,
    }
    assert all(row["gateway"] is row["nginx"] is row["passed"] is None for row in report["rows"])
    for key in (
        "buffered_c1_per_s",
        "buffered_c16_per_s",
        "buffered_c64_per_s",
        "flood_per_s",
        "paced_delay_p99_us",
    ):
        assert rows[key]["direct"]["median"] > 0


def test_limits_are_judged_by_the_median_of_the_rounds_ratios() -> None:
    """A ratio is made round by round, so a slow minute of the machine cancels out; absolute limits look at the gateway."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from gateway import rows\n"
        "samples = {\n"
        "    'buffered_c64_cpu_us': {'gateway': [100.0, 900.0, 160.0], 'nginx': [10.0, 100.0, 10.0]},\n"
        "    'paced_cpu_us': {'gateway': [60.0, 60.0, 60.0], 'nginx': [10.0, 10.0, 20.0]},\n"
        "    'idle_rss_mb': {'gateway': [44.0], 'nginx': [12.0]},\n"
        "}\n"
        "print(json.dumps({row['key']: [row['x_nginx'], row['passed']] for row in rows(samples)}))\n"
    )
    driver = [sys.executable, "-c", code, str(FOLDER)]
    said = json.loads(subprocess.run(driver, capture_output=True, text=True, check=True, timeout=30).stdout)
    assert said["buffered_c64_cpu_us"] == [{"median": 10.0, "min": 9.0, "max": 16.0}, True]
    assert said["paced_cpu_us"] == [{"median": 6.0, "min": 3.0, "max": 6.0}, False]
    assert said["idle_rss_mb"][1] is True
    assert said["start_s"] == [None, None]
