"""The worker processes of a gateway, each asked over a connection of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["ADMIN", "Worker", "each_worker", "serving"]

ADMIN = "hr-benchmark-workers-admin-01234"
"""The admin key, with which each is asked who it is."""


class Worker:
    """A kept connection to one worker process; used by one thread at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=30)
        self.pid: int = self.ask("GET", "/admin", ADMIN)[1]["worker"]

    def ask(self, method: str, path: str, key: str, value: object = None) -> tuple[int, Any]:
        """Status and answer."""
        body = None if value is None else json.dumps(value).encode()
        self._connection.request(
            method, path, body, {"authorization": f"Bearer {key}", "content-type": "application/json"}
        )
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextlib.contextmanager
def serving(command: Sequence[str], workers: int, folder: Path) -> Iterator[str]:
    """`command` (a `serve`) in `folder`, with that many processes; its address."""
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextlib.contextmanager
def each_worker(url: str, workers: int) -> Iterator[list[Worker]]:
    """A connection to each: the system hands them out as it likes, so there are many until all have one."""
    place = urlsplit(url)
    assert place.hostname is not None and place.port is not None
    opened: list[Worker] = []
    found: dict[int, Worker] = {}
    until = time.monotonic() + 30
    try:
        while len(found) < workers:
            if time.monotonic() > until:
                raise RuntimeError(f"only {len(found)} of {workers} workers answer")
            opened.append(Worker(place.hostname, place.port))
            found.setdefault(opened[-1].pid, opened[-1])
        yield list(found.values())
    finally:
        for worker in opened:
            worker.close()
