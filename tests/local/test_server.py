from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from headrace.clock import SystemClock
from headrace.errors import ProviderUnavailable
from headrace.local import LocalModel, pull

pytestmark = pytest.mark.model

HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


def post(url: str, key: str, body: dict[str, Any], *, path: str = "/v1/chat/completions") -> tuple[int, str]:
    """The status and the whole answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    try:
        connection.request(
            "POST",
            path,
            json.dumps(body),
            {"authorization": f"Bearer {key}", "content-type": "application/json"},
        )
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def runs(pid: int) -> bool:
    """Whether the process is there and more than a zombie whose new parent is slow to reap it."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() != "" and not found.stdout.startswith("Z")


def shown_by_ps(pid: int) -> bytes:
    """The command line and the environment of a process, as others on the machine see them."""
    return b"".join(Path(f"/proc/{pid}/{file}").read_bytes() for file in ("cmdline", "environ"))


def serving(model: LocalModel, use: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `use` and close the model in the same loop."""

    async def main() -> None:
        try:
            await use()
        finally:
            await model.aclose()

    asyncio.run(main())


async def ask(model: LocalModel, **changes: Any) -> tuple[int, str]:
    """Ask the model, starting it if need be."""
    url, key = await model.base_url()
    return await asyncio.to_thread(post, url, key, {**HELLO, **changes})


def test_answers(local_model: LocalModel) -> None:
    """A real answer with usage, under the name of the weights; the same prompt again is read from the prefix cache."""

    async def use() -> None:
        status, text = await ask(local_model)
        answer = json.loads(text)
        assert status == 200 and answer["model"] == "smollm2-135m"
        assert answer["choices"][0]["message"]["content"].startswith("Hello")
        assert answer["usage"]["completion_tokens"] == 8 and answer["usage"]["prompt_tokens"] > 10
        again = json.loads((await ask(local_model))[1])
        assert again["choices"] == answer["choices"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 10

    serving(local_model, use)


def test_streams_tokens_and_usage(local_model: LocalModel) -> None:
    """A stream has a chunk a token, a finish reason, one usage chunk without choices, and the end marker."""

    async def use() -> None:
        status, text = await ask(
            local_model, stream=True, stream_options={"include_usage": True}, max_tokens=6
        )
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert status == 200 and events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        tokens = [chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-1]]
        assert len([token for token in tokens if token]) >= 3
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 6

    serving(local_model, use)


def test_answers_in_the_other_dialect(local_model: LocalModel) -> None:
    """The same child answers Anthropic's Messages too."""

    async def use() -> None:
        url, key = await local_model.base_url()
        status, text = await asyncio.to_thread(post, url, key, HELLO, path="/v1/messages")
        answer = json.loads(text)
        assert status == 200 and answer["content"][0]["text"].startswith("Hello")
        assert answer["stop_reason"] == "max_tokens" and answer["usage"]["output_tokens"] == 8

    serving(local_model, use)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_asks_for_its_key(local_model: LocalModel) -> None:
    """Another process on the machine cannot use the model without the key, and `ps` does not show it."""

    async def use() -> None:
        url, key = await local_model.base_url()
        status, text = await asyncio.to_thread(post, url, "wrong", HELLO)
        assert status == 401 and json.loads(text)["error"]["type"] == "authentication_error"
        assert local_model.pid is not None
        shown = shown_by_ps(local_model.pid)
        assert b"headrace.local.server" in shown and key.encode() not in shown

    serving(local_model, use)


def test_request_over_the_context(model_cache: Path) -> None:
    """Each request has the whole context that was configured; one over it is a 400 that says both numbers."""
    model = LocalModel(cache_dir=model_cache, clock=SystemClock(), context=256, parallel=2)

    async def use() -> None:
        fits, _ = await ask(model, messages=[{"role": "user", "content": "word " * 200}], max_tokens=1)
        assert fits == 200
        status, text = await ask(model, messages=[{"role": "user", "content": "word " * 300}], stream=True)
        error = json.loads(text)["error"]
        assert status == 400 and error["type"] == "exceed_context_size_error"
        assert error["n_ctx"] == 256 and error["n_prompt_tokens"] > 300

    serving(model, use)


def test_serves_this_machine_only(local_model: LocalModel) -> None:
    """The port is open on 127.0.0.1 and closed on the rest of the loopback network."""

    async def use() -> None:
        port = urlsplit((await local_model.base_url())[0]).port
        assert port is not None
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(OSError, match=r"refused|assign"):
            socket.create_connection(("127.0.0.2", port), timeout=5)

    serving(local_model, use)


def test_stream_that_is_left_frees_its_slot(model_cache: Path) -> None:
    """Closing a stream stops the work at once: with one slot, the next request need not wait for hundreds of tokens."""
    model = LocalModel(cache_dir=model_cache, clock=SystemClock(), parallel=1)

    def leave(url: str, key: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        body = {**HELLO, "stream": True, "max_tokens": 1900, "ignore_eos": True}
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"authorization": f"Bearer {key}"}
        )
        response = connection.getresponse()
        assert response.read(100).startswith(b"data: ")
        response.close()
        connection.close()

    async def use() -> None:
        url, key = await model.base_url()
        clock = SystemClock()
        await asyncio.to_thread(leave, url, key)
        left = clock.now()
        assert (await ask(model, max_tokens=1))[0] == 200
        assert clock.now() - left < 5.0  # 1900 tokens take more than ten seconds

    serving(model, use)


def test_four_at_once(local_model: LocalModel) -> None:
    """Four requests on two slots all get the answer that each gets alone."""

    async def use() -> None:
        answers = await asyncio.gather(*(ask(local_model) for _ in range(4)))
        texts = {json.loads(text)["choices"][0]["message"]["content"] for _, text in answers}
        assert [status for status, _ in answers] == [200] * 4
        assert len(texts) == 1

    serving(local_model, use)


def test_killed_child_is_replaced(local_model: LocalModel) -> None:
    """After `kill -9` the next request works."""

    async def use() -> None:
        assert (await ask(local_model))[0] == 200
        pid = local_model.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while local_model.pid is not None:  # noqa: ASYNC110  (the outside sets no event)
                await asyncio.sleep(0.002)  # noqa: TID251  (a real process keeps real time)
        assert (await ask(local_model))[0] == 200
        assert local_model.pid != pid

    serving(local_model, use)


def test_file_that_is_no_model(tmp_path: Path) -> None:
    """A file that llama.cpp cannot load is a typed error with its path, in time."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    model = LocalModel(str(path), cache_dir=tmp_path, clock=SystemClock())

    async def use() -> None:
        with pytest.raises(ProviderUnavailable, match=r"could not load .*broken\.gguf"):
            await model.base_url()

    serving(model, use)


def test_child_dies_with_a_killed_parent(model_cache: Path) -> None:
    """When the parent is killed with SIGKILL, the model's process ends by itself."""
    program = (
        "import asyncio, sys, pathlib\n"
        "from headrace.clock import SystemClock\n"
        "from headrace.local import LocalModel\n"
        "async def main():\n"
        "    model = LocalModel(cache_dir=pathlib.Path(sys.argv[1]), clock=SystemClock())\n"
        "    await model.base_url()\n"
        "    print(model.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(model_cache)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.kill()
    clock = SystemClock()
    end = clock.now() + 10
    while runs(child) and clock.now() < end:
        pass  # each look starts a process, which is wait enough
    assert not runs(child)


def test_server_needs_a_key(model_cache: Path) -> None:
    """Run by hand without a key it says so and ends, rather than serve to everybody."""
    ended = subprocess.run(
        [sys.executable, "-m", "headrace.local.server", "--model", "x.gguf"],
        input="\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1 and json.loads(ended.stdout) == {"error": "no API key on standard input"}
    assert ended.stderr == ""


def test_pull_again_is_quick(model_cache: Path) -> None:
    """The weights that are there are verified, not fetched: nothing is reported as downloading."""
    phases: list[str] = []
    pull("default", cache_dir=model_cache, progress=lambda progress: phases.append(progress.phase))
    assert phases == ["verifying", "done"]
