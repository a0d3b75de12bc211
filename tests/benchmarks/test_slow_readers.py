"""Clients that read slowly, by the benchmark that measures them; a few of them, for a short time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "slow_readers.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_slow_reader_holds_a_few_buffers_and_not_its_answer() -> None:
    """Forty readers of 1 MB each, at 400 kB/s: all of it arrives whole, and each costs the gateway less than a fifth of it."""
    command = [sys.executable, str(BENCHMARK), "--readers", "40", "--rate", "400000"]
    command += ["--over", "0.2", "--seconds", "0.5", "--json", "-"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert (figures["readers"], figures["whole"]) == (40, 40)
    assert figures["bytes_each"] > 1_000_000
    assert figures["rss_peak_mb"] - figures["rss_before_mb"] < 40 * 0.2 + 2.5
    assert all(seconds > 0 for seconds in figures["p99_s"])
