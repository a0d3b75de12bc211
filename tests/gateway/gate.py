"""A gateway in a thread in front of a fake provider, with everything that a test wants to look at."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import anthropic
import openai

from headrace.clock import SystemClock
from headrace.config import load
from headrace.engine import Engine
from headrace.gateway.serve import Gateway, bind
from headrace.layers.breaker import Breaker, Rules
from headrace.layers.retry import Retry, RetryBudget
from headrace.testing import FakeProvider

__all__ = [
    "ADMIN",
    "KEY",
    "OTHER",
    "PAIRS",
    "PATHS",
    "ROLE_KEYS",
    "UPSTREAM",
    "Gate",
    "Got",
    "ask",
    "clock",
    "config",
    "gated",
    "wait_for",
]

KEY = "hr-canary-client-key-0123456789"
OTHER = "hr-canary-other-key-0123456789"
ADMIN = "hr-canary-admin-key-0123456789"
ROLE_KEYS = {role: f"hr-canary-{role}-role-0123456789" for role in ("viewer", "auditor", "operator", "admin")}
"""A key for each role of the admin API."""
UPSTREAM = "sk-canary-upstream-0123456789abcdef"

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
PAIRS = [(client, provider) for client in ("openai", "anthropic") for provider in ("openai", "anthropic")]
"""The dialect of the client and that of the provider. The provider of a dialect has its name."""

T = TypeVar("T")
clock = SystemClock()


def config(provider: FakeProvider, *, gateway: str = "", more: str = "") -> str:
    """Two providers (`openai`, `anthropic`: one server, two dialects), routes over them, two keys, one a role, and an admin key."""
    roles = "".join(f'[keys.a-{role}]\nvalue = "{key}"\nrole = "{role}"\n' for role, key in ROLE_KEYS.items())
    return f"""
[providers.openai]
dialect = "openai-chat"
base_url = "{provider.base_url}"
api_key = "{UPSTREAM}"
[providers.anthropic]
dialect = "anthropic"
base_url = "{provider.anthropic_url}"
api_key = "{UPSTREAM}"
[routes.both]
cascade = [{{ target = "openai/first", attempts = 2 }}, {{ target = "anthropic/second", attempts = 2 }}]
[routes.quick]
cascade = ["openai/m"]
deadline = "300ms"
[keys.one]
value = "{KEY}"
[keys.two]
value = "{OTHER}"
routes = ["both"]
{roles}
[store]
path = "headrace.db"
[gateway]
admin_key = "{ADMIN}"
{gateway}
{more}
"""


def ask(dialect: str, model: str, text: str = "hi", **members: Any) -> bytes:
    """The smallest body that asks `text`, with more members."""
    body: dict[str, Any] = {"model": model}
    if dialect == "anthropic":
        body["max_tokens"] = 64
    return json.dumps(body | {"messages": [{"role": "user", "content": text}]} | members).encode()


def wait_for(condition: Callable[[], object], within_s: float = 5.0) -> None:
    """Until `condition()` holds; fails after `within_s` seconds."""
    until = clock.now() + within_s
    while not condition():
        assert clock.now() < until, f"not within {within_s:g} s"
        time.sleep(0.002)


@dataclass(frozen=True)
class Got:
    """An answer as it came over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body decoded."""
        return json.loads(self.body)


@dataclass
class Gate:
    """A running gateway.

    Attributes:
        url: `http://127.0.0.1:PORT`.
        gateway: The gateway itself; touch it with `call` and `on_loop`, since it lives in another thread.
    """

    provider: FakeProvider
    port: int
    folder: Path
    loop: asyncio.AbstractEventLoop
    gateway: Gateway = field(repr=False)
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine(self) -> Engine:
        return self.gateway.engine

    @property
    def oai(self) -> openai.OpenAI:
        """OpenAI's SDK with its default retries."""
        if "oai" not in self._clients:
            self._clients["oai"] = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, timeout=10)
        client: openai.OpenAI = self._clients["oai"]
        return client

    @property
    def ant(self) -> anthropic.Anthropic:
        """Anthropic's SDK with its default retries."""
        if "ant" not in self._clients:
            self._clients["ant"] = anthropic.Anthropic(base_url=self.url, api_key=KEY, timeout=10)
        client: anthropic.Anthropic = self._clients["ant"]
        return client

    def on_loop(self, function: Callable[[], T]) -> T:
        """`function()` in the gateway's thread."""

        async def run() -> T:
            return function()

        return self.run(run())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """`coroutine` on the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def tasks(self) -> int:
        """Tasks on the gateway's loop, beside its own and the one that counts."""

        def count() -> int:
            return sum(task.get_name() != "headrace-circuits" for task in asyncio.all_tasks()) - 2

        return self.on_loop(count)

    def http(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        key: str | None = KEY,
        timeout: float = 10.0,
    ) -> Got:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            sent = {"connection": "close"} | ({} if key is None else {"authorization": f"Bearer {key}"})
            if body is not None:
                sent["content-type"] = "application/json"
            connection.request(method, path, body, sent | dict(headers or {}))
            response = connection.getresponse()
            return Got(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, dialect: str, body: bytes, headers: Mapping[str, str] | None = None) -> Got:
        """A request to the chat endpoint of `dialect`."""
        more = {"anthropic-version": "2023-06-01"} if dialect == "anthropic" else {}
        return self.http("POST", PATHS[dialect], body, more | dict(headers or {}))

    def raw(self, data: bytes, *, timeout: float = 5.0) -> bytes:
        """Bytes in, and all that comes back until the gateway closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as sock:
            sock.sendall(data)
            pieces = []
            while piece := sock.recv(65536):
                pieces.append(piece)
        return b"".join(pieces)

    def report(self, request_id: str) -> Any:
        """`GET /v1/requests/{id}`."""
        return self.http("GET", f"/v1/requests/{request_id}").json

    def fresh(self) -> None:
        """Forgets what the provider was told and did, and what the breaker made of it."""
        self.provider.reset()

        def forget() -> None:
            self.engine.breaker._watched.clear()
            self.engine.breaker._circuits.clear()

        self.on_loop(forget)

    def settled(self) -> None:
        """Waits until nothing is under way: no answers, no tasks, no open connection to the provider but pooled ones."""
        wait_for(lambda: self.on_loop(lambda: self.gateway.server.busy) == 0)
        wait_for(lambda: self.tasks() == 0)
        transport: Any = self.engine.transport
        wait_for(lambda: self.on_loop(lambda: transport.open_connections == transport.idle_connections))

    def close(self) -> None:
        """Close the SDK clients."""
        for client in self._clients.values():
            client.close()


@contextmanager
def gated(
    provider: FakeProvider,
    folder: Path,
    text: str | None = None,
    *,
    make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Iterator[Gate]:
    """Runs a gateway with the configuration `text` (default: `config(provider)`). Retries do not wait unless they are told to."""
    path = folder / "headrace.toml"
    path.write_text(config(provider) if text is None else text)
    settings = load(path, environ={})
    sock = bind("127.0.0.1", 0)
    started = threading.Event()
    made: list[Gate] = []
    failed: list[BaseException] = []
    stop: list[asyncio.Event] = []

    async def main() -> None:
        stop.append(asyncio.Event())
        # Many tests with failing providers share one gateway: its retry budget and its breaker must not be what they see.
        plenty = functools.partial(Retry, budget=RetryBudget(floor=1e9))
        never = functools.partial(Breaker, rules=Rules(in_a_row=inf, few_in_a_row=inf, ratio=inf))
        with mock.patch("headrace.engine.Retry", plenty), mock.patch("headrace.engine.Breaker", never):
            engine = Engine(settings, random=lambda: 0.0)
        async with Gateway(settings, sockets=[sock], engine=engine) as gateway:
            made.append(
                Gate(provider, sock.getsockname()[1], folder, asyncio.get_running_loop(), gateway=gateway)
            )
            started.set()
            await stop[0].wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=make_loop) as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001  (raised again below)
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="gateway", daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        if made:
            yield made[0]
    finally:
        if made:
            made[0].close()
            if thread.is_alive():
                made[0].loop.call_soon_threadsafe(stop[0].set)
        thread.join(10)
        sock.close()
    if failed:
        raise failed[0]
