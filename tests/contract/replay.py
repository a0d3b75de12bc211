"""A provider that answers with one recorded exchange, byte for byte, and keeps what it was sent."""

from __future__ import annotations

import importlib.util
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from tests.contract.recording import Recording

__all__ = ["SHARED", "Provider", "Received", "load_shared", "replaying", "replaying_with"]

SHARED = Path(__file__).resolve().parents[3] / "shared"
"""The folder beside the repository with every recording and the replay server that came with them."""


NOT_REPLAYED = {
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""Headers of the recorded connection, not of the answer."""


class Received(NamedTuple):
    """A request as the provider got it; header names in lower case."""

    headers: dict[str, str]
    body: bytes


class Provider(Protocol):
    """`url` without a path; `play` sets what every request from now on is answered with, and forgets what was received."""

    url: str

    def play(self, recording: Recording) -> None: ...

    def received(self) -> list[Received]: ...


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    provider: _Own

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.provider.log.append(Received({k.lower(): v for k, v in self.headers.items()}, body))
        recording = self.provider.recording
        assert recording is not None
        self.send_response_only(recording.status)
        for name, value in recording.headers:
            if name.lower() not in NOT_REPLAYED:
                self.send_header(name, value)
        if not recording.answered_stream:
            self.send_header("Content-Length", str(len(recording.body)))
            self.end_headers()
            self.wfile.write(recording.body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in re.findall(rb".+?(?:(?:\r?\n){2,}|\Z)", recording.body, re.DOTALL):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")


class _Own:
    def __init__(self) -> None:
        self.recording: Recording | None = None
        self.log: list[Received] = []
        self.url = ""

    def play(self, recording: Recording) -> None:
        self.recording = recording
        self.log.clear()

    def received(self) -> list[Received]:
        return list(self.log)


class _Shared:
    """The replay server that came with the data, with one recording in its store at a time."""

    def __init__(self, module: ModuleType, exchanges: Mapping[str, Any]) -> None:
        self.module = module
        self.exchanges = exchanges
        self.url = ""
        self.handler: Any = None

    def play(self, recording: Recording) -> None:
        find = self.module.Store.find

        class Only(self.module.Store):  # type: ignore[misc, name-defined]
            """Finds the one recording, whatever is asked: a translated body is no likeness of the recorded one."""

            def find(
                self, provider: Any, method: str, path: str, body: bytes, force: Any = None, query: str = ""
            ) -> Any:
                return find(self, provider, method, path, body, 0, query)

        self.handler.store = Only([self.exchanges[recording.name]])

    def received(self) -> list[Received]:
        return [
            Received({k.lower(): v for k, v in entry["headers"].items()}, entry["body"].encode())
            for entry in self.handler.store.log
        ]


def load_shared() -> tuple[ModuleType, list[Any]]:
    """The replay server in `SHARED`, and every exchange that it can read there."""
    spec = importlib.util.spec_from_file_location("replay_server", SHARED / "tools" / "replay_server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the loader leaves its files to the collector
        exchanges, unreadable = module.load([str(SHARED / "data" / "providers")], warn=False)
    assert not unreadable, unreadable[:3]
    return module, exchanges


@contextmanager
def replaying() -> Iterator[Provider]:
    """Our own replay server, in a thread until the block ends."""
    own = _Own()
    with _running(
        ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"provider": own}))
    ) as url:
        own.url = url
        yield own


@contextmanager
def replaying_with(module: ModuleType, exchanges: Mapping[str, Any]) -> Iterator[Provider]:
    """The replay server in `module`; `exchanges` are its own values by the names of their recordings."""
    options = {
        "host": "127.0.0.1",
        "port": 0,
        "chunk": "event",
        "delay_ms": 0.0,
        "min_score": 0.0,
        "loose": True,
        "no_marks": True,
        "seed": 0,
    }
    shared = _Shared(module, exchanges)
    server = module.start([], type("Options", (), options))
    shared.handler = server.RequestHandlerClass
    with _running(server) as url:
        shared.url = url
        yield shared


@contextmanager
def _running(server: ThreadingHTTPServer) -> Iterator[str]:
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
