"""The synchronous face where people use it: inside a running loop (a notebook), in threads, under Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import headrace
from headrace.testing import Answer, FakeProvider


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def settings(tmp_path: Path, provider: FakeProvider) -> headrace.Settings:
    path = tmp_path / "headrace.toml"
    path.write_text(f'[providers.p]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n')
    return headrace.load(path, environ={})


def lookup(city: str) -> str:
    """Look it up."""
    return f"{city} is fine"


def test_inside_a_running_loop(provider: FakeProvider, settings: headrace.Settings) -> None:
    """As in a notebook's cell: answers, streams, tools, vectors and batches, while the loop of somebody else runs."""

    async def cell() -> None:
        with headrace.Client(settings) as llm:
            assert llm.chat("p/m", "hi").text == "echo: hi"
            with llm.stream("p/m", "one two") as stream:
                assert "".join(stream) == "echo: one two"
            provider.script(Answer(tool_calls=[("lookup", {"city": "Rome"})]), Answer("ok"))
            assert llm.chat("p/m", "?", tools=[lookup]).tool_runs[0].result == "Rome is fine"
            assert len(llm.embed("p/m", ["a", "b"])) == 2
            assert [one.text for one in llm.map("p/m", ["a"])] == ["echo: a"]

    asyncio.run(cell())


def test_one_client_in_many_threads(settings: headrace.Settings) -> None:
    """Sixteen threads that begin at once get each its own answer, whole or streamed."""
    begin = threading.Barrier(16, timeout=10)

    def ask(number: int) -> str:
        begin.wait()
        if number % 2:
            return llm.chat("p/m", f"n{number}").text
        with llm.stream("p/m", f"n{number}") as stream:
            return "".join(stream)

    with headrace.Client(settings) as llm, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == [f"echo: n{number}" for number in range(16)]
        threads = [thread for thread in threading.enumerate() if thread.name == "headrace"]
        assert len(threads) == 1


SLOW = """
import sys
import headrace
with headrace.Client(headrace.load(sys.argv[1], environ={})) as llm:
    print("ready", flush=True)
    try:
        llm.chat("p/m", "slow")
    except KeyboardInterrupt:
        print(llm.chat("p/m", "quick").text, flush=True)
"""


def test_ctrl_c_ends_the_request_and_not_the_client(
    tmp_path: Path, provider: FakeProvider, settings: headrace.Settings
) -> None:
    """The provider's connection is closed at once, and the client goes on."""
    provider.script(Answer("late", first_delay_s=60), Answer("quick"))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(settings.source)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    while not provider.requests:
        threading.Event().wait(0.005)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == "quick\n" and process.returncode == 0
    assert provider.requests[0].hung_up_at is not None


def test_an_asynchronous_client_stays_on_its_loop(settings: headrace.Settings) -> None:
    """Used in a second `asyncio.run` it says what is wrong, instead of what asyncio makes of it."""

    async def main() -> headrace.AsyncClient:
        llm = headrace.AsyncClient(settings)
        await llm.chat("p/m", "hi")
        await llm.aclose()
        return llm

    llm = asyncio.run(main())
    with pytest.raises(RuntimeError, match="belongs to another event loop"):
        asyncio.run(llm.chat("p/m", "hi"))
