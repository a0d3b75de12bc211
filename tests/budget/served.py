"""`headrace serve` as its own processes in front of a fake provider, and many callers at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.testing import FakeProvider

__all__ = ["KEY", "Bill", "Served", "ask_many", "body", "served"]

KEY = "hr-canary-client-key-0123456789"
OUTPUT = 100
"""Tokens that a caller asks for at most."""

INPUT_PRICE, OUTPUT_PRICE = 3_000, 15_000
"""Nano-dollars a token: 3 and 15 dollars a million."""


def config(provider: FakeProvider, folder: Path, *, workers: int, budgets: str) -> str:
    return f"""
[providers.openai]
dialect = "openai-chat"
base_url = "{provider.base_url}"
api_key = "sk-canary"
[routes.r]
cascade = ["openai/priced"]
deadline = "30s"
[prices."openai/priced"]
input_usd_per_mtok = "3"
output_usd_per_mtok = "15"
[store]
path = "{folder / "headrace.db"}"
[gateway]
port = 0
workers = {workers}
[keys.one]
value = "{KEY}"
{budgets}
"""


@dataclass
class Served:
    """A running gateway."""

    process: subprocess.Popen[bytes]
    port: int
    path: Path

    def workers(self) -> list[int]:
        """The process ids of the workers: the children of the parent; none when it is the one worker itself."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the store's file."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(sql).fetchall()

    def stop(self) -> None:
        """End it well, so that all is written."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


@contextmanager
def served(provider: FakeProvider, folder: Path, *, workers: int, budgets: str) -> Iterator[Served]:
    """Runs `headrace serve`."""
    file = folder / "headrace.toml"
    file.write_text(config(provider, folder, workers=workers, budgets=budgets))
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}  # noqa: TID251  (of a child process)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "serve", "--config", str(file), "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environ,
            cwd=folder,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (folder / "log").read_text()
        port = int(json.loads(line)["url"].rpartition(":")[2])
        gateway = Served(process, port, folder / "headrace.db")
        yield gateway
        gateway.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def body(text: str = "hi", *, stream: bool = False) -> bytes:
    """What one caller asks."""
    value = {"model": "r", "max_tokens": OUTPUT, "messages": [{"role": "user", "content": text}]}
    return json.dumps(value | ({"stream": True} if stream else {})).encode()


async def _ask(port: int, data: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {KEY}\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        answer = await reader.read()
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    return (int(answer.split(b" ", 2)[1]) if answer else 0), answer


def ask_many(port: int, count: int, data: bytes | None = None) -> list[tuple[int, bytes]]:
    """The status (0: the connection broke) and the answer of `count` callers who ask at once."""

    async def main() -> list[tuple[int, bytes]]:
        asked = body() if data is None else data
        return await asyncio.gather(*(_ask(port, asked) for _ in range(count)))

    return asyncio.run(main())


@dataclass
class Bill:
    """What the provider charges: exact usage for every answer it gives."""

    input: int
    output: int
    answers: int = 0

    @property
    def one(self) -> int:
        """Nano-dollars of one answer."""
        return self.input * INPUT_PRICE + self.output * OUTPUT_PRICE

    @property
    def total(self) -> int:
        """Nano-dollars of all."""
        return self.answers * self.one
