"""Runs the gateway: the socket, worker processes, signals, the first key, and what is printed at the start.

With more than one worker the parent binds the socket and forks; it restarts what dies and passes a stop signal on. Each worker is
one event loop with an engine of its own, all on one store file.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

import msgspec

from headrace import __version__
from headrace.clock import Clock, SystemClock
from headrace.config import Settings
from headrace.engine import Engine
from headrace.errors import ConfigError
from headrace.gateway.app import App
from headrace.gateway.auth import Keyring
from headrace.gateway.circuits import SharedCircuits
from headrace.gateway.cores import no_core_dumps
from headrace.gateway.http import HTTPServer, Limits
from headrace.keys import issue
from headrace.store import Actor

if TYPE_CHECKING:
    from headrace.store import Store

__all__ = ["Gateway", "bind", "run"]

logger = logging.getLogger("headrace.gateway")

SEND_BUFFER = 65_536
"""Kernel buffer for answers. The default grows to megabytes for a client that has stopped reading; with this the answer's
writer notices after some hundred kilobytes."""

BACKLOG = 2_048

STOPS = (signal.SIGTERM, signal.SIGINT)

RESTARTS_A_MINUTE = 5
"""A worker that dies more often than this is not started again: something is wrong that a restart does not cure."""


class Gateway:
    """An engine behind a server, in one event loop: ``async with Gateway(settings, sockets=[bind(...)]) as gateway``."""

    def __init__(
        self, settings: Settings, *, sockets: Sequence[socket.socket], engine: Engine | None = None
    ) -> None:
        self.settings = settings
        self.engine = engine if engine is not None else Engine(settings)
        self.circuits = SharedCircuits(self.engine.breaker, self.engine.store, self.engine.clock)
        gateway = settings.gateway
        keyring = Keyring(
            settings.keys.values(), gateway.admin_key, store=self.engine.store, clock=self.engine.clock
        )
        self.app = App(self.engine, keyring)
        self._sockets = sockets
        self.server = HTTPServer(
            self.app,
            clock=self.engine.clock,
            limits=Limits(
                max_body=gateway.max_body_bytes,
                max_headers=gateway.max_header_bytes,
                head_s=gateway.header_timeout_s,
                body_s=gateway.body_timeout_s,
                idle_s=gateway.idle_timeout_s,
                stall_s=gateway.client_stall_s,
            ),
            refusal=self.app.unreadable,
        )
        self.app.busy = lambda: self.server.busy

    async def __aenter__(self) -> Self:
        if self.settings.store.path is not None:
            await self.circuits.start()
        for sock in self._sockets:
            await self.server.listen(sock)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop(0.0)

    async def stop(self, drain_s: float) -> int:
        """Refuse new requests, let running ones finish for `drain_s` seconds, close everything. Returns how many were cut."""
        self.app.answering.draining = True
        cut = await self.server.drain(drain_s)
        await self.circuits.aclose()
        await self.engine.aclose()
        return cut


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ConfigError` with what to do when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}; choose another with --port (0 lets the system choose)"
        ) from error
    return sock


async def first_key(store: Store, settings: Settings, clock: Clock) -> str | None:
    """Makes the first key of a gateway that no caller has one for; returns it, for the only time. None where there was one."""
    if any(key.role == "caller" for key in (*settings.keys.values(), *await store.list_keys())):
        return None
    by = Actor("headrace serve")
    issued = await issue(store, {"tenant": "default"}, settings, now=clock.wall(), by=by)
    return issued.value.reveal()


def run(settings: Settings, *, as_json: bool = False, out: TextIO | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 when requests had to be cut at the end.

    Args:
        as_json: Print what there is to know at the start as one line of JSON.
        out: Where to print; standard output by default.

    Raises:
        ConfigError: The address cannot be bound.
        StoreError: The store cannot be opened.
    """
    out = out if out is not None else sys.stdout
    if settings.store.path is None:
        settings = replace(settings, store=replace(settings.store, path=settings.store.usual))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    no_core_dumps()
    sock = bind(settings.gateway.host, settings.gateway.port)
    try:
        if settings.gateway.workers == 1:
            return _loop(_serve(settings, sock, out, as_json))
        return _supervise(settings, sock, out, as_json)
    finally:
        sock.close()


def _loop(main: asyncio._CoroutineLike[int]) -> int:
    try:
        import uvloop
    except ImportError:  # a pure asyncio loop serves too, at about half the speed
        return asyncio.run(main)  # type: ignore[arg-type]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code: int = runner.run(main)  # type: ignore[arg-type]
        return code


async def _serve(
    settings: Settings, sock: socket.socket, out: TextIO | None, as_json: bool, *, parent: int | None = None
) -> int:
    """`parent`: a pipe that ends when the parent process does, whatever ended it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if parent is not None:
        loop.add_reader(parent, stop.set)
    for number in STOPS:
        loop.add_signal_handler(number, stop.set)
    engine = Engine(settings)
    key = await first_key(engine.store, settings, engine.clock) if out is not None else None
    gateway = Gateway(settings, sockets=[sock], engine=engine)
    async with gateway:
        if out is not None:
            _announce(settings, sock, key, out, as_json)
        gc.collect()
        gc.freeze()  # what start-up made lives on: collections of what requests make need not look at it
        await stop.wait()
        if parent is not None:
            loop.remove_reader(parent)
        for number in STOPS:
            loop.remove_signal_handler(number)  # a second signal ends at once
        cut = await gateway.stop(settings.gateway.drain_s)
        if cut:
            logger.warning("%d requests had to be cut after %g s", cut, settings.gateway.drain_s)
    return 1 if cut else 0


def _supervise(settings: Settings, sock: socket.socket, out: TextIO, as_json: bool) -> int:
    engine_key = _loop(_prepare(settings, out, sock, as_json))
    if engine_key:
        return engine_key
    workers: dict[int, None] = {}
    stopping = False
    parent, held = os.pipe()

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def start() -> None:
        # Blocked, so that a stop signal finds either no new worker or one that is on the list.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        pid = -1 if stopping else os.fork()
        if pid == 0:
            os.close(held)
            for number in STOPS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            code = 1
            try:
                code = _loop(_serve(settings, sock, None, as_json, parent=parent))
            except BaseException:
                logger.exception("a worker failed")
            finally:
                sys.stdout.flush()
                os._exit(code)
        if pid > 0:
            workers[pid] = None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    for number in STOPS:
        signal.signal(number, stop)
    for _ in range(settings.gateway.workers):
        start()
    worst, clock, deaths = 0, SystemClock(), list[float]()
    while workers:
        pid, status = os.wait()
        workers.pop(pid, None)
        if stopping:
            worst = max(worst, os.waitstatus_to_exitcode(status))
            continue
        deaths = [when for when in deaths if clock.now() - when < 60.0] + [clock.now()]
        logger.error("worker %d ended with %d", pid, os.waitstatus_to_exitcode(status))
        if len(deaths) > RESTARTS_A_MINUTE * settings.gateway.workers:
            logger.error("workers die too often; giving up")
            worst = 1
            stop(signal.SIGTERM, None)
        else:
            start()
    os.close(parent)
    os.close(held)
    return worst


async def _prepare(settings: Settings, out: TextIO, sock: socket.socket, as_json: bool) -> int:
    """What is done once, before the workers: migrate the store, make the first key, say what there is."""
    engine = Engine(settings)
    key = await first_key(engine.store, settings, engine.clock)
    await engine.aclose()
    _announce(settings, sock, key, out, as_json)
    return 0


def _announce(settings: Settings, sock: socket.socket, key: str | None, out: TextIO, as_json: bool) -> None:
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    base = f"http://{shown}:{port}"
    usable = [provider.name for provider in settings.providers.values() if provider.usable]
    routes = {route.name: [str(target) for target in route.cascade] for route in settings.routes.values()}
    if as_json:
        value = {"url": base, "version": __version__, "providers": usable, "routes": routes, "first_key": key}
        out.write(msgspec.json.encode(value).decode() + "\n")
        out.flush()
        return
    default = settings.default_route
    model = default.name if default is not None else next(iter(routes), "PROVIDER/MODEL")
    lines = [f"Headrace {__version__} serves {base}"]
    lines.append(f"  config     {settings.source or 'none; keys come from the environment'}")
    lines.append(
        f"  providers  {', '.join(usable) or 'none with a key: the embedded model answers (local/default)'}"
    )
    lines += [f"  route      {name}: {' -> '.join(targets)}" for name, targets in routes.items()]
    lines.append(f"  store      {settings.store.path or 'in memory'}")
    lines.append(f"  docs       {base}/docs")
    if key is not None:
        lines += ["", f"  API key (shown only now): {key}"]
    elif settings.keys:
        lines.append(f"  keys       {', '.join(settings.keys)} (from the configuration)")
    secret = key or "$HEADRACE_KEY"
    lines += [
        "",
        f'curl {base}/v1/chat/completions -H "authorization: Bearer {secret}" -H "content-type: application/json" \\',
        f"""  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'""",
        f'OpenAI(base_url="{base}/v1", api_key="{secret}")',
        f'Anthropic(base_url="{base}", api_key="{secret}")',
    ]
    out.write("\n".join(lines) + "\n")
    out.flush()
