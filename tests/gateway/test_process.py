"""`headrace serve` as a process: its first key, its end, its workers, its files."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.gate import ask, wait_for

from headrace.testing import FakeProvider

loops = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


class Served:
    """A running `headrace serve`; `info` is what it said at its start."""

    def __init__(self, process: subprocess.Popen[bytes], info: Any) -> None:
        self.process = process
        self.info = info
        self.url: str = info["url"]

    def get(
        self, path: str, key: str, body: bytes | None = None, *, timeout: float = 10
    ) -> tuple[int, bytes]:
        """Status and body."""
        request = urllib.request.Request(
            self.url + path, body, {"authorization": f"Bearer {key}", "connection": "close"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, bytes]:
        """Its exit code and what it wrote to standard error."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err

    @property
    def workers(self) -> list[int]:
        """The ids of its child processes."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environ(folder: Path, loop: str) -> dict[str, str]:
    """Nothing but a home; for a plain asyncio loop an environment in which uvloop cannot be imported."""
    values = {"PATH": os.defpath, "HOME": str(folder / "home")}
    if loop == "asyncio":
        hidden = folder / "hidden"
        hidden.mkdir(exist_ok=True)
        (hidden / "uvloop.py").write_text("raise ImportError('hidden by a test')\n")
        values["PYTHONPATH"] = str(hidden)
    return values


@contextmanager
def serving(folder: Path, loop: str, *arguments: str, text: str | None = None) -> Iterator[Served]:
    """Starts it with the configuration `text` (None: without any) and kills it at the end."""
    (folder / "home").mkdir(exist_ok=True)
    if text is not None:
        (folder / "headrace.toml").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "serve", "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environ(folder, loop),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1].decode()
        yield Served(process, json.loads(line))
    finally:
        process.kill()
        process.communicate()


def config(provider: FakeProvider, more: str = "") -> str:
    """One provider in both dialects and a file for the store."""
    return (
        f'[providers.fake]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n'
        f'[store]\npath = "headrace.db"\n{more}'
    )


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider in a thread of its own."""
    with FakeProvider() as fake:
        yield fake


BODY = ask("openai", "fake/m")


@loops
def test_the_first_key(provider: FakeProvider, tmp_path: Path, loop: str) -> None:
    """Made and shown at the first start only; it works from then on, and only its owner may read the store's files."""
    with serving(tmp_path, loop, text=config(provider)) as first:
        key = first.info["first_key"]
        assert key.startswith("hr-") and len(key) > 40
        assert first.get("/v1/chat/completions", key, BODY)[0] == 200
        for path in tmp_path.glob("headrace.db*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert key.encode() not in path.read_bytes()
        code, err = first.stop()
        assert code == 0
        assert key.encode() not in err and b"Traceback" not in err
    with serving(tmp_path, loop) as second:
        assert second.info["first_key"] is None
        assert second.get("/v1/chat/completions", key, BODY)[0] == 200
        assert second.stop(signal.SIGINT)[0] == 0
    assert key.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("headrace.db*"))


@loops
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_stop_under_load(provider: FakeProvider, tmp_path: Path, loop: str, dialect: str) -> None:
    """A running stream is finished, a kept connection is told that we are shutting down, a new one is refused; exit code 0."""
    provider.reply(chunks=[f"word{n} " for n in range(20)], delay_s=0.04)
    text = config(provider, '[gateway]\ndrain = "10s"\n')
    path = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[dialect]
    got: list[bytes] = []
    with serving(tmp_path, loop, text=text) as served:
        key = served.info["first_key"]
        host, _, port = served.url.removeprefix("http://").partition(":")

        def stream() -> None:
            got.append(served.get(path, key, ask(dialect, "fake/m", stream=True))[1])

        reader = threading.Thread(target=stream)
        reader.start()
        wait_for(lambda: provider.requests)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: %d\r\n\r\n"
        body = ask(dialect, "fake/m")
        with socket.create_connection((host, int(port)), timeout=10) as kept:
            kept.sendall((head % len(body)).encode())  # a request that is half here when the signal comes
            wait_for(lambda: served.get("/health", "")[0] == 200)
            served.process.send_signal(signal.SIGTERM)
            wait_for(lambda: refused(host, int(port)))
            kept.sendall(body)
            answer = kept.makefile("rb").read()
        reader.join(10)
        code, err = served.process.wait(10), served.process.communicate()[1]
    assert answer.startswith(b"HTTP/1.1 503 ") and b"connection: close" in answer
    error = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert "shutting down" in error["error"]["message"]
    assert (error["type"] == "error") if dialect == "anthropic" else ("code" in error["error"])
    assert b"word19 " in got[0]
    assert (b"[DONE]" if dialect == "openai" else b"message_stop") in got[0]
    assert code == 0, err
    assert b"Traceback" not in err
    assert len(provider.requests) == 1


def refused(host: str, port: int) -> bool:
    """Whether nobody listens any more."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return True
    return False


def test_a_stop_that_cannot_wait(provider: FakeProvider, tmp_path: Path) -> None:
    """What is still under way when the time is over is cut, never ended as if it were whole, and the exit code says so."""
    provider.reply(chunks=["word "] * 1000, delay_s=0.05)
    got: list[bytes] = []
    with serving(tmp_path, "uvloop", text=config(provider, '[gateway]\ndrain = "200ms"\n')) as served:
        host, _, port = served.url.removeprefix("http://").partition(":")
        body = ask("openai", "fake/m", stream=True)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.info['first_key']}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(head.encode() + body)
            got.append(sock.recv(65536))
            served.process.send_signal(signal.SIGTERM)
            try:
                while piece := sock.recv(65536):
                    got.append(piece)
            except ConnectionError:
                pass
        assert served.process.wait(10) == 1
    whole = b"".join(got)
    assert b"word " in whole
    assert b"[DONE]" not in whole and not whole.endswith(b"0\r\n\r\n")


@loops
def test_workers(provider: FakeProvider, tmp_path: Path, loop: str) -> None:
    """Two of them on one socket and one store; one that is killed is replaced; all end with the first."""
    with serving(tmp_path, loop, "--workers", "2", text=config(provider)) as served:
        key = served.info["first_key"]
        wait_for(lambda: len(served.workers) == 2)
        assert served.get("/v1/chat/completions", key, BODY)[0] == 200
        killed = served.workers[0]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(served.workers) == 2 and killed not in served.workers)
        for _ in range(10):
            assert served.get("/v1/chat/completions", key, BODY)[0] == 200
        workers = served.workers
        code, err = served.stop()
        assert code == 0, err
        assert f"worker {killed} ended with -9".encode() in err
        assert b"Traceback" not in err
    assert not any(alive(pid) for pid in workers)


def test_workers_do_not_outlive_their_parent(provider: FakeProvider, tmp_path: Path) -> None:
    """A parent that is killed cannot tell its workers; they notice."""
    with serving(tmp_path, "uvloop", "--workers", "2", text=config(provider)) as served:
        wait_for(lambda: len(served.workers) == 2)
        served.get("/health", "")
        workers = served.workers
        served.process.kill()
        wait_for(lambda: not any(alive(pid) for pid in workers))


def alive(pid: int) -> bool:
    """Whether the process runs (a dead one that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_taken_port(provider: FakeProvider, tmp_path: Path) -> None:
    """Exit code 2 and one line that says what to do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ran = subprocess.run(
            [sys.executable, "-m", "headrace", "serve", "--port", str(port)],
            cwd=tmp_path,
            env=environ(tmp_path, "uvloop"),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert ran.returncode == 2
    assert f"127.0.0.1:{port}" in ran.stderr and "--port" in ran.stderr
    assert "Traceback" not in ran.stderr


@loops
def test_without_any_configuration(tmp_path: Path, loop: str) -> None:
    """It starts, lists the embedded model, and keeps its store at home."""
    with serving(tmp_path, loop) as served:
        key = served.info["first_key"]
        status, body = served.get("/v1/models", key)
        assert status == 200
        assert [model["id"] for model in json.loads(body)["data"]] == ["local/default"]
        assert served.get("/health/readiness", "")[0] == 200
        assert served.get("/docs", "")[0] == 200
        assert served.get("/v1/chat/completions", key, ask("openai", "nowhere/x"))[0] == 404
        files = list(tmp_path.rglob("*.db"))
        assert len(files) == 1 and files[0].is_relative_to(tmp_path / "home")
        assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
        assert served.stop()[0] == 0


def test_answers_of_a_model_that_stalls_do_not_hold_the_end(provider: FakeProvider, tmp_path: Path) -> None:
    """Idle connections, also those to the provider, end with the process at once."""
    provider.reply("a")
    with serving(tmp_path, "uvloop", text=config(provider)) as served:
        assert served.get("/v1/chat/completions", served.info["first_key"], BODY)[0] == 200
        host, _, port = served.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as idle:
            idle.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(2) == 0


def test_a_change_of_a_key_outlives_its_gateway(provider: FakeProvider, tmp_path: Path) -> None:
    """What was acknowledged holds after kill -9 at once: a new key is good, a rotated value and a revoked key are not, and the log has it."""
    admin = "hr-admin-0123456789"
    text = config(provider, f'[gateway]\nadmin_key = "{admin}"\n')
    values: dict[str, str] = {}
    for change in ("create", "rotate", "revoke"):
        with serving(tmp_path, "uvloop", text=text) as gateway:
            if change == "create":
                values["first"] = json.loads(gateway.get("/admin/keys", admin, b'{"name": "k"}')[1])["key"]
            else:
                status, body = gateway.get(f"/admin/keys/k/{change}", admin, b"{}")
                assert status == 200
                values[change] = json.loads(body).get("key", "")
            gateway.process.kill()
        with serving(tmp_path, "uvloop", text=text) as gateway:
            good = {
                name for name, value in values.items() if value and gateway.get("/v1/models", value)[0] == 200
            }
            assert good == {"create": {"first"}, "rotate": {"rotate"}, "revoke": set()}[change]
            lines = json.loads(gateway.get("/admin/audit?limit=1", admin)[1])["audit"]
            assert lines[0]["action"] == f"key.{change}"
