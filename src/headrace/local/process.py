"""The keeper of the local model: starts the child at first use, again when it died, and ends it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from headrace.clock import Clock, timeout_at
from headrace.errors import ConnectFailed, ModelNotFound, Permanent, ProviderUnavailable
from headrace.local import weights

__all__ = ["ENVIRONMENT_KEPT", "LocalModel", "next_start"]

ENVIRONMENT_KEPT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR")
"""What the child sees of its parent's environment: what finds Python and its libraries, and no key."""

STARTS_A_MINUTE = 5
BACKOFF_S = 0.5
LONGEST_WAIT_S = 4.0
"""A caller waits this long for a restart; above it the answer is an error that says when to come back."""

END_S = 2.0
"""Between SIGTERM and SIGKILL. The child ends on SIGTERM at once unless the machine is very busy."""

READY_LINE_MAX = 65_536


def next_start(starts: Sequence[float], now: float) -> float:
    """When the child may be started again, given when it was started before (ascending, same clock as `now`); pure.

    At once for the first start and the first restart of a minute, so one crash costs one load; then after 0.5 s, 1 s, 2 s
    since the last; after `STARTS_A_MINUTE` not before the oldest of them is a minute ago.
    """
    recent = [start for start in starts if start > now - 60.0]
    if len(recent) < 2:
        return now
    if len(recent) >= STARTS_A_MINUTE:
        return recent[-STARTS_A_MINUTE] + 60.0
    return max(now, recent[-1] + BACKOFF_S * 2.0 ** (len(recent) - 2))


class LocalModel:
    """A GGUF model served by a child process on 127.0.0.1; belongs to the event loop that first uses it.

    Args:
        model: A name of `headrace.local.MODELS` (`default` is one of them), or a path that ends in `.gguf`.
        cache_dir: Where `headrace models pull` put the weights.
        clock: Time for the start's timeout and the backoff.
        environment: The parent's environment, of which the child gets `ENVIRONMENT_KEPT` only.
        threads: Threads that compute, 1 or more. Two on busy cores are slower than one: they spin for each other.
        context: Tokens that one request may fill, prompt and answer together.
        parallel: Requests answered at a time, each with a `context` of its own; more than that wait their turn.
        start_timeout_s: How long the child may take to load its weights, in seconds.
        command: What to run in place of the real server (the options of `headrace.local.server` are appended).

    Raises:
        ConfigError: `model` is neither known nor a path of a GGUF file.
    """

    def __init__(
        self,
        model: str = weights.DEFAULT,
        *,
        cache_dir: Path,
        clock: Clock,
        environment: Mapping[str, str] | None = None,
        threads: int = 1,
        context: int = 2048,
        parallel: int = 2,
        start_timeout_s: float = 60.0,
        command: Sequence[str] | None = None,
    ) -> None:
        self.model = model if weights.is_path(model) else weights.lookup(model).name
        self._cache_dir = cache_dir
        self._clock = clock
        self._environment = {
            name: value for name, value in (environment or {}).items() if name in ENVIRONMENT_KEPT
        }
        self._options = ["--threads", str(threads), "--context", str(context), "--parallel", str(parallel)]
        self._start_timeout_s = start_timeout_s
        self._command = command
        self._starts: list[float] = []
        self._child: _Child | None = None
        self._starting: asyncio.Task[_Child] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The child's process id while it serves."""
        return self._child.pid if self._child is not None and self._child.alive else None

    async def base_url(self) -> tuple[str, str]:
        """`http://127.0.0.1:PORT` and the API key that it asks for, once it serves; the dialects are below `/v1`.

        Concurrent callers share one start, and a caller that is cancelled does not cancel it for the others.

        Raises:
            ModelNotFound: The weights are not there; says how to get them.
            Permanent: The runtime is not installed; says how to install it.
            ConnectFailed: The child did not serve within the timeout.
            ProviderUnavailable: The child cannot load the weights, it died too often (`retry_after_s` says when it may
                start again), or `aclose` was called.
        """
        child = self._child
        if child is not None and child.alive:
            return child.url, child.key
        if self._closed:
            raise ProviderUnavailable("the local model is closed")
        starting = self._starting
        if starting is None:
            starting = self._starting = asyncio.create_task(self._start())
            starting.add_done_callback(self._started)
        try:
            child = await asyncio.shield(starting)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if starting.cancelled() and caller is not None and not caller.cancelling():
                raise ProviderUnavailable("the local model is closed") from None
            raise
        return child.url, child.key

    async def aclose(self) -> None:
        """End the child: SIGTERM, and SIGKILL after two seconds. Idempotent."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        child, self._child = self._child, None
        if child is not None:
            await child.end(self._clock)

    def _started(self, task: asyncio.Task[_Child]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # seen, even if every caller has gone

    async def _start(self) -> _Child:
        path = weights.find(self.model, self._cache_dir)
        if path is None:
            raise ModelNotFound(_missing(self.model), target=f"local/{self.model}")
        if self._command is None and importlib.util.find_spec("xllamacpp") is None:
            raise Permanent(
                "the local model needs its runtime: pip install 'headrace[local]'",
                target=f"local/{self.model}",
                code="runtime_missing",
            )
        wait = next_start(self._starts, self._clock.now()) - self._clock.now()
        if wait > LONGEST_WAIT_S:
            raise ProviderUnavailable(
                f"the local model ended {STARTS_A_MINUTE} times within a minute; the next start is in {wait:.0f} s",
                target=f"local/{self.model}",
                retry_after_s=wait,
            )
        if wait > 0:
            await self._clock.sleep(wait)
        self._starts = [*self._starts[1 - STARTS_A_MINUTE :], self._clock.now()]
        return await self._spawn(path)

    async def _spawn(self, path: Path) -> _Child:
        loop = asyncio.get_running_loop()
        command = self._command or [sys.executable, "-m", "headrace.local.server"]
        key = secrets.token_urlsafe(32)
        try:
            _, child = await loop.subprocess_exec(
                lambda: _Child(key),
                *command,
                *("--model", str(path), "--alias", path.stem, "--port", "0", *self._options),
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,  # a Ctrl-C in the terminal is for the gateway, which still drains
            )
        except OSError as error:  # no processes or files left, or no such command
            raise self._unavailable(str(error)) from error
        try:
            async with timeout_at(self._clock, self._clock.now() + self._start_timeout_s):
                said = await child.ready
        except TimeoutError:
            await child.end(self._clock)
            raise ConnectFailed(
                f"the local model did not serve within {self._start_timeout_s:g} s",
                target=f"local/{self.model}",
            ) from None
        except BaseException:
            await child.end(self._clock)
            raise
        port = said.get("port")
        if not isinstance(port, int):
            await child.end(self._clock)
            raise self._unavailable(said.get("error", f"it exited with status {child.status}"))
        child.url = f"http://127.0.0.1:{port}"
        self._child = child
        return child

    def _unavailable(self, why: object) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"the local model did not start: {why}", target=f"local/{self.model}", code="start_failed"
        )


def _missing(model: str) -> str:
    if weights.is_path(model):
        return f"there is no file {model}"
    return f"the weights of {model} are not here yet: headrace models pull {model}"


class _Child(asyncio.SubprocessProtocol):
    """One run of the server process."""

    def __init__(self, key: str) -> None:
        loop = asyncio.get_running_loop()
        self.key = key
        self.url = ""
        self.pid = 0
        self.ready: asyncio.Future[dict[str, object]] = loop.create_future()
        self._exited: asyncio.Future[None] = loop.create_future()
        self._said = b""
        self._heard = False
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def alive(self) -> bool:
        return not self._exited.done()

    @property
    def status(self) -> int | None:
        """The exit status; negative for a signal."""
        return None if self._transport is None else self._transport.get_returncode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        if not stdin.is_closing():  # a child may be dead by now
            stdin.write(self.key.encode() + b"\n")  # and stays open: the child exits when it closes

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if self.ready.done():
            return
        self._said += data
        line, newline, _ = self._said.partition(b"\n")
        if newline:
            self.ready.set_result(_decoded(line))
        elif len(line) > READY_LINE_MAX:
            self.ready.set_result({"error": "it does not speak the protocol of headrace.local.server"})

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._heard = True
            self._bury()

    def process_exited(self) -> None:
        if not self._exited.done():
            self._exited.set_result(None)
        self._bury()

    def _bury(self) -> None:
        """It is gone, and all it had to say has been heard; either news may come first."""
        if self.alive or not self._heard:
            return
        if not self.ready.done():
            self.ready.set_result({})
        if self._transport is not None:
            self._transport.close()

    async def end(self, clock: Clock) -> None:
        """SIGTERM, then SIGKILL; returns when the process is gone."""
        assert self._transport is not None
        try:
            if self.alive:
                with suppress(ProcessLookupError):
                    self._transport.terminate()
                try:
                    async with timeout_at(clock, clock.now() + END_S):
                        await asyncio.shield(self._exited)
                except TimeoutError:
                    with suppress(ProcessLookupError):
                        self._transport.kill()
                    await asyncio.shield(self._exited)
        finally:
            self._transport.close()  # kills what is still there when we were cancelled


def _decoded(line: bytes) -> dict[str, object]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if isinstance(said, dict):
        return said
    return {"error": "it does not speak the protocol of headrace.local.server"}
