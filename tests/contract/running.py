"""A gateway in a thread, so that tests can drive it with the official SDKs' synchronous clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from headrace.config import load
from headrace.gateway.serve import Gateway, bind

__all__ = ["KEY", "Served", "serving"]

KEY = "hr-contract-tests-0123456789"
"""The key of the gateway where the configuration names none."""

STARTS_WITHIN_S = 10.0


class Served(NamedTuple):
    """Where a gateway listens (`http://127.0.0.1:PORT`, without `/v1`) and a key that it accepts."""

    base_url: str
    key: str


@contextmanager
def serving(config: str, folder: Path) -> Iterator[Served]:
    """Runs a gateway configured by `config` (TOML) in an event loop of its own until the block ends.

    Args:
        config: Without a `[keys]` table, `KEY` is accepted; with one, its first value is what `Served` has.
        folder: Where the configuration is written, and where relative paths in it lead.

    Raises:
        ConfigError: As `headrace.config.load`. The process's environment is not read.
    """
    if "[keys" not in config:
        config += f'\n[keys.contract]\nvalue = "{KEY}"\n'
    path = folder / "headrace.toml"
    path.write_text(config, encoding="utf-8")
    settings = load(path, environ={})
    key = next(iter(settings.keys.values())).value.reveal()
    sock = bind("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()
    failures: list[BaseException] = []

    async def main() -> None:
        async with Gateway(settings, sockets=[sock]):
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits)
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="gateway", daemon=True)
    thread.start()
    try:
        assert started.wait(STARTS_WITHIN_S), "the gateway did not start"
        if not failures:
            yield Served(f"http://127.0.0.1:{sock.getsockname()[1]}", key)
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join(STARTS_WITHIN_S)
        sock.close()
    if failures:
        raise failures[0]
