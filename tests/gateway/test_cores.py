"""A gateway's processes leave no core dumps: neither the parent nor the workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.gateway.gate import wait_for

WATCHED = """
import ctypes, os, resource, sys
from headrace import cli
from headrace.gateway import app
made = app.App.__init__
def note(*arguments):
    made(*arguments)
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
    with open(f"said.{os.getpid()}", "w") as file:
        file.write(f"{dumpable} {resource.getrlimit(resource.RLIMIT_CORE)}")
app.App.__init__ = note
before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
assert before == 1, before
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
cli.main()
"""
"""`headrace`, where each process that answers requests notes what the system says of it."""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize("workers", [1, 2])
def test_no_process_is_dumpable(tmp_path: Path, workers: int) -> None:
    """Core files have no size and no process is dumpable, however many there are; the parent's limit is what its workers inherit."""
    (tmp_path / "headrace.toml").write_text('[store]\npath = "headrace.db"\n')
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, "serve", "--port", "0", "--json", "--workers", str(workers)],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["url"]
        wait_for(lambda: len(list(tmp_path.glob("said.*"))) == workers, within_s=10.0)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    finally:
        process.terminate()
        process.communicate(timeout=20)
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]
    said = [file.read_text() for file in tmp_path.glob("said.*")]
    assert said == ["0 (0, 0)"] * workers
